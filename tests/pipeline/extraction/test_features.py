"""Decoder, networks and sound put together: rows, masks and times as docs/data-format.md has them."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors import decoder_pool
from extractors.audio_track import AudioTrack
from extractors.errors import MediaError
from pipeline.core.errors import InputError
from pipeline.core.records import Caption, VideoFeatures
from pipeline.extraction import features
from pipeline.extraction.features import Extracted, FeatureExtractor, check_described

from .conftest import BAD, GOOD, Extraction, TinyClips, TinyFrames

START_S, SOUND_S, ROWS = 1.5, 2, 5
STEPS = [Fraction(START_S) + Fraction(16 * step, 100) for step in range(13)]
"""Times of DaveNet's outputs: 201 log-mel frames, one output for each 16."""


def extracted(extraction: Extraction, monkeypatch: pytest.MonkeyPatch, said: str = "", **audio: str) -> VideoFeatures:
    """The features of a video of 5 s whose sound begins at 1.5 s and lasts 2 s."""

    def late(*given: object, **named: object) -> AudioTrack:
        return AudioTrack(np.arange(16_000 * SOUND_S, dtype=np.int16), START_S, ("a remark",))

    monkeypatch.setattr(decoder_pool, "extract_audio", late)
    path = extraction.media / f"{GOOD[0]}.mp4"
    path.write_text(f"video {ROWS} 96 54")
    identity: dict[str, Any] = extraction.description["identity"]
    identity = identity | {"audio": identity["audio"] | audio}
    with FeatureExtractor(extraction.settings, identity, {"resnet152": Path(), "davenet": Path()}) as extractor:
        ((video_id, result),) = extractor.extract([(GOOD[0], path)], lambda _: (Caption(0.0, 1.0, said),))
    assert isinstance(result, Extracted) and video_id == GOOD[0] and result.notes == ("a remark",)
    return result.features


