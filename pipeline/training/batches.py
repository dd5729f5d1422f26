"""Batches of training clips, in order, the same whatever process makes them.

Each draw is a function of (seed, epoch, video id, draw): resuming changes nothing.
"""

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from gensim.models import KeyedVectors
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from models.clips import ClipInputs
from pipeline.clips.cutting import ClipBatch, ClipFeatures, CutClips, Cutter, known_words
from pipeline.clips.dataset import FeatureDataset
from pipeline.clips.rules import ClipRules, grown_span
from pipeline.core.errors import InputError
from pipeline.core.records import VideoFeatures, Words
from pipeline.core.signals import SIGNALS


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
        shown += [window[index] for index in generator.permutation(len(window)).tolist()]
    return shown


class PermutedCaptions:
    """The control that text says nothing: every training caption keeps its time and gets another caption's words.

    The permutation is over all captions of all `video_ids`, drawn once from `seed` and the manifest. Holds every
    word of theirs in memory: 4 bytes a word, 12 a caption.
    """

    def __init__(self, dataset: FeatureDataset, video_ids: Sequence[str], seed: int) -> None:
        text_only = ClipRules(streams=(), audio="none")
        number_of: dict[str, int] = {}
        self._first: dict[str, int] = {}
        words: list[NDArray[np.int32]] = []
        lengths: list[NDArray[np.int64]] = []
        captions = 0
        # Shard by shard, so that each is opened once.
        for video_id in chain.from_iterable(dataset.by_shard(video_ids)):
            video = dataset.video(video_id, text_only)
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


def draw_clips(
    video: VideoFeatures,
    vectors: KeyedVectors,
    rules: ClipRules,
    seed: int,
    epoch: int,
    clips: int,
    permuted: PermutedCaptions | None = None,
) -> list[ClipFeatures]:
    """`clips` clips of one video: captions drawn with replacement, each grown to `min_clip_seconds` by its neighbours.

    The seed caption's words come first, then those of the neighbours by `rules.word_order`.
    """
    known = _rows_by_caption(video.words, vectors) if permuted is None else []
    drawn = _generator(seed, epoch, video.video_id).integers(len(video.captions), size=clips)
    cutter, cut = Cutter(video, rules), []
    for chosen in drawn.tolist():
        start, end, order = grown_span(video.captions, chosen, rules)
        if permuted is None:
            words = [row for index in order for row in known[index]]
        else:
            words = known_words((word for index in order for word in permuted.of_caption(video, index)), vectors)
        cut.append(cutter.cut(start, end, words))
    return cut


def _rows_by_caption(words: Words, vectors: KeyedVectors) -> list[list[int]]:
    """For each caption the rows of `vectors` of its words that have one, in their order."""
    row_of, table, ids = vectors.key_to_index, words.table, words.ids.tolist()
    rows = [row_of.get(table[i], -1) for i in ids]
    return [[row for row in rows[a:b] if row >= 0] for a, b in pairwise(words.offsets.tolist())]


START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""A fork begins in milliseconds and shares the word vectors, which are gigabytes; elsewhere it isn't safe."""

TAKES_SIGNALS = hasattr(signal, "sigwaitinfo")
"""Not on macOS."""


