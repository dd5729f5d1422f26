"""Clips by each rule, published and mended, against numbers worked by hand and slow, plain formulas."""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clips.cutting import (
    ClipBatch,
    ClipFeatures,
    clip_rows,
    collate,
    cut_clip,
    inclusive_clip_rows,
    is_finite,
    known_words,
    logmel_frame,
)
from pipeline.clips.rules import ClipRules, grow_clip, grown_span
from pipeline.core.records import Caption

DIVISORS = [1, 2, 3, 5, 6, 10, 15, 30]
PUBLISHED = ClipRules(bounds="inclusive", audio="logmel", clamp_logmel_start=False, logmel_padding="loudest")
MENDED = ClipRules(audio="logmel")


def rows_by_the_page(start: Fraction, end: Fraction, fps: int, rows: int) -> list[int]:
    """Rows whose time lies in [start, end); without one, the row on screen at the start."""
    inside = [k for k in range(rows) if start <= Fraction(k, fps) < end]
    shown = [k for k in range(rows) if Fraction(k, fps) <= start < Fraction(k + 1, fps)]
    between = not inside
    return shown if between else inside


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2000), st.integers(1, 1500), st.sampled_from(DIVISORS), st.integers(0, 40))
def test_a_clips_rows_are_those_of_the_page(start: int, length: int, fps: int, rows: int) -> None:
    first, last = Fraction(start, 100), Fraction(start + length, 100)
    found = clip_rows(float(first), float(last), fps, rows)
    assert list(range(rows))[found] == rows_by_the_page(first, last, fps, rows)


@pytest.mark.parametrize("fps", DIVISORS)
def test_a_clip_that_begins_or_ends_at_a_rows_time_is_rounded_to_neither_side(fps: int) -> None:
    """k / fps times fps is not always k."""
    for k in range(1500):
        start = k / fps
        assert clip_rows(start, (k + 3) / fps, fps, 2000) == slice(k, k + 3)
        # Too short for a row's time of its own: the row on screen at the start.
        assert clip_rows(start, start + 1e-12, fps, 2000) == slice(k, k + 1)
        before = (k + 0.5) / fps
        assert clip_rows(before, before + 0.25 / fps, fps, 2000) == slice(k, k + 1)


@pytest.mark.parametrize(
    ("start", "end", "half_open", "inclusive"),
    [
        (0.0, 3.0, [0, 1, 2], [0, 1, 2, 3]),
        (0.5, 3.0, [1, 2], [0, 1, 2, 3]),
        (1.2, 3.9, [2, 3], [1, 2, 3]),
        (1.2, 1.8, [1], [1]),
        (4.2, 4.9, [4], [4]),
        (4.0, 9.0, [4], [4]),
        (5.0, 9.0, [], []),
    ],
)
def test_rows_of_clips_of_a_video_of_5_rows(
    start: float, end: float, half_open: list[int], inclusive: list[int]
) -> None:
    assert list(range(5))[clip_rows(start, end, 1, 5)] == half_open
    assert list(range(5))[inclusive_clip_rows(start, end, 1, 5)] == inclusive


def grown_by_hand(captions: list[Caption], chosen: int, least: float) -> list[int]:
    """Neighbours taken one by one, always the one that leaves the clip shorter, the earlier one on a tie."""
    first = last = chosen
    taken = [chosen]
    while captions[last].end - captions[first].start < least:
        spans = []
        if first > 0:
            spans.append((captions[last].end - captions[first - 1].start, 0))
        if last + 1 < len(captions):
            spans.append((captions[last + 1].end - captions[first].start, 1))
        if not spans:
            break
        later = min(spans)[1]
        first, last = (first, last + 1) if later else (first - 1, last)
        taken.append(last if later else first)
    return taken


def test_captions_grow_by_the_nearer_neighbour() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        times = np.sort(generator.integers(0, 40, (generator.integers(1, 9), 2)), axis=1).astype(float)
        captions = [Caption(start, end + 1, "x") for start, end in sorted(times.tolist())]
        chosen, least = int(generator.integers(len(captions))), float(generator.integers(0, 25))
        assert grow_clip(captions, chosen, least) == grown_by_hand(captions, chosen, least)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 90)), min_size=1, max_size=9),
    st.integers(0, 8),
    st.integers(0, 250),
)
def test_a_grown_clip_spans_its_captions_also_where_they_overlap(
    times: list[tuple[int, int]], chosen: int, least: int
) -> None:
    """Captions in the order of their starts, tenths of a second, of which an earlier one may end later."""
    captions = [Caption(start / 10, (start + length) / 10, "x") for start, length in sorted(times)]
    chosen %= len(captions)
    rules = ClipRules(min_clip_seconds=least / 10)
    taken = grow_clip(captions, chosen, least / 10)
    assert sorted(taken) == list(range(min(taken), max(taken) + 1)) and taken[0] == chosen
    start, end, order = grown_span(captions, chosen, rules)
    assert (start, end) == (min(captions[n].start for n in taken), max(captions[n].end for n in taken))
    assert order == [chosen, *sorted(set(taken) - {chosen})]
    published = dataclasses.replace(rules, bounds="inclusive", word_order="absorbed")
    assert grown_span(captions, chosen, published) == (start, captions[max(taken)].end, taken)


