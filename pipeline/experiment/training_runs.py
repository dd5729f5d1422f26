"""The models of a study: their folders and settings, and the processes that train and evaluate them."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from models.mcn import MCN
from pipeline.clips.dataset import FeatureDataset
from pipeline.core.config import as_plain
from pipeline.core.errors import InputError
from pipeline.core.files import open_to_append, write_text
from pipeline.core.provenance import usable_cores
from pipeline.core.signals import STOPPED, asked_to_stop, wait
from pipeline.experiment.settings import Arm, StudySettings
from pipeline.training.settings import TrainSettings, find_scheme

_WIDEST = 1 << 20


def parameters(settings: TrainSettings, dataset: FeatureDataset, word_width: int, width: int | None = None) -> int:
    """Number of a model's parameters, at `width` or that of its settings; no memory is taken for them."""
    streams = tuple(dataset.stream_width(stream) for stream in settings.clips.streams)
    given = settings.model_settings(find_scheme(settings.scheme), streams, word_width)
    with torch.device("meta"):
        model = MCN(given if width is None else replace(given, width=width))
    return sum(parameter.numel() for parameter in model.parameters())


def width_for(target: int, settings: TrainSettings, dataset: FeatureDataset, word_width: int) -> int:
    """The width at which the model's number of parameters is nearest to `target`; the smaller of two as near.

    InputError where no width gives as many: a scheme of one's own may state the width of every space.
    """

    def parameters_at(width: int) -> int:
        return parameters(settings, dataset, word_width, width)

    if parameters_at(1) == parameters_at(2):
        if parameters_at(settings.network.width) == target:
            return settings.network.width
        raise _no_width(target, settings)
    high = bisect_left(range(_WIDEST), target, lo=2, key=parameters_at)
    if high == _WIDEST:
        raise _no_width(target, settings)
    return min((high - 1, high), key=lambda width: abs(parameters_at(width) - target))


def _no_width(target: int, settings: TrainSettings) -> InputError:
    return InputError(
        f"scheme {settings.scheme}: no width gives it {target:,} parameters: its spaces state their own; leave "
        "`parameters` out of compare: equal"
    )


COMMANDS_FILE, ARRAY_FILE, LOG_FILE = "commands.txt", "array.sh", "log.txt"
_POLL_EVERY_S = 0.2
_SIGNALLED_TWICE = 128 + signal.SIGTERM


@dataclass(frozen=True)
class Run:
    """One model: an arm, a seed, and what it has in common with the others."""

    arm: Arm
    seed: int
    equal: tuple[str, ...]
    """In which tables it stands: where both widths and parameters agree, in both."""
    folder: Path
    train: TrainSettings
    parameters: int
    stages: tuple[tuple[str, dict[str, Any]], ...]
    """Stage -> settings, in their order."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    def write_settings(self) -> None:
        """Write each stage's settings beside what it will make."""
        for stage, values in self.stages:
            write_text(self.folder / f"{stage.replace(' ', '-')}.yaml", yaml.safe_dump(values, sort_keys=False))


def runs_of(study: StudySettings, dataset: FeatureDataset, word_width: int) -> list[Run]:
    """Every arm with every seed: at the width of the settings, and where asked for and different, at the width that
    gives it the reference's number of parameters."""

    def run_of(arm: Arm, seed: int, width: int, equal: tuple[str, ...]) -> Run:
        mark = "" if "width" in equal else f"-width{width}"
        folder = study.out / "runs" / f"{arm.name}{mark}-seed{seed}"
        train = study.train_settings(arm, seed, folder, width)
        stages = [("train", as_plain(train)), *study.experiment.evaluations(str(folder))]
        if not find_scheme(train.scheme).contrasting("text", "video"):
            # Steps are found by their texts; of retrieval the other directions are left.
            stages = [stage for stage in stages if stage[0] != "evaluate localization"]
        if study.equal[0] not in equal or seed not in study.seeds[: study.probed_seeds]:
            stages = [stage for stage in stages if stage[0] != "probe"]
        return Run(arm, seed, equal, folder, train, parameters(train, dataset, word_width), tuple(stages))

    (reference,) = (arm for arm in study.arms if arm.name == study.reference)
    target = parameters(study.train_settings(reference, study.seeds[0], study.out), dataset, word_width)
    runs = []
    for arm in study.arms:
        plain = study.train_settings(arm, study.seeds[0], study.out)
        fitted = width_for(target, plain, dataset, word_width) if "parameters" in study.equal else plain.network.width
        tables: dict[int, list[str]] = {}
        for equal in study.equal:
            tables.setdefault(plain.network.width if equal == "width" else fitted, []).append(equal)
        for width, equal_in in tables.items():
            runs += [run_of(arm, seed, width, tuple(equal_in)) for seed in study.seeds]
    # Seed by seed: a study that is stopped halfway has whole comparisons.
    return sorted(runs, key=lambda run: (study.seeds.index(run.seed), "width" not in run.equal))


