"""A small sample, made whole: its files, and whether the media show and sound what the truth says."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from scipy.signal import welch

from pipeline.cli import main
from pipeline.core import signals
from pipeline.core.errors import InputError
from pipeline.core.records import Caption
from pipeline.core.video_ids import read_video_list
from pipeline.dataset.captions import read_caption_file
from pipeline.sample import make
from pipeline.sample.film import SegmentScene
from pipeline.sample.lists import permuted_texts, truth_rows
from pipeline.sample.make import make_sample
from pipeline.sample.objects import object_sprite
from pipeline.sample.procedures import ABSENT, ACTIONS, OBJECTS
from pipeline.sample.settings import SampleSettings
from pipeline.sample.sound import Soundtrack, Utterance, make_soundtrack, white_noise_instead
from pipeline.sample.story import make_stories

pytest.importorskip("espeakng_loader")

COLOUR = {
    "onion": (128, 28, 96),
    "mushroom": (176, 122, 78),
    "carrot": (240, 120, 20),
    "pumpkin": (236, 118, 14),
    "tomato": (214, 30, 24),
    "corn": (250, 205, 55),
}


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> SampleSettings:
    """A sample of 4 videos of 16 s and more, made in two goes."""
    settings = SampleSettings(tmp_path_factory.mktemp("sample") / "out", seed=1, videos=4, seconds=16.0, processes=1)

    def interrupt(done: int, total: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        make_sample(settings, interrupt)
    assert json.loads((settings.out / "sample.json").read_text())["complete"] is False
    (settings.out / "media" / ".x.mp4.0.aside").write_bytes(b"left over")
    summary = make_sample(settings)
    assert (summary.made, summary.kept) == (3, 1)
    return settings


@pytest.mark.slow
def test_asked_to_stop_it_ends_after_the_video_in_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, made = make._make_video, []

    def asked_meanwhile(*given: Any) -> Any:
        made.append(whole(*given))
        signals.ask_to_stop()
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(make, "_make_video", asked_meanwhile)
        flags = ["sample", "--out", str(tmp_path / "out"), "--videos", "2", "--seconds", "16", "--processes", "1"]
        assert main(flags) == 75 and len(made) == 1
    assert not json.loads((tmp_path / "out" / "sample.json").read_text())["complete"]
    (path,) = (tmp_path / "out" / "media").iterdir()
    before = path.stat().st_ino
    assert main(flags) == 0
    assert path.stat().st_ino == before and len(list(path.parent.iterdir())) == 2



def make_control(plain: SampleSettings, uninformative: str, taken: tuple[int, ...]) -> SampleSettings:
    """A control beside the plain sample. The media of the videos `taken` are the plain one's, which saves time."""
    control = replace(plain, out=plain.out.with_name(uninformative), uninformative=uninformative)

    def interrupt(done: int, total: int) -> None:
        for index in taken:
            shutil.copy(media(plain, index), media(control, index))
        raise Interrupted

    with pytest.raises(Interrupted):
        make_sample(control, interrupt)
    assert make_sample(control).made == plain.videos - len(taken) - 1
    return control


@pytest.fixture(scope="module")
def permuted(settings: SampleSettings) -> SampleSettings:
    """The sample whose text is uninformative; of its media the first is its own."""
    return make_control(settings, "text", (1, 2, 3))


@pytest.fixture(scope="module")
def noisy(settings: SampleSettings) -> SampleSettings:
    """The sample whose audio is uninformative; of its media the first two are its own, and the second is silent."""
    return make_control(settings, "audio", (2, 3))


