"""The training loop: batches in, checkpoints and curves out, the same to the bit however often it is stopped."""

import csv
import io
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from models.batch_step import BatchStep, StepLosses
from models.clips import ClipInputs
from models.kmeans import ClusterQueue, TooFewClipsError
from models.mcn import MCN
from models.pairing import Scheme, scheme_to_dict
from pipeline.clips.dataset import FeatureDataset
from pipeline.core.config import as_plain
from pipeline.core.errors import InputError
from pipeline.core.files import write_text
from pipeline.core.reporting import Progress
from pipeline.training.batches import TrainingBatches
from pipeline.training.checkpoint import FILE, NOT_FINITE, load_checkpoint, save_checkpoint, save_tensors
from pipeline.training.curves import HeldOutClips, LearningCurves
from pipeline.training.distributed import Agreement, communicator_of
from pipeline.training.settings import CHANGEABLE_ON_RESUME, TrainSettings
from pipeline.training.weights import load_initial

STANDARDISED_BATCHES = 200
"""Batches of the first epoch, at most, from which the standardisation's statistics come."""
LOOKED_AT_BATCHES = 50
"""Batches, at most, in which a modality is looked for before training begins."""


@dataclass
class Data:
    """What a run trains on."""

    dataset: FeatureDataset
    batches: TrainingBatches
    every_clip: TrainingBatches
    """The same batches with the clips of all processes."""
    heldout: HeldOutClips


