"""Beam's options, checked against Beam's own list: Beam itself drops a misspelt one with no more than a log line."""

import importlib
from collections.abc import Sequence
from typing import Any, NoReturn

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions, _BeamArgumentParser

from beam_jobs.clusters import check_cluster
from pipeline.core.errors import InputError, suggest

LOCAL_RUNNER = "beam_jobs.local_runner.LocalRunner"
"""What `DirectRunner` stands for here. Beam 2.77's own DirectRunner hands a job to Prism, a Go program that it fetches
from the internet; this is the runner in Python that it falls back to."""
_BEAMS_NAME = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


class _Parser(_BeamArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"Beam option: {message}")


def check_beam_arguments(arguments: Sequence[str]) -> str:
    """Raise InputError for an option or runner that Beam doesn't know (naming the nearest), or a value it refuses.

    Returns the runner's name.
    """
    parser = _known_options(" ".join(arguments))
    parsed, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        flag = unknown[0].split("=")[0]
        known = [name for action in parser._actions for name in action.option_strings]
        if not flag.startswith("--"):
            raise InputError(f"unexpected argument {flag!r}: options look like --name value; see --help")
        raise InputError(f"unknown option {flag!r}; {suggest(flag, known)}")
    return _checked_runner(parsed.runner)


def beam_options(
    arguments: Sequence[str], local_mode: str = "multi_processing", local_workers: int = 1
) -> PipelineOptions:
    """Beam's options from command-line arguments, checked.

    Without `--runner`, or with `--runner=DirectRunner`, the job runs on this machine and offline, with `local_workers`
    workers in `local_mode` (`in_memory`, `multi_threading` or `multi_processing`) unless the arguments say otherwise.
    With another one its cluster is looked for: InputError as `check_cluster` raises it.
    """
    runner = check_beam_arguments(arguments)
    options = PipelineOptions([*arguments, f"--runner={runner}"])
    if runner == LOCAL_RUNNER:
        given = {argument.split("=")[0] for argument in arguments}
        direct = options.view_as(DirectOptions)
        if "--direct_num_workers" not in given:
            direct.direct_num_workers = local_workers
        if "--direct_running_mode" not in given:
            direct.direct_running_mode = local_mode if direct.direct_num_workers != 1 else "in_memory"
    else:
        check_cluster(runner, options)
    return options


def _known_options(arguments: str) -> _Parser:
    # Dask's options exist once its runner's module is imported, which needs the extra `dask`.
    if "dask" in arguments.lower():
        try:
            importlib.import_module("apache_beam.runners.dask.dask_runner")
        except ImportError as error:
            raise InputError(f"DaskRunner needs the package {error.name}: pip install 'mcn[dask]'") from None
    parser = _Parser(allow_abbrev=False, add_help=False)
    for options_class in {str(known): known for known in PipelineOptions.__subclasses__()}.values():
        options_class._add_argparse_args(parser)
    return parser


def _checked_runner(name: str | None) -> str:
    aliases = {known.lower(): known for known in StandardOptions.KNOWN_RUNNER_NAMES}
    aliases["daskrunner"] = "apache_beam.runners.dask.dask_runner.DaskRunner"
    names = ("Direct", "DirectRunner", "SwitchingDirectRunner", "FnApiRunner", _BEAMS_NAME, LOCAL_RUNNER)
    if name is None or name.lower() in map(str.lower, names):
        return LOCAL_RUNNER
    alias = aliases.get(name.lower()) or aliases.get(name.lower() + "runner")
    if alias:
        return alias
    module, _, class_name = name.rpartition(".")
    try:
        runner: Any = getattr(importlib.import_module(module), class_name) if module else None
    except (ImportError, AttributeError):
        runner = None
    if runner is None:
        raise InputError(f"--runner={name}: unknown runner; {suggest(name, [*aliases.values()])}")
    return name


def brings_counters_back(runner: str) -> bool:
    """Whether a job's counters can be read once it has run, by the name that `runner_name` gives."""
    return runner.rpartition(".")[2] in ("local", "FlinkRunner", "SparkRunner", "PrismRunner", "PortableRunner")


def runner_name(options: PipelineOptions) -> str:
    """The runner as reports name it: `local`, or Beam's name."""
    runner: str = options.get_all_options()["runner"]
    return "local" if runner == LOCAL_RUNNER else runner