def rows(settings: SampleSettings, name: str) -> list[dict[str, str]]:
    with open(settings.out / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def media(settings: SampleSettings, index: int) -> Path:
    story = make_stories(settings.seed, settings.videos, settings.seconds)[index]
    return settings.out / "media" / f"{story.video_id}.mp4"


def sound_of(path: Path) -> np.ndarray:
    """Decoded samples, 44,100 a second."""
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def frames_at_seconds(path: Path) -> list[np.ndarray]:
    """The frame on screen at every whole second."""
    with av.open(str(path)) as container:
        frames = [(frame.time, frame) for frame in container.decode(video=0)]
    end = frames[-1][0] + 1 / 30
    on_screen = [
        max((i for i, (at, _) in enumerate(frames) if at <= k + 1e-6)) for k in range(int(np.ceil(end - 1e-6)))
    ]
    return [frames[i][1].to_ndarray(format="rgb24") for i in on_screen]


def test_files(settings: SampleSettings) -> None:
    names = {str(path.relative_to(settings.out)) for path in settings.out.rglob("*") if path.is_file()}
    ids = [row["video_id"] for row in rows(settings, "split.csv")]
    lists = {"HowTo100M_v1.csv", "task_ids.csv", "caption.json", "truth.csv", "steps.csv", "split.csv", "dead.csv"}
    assert names == lists | {"sample.json"} | {f"media/{video_id}.mp4" for video_id in ids}
    summary = json.loads((settings.out / "sample.json").read_text())
    assert summary["complete"] is True and set(summary["sha256"]) == names - {"sample.json"}
    assert summary["counts"]["steps"] == len(rows(settings, "steps.csv")) == 24


def test_list_holds_living_and_dead_ids(settings: SampleSettings) -> None:
    listed = [record.video_id for record in read_video_list(settings.out / "HowTo100M_v1.csv")]
    dead = rows(settings, "dead.csv")
    living = {row["video_id"] for row in rows(settings, "split.csv")}
    assert sorted(listed) == sorted(living | {row["video_id"] for row in dead}) and len(listed) == 14
    assert {row["class"] for row in dead} == {"private", "removed", "terminated", "age", "geo", "members", "live"}
    assert all(row["message"] for row in dead)
    tasks = {row["task_id"] for row in rows(settings, "task_ids.csv")}
    assert {record.task_id for record in read_video_list(settings.out / "HowTo100M_v1.csv")} <= tasks


def test_captions_are_as_speech_recognition_gives_them(settings: SampleSettings) -> None:
    ids = [row["video_id"] for row in rows(settings, "split.csv")]
    left_out: Counter[str] = Counter()
    found = dict(read_caption_file(settings.out / "caption.json", left_out))
    assert not left_out and set(found) == set(ids)
    steps = {(row["video_id"], row["text"]): row for row in rows(settings, "steps.csv")}
    drifts, overlaps, fillers = [], 0, 0
    for video_id, lines in found.items():
        overlaps += sum(b.start < a.end for a, b in zip(lines, lines[1:], strict=False))
        for line in lines:
            assert line.text == line.text.lower() and line.text.replace(" ", "").isalpha()
            step = steps.get((video_id, line.text))
            fillers += step is None
            if step is not None:
                drifts.append(line.start - float(step["start"]))
    assert overlaps > 8 and fillers > 8
    assert len(drifts) == 24 and max(map(abs, drifts)) <= 0.56 and np.std(drifts) > 0.08


def test_steps_are_the_truth_of_their_seconds(settings: SampleSettings) -> None:
    truth = {(row["video_id"], int(row["second"])): row for row in rows(settings, "truth.csv")}
    inside = 0
    for step in rows(settings, "steps.csv"):
        assert step["text"] == step["text"].lower() and step["action"] in ACTIONS and step["object"] in OBJECTS
        for second in range(30):
            if float(step["start"]) <= second < float(step["end"]):
                row = truth[step["video_id"], second]
                assert (row["step"], row["action"], row["object"]) == (step["step"], step["action"], step["object"])
                inside += 1
    assert inside == sum(row["kind"] == "step" for row in truth.values()) >= 24


def test_media_are_h264_and_aac_of_the_stated_lengths(settings: SampleSettings) -> None:
    stories = make_stories(settings.seed, settings.videos, settings.seconds)
    seconds = Counter(row["video_id"] for row in rows(settings, "truth.csv"))
    for index, story in enumerate(stories):
        with av.open(str(media(settings, index))) as container:
            video = container.streams.video[0]
            assert (video.codec_context.name, video.width, video.height) == ("h264", story.width, story.height)
            assert video.codec_context.pix_fmt == "yuv420p"
            if story.has_audio:
                audio = container.streams.audio[0]
                assert (audio.codec_context.name, audio.rate) == ("aac", 44100)
                assert float(audio.duration * audio.time_base) == pytest.approx(story.seconds, abs=0.05)
            times = [frame.time for frame in container.decode(video)]
        assert times[0] == 0 and times[-1] < story.seconds <= times[-1] + 0.09
        assert seconds[story.video_id] == int(np.ceil(story.seconds - 1e-9))
        intervals = set(np.round(np.diff(times), 4))
        assert (len(intervals) > 3) if story.variable_rate else (intervals == {0.0333})
    assert [story.variable_rate for story in stories] == [False, False, True, False]


def test_one_video_has_no_sound(settings: SampleSettings) -> None:
    silent = media(settings, 1)
    with av.open(str(silent)) as container:
        assert not container.streams.audio
    heard = [row for row in rows(settings, "truth.csv") if row["video_id"] == silent.stem]
    assert {row[name] for row in heard for name in ("noise", "voice", "action_sound", "named")} == {ABSENT}
    assert {row["words"] for row in heard} == {""}


@pytest.mark.parametrize("index", [0, 2])
def test_steps_show_their_object(settings: SampleSettings, index: int) -> None:
    path = media(settings, index)
    truth = [row for row in rows(settings, "truth.csv") if row["video_id"] == path.stem]
    frames = frames_at_seconds(path)
    assert len(frames) == len(truth)
    rivals = {
        "onion": ("tomato", "carrot"),
        "tomato": ("onion", "carrot"),
        "carrot": ("onion", "tomato"),
        "pumpkin": ("onion", "tomato"),
    }
    checked = set()
    for row, frame in zip(truth, frames, strict=True):
        if row["kind"] == "step":
            share = {
                name: np.mean(np.linalg.norm(frame.astype(float) - colour, axis=2) < 50)
                for name, colour in COLOUR.items()
            }
            assert share[row["object"]] > 0.02, (row, share)
            # Carrot and pumpkin share their orange, mushroom and corn have colours of tables and walls, and a curtain
            # or bricks are near to onion and tomato.
            if row["object"] in rivals and row["background"] not in ("curtain", "brick"):
                assert share[row["object"]] > max(share[name] for name in rivals[row["object"]]), (row, share)
            checked.add(row["object"])
    assert checked == set(COLOUR)


def test_sound_is_mixed_at_the_stated_levels_and_reaches_the_media(settings: SampleSettings) -> None:
    story = make_stories(settings.seed, settings.videos, settings.seconds)[0]

    def heard(**without: str) -> np.ndarray:
        segments = tuple(replace(segment, **without) for segment in story.segments)
        return make_soundtrack(replace(story, segments=segments)).samples

    full = make_soundtrack(story)
    noise = heard(text="", action_sound=ABSENT)
    speech = heard(action_sound=ABSENT) - noise
    action = heard(text="") - noise
    spoken, acting = (np.zeros(len(noise), bool) for _ in range(2))
    for utterance in full.utterances:
        spoken[int(utterance.start * 44100) : int(utterance.end * 44100)] = True
    for segment in story.segments:
        acting[int(segment.start * 44100) : int(segment.end * 44100)] = segment.action_sound != ABSENT
    level = 10 * np.log10(np.mean(speech[spoken] ** 2))
    assert level - 10 * np.log10(np.mean(noise**2)) == pytest.approx(12, abs=0.5)
    assert level - 10 * np.log10(np.mean(action[acting] ** 2)) == pytest.approx(4, abs=0.5)
    decoded = sound_of(media(settings, 0))
    length = min(len(decoded), len(full.samples))
    assert np.corrcoef(decoded[:length], full.samples[:length])[0, 1] > 0.95


def test_second_call_does_nothing(settings: SampleSettings, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in settings.out.rglob("*")}
    arguments = ["--seed", "1", "--videos", "4", "--seconds", "16", "--processes", "1"]
    assert main(["sample", "--out", str(settings.out), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "0 videos done, 4 skipped" in printed
    assert "10 further ids of HowTo100M_v1.csv are dead on purpose" in printed
    assert {path: path.stat().st_mtime_ns for path in settings.out.rglob("*")} == before


def test_what_is_missing_or_changed_is_made_again_byte_for_byte(settings: SampleSettings, tmp_path: Path) -> None:
    copy = replace(settings, out=tmp_path / "copy", processes=2)
    shutil.copytree(settings.out, copy.out)
    lost, changed = media(copy, 0), media(copy, 3)
    lost.unlink()
    changed.write_bytes(changed.read_bytes()[:-1])
    (copy.out / "truth.csv").write_text("broken")
    told: list[tuple[int, int]] = []
    summary = make_sample(copy, lambda done, total: told.append((done, total)))
    assert (summary.made, summary.kept) == (2, 2)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for path in settings.out.rglob("*"):
        if path.is_file():
            assert (copy.out / path.relative_to(settings.out)).read_bytes() == path.read_bytes(), path.name


def test_another_sample_in_the_folder_is_refused(settings: SampleSettings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds another sample"):
        make_sample(replace(settings, seed=2))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="did not make"):
        make_sample(replace(settings, out=tmp_path))
    with pytest.raises(InputError, match="is a file"):
        make_sample(replace(settings, out=tmp_path / "notes.txt"))


@pytest.mark.parametrize(
    "wrong", [{"videos": 1}, {"seconds": 10.0}, {"seed": -1}, {"processes": -1}, {"uninformative": "video"}]
)
def test_settings_out_of_range(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SampleSettings(tmp_path, **wrong)


def test_what_cannot_be_made_uninformative_is_told_what_can(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'text', 'audio' or empty, got 'video'"):
        SampleSettings(tmp_path, uninformative="video")


def captions_of(settings: SampleSettings) -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads((settings.out / "caption.json").read_text())
    return content


def files_that_differ(one: SampleSettings, other: SampleSettings) -> set[str]:
    """Names of files whose bytes are not the same in both, but for the summary."""
    first, second = (json.loads((each.out / "sample.json").read_text())["sha256"] for each in (one, other))
    assert set(first) == set(second)
    return {name for name in first if first[name] != second[name]}


def test_uninformative_text_permutes_what_captions_say_and_nothing_else(
    settings: SampleSettings, permuted: SampleSettings
) -> None:
    assert files_that_differ(settings, permuted) == {"caption.json"}
    plain, control = captions_of(settings), captions_of(permuted)
    assert list(plain) == list(control)
    for times in ("start", "end"):
        assert [plain[video_id][times] for video_id in plain] == [control[video_id][times] for video_id in plain]
    said, given = ([text for lines in each.values() for text in lines["text"]] for each in (plain, control))
    assert Counter(given) == Counter(said)
    once = [said.count(text) == 1 for text in said]
    assert sum(once) > 20
    assert not any(before == after for before, after, alone in zip(said, given, once, strict=True) if alone)


def test_permuted_texts_come_from_every_video_alike() -> None:
    """Of all videos' captions, the video itself included, each has its share: no text tells which video it isn't of."""
    captions = {name: [Caption(at, at + 1.0, f"{name} {at}") for at in range(40)] for name in "abc"}
    counts = Counter(
        (video_id, caption.text[0])
        for seed in range(50)
        for video_id, lines in permuted_texts(captions, seed).items()
        for caption in lines
    )
    for (video_id, source), count in counts.items():
        share = (39 if source == video_id else 40) / 119
        assert count / (50 * 40) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 2000))
    assert permuted_texts(captions, 1) == permuted_texts(captions, 1) != permuted_texts(captions, 2)


def test_uninformative_audio_is_white_noise_under_the_same_pictures(
    settings: SampleSettings, noisy: SampleSettings
) -> None:
    heard, silent = (media(noisy, index) for index in (0, 1))
    assert files_that_differ(settings, noisy) == {f"media/{heard.name}"}
    pictures = []
    for path in (media(settings, 0), heard):
        with av.open(str(path)) as container:
            pictures.append([(packet.pts, bytes(packet)) for packet in container.demux(video=0)])
    assert pictures[0] == pictures[1] and len(pictures[0]) > 200
    plain, noise = sound_of(media(settings, 0)), sound_of(heard)
    assert len(plain) == len(noise)
    assert abs(np.corrcoef(plain, noise)[0, 1]) < 5 / np.sqrt(len(noise))
    loudness = np.sqrt(np.mean(noise[: 16 * 44100].reshape(16, 44100) ** 2, axis=1))
    assert loudness == pytest.approx(0.09, rel=0.04) and np.ptp(loudness) < 0.002, "no second stands out"
    ranges = []
    for sound in (plain, noise):
        frequencies, power = welch(sound, 44100, nperseg=512)
        ranges.append(np.ptp(10 * np.log10(power[(frequencies > 100) & (frequencies < 18000)])))
    assert ranges[1] < 1 < 20 < ranges[0], "decibels from the strongest to the weakest frequency"
    with av.open(str(silent)) as container:
        assert not container.streams.audio


def test_each_video_has_white_noise_of_its_own(settings: SampleSettings) -> None:
    heard = Soundtrack(np.zeros(44100, np.float32), (Utterance(0, (("now", 0.1, 0.3),)),))
    stories = make_stories(settings.seed, settings.videos, settings.seconds)
    first, second = (white_noise_instead(story, heard) for story in stories[:2])
    assert np.array_equal(white_noise_instead(stories[0], heard).samples, first.samples)
    assert abs(np.corrcoef(first.samples, second.samples)[0, 1]) < 0.03
    assert first.utterances == heard.utterances


def test_controls_are_known_by_their_name(
    settings: SampleSettings, permuted: SampleSettings, noisy: SampleSettings
) -> None:
    plain = {"format": 1, "seed": 1, "videos": 4, "seconds": 16.0}
    for each, named in ((settings, {}), (permuted, {"uninformative": "text"}), (noisy, {"uninformative": "audio"})):
        assert json.loads((each.out / "sample.json").read_text())["identity"] == plain | named
        again = make_sample(each)
        assert (again.made, again.kept) == (0, 4)
        for other in {"", "text", "audio"} - {each.uninformative}:
            with pytest.raises(InputError, match="holds another sample"):
                make_sample(replace(each, uninformative=other))


def test_every_action_shows_more_than_its_object() -> None:
    """Actions of one object differ in what is drawn, and every one of them moves."""
    story = make_stories(0, 52, 20.0)[0]
    step = next(segment for segment in story.segments if segment.kind == "step")
    drawn = {}
    for action in ACTIONS:
        scene = SegmentScene(replace(step, action=action), 320, 180, 0, np.random.default_rng(5))
        drawn[action], later = (np.asarray(scene.frame(time), dtype=float) for time in (0.2, 0.5))
        assert np.abs(drawn[action] - later).mean() > 0.5, action
    for action in ACTIONS[1:]:
        assert np.abs(drawn[action] - drawn[ACTIONS[0]]).mean() > 4, action


def test_objects_have_their_own_look() -> None:
    """On a grey ground no two objects are near each other in both colour and outline."""
    thumbnails = {}
    for name in OBJECTS:
        sprite = object_sprite(name).resize((24, 24))
        pixels = np.asarray(sprite, dtype=float)
        assert 0.15 < (pixels[..., 3] > 128).mean() < 0.9, name
        alpha = pixels[..., 3:] / 255
        thumbnails[name] = pixels[..., :3] * alpha + 128 * (1 - alpha)
    names = list(OBJECTS)
    distances = [np.abs(thumbnails[a] - thumbnails[b]).mean() for i, a in enumerate(names) for b in names[:i]]
    assert min(distances) > 12


def test_truth_words_are_those_that_sound_in_the_second(settings: SampleSettings) -> None:
    story = make_stories(settings.seed, settings.videos, settings.seconds)[0]
    utterances = make_soundtrack(story).utterances
    for row in truth_rows(story, utterances):
        second = int(row["second"])
        sounding = [w for u in utterances for w, start, end in u.words if start < second + 1 and end > second]
        assert row["words"].split() == sounding
        assert (row["voice"] == ABSENT) == (not sounding)
