"""Which clips an epoch shows: each draw is a function of (seed, epoch, video id, draw); resuming changes nothing."""

import hashlib
from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np
from gensim.models import KeyedVectors
from numpy.typing import NDArray

from pipeline.clips.clip_rules import ClipRules
from pipeline.clips.cutting import ClipFeatures, Cutter, grow_clip, known_words
from pipeline.clips.dataset import FeatureDataset
from pipeline.core.records import Caption, VideoFeatures, Words


def _generator(*key: object) -> np.random.Generator:
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint8).astype(np.uint32))


def epoch_order(shards: Sequence[Sequence[str]], seed: int, epoch: int, shuffle_shards: int) -> list[str]:
    """All videos in the order of an epoch. `shards` holds the ids of each shard.

    The shards come in a fresh order, and the videos of `shuffle_shards` of them at a time are shuffled together, so
    that a pass reads no more than so many shards at once, each from one end of its window to the other. Two videos
    can share a batch only when their shards share a window (or its edge), which the epoch draws anew. With no more
    shards than that it is a full shuffle, which then doesn't depend on what lies in which shard.
    """
    order = _generator("order of shards", seed, epoch).permutation(len(shards)).tolist()
    generator = _generator(seed, epoch)
    shown: list[str] = []
    for first in range(0, len(order), shuffle_shards):
        window = sorted(video_id for shard in order[first : first + shuffle_shards] for video_id in shards[shard])
        shown += [window[place] for place in generator.permutation(len(window)).tolist()]
    return shown


class PermutedCaptions:
    """The control that text says nothing: every training caption keeps its time and gets another caption's words.

    The permutation is over all captions of all `video_ids`, drawn once from `seed` and the manifest. Holds every
    word of theirs in memory: 4 bytes a word, 12 a caption.
    """

    def __init__(self, dataset: FeatureDataset, video_ids: Sequence[str], seed: int) -> None:
        said = ClipRules(streams=(), audio="none")
        number_of: dict[str, int] = {}
        self._first: dict[str, int] = {}
        words: list[NDArray[np.int32]] = []
        lengths: list[NDArray[np.int64]] = []
        captions = 0
        # Shard by shard, so that each is opened once.
        for video_id in chain.from_iterable(dataset.by_shard(video_ids)):
            video = dataset.video(video_id, said)
            table, ids = video.words.table, video.words.ids.tolist()
            words.append(np.array([number_of.setdefault(table[i], len(number_of)) for i in ids], np.int32))
            lengths.append(np.diff(video.words.offsets))
            self._first[video_id] = captions
            captions += len(video.captions)
        self._vocabulary = tuple(number_of)
        self._words = np.concatenate(words)
        self._offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        self._order = _generator("permuted captions", seed).permutation(captions)

    def of_caption(self, video: VideoFeatures, index: int) -> list[str]:
        """Words that stand at this caption's time."""
        other = self._order[self._first[video.video_id] + index]
        return [self._vocabulary[i] for i in self._words[self._offsets[other] : self._offsets[other + 1]]]


def grown_span(captions: Sequence[Caption], chosen: int, rules: ClipRules) -> tuple[float, float, list[int]]:
    """Start and end (s) of caption `chosen` grown to `rules.min_seconds`, and its captions in their words' order.

    The chosen caption comes first, then its neighbours by `rules.word_order`.
    """
    order = grow_clip(captions, chosen, rules.min_seconds)
    end = max(captions[index].end for index in order)
    if rules.bounds == "inclusive":
        end = captions[max(order)].end
    start = captions[min(order)].start
    return start, end, [chosen, *sorted(order[1:])] if rules.word_order == "time" else order


def draw_clips(
    video: VideoFeatures,
    vectors: KeyedVectors,
    rules: ClipRules,
    seed: int,
    epoch: int,
    clips: int,
    permuted: PermutedCaptions | None = None,
) -> list[ClipFeatures]:
    """`clips` clips of one video: captions drawn with replacement, each grown to `min_seconds` by its neighbours.

    The seed caption's words come first, then those of the neighbours by `rules.word_order`.
    """
    known = _rows_by_caption(video.words, vectors) if permuted is None else []
    drawn = _generator(seed, epoch, video.video_id).integers(len(video.captions), size=clips)
    cutter, cut = Cutter(video, rules), []
    for chosen in drawn.tolist():
        start, end, order = grown_span(video.captions, chosen, rules)
        if permuted is None:
            said = [row for index in order for row in known[index]]
        else:
            said = known_words((word for index in order for word in permuted.of_caption(video, index)), vectors)
        cut.append(cutter.cut(start, end, said))
    return cut


def _rows_by_caption(words: Words, vectors: KeyedVectors) -> list[list[int]]:
    """For each caption the rows of `vectors` of its words that have one, in their order."""
    row_of, table, ids = vectors.key_to_index, words.table, words.ids.tolist()
    rows = [row_of.get(table[i], -1) for i in ids]
    return [[row for row in rows[a:b] if row >= 0] for a, b in pairwise(words.offsets.tolist())]
