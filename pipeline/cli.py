"""The `mcn` command: parsing gives settings, running takes them; one line per error; the exit status tells the truth.

Status 0: the work asked for is there. 1: it isn't (the summary says why). 2: something given can't be used. 75: a
signal asked to stop, all work so far is saved, and the same command goes on.
"""

import argparse
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pipeline.core import config
from pipeline.core.errors import InputError, suggest
from pipeline.core.signals import heed_signals

STOPPED = 75
"""Exit status after SIGTERM or SIGUSR1: EX_TEMPFAIL, by which batch systems put a job back into their queue."""


@dataclass(frozen=True)
class Command:
    """One stage: where its settings and its `run` are, and what `--help` says. Imported only when asked for."""

    module: str
    settings: str
    summary: str
    example: str
    beam: bool = False
    """Whether further flags are Apache Beam's."""
    heeds_signals: bool = False
    """Whether SIGTERM and SIGUSR1 let it save and end with status 75."""
    experiment: bool = False
    """Whether it takes an experiment's YAML file, which `--set` overrides, in place of a flag for each setting."""
    positional: tuple[str, ...] = ()
    """Settings given without a flag, in this order; one of type tuple takes all words that are left."""


COMMANDS = {
    "sample": Command(
        "pipeline.sample.make",
        "SampleSettings",
        "make a small HowTo100M of one's own: videos, captions, truth; no network",
        "mcn sample --out runs/sample",
    ),
    "download": Command(
        "beam_jobs.download",
        "DownloadSettings",
        "download the videos of a list that still exist (an Apache Beam job)",
        "mcn download --ids HowTo100M_v1.csv --out media",
        beam=True,
        heeds_signals=True,
    ),
    "extract": Command(
        "beam_jobs.extract",
        "ExtractSettings",
        "media to features in sharded HDF5 (an Apache Beam job)",
        "mcn extract --media media --captions caption.json --out dataset --weights random:0",
        beam=True,
        heeds_signals=True,
    ),
    "freeze": Command(
        "pipeline.dataset.freeze",
        "FreezeSettings",
        "a manifest of what a data set holds now, with held-out videos and tasks",
        "mcn freeze runs/demo/dataset study --ids runs/demo/sample/HowTo100M_v1.csv",
        positional=("dataset", "name"),
    ),
    "forget": Command(
        "pipeline.tools.forget.forget",
        "ForgetSettings",
        "take videos out of media, shards, manifests and reports, and keep them out",
        "mcn forget abcdefghijk --run runs/demo",
        positional=("ids",),
    ),
    "verify": Command(
        "pipeline.tools.verify.verify",
        "VerifySettings",
        "read everything a data set holds and hold it against its digests; mend what is bad",
        "mcn verify runs/demo/dataset --ids runs/demo/sample/HowTo100M_v1.csv",
        positional=("dataset",),
    ),
    "train": Command(
        "pipeline.training.train",
        "TrainSettings",
        "train a Multimodal Clustering Network on a manifest",
        "mcn train --manifest runs/demo/dataset/manifests/run.json --preset sample --out runs/model",
        heeds_signals=True,
    ),
    "export": Command(
        "pipeline.training.export",
        "ExportSettings",
        "write a trained model's weights under the authors' names",
        "mcn export models/shared --out weights.pth --davenet dataset/weights/davenet-random-0.pt",
        positional=("model",),
    ),
    "evaluate retrieval": Command(
        "pipeline.evaluation.retrieval",
        "RetrievalSettings",
        "retrieval of held-out clips and videos by text, sound and picture",
        "mcn evaluate retrieval --checkpoint runs/model --clips runs/demo/sample/steps.csv --out runs/model",
    ),
    "evaluate localization": Command(
        "pipeline.evaluation.localization",
        "LocalizationSettings",
        "the seconds in which a task's steps are done, found by their texts and order",
        "mcn evaluate localization --checkpoint runs/model --annotations runs/demo/sample/steps.csv --out runs/model",
    ),
    "evaluate classification": Command(
        "pipeline.evaluation.classification",
        "ClassificationSettings",
        "zero-shot classification of clips by the names of their classes",
        "mcn evaluate classification --checkpoint runs/model --clips classes.csv --out runs/model",
    ),
    "probe": Command(
        "pipeline.evaluation.probe.probe",
        "ProbeSettings",
        "what each space keeps of scene, sound and words: linear probes, context against content, dose curves",
        "mcn probe --checkpoint runs/model --ids HowTo100M_v1.csv --media media --out runs/model",
    ),
    "embed": Command(
        "pipeline.search.embed",
        "EmbedSettings",
        "the clips of a manifest as vectors, by a trained model",
        "mcn embed --checkpoint runs/model --out runs/clips.h5",
        heeds_signals=True,
    ),
    "index": Command(
        "pipeline.search.index",
        "IndexSettings",
        "an index of embedded clips that is searched within a given memory",
        "mcn index runs/clips.h5 --out runs/clips-index --memory 1GiB",
        positional=("embeddings",),
    ),
    "search": Command(
        "pipeline.search.search",
        "SearchSettings",
        "the clips that fit a text, or that are like another clip",
        'mcn search runs/clips-index "fry the onion"',
        positional=("index", "query"),
    ),
    "report": Command(
        "pipeline.experiment.report.report",
        "ReportSettings",
        "a finished comparison as one HTML file, with its figures and tables as files for a paper",
        "mcn report runs/demo/study --media runs/demo/media",
        positional=("study",),
    ),
    "estimate": Command(
        "pipeline.tools.estimate.estimate",
        "EstimateSettings",
        "days, TB and GPU hours of each stage of a study, from a one-minute probe and cited rates",
        "mcn estimate configs/study-howto100m.yaml --workers 32",
        positional=("study",),
    ),
    "doctor": Command(
        "pipeline.tools.doctor.doctor",
        "DoctorSettings",
        "check this machine and, with PATH, a shared folder for all that the stages rely on",
        "mcn doctor /tmp",
        positional=("path",),
    ),
    "status": Command(
        "pipeline.tools.status.status",
        "StatusSettings",
        "where a data set, a media folder or a run stands: ids, shards, rates, time left, disk; only reads",
        "mcn status runs/demo",
        positional=("run",),
    ),
    "inspect": Command(
        "pipeline.tools.inspect.inspect",
        "InspectSettings",
        "what a file of a data set, a checkpoint or a pairing scheme is, holds and was made by",
        "mcn inspect shared",
        positional=("path",),
    ),
    "run": Command(
        "pipeline.experiment.run",
        "RunSettings",
        "drive the whole way from a YAML file, skipping what is done",
        "mcn run configs/sample.yaml",
        beam=True,
        heeds_signals=True,
        experiment=True,
    ),
    "compare": Command(
        "pipeline.experiment.compare",
        "StudySettings",
        "pairing schemes side by side: arms x seeds trained alike, and what their differences are worth",
        "mcn compare configs/study-sample.yaml",
        beam=True,
        heeds_signals=True,
        experiment=True,
    ),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")


def _parser(name: str) -> argparse.ArgumentParser:
    command = COMMANDS[name]
    beam = "\nFurther flags go to Apache Beam, e.g. --runner=FlinkRunner." if command.beam else ""
    parser = _Parser(
        prog=f"mcn {name}",
        description=command.summary[0].upper() + command.summary[1:] + ".",
        epilog=f"example: {command.example}{beam}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if command.experiment:
        parser.add_argument("config", metavar="CONFIG.yaml", help="the experiment: see configs/")
        parser.add_argument(
            "--set", metavar="KEY=VALUE", action="append", default=[], help="override a setting, e.g. train.epochs=5"
        )
        if name == "compare":
            parser.add_argument(
                "--plan", action="store_true", help="say what each model takes and write its command; train nothing"
            )
            parser.add_argument("--only", metavar="MODEL", help="train and evaluate this one, a task of a job array")
    else:
        parser.add_argument("--config", metavar="FILE.yaml", help="settings as YAML; flags override them")
    parser.add_argument("--debug", action="store_true", help="show a traceback on errors, and debug messages")
    return parser


def parse(name: str, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Turn a stage's arguments into its settings and the flags left for Beam.

    Raises InputError for an unknown flag or key (naming the nearest right one) and for values that don't fit.
    """
    command = COMMANDS[name]
    settings_class = getattr(importlib.import_module(command.module), command.settings)
    parser = _parser(name)
    if not command.experiment:
        config.add_flags(parser, settings_class, command.positional)
    given, further = parser.parse_known_args(arguments)
    values = vars(given)
    debug = values.pop("debug")
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    known = {option for action in parser._actions for option in action.option_strings}
    if further and command.beam:
        importlib.import_module("beam_jobs.options").check_beam_arguments(further, own_flags=known)
    elif further:
        hint = "; put ids that begin with - after --" if "ids" in command.positional else ""
        raise InputError(
            f"mcn {name}: unknown argument {further[0]!r}; {suggest(further[0].split('=')[0], known)}{hint}"
        )
    where = f"mcn {name}"
    if command.experiment:
        settings = settings_class.load(Path(values.pop("config")), values.pop("set"), **values)
    else:
        if "config" in values and values["config"] is not None:
            where = values["config"]
            values = config.load_yaml(Path(values["config"])) | {k: v for k, v in values.items() if k != "config"}
        values.pop("config", None)
        settings = config.from_mapping(settings_class, values, where, command.positional)
    return settings, further


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return (
        "usage: mcn STAGE [flags]\n\nFrom the HowTo100M id list to a trained Multimodal Clustering Network.\n\n"
        "stages:\n"
        + "\n".join(lines)
        + "\n\n`mcn STAGE --help` lists a stage's flags.\nexample: mcn run configs/sample.yaml\n"
    )


def _command_name(arguments: Sequence[str]) -> tuple[str, list[str]]:
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS and len(arguments) >= words:
            return name, list(arguments[words:])
    raise InputError(f"mcn: unknown stage {arguments[0]!r}; {suggest(arguments[0], COMMANDS)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(), end="")
        return 0 if arguments else 2
    try:
        name, rest = _command_name(arguments)
        # Before the stage's libraries are loaded: their threads must not take a signal.
        with heed_signals() if COMMANDS[name].heeds_signals else nullcontext():
            settings, beam_arguments = parse(name, rest)
            module = importlib.import_module(COMMANDS[name].module)
            report = module.run(settings, beam_arguments) if COMMANDS[name].beam else module.run(settings)
        return STOPPED if report.stopped else 0 if report.complete else 1
    except InputError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"mcn: {error}" if not str(error).startswith("mcn") else error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"mcn: {error.filename or ''}: {error.strerror or error} (--debug shows where)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mcn: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