def write_commands(study: StudySettings, runs: Sequence[Run]) -> None:
    """Write all settings, a file with the command of each run on a line, and a SLURM array that takes a line each."""
    for run in runs:
        run.write_settings()
    write_text(study.out / COMMANDS_FILE, "".join(f"{study.command(run.name)}\n" for run in runs))
    commands = shlex.quote(str((study.out / COMMANDS_FILE).resolve()))
    script = [
        "#!/bin/bash",
        f"#SBATCH --array=1-{len(runs)} --nodes=1 --ntasks=1",
        "#SBATCH --signal=USR1@600 --requeue --open-mode=append",
        f"cd {shlex.quote(str(Path.cwd()))}",
        f'eval srun "$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {commands})"',
        "status=$?",
        # In the last task of an array SLURM_JOB_ID is the array's: it would requeue every task.
        'task="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"',
        'if [ "$status" = 75 ]; then scontrol requeue "$task"; fi',
        'exit "$status"',
    ]
    write_text(study.out / ARRAY_FILE, "\n".join(script) + "\n")


def processes_at_once(study: StudySettings) -> int:
    """How many models are trained side by side."""
    if study.at_once:
        return study.at_once
    return len(_gpus()) or usable_cores()


def _gpus() -> list[str]:
    """The names by which CUDA knows the GPUs that this process may use."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return given[:count] if given else [str(number) for number in range(count)]


class Pool:
    """Trains and evaluates models in processes of their own, some at a time; they end with this one."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self._gpus = _gpus()
        self._working: dict[int, tuple[Run, subprocess.Popen[bytes]]] = {}
        self.statuses: dict[str, int] = {}
        """Name of a run -> the exit status of its process."""

    def work(self, runs: Sequence[Run]) -> None:
        """Work through `runs`; asked to stop, let those in hand save, and begin no more."""
        left, signalled = list(runs), False
        while self._working or (left and not asked_to_stop()):
            while left and len(self._working) < self.at_once and not asked_to_stop():
                self._begin(left.pop(0))
            time.sleep(_POLL_EVERY_S) if signalled else wait(_POLL_EVERY_S)
            if asked_to_stop() and not signalled:
                signalled = True
                for _, process in self._working.values():
                    process.send_signal(signal.SIGTERM)
            for slot, (run, process) in list(self._working.items()):
                if process.poll() is not None:
                    del self._working[slot]
                    # Signalled twice by a batch system that reaches every process: its last checkpoint is whole.
                    twice = signalled and process.returncode == _SIGNALLED_TWICE
                    self.statuses[run.name] = STOPPED if twice else process.returncode
                    print(f"  {run.name}: {_outcome(self.statuses[run.name], run)}", flush=True)

    def _begin(self, run: Run) -> None:
        slot = next(number for number in range(self.at_once) if number not in self._working)
        run.folder.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        else:
            # Threads that outnumber the cores cost more than they bring.
            environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // self.at_once)))
        stages = [[stage, "--config", str(run.folder / f"{stage.replace(' ', '-')}.yaml")] for stage, _ in run.stages]
        command = [sys.executable, "-m", "pipeline.experiment.training_process", json.dumps(stages)]
        with open_to_append(run.folder / LOG_FILE) as log:
            # A signal to the whole group would reach it twice, and the second ends it at once: this one passes it on.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self._working[slot] = (run, process)


def _outcome(status: int, run: Run) -> str:
    if status == 0:
        return "done"
    if status == STOPPED:
        return "stopped, all of it saved"
    return f"failed with status {status}, see {run.folder / LOG_FILE}"
