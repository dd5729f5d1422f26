"""Several decoders at once: every event of every video, none mixed up; what hangs, fails or isn't wanted any more."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from extractors import decoder_pool
from extractors.audio_track import AudioTrack, extract_audio
from extractors.decode import DecodeSettings, DecodeSummary, FrameBatch, MediaInfo
from extractors.decoder_pool import DecoderPool, Event, Feeding, Sound
from extractors.decoder_process import DecoderProcess
from extractors.errors import DecoderError, MediaError
from extractors.logmel import log_mel

SETTINGS = DecodeSettings(feature_fps=5, frames_per_batch=3)


class Scripted:
    """In place of a decoder: a file's name says what it does, `gates` what it waits for."""

    gates: dict[str, threading.Event]
    made: list["Scripted"]
    given: int

    def __init__(self, settings: DecodeSettings) -> None:
        self.name = ""
        self.interrupted = threading.Event()
        self.made.append(self)

    def open(self, path: Path) -> MediaInfo:
        self.name = path.name
        if path.name.startswith("spoilt"):
            raise MediaError("undecodable", f"{path}: no video")
        if path.name.startswith("fault"):
            raise DecoderError("a library is missing")
        return MediaInfo(2.0, 4, 2, 2, True)

    def batches(self) -> Iterator[FrameBatch]:
        for row in range(10_000 if self.name.startswith("endless") else 2):
            type(self).given += 1
            yield FrameBatch(np.array([row]), np.full((1, 2, 4, 3), row % 256, np.uint8))
        if self.name in self.gates:
            assert self.gates[self.name].wait(60)
        if self.name.startswith("hung"):
            assert self.interrupted.wait(60)
            raise MediaError("crashed", "killed")

    @property
    def summary(self) -> DecodeSummary:
        return DecodeSummary(np.ones(2, bool), "decord", (self.name,))

    def interrupt(self) -> None:
        self.interrupted.set()

    def resume(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    """The class of which a pool's decoders are."""

    class Fresh(Scripted):
        gates: dict[str, threading.Event] = {}
        made: list[Scripted] = []
        given = 0

    monkeypatch.setattr(decoder_pool, "DecoderProcess", Fresh)
    monkeypatch.setattr(
        decoder_pool, "extract_audio", lambda *given, **named: AudioTrack(np.arange(1600, dtype=np.int16), 0.5, ("s",))
    )
    return Fresh


def named(*names: str) -> list[tuple[str, Path]]:
    return [(name, Path("folder", name)) for name in names]


def by_video(events: Iterator[tuple[str, Path, Event]]) -> dict[str, list[Event]]:
    found: defaultdict[str, list[Event]] = defaultdict(list)
    for key, path, event in events:
        assert path.name.startswith(key)
        found[key].append(event)
    return found


@pytest.mark.parametrize("decoders", [1, 3])
def test_every_video_is_what_a_decoder_of_its_own_gives(
    media: Callable[[str], Path], tmp_path: Path, decoders: int
) -> None:
    names = ("plain.mp4", "silent.mp4", "tv.mp4", "vertical.mp4", "plain.mkv")
    with DecoderPool(SETTINGS, lambda decoder: None, decoders) as pool:
        found = by_video(pool.decode((name, media(name)) for name in names))
        assert pool.decoders == decoders
    with DecoderProcess(SETTINGS) as decoder:
        for name in names:
            info, *batches, summary, sound = found[name]
            assert info == decoder.open(media(name))
            for batch, expected in zip(batches, list(decoder.batches()), strict=True):
                assert isinstance(batch, FrameBatch)
                np.testing.assert_array_equal(batch.rows, expected.rows)
                np.testing.assert_array_equal(batch.frames, expected.frames)
            assert isinstance(summary, DecodeSummary) and isinstance(sound, Sound)
            assert summary.mask.tolist() == decoder.summary.mask.tolist()
            track = extract_audio(media(name), tmp_path, decoder=decoder)
            expected_sound = log_mel(track.samples) if track is not None else np.zeros((0, 40), np.float32)
            np.testing.assert_array_equal(sound.logmel, expected_sound)
            assert sound.start == (track.start if track is not None else 0.0)


def test_a_long_video_holds_no_other_up(scripted: type[Scripted]) -> None:
    scripted.gates["long"] = threading.Event()
    ended = []
    with DecoderPool(SETTINGS, lambda decoder: None, 2) as pool:
        for key, _, event in pool.decode(named("long", "a", "b", "c", "d")):
            if isinstance(event, Sound):
                ended.append(key)
            if ended == ["a", "b", "c", "d"]:
                scripted.gates["long"].set()
    assert ended == ["a", "b", "c", "d", "long"]


def test_videos_are_taken_one_by_one_as_decoders_become_free(scripted: type[Scripted]) -> None:
    taken: list[str] = []

    def videos() -> Iterator[tuple[str, Path]]:
        for video in named("a", "b", "c"):
            taken.append(video[0])
            yield video

    with DecoderPool(SETTINGS, lambda decoder: None) as pool:
        for key, _, _ in pool.decode(videos()):
            assert taken[-1] == key
    assert taken == ["a", "b", "c"] and len(scripted.made) == 1


def test_decoders_wait_for_a_slow_network(scripted: type[Scripted]) -> None:
    with DecoderPool(SETTINGS, lambda decoder: None, 2) as pool:
        frames = 0
        for _, _, event in pool.decode(named("endless1", "endless2")):
            frames += isinstance(event, FrameBatch)
            # Of each decoder: two that wait, one in its hand, one that it has begun.
            assert scripted.given <= frames + 8
    assert frames == 20_000


def test_a_files_error_stands_when_the_check_passes_and_the_others_go_on(scripted: type[Scripted]) -> None:
    checked: list[Any] = []
    with DecoderPool(SETTINGS, checked.append, 2) as pool:
        found = by_video(pool.decode(named("a", "spoilt", "b")))
    assert [type(event) for event in found["a"]] == [MediaInfo, FrameBatch, FrameBatch, DecodeSummary, Sound]
    assert [type(event) for event in found["b"]] == [type(event) for event in found["a"]]
    (error,) = found["spoilt"]
    assert isinstance(error, MediaError) and error.kind == "undecodable"
    # Before the first video of each of the two, and after the error.
    assert len(checked) == 3 and len(set(map(id, checked))) == 2


def test_what_the_check_raises_takes_the_errors_place(scripted: type[Scripted]) -> None:
    calls = 0

    def check(decoder: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise RuntimeError("nothing decodes here")

    with DecoderPool(SETTINGS, check) as pool:
        (error,) = by_video(pool.decode(named("spoilt")))["spoilt"]
    assert isinstance(error, RuntimeError)


def test_an_error_that_is_no_files_is_not_checked(scripted: type[Scripted]) -> None:
    checked: list[Any] = []
    with DecoderPool(SETTINGS, checked.append) as pool:
        (error,) = by_video(pool.decode(named("fault")))["fault"]
    assert isinstance(error, DecoderError) and len(checked) == 1


def test_a_folder_that_cannot_be_made_is_an_error_and_not_a_wait(
    scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**named: str) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoder_pool.tempfile, "TemporaryDirectory", full)
    with DecoderPool(SETTINGS, lambda decoder: None, 2) as pool:
        found = by_video(pool.decode(named("a", "b")))
    assert all(isinstance(error, OSError) for (error,) in found.values()) and len(found) == 2


@pytest.mark.parametrize("by", ["generator", "pool"])
def test_videos_that_nobody_wants_any_more_are_given_up(scripted: type[Scripted], by: str) -> None:
    pool = DecoderPool(SETTINGS, lambda decoder: None, 3)
    events = pool.decode(named("hung", "endless1", "endless2", "never"))
    next(events)
    if by == "generator":
        events.close()
        # Whoever is left of them would come in between.
        found = by_video(pool.decode(named("a", "b", "c", "d")))
        assert {key: len(each) for key, each in found.items()} == {"a": 5, "b": 5, "c": 5, "d": 5}
    pool.close()
    assert pool.decoders == 0 and not [thread for thread in threading.enumerate() if thread.name == "decoder"]
    assert "never" not in {decoder.name for decoder in scripted.made}


def test_another_decoder_is_started_while_the_network_starves(
    scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    starves = iter([False, True, False, True])
    monkeypatch.setattr(Feeding, "starves", lambda self: next(starves, True))
    with DecoderPool(SETTINGS, lambda decoder: None, most=3) as pool:
        numbers = {pool.decoders for _ in pool.decode(named("endless1", "endless2", "endless3", "a", "b"))}
    assert numbers == {1, 2, 3} and len(scripted.made) == 3


def test_a_network_starves_when_it_waits_for_more_than_a_tenth() -> None:
    feeding = Feeding()
    second = 10**9
    feeding.note(second, second // 2)
    assert not feeding.starves()  # too short to tell
    feeding.note(0, second)
    assert feeding.starves() and not feeding.starves()
    feeding.note(19 * second, 181 * second)
    assert not feeding.starves()
    feeding.note(21 * second, 179 * second)
    assert feeding.starves()


def test_time_is_counted_by_what_it_was_spent_on(scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    # Each look at the clock is a second later than the one before.
    monkeypatch.setattr(decoder_pool, "time", SimpleNamespace(monotonic_ns=partial(next, count())))
    with DecoderPool(SETTINGS, lambda decoder: None) as pool:
        list(pool.decode(named("a", "b")))
        spent = pool.spent()
    assert set(spent) == {"starved", "decoding", "blocked", "idle"} and min(spent.values()) > 0