def test_words_without_a_vector_are_left_out_in_order(make_vectors: Callable[..., Any]) -> None:
    vectors = make_vectors(["a", "b"])
    assert known_words(["b", "zzz", "a", "b"], vectors) == [vectors.key_to_index[word] for word in "bab"]
    assert known_words(["zzz"], vectors) == known_words([], vectors) == []


def test_every_bit_pattern_is_told_finite_or_not() -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    told = np.array([is_finite(patterns[n : n + 1]) for n in range(len(patterns))])
    np.testing.assert_array_equal(told, np.isfinite(patterns.astype(np.float64)))
    assert is_finite(patterns[:0].reshape(0, 1)) and not is_finite(patterns)


@pytest.fixture
def video(make_video: Callable[..., Any]) -> Any:
    return make_video("someone0000", [(0.0, 4.0, "a b")], 20.0, masked=(2, 5))


def cut(video: Any, start: float, end: float, make_vectors: Callable[..., Any], **rules: Any) -> ClipFeatures:
    return cut_clip(video, start, end, [], make_vectors(["a"]), dataclasses.replace(ClipRules(), **rules))


@pytest.mark.parametrize("signs", ["non-negative", "any"])
def test_a_clips_rows_are_pooled_to_their_maximum(make_vectors: Any, video: Any, signs: str) -> None:
    # Bit patterns drawn evenly: zeros of both signs, denormal and largest numbers are among them.
    largest = 0x7C00 if signs == "non-negative" else 1 << 16
    bits = np.random.default_rng(0).integers(0, largest, (20, 24)).astype(np.uint16)
    bits[:, :4] = np.where(signs == "any", 0x8000, 0) + np.arange(4, dtype=np.uint16)
    rows = bits.view(np.float16)
    rows[~np.isfinite(rows)] = 0
    video.video["resnet152"][:] = rows
    video.video_mask[:] = True
    for start, end in ((0.0, 20.0), (3.0, 4.0), (5.5, 11.0), (0.0, 2.0)):
        shown = rows[int(np.ceil(start)) : int(end)]
        found = cut(video, start, end, make_vectors)
        assert found.video.dtype == np.float16 and found.has_video
        np.testing.assert_array_equal(found.video.astype(np.float64), shown.astype(np.float64).max(axis=0))


def test_a_clip_holds_its_seen_rows_its_mean_sound_and_its_first_words(video: Any, make_vectors: Any) -> None:
    vectors = make_vectors(list("abc"))
    rules = ClipRules(streams=("efficientnet-lite0", "resnet152"), max_words=2)
    # A row that nothing was on screen for must not count, even if it were the largest.
    for stream in video.video.values():
        stream[[2, 5]] = 1000
    clip = cut_clip(video, 1.0, 15.0, ["a", "x", "c", "b"], vectors, rules)
    seen = [1, 3, 4, *range(6, 15)]
    wanted = [video.video[stream][seen].astype(np.float64).max(axis=0) for stream in rules.streams]
    np.testing.assert_array_equal(clip.video.astype(np.float64), np.concatenate(wanted))
    assert clip.audio is not None
    np.testing.assert_allclose(clip.audio, video.audio[1:11].astype(np.float64).mean(axis=0), atol=1e-6)
    assert clip.words == [vectors.key_to_index["a"], vectors.key_to_index["c"]]
    unseen = cut_clip(video, 2.0, 3.0, [], vectors, rules)
    assert not unseen.has_video and unseen.video.shape == (36,) and not unseen.video.any()


def test_a_clip_without_sound_has_none(video: Any, make_vectors: Any) -> None:
    video.audio_mask[3:6] = False
    assert cut(video, 3.0, 6.0, make_vectors).audio is None
    np.testing.assert_array_equal(
        cut(video, 3.0, 7.0, make_vectors).audio, video.audio[6].astype(np.float32), "only what was heard counts"
    )
    assert cut(dataclasses.replace(video, audio=None), 0.0, 9.0, make_vectors).audio is None
    assert cut(video, 0.0, 9.0, make_vectors, audio="none").audio is None