@pytest.mark.parametrize("store", ["both", "davenet", "logmel"])
def test_rows_with_sound_are_those_in_whose_second_it_is_heard(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    video = extracted(extraction, monkeypatch, store=store)
    heard = [any(row <= time < row + 1 for time in STEPS) for row in range(ROWS)]
    assert heard == [False, True, True, True, False]
    assert video.audio_mask.tolist() == heard and video.logmel_start == START_S
    assert (video.audio is None) == (store == "logmel") and (video.logmel is None) == (store == "davenet")
    if video.audio is not None:
        assert video.audio.any(axis=1).tolist() == heard
    assert video.logmel is None or video.logmel.shape == (1 + 16_000 * SOUND_S // 160, 40)


def test_at_the_native_rate_there_is_a_row_for_each_output(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = extracted(extraction, monkeypatch, rate="native")
    assert video.audio is not None and video.audio.shape == (len(STEPS), 1024)
    assert video.audio_mask.tolist() == [True] * len(STEPS) and video.logmel_start == START_S


def test_a_row_is_that_of_its_own_frame(extraction: Extraction, monkeypatch: pytest.MonkeyPatch) -> None:
    video = extracted(extraction, monkeypatch, said="stir it, stir")
    # The decoder's frame of row k has the grey level k + 1.
    assert video.video["resnet152"].tolist() == [[row + 1.0] * 8 for row in range(ROWS)]
    assert video.video_mask.tolist() == [True] * ROWS and video.duration == ROWS
    assert video.words.of_caption(0) == ["stir", "it", "stir"] and video.words.table == ("it", "stir")


def test_frames_of_a_video_that_was_given_up_enter_no_later_one(extraction: Extraction) -> None:
    identity: dict[str, Any] = extraction.description["identity"]
    paths = [extraction.media / f"{video_id}.mp4" for video_id in GOOD]
    for path in paths:
        path.write_text("video 3 96 54")
    with FeatureExtractor(extraction.settings, identity, {"resnet152": Path(), "davenet": Path()}) as extractor:
        # Batches have two frames: the third of the first video waits when it is given up.
        results = extractor.extract([(GOOD[0], paths[0]), ("spoilt", extraction.media / f"{BAD}.mp4")], lambda _: ())
        assert isinstance(next(results)[1], MediaError)
        results.close()
        ((video_id, result),) = extractor.extract([(GOOD[1], paths[1])], lambda _: ())
    assert video_id == GOOD[1] and isinstance(result, Extracted)
    assert result.features.video["resnet152"][:, 0].tolist() == [1.0, 2.0, 3.0]


def test_a_track_without_a_sample_is_no_sound(extraction: Extraction, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = AudioTrack.__init__

    def empty(self: AudioTrack, samples: Any, start: float, notes: tuple[str, ...]) -> None:
        whole(self, samples[:0], start, notes)

    monkeypatch.setattr(AudioTrack, "__init__", empty)
    monkeypatch.setattr(features, "decode_made_clip", lambda decoder: None)
    video = extracted(replace(extraction), monkeypatch)
    assert not video.audio_mask.any() and video.logmel is not None and len(video.logmel) == 0
    assert video.logmel_start == 0.0 and video.audio is not None and not video.audio.any()


def test_a_network_that_is_another_here_is_refused_and_its_differences_named(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"width": 7, "resize": [248, 248], "interpolation": "bicubic"}
    monkeypatch.setattr(features, "described", lambda name: here)
    monkeypatch.setattr(features, "timm_version", lambda: "9.9")
    stream = {"network": "timm.any", "weights": "aa", "view": "own"}
    check_described("timm.any", stream | here)
    with pytest.raises(InputError, match=r"timm.any: by timm 9.9 its width is 7, the data set has 8; resize is \[248,"):
        check_described("timm.any", stream | here | {"width": 8, "resize": [224, 224]})
    check_described("resnet18", {"width": 8})


def test_streams_of_clips_and_of_frames_share_one_decoding(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frame k of 15 a second has the grey level k + 1; a clip's 8 frames lie around its row's own, the edges repeat."""
    identity: dict[str, Any] = extraction.description["identity"]
    stream = identity["streams"]["resnet152"]
    both = {"resnet152": stream, "r3d_18": stream | {"view": "clip"}}
    monkeypatch.setitem(extraction.description, "identity", identity | {"streams": both})
    monkeypatch.setattr(features, "verified_weights", lambda name, *given: name)
    monkeypatch.setattr(
        features, "FrameNetwork", lambda name, *given: TinyClips() if name == "r3d_18" else TinyFrames()
    )
    settings = replace(extraction.settings, streams=("resnet152", "r3d_18"))
    path = extraction.media / f"{GOOD[0]}.mp4"
    path.write_text(f"video {ROWS} 96 54")
    files = dict.fromkeys(("resnet152", "r3d_18", "davenet"), Path())
    with FeatureExtractor(settings, extraction.description["identity"], files) as extractor:
        assert extractor.pool.settings.frame_fps == 15
        ((_, result),) = extractor.extract([(GOOD[0], path)], lambda _: ())
    assert isinstance(result, Extracted)
    video, last = result.features.video, 15 * ROWS
    assert video["resnet152"].tolist() == [[15 * row + 1.0] * 8 for row in range(ROWS)]
    expected = [[float(min(max(15 * row + i - 4, 0) + 1, last)) for i in range(8)] for row in range(ROWS)]
    assert video["r3d_18"].tolist() == expected


def test_the_networks_compute_on_as_many_cores_as_they_may(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told when it changes alone; no frame that waits for a larger batch than there is now is lost."""
    threads: list[int] = []

    class Counting(TinyFrames):
        def compute_on(self, threads_now: int) -> None:
            threads.append(threads_now)
            self.frames_at_once = 2 * threads_now

    monkeypatch.setattr(features, "FrameNetwork", Counting)
    path = extraction.media / f"{GOOD[0]}.mp4"
    path.write_text("video 9 96 54")
    identity, files = extraction.description["identity"], {"resnet152": Path(), "davenet": Path()}
    rows = []
    for cores in (lambda: 1, iter([1, 1, 1, 3, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1]).__next__):
        with FeatureExtractor(extraction.settings, identity, files, cores) as extractor:
            ((_, result),) = extractor.extract([(GOOD[0], path)], lambda _: ())
        assert isinstance(result, Extracted)
        rows.append(result.features.video["resnet152"])
    assert np.array_equal(*rows) and rows[0].any()
    assert threads == [3, 1]
