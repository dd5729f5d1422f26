"""Which clips an epoch shows: each draw is a function of (seed, epoch, video id, draw); resuming changes nothing."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from gensim.models import KeyedVectors

from pipeline.dataset import ClipFeatures, FeatureDataset, cut_clip, grow_clip
from pipeline.records import VideoFeatures


def _generator(*key: object) -> np.random.Generator:
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.default_rng(list(digest))


def epoch_batches(video_ids: Sequence[str], batch_videos: int, seed: int, epoch: int) -> Iterator[list[str]]:
    """The epoch's batches: all videos in a fresh order, the last incomplete batch dropped."""
    order = _generator(seed, epoch).permutation(sorted(video_ids)).tolist()
    for first in range(0, len(order) - batch_videos + 1, batch_videos):
        yield order[first : first + batch_videos]


class PermutedCaptions:
    """The control that text says nothing: every training caption keeps its time and gets another caption's words.

    The permutation is over all captions of all `video_ids`, drawn once from `seed`.
    """

    def __init__(self, dataset: FeatureDataset, video_ids: Sequence[str], streams: tuple[str, ...], seed: int) -> None:
        self._words: dict[tuple[str, int], list[str]] = {}
        places, words = [], []
        for video_id in sorted(video_ids):
            video = dataset.video(video_id, streams)
            for index in range(len(video.captions)):
                places.append((video_id, index))
                words.append(video.words.of_caption(index))
        order = _generator("permuted captions", seed).permutation(len(places))
        self._words = {place: words[other] for place, other in zip(places, order, strict=True)}

    def of_caption(self, video: VideoFeatures, index: int) -> list[str]:
        """Words that stand at this caption's time."""
        return self._words[video.video_id, index]


def true_words(video: VideoFeatures, index: int) -> list[str]:
    """Words of caption `index`, as stored."""
    return video.words.of_caption(index)


def draw_clips(
    video: VideoFeatures,
    vectors: KeyedVectors,
    seed: int,
    epoch: int,
    clips: int,
    min_seconds: float,
    max_words: int,
    permuted: PermutedCaptions | None = None,
) -> list[ClipFeatures]:
    """`clips` clips of one video: captions drawn with replacement, each grown to `min_seconds` by its neighbours.

    The seed caption's words come first, then those of the neighbours in the order of time.
    """
    words_of = permuted.of_caption if permuted is not None else true_words
    drawn = _generator(seed, epoch, video.video_id).integers(len(video.captions), size=clips)
    found = []
    for chosen in drawn.tolist():
        first, last = grow_clip(video.captions, chosen, min_seconds)
        start = video.captions[first].start
        end = max(caption.end for caption in video.captions[first : last + 1])
        order = [chosen, *(index for index in range(first, last + 1) if index != chosen)]
        words = [word for index in order for word in words_of(video, index)]
        found.append(cut_clip(video, start, end, words, vectors, max_words))
    return found