def test_sound_at_the_native_rate_is_taken_by_its_own_times(video: Any, make_vectors: Any) -> None:
    # Output i stands at logmel_start + 0.16 i seconds.
    outputs = np.repeat(np.arange(100, dtype=np.float16)[:, None], 1024, axis=1)
    native = dataclasses.replace(
        video, audio=outputs, audio_mask=np.ones(100, bool), audio_rate="native", logmel_start=0.5
    )
    times = 0.5 + 0.16 * np.arange(100)
    for start, end in ((0.0, 2.0), (3.0, 5.5), (0.0, 14.0), (15.0, 20.0)):
        inside = (times >= start) & (times < min(end, start + 10))
        assert cut(native, start, end, make_vectors).audio == pytest.approx(np.arange(100)[inside].mean())
    assert cut(native, 0.0, 0.4, make_vectors).audio is None
    assert cut(native, 17.0, 20.0, make_vectors).audio is None


@pytest.mark.parametrize(
    ("seconds", "frame"),
    [(0.0, -2), (0.0025, -1), (0.01, -1), (0.0124, -1), (0.0125, 0), (0.0225, 1), (1.0, 98), (10.0, 998), (-0.5, -52)],
)
def test_log_mel_frames_are_counted_as_librosa_does(seconds: float, frame: int) -> None:
    """floor((t * 16000 - 200) / 160)."""
    assert logmel_frame(seconds) == frame


def heard(frames: int, start: float, end: float, rules: ClipRules, video: Any, begins: float = 0.0) -> list[int]:
    """Which frames of a recording of so many a clip has; frame k's every band holds -k / 64, which is exact."""
    logmel = np.repeat(-np.arange(frames)[:, None] / 64, 40, axis=1).astype(np.float16)
    found = cut_clip(dataclasses.replace(video, logmel=logmel, logmel_start=begins), start, end, [], NO_WORDS, rules)
    return [] if found.audio is None else (-64 * found.audio[:, 0].astype(np.float64)).round().astype(int).tolist()


class _NoWords:
    key_to_index: dict[str, int] = {}
    vectors = np.zeros((0, 16), np.float32)
    vector_size = 16


NO_WORDS: Any = _NoWords()


@pytest.mark.parametrize(
    ("frames", "start", "end", "published", "mended"),
    [
        # 0 s is frame -2 and 10 s frame 998: as a slice, from the last but one to before the 998th, which is nothing.
        (2000, 0.0, 10.0, (0, 0), (0, 998)),
        (2000, 0.0124, 10.0, (0, 0), (0, 998)),
        (2000, 0.0125, 10.0, (0, 998), (0, 998)),
        # In a recording shorter than the clip the same slice is its last two frames.
        (900, 0.0, 10.0, (898, 900), (0, 900)),
        (2000, 1.0, 3.0, (98, 298), (98, 298)),
        # However long the clip, 10 s are heard.
        (2000, 5.0, 19.0, (498, 1498), (498, 1498)),
        (2000, 15.0, 25.0, (1498, 2000), (1498, 2000)),
        (2000, 21.0, 25.0, (0, 0), (0, 0)),
        (0, 1.0, 3.0, (0, 0), (0, 0)),
    ],
)
def test_log_mel_of_a_clip_as_published_and_as_mended(
    frames: int, start: float, end: float, published: tuple[int, int], mended: tuple[int, int], video: Any
) -> None:
    assert heard(frames, start, end, PUBLISHED, video) == list(range(*published))
    assert heard(frames, start, end, MENDED, video) == list(range(*mended))
    # Sound that begins 2 s into the video is counted from there.
    assert heard(frames, start + 2, end + 2, MENDED, video, begins=2.0) == list(range(*mended))


def test_log_mel_is_padded_with_silence_or_as_published_with_the_loudest_level(video: Any) -> None:
    logmel = -np.random.default_rng(0).uniform(10, 70, (250, 40)).astype(np.float16)
    spoken = dataclasses.replace(video, logmel=logmel, logmel_start=0.0)
    for rules, level in ((MENDED, -80.0), (PUBLISHED, 0.0)):
        rules = dataclasses.replace(rules, logmel_frames=300)
        clips = [cut_clip(spoken, start, end, [], NO_WORDS, rules) for start, end in ((1.0, 9.0), (7.0, 9.0))]
        batch = collate(clips, rules, NO_WORDS)
        assert batch.audio is not None and batch.audio_frames is not None and batch.has_audio is not None
        assert batch.audio.shape == (2, 40, 300) and batch.audio.dtype == torch.float16
        assert batch.audio_frames.tolist() == [152, 0] and batch.has_audio.tolist() == [True, False]
        np.testing.assert_array_equal(batch.audio[0, :, :152].numpy(), logmel[98:].T)
        assert (batch.audio[0, :, 152:] == level).all() and (batch.audio[1] == level).all()
        assert batch.presence()["audio"].tolist() == [True, False]