class Trainer:
    """A model, its optimiser and its clusters, on their way through the epochs."""

    def __init__(
        self, settings: TrainSettings, fabric: Fabric, precision: str, scheme: Scheme, model: MCN, data: Data
    ) -> None:
        self.settings, self.fabric, self.precision, self.scheme, self.data = settings, fabric, precision, scheme, data
        self.communicator = communicator_of(fabric)
        model.to(fabric.device).train()
        self.model = model
        self.queues = nn.ModuleDict(
            {space.name: ClusterQueue(model.settings.width_of(space), settings.clustering) for space in scheme.spaces}
        ).to(fabric.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate, fused=True)
        self.generator = torch.Generator().manual_seed(settings.seed)
        queues = {name: queue for name, queue in self.queues.items() if isinstance(queue, ClusterQueue)}
        self.step_of = BatchStep(
            self.model, queues, settings.loss, settings.chunk, self.communicator, autocast=fabric.autocast
        )
        self._agreement = Agreement(self.communicator, fabric.device, None)
        self._saved = time.monotonic()
        self.epoch = self.step = 0
        """Epochs done, and steps of the one begun."""
        self.sums: dict[str, float] = {}
        """Figure -> its sum over the steps of the epoch begun."""
        self.history: list[dict[str, float]] = []
        self.extended: list[dict[str, int]] = []
        """Where epochs were added and the schedule depends on their number: that of before, and the steps done."""
        self.waited_s = self.worked_s = 0.0
        self.steps_now = 0
        """Steps taken by this process, in `waited_s` + `worked_s` seconds."""
        self.videos_a_process = settings.batch_videos // self.communicator.processes

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.communicator.rank == 0

    @property
    def steps_done(self) -> int:
        """Optimiser steps since the beginning."""
        return self.epoch * self.data.batches.steps + self.step

    def begin(self) -> None:
        """Before the very first step: what is trained must be there, and inputs' statistics are taken."""
        if self.settings.initial_weights is not None:
            load_initial(self.model, self.settings.initial_weights)
        self._find_a_long_clip()
        self._find_every_modality()
        if self.settings.network.standardise:
            count = min(self.data.every_clip.steps, STANDARDISED_BATCHES)
            batches = (self.data.every_clip.batch(0, step).to(self.fabric.device) for step in range(count))
            try:
                self.model.fit_standardisation(batches)
            except ValueError as error:
                raise InputError(f"{self.settings.manifest}: {error}; train without --standardise") from None

    def _find_a_long_clip(self) -> None:
        least, longest = self.settings.clips.min_clip_seconds, 0.0
        rules = self.settings.clip_rules(self.scheme)
        for video_id in self.data.batches.video_ids:
            captions = self.data.dataset.video(video_id, rules).captions
            longest = max(longest, max(caption.end for caption in captions) - captions[0].start)
            if longest >= least:
                return
        raise InputError(
            f"{self.settings.manifest}: no clip is long enough: the longest span of captions takes {longest:.1f} s, "
            f"--min-clip-seconds is {least:g}; lower it"
        )

    def _find_every_modality(self) -> None:
        missing = {m for space in self.scheme.spaces for m in space.trained_modalities}
        count = min(self.data.every_clip.steps, LOOKED_AT_BATCHES)
        for step in range(count):
            present = self.data.every_clip.batch(0, step).presence()
            missing -= {modality for modality in missing if modality in present and bool(present[modality].any())}
            if not missing:
                return
        raise InputError(
            f"{self.settings.manifest}: no clip has {' or '.join(sorted(missing))} in the first {count} batches, and "
            f"scheme {self.scheme.name} trains on it; choose a scheme without, or extract it"
        )

    def train(self, stop_file: Path | None) -> None:
        """Go on to the last epoch, or until asked to stop; the checkpoint then holds all that was done.

        InputError when a figure is no longer finite: the last checkpoint stays as it was.
        """
        self._agreement = Agreement(self.communicator, self.fabric.device, stop_file)
        self._saved = time.monotonic()
        folder = self.settings.out / "tensorboard"
        curves = LearningCurves(folder, self.steps_done + 1) if self.is_first else nullcontext()
        total = self.settings.epochs * self.data.batches.steps if self.is_first else 0
        with curves as board, Progress("train", total, "step", begun=self.steps_done) as bar:
            while self.epoch < self.settings.epochs:
                if self._train_epoch(board, bar):
                    return
                self._end_epoch(board)
                if self._save_or_stop(last=self.epoch == self.settings.epochs):
                    return

    def _train_epoch(self, board: LearningCurves | None, bar: Progress) -> bool:
        """The epoch's steps that are left; returns whether it was asked to stop before the last."""
        before = time.perf_counter()
        for clips in self.data.batches.load(self.epoch, self.step, self.settings.workers):
            arrived = time.perf_counter()
            figures = self._step(clips)
            self.waited_s += arrived - before
            self.worked_s += time.perf_counter() - arrived
            if self.is_first:
                bar.to(self.steps_done, f"epoch {self.epoch + 1}, loss {figures['total']:.3f}")
            if board is not None and self.steps_done % self.settings.log_every == 0:
                self._log(board, figures)
            # After the last step the epoch is ended first, and then saved.
            if self.step < self.data.batches.steps and self._save_or_stop():
                return True
            before = time.perf_counter()
        return False

    def _save_or_stop(self, last: bool = False) -> bool:
        """Save when it is time to; returns whether to stop, which is another reason to save."""
        stopping, due = self._agreement.stop_or_save(time.monotonic() - self._saved >= 60 * self.settings.save_every)
        if stopping or last or due:
            self.save()
            self._agreement.wait()
            self._saved = time.monotonic()
        return stopping

    def _step(self, clips: ClipInputs) -> dict[str, float]:
        """One optimiser step; returns its figures by name."""
        rank, count = self.communicator.rank, self.settings.clips_per_video
        videos = torch.arange(rank * self.videos_a_process, (rank + 1) * self.videos_a_process)
        video_index = videos.repeat_interleave(count).to(self.fabric.device)
        if self.settings.restart_clusters and self.step == 0:
            for queue in self.queues.values():
                assert isinstance(queue, ClusterQueue)
                queue.restart()
        try:
            losses = self.step_of.backward(clips.to(self.fabric.device), video_index, self.generator)
        except TooFewClipsError as error:
            raise InputError(f"training: {error}: see --clusters, --batch-videos and --clips-per-video") from None
        figures = self._figures(losses)
        self._check_finite(figures)
        rate = learning_rate_at(self.settings, self.steps_done, self.settings.epochs * self.data.batches.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        self.steps_now += 1
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        return figures

    def _figures(self, losses: StepLosses) -> dict[str, float]:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        values: dict[str, Tensor] = {"total": losses.total, **losses.terms, "gradient norm": norm}
        values |= {f"share/{name}": share for name, share in losses.gradient_shares().items()}
        # One transfer: each figure read alone would wait for the device.
        read = torch.stack([value.double() for value in values.values()]).tolist()
        return dict(zip(values, read, strict=True))

    def _check_finite(self, figures: dict[str, float]) -> None:
        bad = [name for name, value in figures.items() if not math.isfinite(value)]
        if not bad:
            return
        # What is made of others comes after them: the term that broke is named, not the total.
        name = next((name for name in bad if name != "total"), bad[0])
        if self.is_first:
            ids = self.data.batches.video_ids_of(self.epoch, self.step)
            save_tensors(self.settings.out / NOT_FINITE, self._content() | {"figures": figures, "batch": ids})
        self._agreement.wait()
        raise InputError(
            f"training: {name} became {figures[name]} in epoch {self.epoch + 1}, step {self.step + 1}; state and ids "
            f"of the batch are in {self.settings.out / NOT_FINITE}, the last checkpoint is whole: lower "
            "--learning-rate and train anew in another --out"
        )

    def _end_epoch(self, board: LearningCurves | None) -> None:
        means = {name: value / self.step for name, value in self.sums.items()}
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}
        # Every process could measure it, one is enough: nothing else depends on it.
        if self.is_first:
            means |= self.data.heldout.scores(self.model, self.fabric.device, self.settings.loss.normalise)
        self.history.append({"epoch": self.epoch, **means})
        if board is not None:
            board.add(means, self.steps_done, "epoch")

    def _log(self, board: LearningCurves, figures: dict[str, float]) -> None:
        clips = self.settings.batch_videos * self.settings.clips_per_video
        passed = max(self.waited_s + self.worked_s, 1e-9)
        rates = {"waiting for data": self.waited_s / passed, "learning rate": self.optimizer.param_groups[0]["lr"]}
        board.add(figures | rates | {"clips a second": clips * self.steps_now / passed}, self.steps_done, "step")

    def _content(self) -> dict[str, Any]:
        model, dataset = self.model.settings, self.data.dataset
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "queues": self.queues.state_dict(),
            "generator": self.generator.get_state(),
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "history": self.history,
            "settings": as_plain(self.settings),
            "precision": self.precision,
            "model_settings": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in vars(model).items()
                if name != "scheme"
            },
            "scheme": scheme_to_dict(self.scheme),
            "identity": dataset.identity,
            "words": dataset.description["words"],
            "manifest": {"name": dataset.manifest.name, "digest": dataset.manifest.digest},
            "paths": {"manifest": str(dataset.path.resolve()), "folder": str(self.settings.out.resolve())},
            "videos": len(self.data.batches.video_ids),
        } | ({"extended": self.extended} if self.extended else {})

    def save(self) -> None:
        """Write checkpoint and metrics."""
        if self.is_first:
            save_checkpoint(self.settings.out, self._content())
            self.save_metrics()

    def save_metrics(self) -> None:
        """Write the learning curves as metrics.csv, a line an epoch."""
        if not self.history:
            return
        table = io.StringIO()
        writer = csv.DictWriter(table, fieldnames=list(self.history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.settings.out / "metrics.csv", table.getvalue())

    def resume(self) -> list[str]:
        """Go on from the checkpoint in `out`; returns what a reader of the report must know.

        InputError when it was made with other settings, or for more epochs.
        """
        path = self.settings.out / FILE
        content = load_checkpoint(self.settings.out)
        for name, value in as_plain(self.settings).items():
            before = content["settings"].get(name)
            added = name == "epochs" and isinstance(before, int) and before < value
            if name not in CHANGEABLE_ON_RESUME and before != value and not added:
                hint = ": epochs may be added, not taken away" if name == "epochs" else ""
                raise InputError(f"{path}: made with {name} {before!r}, asked for {value!r}{hint}; take another --out")
        if content["precision"] != self.precision:
            raise InputError(
                f"{path}: made in {content['precision']}, this machine would resume in {self.precision}; "
                f"say --precision {content['precision']}"
            )
        dataset = self.data.dataset
        if content["identity"] != dataset.identity or content["words"] != dataset.description["words"]:
            raise InputError(f"{path}: made on another data set; choose another --out")
        if content["scheme"] != scheme_to_dict(self.scheme):
            before = content["scheme"].get("name")
            raise InputError(
                f"{path}: made with scheme {before!r}, asked for {self.scheme.name!r}, which is another; "
                "take another --out"
            )
        frozen = {"name": dataset.manifest.name, "digest": dataset.manifest.digest}
        if content["manifest"] != frozen:
            raise InputError(
                f"{path}: trained on manifest {_shown(content['manifest'])}, asked for {_shown(frozen)}; "
                "choose another --out"
            )
        try:
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.queues.load_state_dict(content["queues"])
            self.generator.set_state(content["generator"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(f"{path}: doesn't fit its own settings: {str(error).splitlines()[0]}") from None
        self.epoch, self.step, self.sums = content["epoch"], content["step"], content["sums"]
        self.history = content["history"]
        self.extended = content.get("extended", [])
        # With a constant rate, or still in the warm-up, the run is what it would be had all been asked for at once.
        before, scheduled = content["settings"]["epochs"], self.settings.schedule != "constant"
        if self.settings.epochs > before and scheduled and self.steps_done > self.settings.warm_up_steps:
            self.extended = [*self.extended, {"epochs": before, "steps": self.steps_done}]
        return [
            f"epochs were added after step {each['steps']}: up to there the learning rate followed the "
            f"{self.settings.schedule} schedule of {each['epochs']} epochs, from there on that of more; "
            f"{self.settings.epochs} epochs asked for at once give another model"
            for each in self.extended
        ]


def learning_rate_at(settings: TrainSettings, step: int, steps: int) -> float:
    """The learning rate of step number `step` (from 0) of `steps`.

    `warm-up-cosine`, as published: rate * step / w during the first w steps, then rate * (1 + cos(pi x)) / 2 with x
    from 0 to 1 over the others.
    """
    if settings.schedule == "constant":
        return settings.learning_rate
    warm_up = settings.warm_up_steps
    if step < warm_up:
        return settings.learning_rate * step / warm_up
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _shown(manifest: dict[str, str]) -> str:
    return f"{manifest['name']}, digest {manifest['digest'][:12]}"