class TrainingBatches:
    """The clips of every step of every epoch. A batch follows from its arguments alone.

    Process `rank` of `processes` gets its share of each batch: B = batch_videos / processes * clips_per_video clips,
    those of a video one after another. The last incomplete batch of an epoch is dropped. `video_ids` must have
    captions; ValueError when `batch_videos` can't be shared.
    """

    def __init__(
        self,
        dataset: FeatureDataset,
        video_ids: Sequence[str],
        vectors: KeyedVectors,
        rules: ClipRules,
        *,
        batch_videos: int,
        clips_per_video: int,
        seed: int,
        shuffle_shards: int,
        permuted: PermutedCaptions | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if batch_videos % processes:
            raise ValueError(f"a batch of {batch_videos} videos can't be shared by {processes} processes")
        self.video_ids = list(video_ids)
        self.steps = len(self.video_ids) // batch_videos
        """Batches in an epoch, the same for every process."""
        self._dataset, self._rules, self._permuted = dataset, rules, permuted
        self._vectors = vectors
        self._batch_videos, self._clips_per_video = batch_videos, clips_per_video
        self._seed, self._shuffle_shards = seed, shuffle_shards
        self._rank, self._share = rank, batch_videos // processes
        self._shards = dataset.by_shard(self.video_ids)
        self._order: tuple[int, list[str]] = (-1, [])

    def video_ids_of(self, epoch: int, step: int) -> list[str]:
        """The videos of the whole batch, over all processes; IndexError past the epoch's end."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of an epoch of {self.steps}")
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(self._shards, self._seed, epoch, self._shuffle_shards))
        return self._order[1][step * self._batch_videos : (step + 1) * self._batch_videos]

    def batch(self, epoch: int, step: int) -> ClipInputs:
        """This process's clips of one step (see `collate` for shapes); InputError when a shard can't be read."""
        return self.cut(epoch, step).inputs(self._vectors)

    def cut(self, epoch: int, step: int) -> CutClips:
        """This process's clips of one step, their words as rows of the word vectors; InputError as `batch`."""
        mine = self.video_ids_of(epoch, step)[self._rank * self._share : (self._rank + 1) * self._share]
        width = sum(self._dataset.stream_width(stream) for stream in self._rules.streams)
        batch = ClipBatch(self._share * self._clips_per_video, self._rules, width)
        for video_id in mine:
            video = self._dataset.video(video_id, self._rules)
            for clip in draw_clips(
                video, self._vectors, self._rules, self._seed, epoch, self._clips_per_video, self._permuted
            ):
                batch.add(clip)
        return batch.clips()

    def load(self, epoch: int, first_step: int, workers: int) -> Iterator[ClipInputs]:
        """The epoch's batches from `first_step` on, in order, made ahead by `workers` processes; 0: by this one.

        Two batches a worker are held ready. The workers are begun anew for each call, and end with the iterator. Raises
        InputError as `batch` does, and when a worker dies.
        """
        if workers == 0 or first_step >= self.steps:
            yield from (self.batch(epoch, step) for step in range(first_step, self.steps))
            return
        self.video_ids_of(epoch, first_step)  # drawn once, here, and not in every worker
        self._dataset.close()
        _let_ends_of_workers_be()
        others = set(multiprocessing.active_children())
        loader = DataLoader(
            _Epoch(self, epoch),
            sampler=range(first_step, self.steps),
            batch_size=None,
            num_workers=min(workers, self.steps - first_step),
            collate_fn=_unchanged,
            worker_init_fn=_begin,
            multiprocessing_context=multiprocessing.get_context(START_METHOD),
            # The loader draws a number, which must not come out of the generator that initial weights come from.
            generator=torch.Generator(),
        )
        with _signals_held():
            batches = iter(loader)
        begun = set(multiprocessing.active_children()) - others
        try:
            for _ in range(first_step, self.steps):
                yield self._next(batches)
        finally:
            del batches
            # An error on its way up holds the loader, which would end them.
            for worker in begun:
                worker.kill()
                worker.join()

    def _next(self, batches: Iterator[Any]) -> ClipInputs:
        try:
            batch: CutClips | _Refusal = next(batches)
        except (RuntimeError, OSError, EOFError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            # An error in a worker's own code, which keeps its type, begins "Caught"; this is a worker that is gone, or
            # that goes while it hands a batch over, which breaks the connection.
            gone = not isinstance(error, RuntimeError) or reason.startswith("DataLoader worker")
            if not gone or reason.startswith("Caught"):
                raise
            raise InputError(
                f"{self._dataset.path}: a process that reads clips has died ({reason}): memory or /dev/shm is too "
                f"small (lower --workers), or a shard is damaged (`mcn verify {self._dataset.folder}`)"
            ) from None
        if isinstance(batch, _Refusal):
            raise InputError(batch.message)
        return batch.inputs(self._vectors)


@dataclass(frozen=True)
class _Refusal:
    """An InputError on its way out of a worker: the loader would wrap an exception in its traceback's text."""

    message: str


class _Epoch(Dataset[CutClips | _Refusal]):
    """A data set, in the loader's words: batch number `step` of an epoch."""

    def __init__(self, batches: TrainingBatches, epoch: int) -> None:
        self.batches, self.epoch = batches, epoch

    def __getitem__(self, step: int) -> CutClips | _Refusal:
        try:
            cut = self.batches.cut(self.epoch, step)
        except InputError as error:
            return _Refusal(str(error))
        # Here, since an error in the thread that sends would be lost, and the trainer wait without end.
        try:
            cut.share()
        except RuntimeError as error:
            return _Refusal(
                f"{self.batches._dataset.path}: no shared memory for a batch of clips ({str(error).splitlines()[0]}): "
                "lower --workers, or give /dev/shm more room"
            )
        return cut

    def begin_worker(self) -> None:
        self.batches._dataset.keep_no_more()


def _unchanged(batch: Any) -> Any:
    return batch


def _begin(worker: int) -> None:
    info = torch.utils.data.get_worker_info()
    assert info is not None and isinstance(info.dataset, _Epoch)
    info.dataset.begin_worker()
    if not TAKES_SIGNALS:
        return
    # Held since the fork; a spawned process has run Python's own start since, so once more.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_take_signals, args=(os.getppid(),), daemon=True, name="signals").start()


def _let_ends_of_workers_be() -> None:
    """Keep PyTorch's handler for the end of a worker out: it raises wherever this thread is by then, in the middle of a
    training step or over another error.

    Without it a loader that waits looks every few seconds whether its workers live. PyTorch sets it once a process, and
    from the main thread alone.
    """
    # Private to PyTorch: a release without it only tells less well of a worker that died.
    set_handler = getattr(signal_handling, "_set_SIGCHLD_handler", None)
    if set_handler and threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
        before = signal.getsignal(signal.SIGCHLD)
        set_handler()
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


@contextmanager
def _signals_held() -> Iterator[None]:
    """What begins in here has `SIGNALS` blocked from its first instruction; the caller gets its own afterwards."""
    if not TAKES_SIGNALS:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _take_signals(parent: int) -> None:
    """End when the parent says so, and for nobody else.

    A batch system may signal the whole group: the trainer alone decides then which batch is the last.
    """
    while True:
        if signal.sigwaitinfo(SIGNALS).si_pid == parent:
            os._exit(0)
