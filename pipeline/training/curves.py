"""What training tells of itself: retrieval on held-out clips after every epoch, and TensorBoard's lines.

The lines are written as they come: no thread that may fail on its own, no file that a fork would share.
"""

import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from gensim.models import KeyedVectors
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from models.clips import ClipInputs, concatenate
from models.mcn import MCN
from pipeline.clips.cutting import ClipFeatures, collate
from pipeline.clips.dataset import FeatureDataset
from pipeline.clips.rules import ClipRules
from pipeline.core.files import Closeable, open_to_append
from pipeline.dataset.manifest import HELD_OUT
from pipeline.dataset.shard_plans import hash_order
from pipeline.metrics.ranking import directions, is_headline, ranked
from pipeline.metrics.retrieval import CUTOFFS
from pipeline.training.batches import draw_clips

RECALL = "heldout/R@"
"""What the names of the scores begin with that are recalls."""
_MOST_EACH = 8
EPOCH = -1
"""Stands where training's draws have their epoch, so that these clips are the same after every epoch."""


class HeldOutClips:
    """Clips of the held-out videos, drawn once by the rules of training, at most 8 of a video, none twice."""

    def __init__(
        self, dataset: FeatureDataset, vectors: KeyedVectors, rules: ClipRules, clips: int, seed: int, silent: set[str]
    ) -> None:
        """At most `clips` of them; `silent` are the videos without captions."""
        splits = dataset.manifest.splits
        ids = {i for split, members in splits.items() if split.startswith(HELD_OUT) for i in members} - silent
        self.videos = sorted(ids, key=hash_order)[:clips]
        self._dataset, self._vectors, self._rules, self._seed = dataset, vectors, rules, seed
        self._each = max(1, min(_MOST_EACH, clips // max(1, len(self.videos))))
        self._clips: ClipInputs | None = None

    def _inputs(self) -> ClipInputs:
        if self._clips is None:
            drawn: dict[tuple[str, float, float], ClipFeatures] = {}
            for video_id in self.videos:
                video = self._dataset.video(video_id, self._rules)
                for clip in draw_clips(video, self._vectors, self._rules, self._seed, EPOCH, self._each):
                    # A clip drawn twice would compete with itself.
                    drawn.setdefault((video_id, clip.start, clip.end), clip)
            self._clips = collate(list(drawn.values()), self._rules, self._vectors)
        return self._clips

    @torch.no_grad()
    def scores(self, model: MCN, device: torch.device, normalise: bool = False, batch: int = 512) -> dict[str, float]:
        """`heldout/R@1`, `R@5`, `R@10` in [0, 1] and `heldout/median rank` of text -> video, video alone.

        By cosines with `normalise`, as such a model is trained and evaluated, else by inner products.

        Nothing where there is no held-out clip, or no space of the scheme contrasts text with video.
        """
        headline = directions(model.settings.scheme)[0]
        if not self.videos or not is_headline(headline):
            return {}
        clips, was_training = self._inputs(), model.training
        model.eval()
        try:
            parts = [model(clips[first : first + batch].to(device)) for first in range(0, len(clips), batch)]
        finally:
            model.train(was_training)
        embedded = concatenate(parts)
        if normalise:
            embedded = embedded.map_vectors(lambda vectors: torch.nn.functional.normalize(vectors.float(), dim=1))
        where = ranked(headline.queries(embedded), headline.candidates(embedded))
        recalls = {f"{RECALL}{k}": float(where.hits(k).mean()) for k in CUTOFFS}
        return recalls | {"heldout/median rank": float(np.median(where.rank))}


class LearningCurves(Closeable):
    """Figures by name and step in a file of TensorBoard's; use as a context manager.

    Lines of an earlier run at `first_step` or later, which a kill has cost, are taken back. What can't be written is
    announced once and costs these lines alone: training has its own table of figures.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self._file: BinaryIO | None = None
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open_to_append(folder / name)
        except OSError as error:
            self._give_up(error)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(Event(wall_time=time.time(), step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def add(self, figures: Mapping[str, float], step: int, group: str) -> None:
        """One line for each figure, named `GROUP/NAME`."""
        values = [Summary.Value(tag=f"{group}/{name}", simple_value=value) for name, value in figures.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        if self._file is None:
            return
        try:
            RecordWriter(self._file).write(event.SerializeToString())
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        print(
            f"mcn: TensorBoard's lines can't be written ({error.strerror}): training continues without them",
            file=sys.stderr,
        )
        self._file = None
