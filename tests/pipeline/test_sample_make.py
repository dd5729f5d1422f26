"""A small sample, made whole: its files, and whether the media show and sound what the truth says."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.captions import read_caption_file
from pipeline.errors import InputError
from pipeline.sample import SampleSettings, make_sample, run
from pipeline.sample.drawing import SegmentScene
from pipeline.sample.objects import object_sprite
from pipeline.sample.procedures import ABSENT, ACTIONS, OBJECTS
from pipeline.sample.soundtrack import make_soundtrack
from pipeline.sample.story import make_stories
from pipeline.sample.truth import truth_rows
from pipeline.video_list import read_video_list

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


def rows(settings: SampleSettings, name: str) -> list[dict[str, str]]:
    with open(settings.out / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def media(settings: SampleSettings, index: int) -> Path:
    story = make_stories(settings.seed, settings.videos, settings.seconds)[index]
    return settings.out / "media" / f"{story.video_id}.mp4"


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
    with av.open(str(media(settings, 0))) as container:
        decoded = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    length = min(len(decoded), len(full.samples))
    assert np.corrcoef(decoded[:length], full.samples[:length])[0, 1] > 0.95


def test_second_call_does_nothing(settings: SampleSettings, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in settings.out.rglob("*")}
    report = run(settings)
    assert (report.done, report.skipped, report.complete) == (0, 4, True)
    assert "0 videos done, 4 skipped" in capsys.readouterr().out
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


@pytest.mark.parametrize("wrong", [{"videos": 1}, {"seconds": 10.0}, {"seed": -1}, {"processes": -1}])
def test_settings_out_of_range(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SampleSettings(tmp_path, **wrong)


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