def test_an_unclamped_clip_at_the_very_start_trains_on_padding_alone(video: Any) -> None:
    spoken = dataclasses.replace(video, logmel=np.full((2000, 40), -30, np.float16), logmel_start=0.0)
    batch = collate([cut_clip(spoken, 0.0, 12.0, [], NO_WORDS, PUBLISHED)], PUBLISHED, NO_WORDS)
    assert batch.audio is not None and batch.audio_frames is not None
    assert batch.audio_frames.tolist() == [0] and not batch.audio.any()


def a_clip(generator: np.random.Generator, seen: bool, words: int, sound: bool) -> ClipFeatures:
    audio = generator.normal(size=7).astype(np.float32) if sound else None
    video = generator.random(5).astype(np.float16) * seen
    return ClipFeatures("v", 0, 1, video, seen, audio, generator.integers(4, size=words).tolist())


@pytest.fixture(autouse=True)
def used_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is made in memory that holds something already."""
    empty = np.empty

    def used(*arguments: Any, **named: Any) -> Any:
        memory = empty(*arguments, **named)
        memory.view(np.uint8)[...] = 77
        return memory

    monkeypatch.setattr(np, "empty", used)


def test_a_batch_is_padded_with_zeros_and_says_so(make_vectors: Any) -> None:
    generator, vectors = np.random.default_rng(0), make_vectors(list("abcd"))
    clips = [a_clip(generator, *has) for has in ((True, 4, True), (False, 1, False), (True, 0, True))]
    batch = collate(clips, ClipRules(max_words=6), vectors, audio_width=7)
    assert batch.video is not None and batch.video_rows is not None and batch.audio is not None
    assert batch.words is not None and batch.known_words is not None and batch.has_audio is not None
    assert batch.video.shape == (3, 1, 5) and batch.words.shape == (3, 6, 16) and batch.audio_frames is None
    assert batch.video_rows.tolist() == [[True], [False], [True]]
    assert batch.known_words.sum(dim=1).tolist() == [4, 1, 0] and batch.has_audio.tolist() == [True, False, True]
    for index, one in enumerate(clips):
        np.testing.assert_array_equal(batch.video[index, 0].numpy(), one.video)
        known = batch.known_words[index]
        np.testing.assert_array_equal(batch.words[index][known].numpy(), vectors.vectors[one.words])
        assert known.tolist() == sorted(known.tolist(), reverse=True) and not batch.words[index][~known].any()
        assert torch.equal(batch.audio[index], torch.zeros(7) if one.audio is None else torch.from_numpy(one.audio))
    mute = [dataclasses.replace(clip, audio=None) for clip in clips]
    silent = collate(mute, ClipRules(audio="none", max_words=6), vectors)
    assert silent.audio is None and silent.has_audio is None and set(silent.presence()) == {"video", "text"}


def test_what_a_batch_is_made_in_is_aligned_as_torchs_own_tensors(make_vectors: Any) -> None:
    clips = [a_clip(np.random.default_rng(0), True, 2, True)]
    for _ in range(20):
        batch = collate(clips, ClipRules(max_words=6), make_vectors(list("abcd")), audio_width=7)
        assert batch.video is not None and batch.audio is not None and batch.words is not None
        assert not any(tensor.data_ptr() % 64 for tensor in (batch.video, batch.audio, batch.words))


def test_a_batch_that_isnt_full_is_no_batch() -> None:
    batch = ClipBatch(2, ClipRules(), 5, 7)
    batch.add(a_clip(np.random.default_rng(0), True, 1, True))
    with pytest.raises(AssertionError, match="1 of 2 clips"):
        batch.clips()


def test_without_a_stream_there_is_no_video(video: Any, make_vectors: Any) -> None:
    rules, vectors = ClipRules(streams=()), make_vectors(["a"])
    batch = collate([cut_clip(video, 0.0, 5.0, ["a"], vectors, rules)], rules, vectors)
    assert batch.video is None and set(batch.presence()) == {"audio", "text"}
