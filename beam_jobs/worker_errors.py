"""A worker's error, brought to the process that drives the job: one line, with nothing of Beam's around it."""

import json
import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from beam_jobs.options import brings_counters_back, runner_name
from pipeline.core.errors import InputError, ToolError, tool_errors

_REPORTED: dict[str, type[Exception]] = {kind.__name__: kind for kind in (InputError, ToolError)}
"""By the namespace of their counters. InputErrors come first: they say what to mend."""

logger = logging.getLogger(__name__)


class ReportingDoFn(beam.DoFn):
    """A DoFn by `open` and `work`. After an error, InputError or ToolError, it takes up no further element.

    With `counted` errors are counters, named by their messages, for `running`: raised, an error is logged by
    workers, runner and driver, each with a traceback, and a cluster that restarts what failed would go through it again
    and again. Without, for runners that don't bring metrics back, it is raised.
    """

    def __init__(self, counted: bool) -> None:
        self._counted = counted
        self._error: InputError | ToolError | None = None
        self._opened: Any = None

    def open(self) -> Any:
        """What is made once in a worker, and closed in the end by its own `close`."""
        raise NotImplementedError

    def work(self, opened: Any, element: Any) -> Iterator[Any]:
        """An element's results."""
        raise NotImplementedError

    def failed(self) -> None:
        """Tell others that there is no use in going on."""

    def setup(self) -> None:
        try:
            with tool_errors("a worker can't start"):
                self._opened = self.open()
        except (InputError, ToolError) as error:
            # Counted with the first element: there are no counters yet.
            self._error = error
            if not self._counted:
                raise

    def process(self, element: Any) -> Iterator[Any]:
        try:
            if self._error is not None:
                raise self._error
            with tool_errors("a worker"):
                yield from self.work(self._opened, element)
        except (InputError, ToolError) as error:
            logger.debug("%s", error, exc_info=True)
            self._error = error
            self.failed()
            if not self._counted:
                raise
            Metrics.counter(type(error).__name__, str(error)).inc()

    def teardown(self) -> None:
        if self._opened is not None:
            self._opened.close()


@contextmanager
def running(options: PipelineOptions) -> Iterator[tuple[beam.Pipeline, bool]]:
    """A pipeline that runs when the block ends, and what its `ReportingDoFn`s are given as `counted`.

    Raises a worker's InputError or ToolError as what it was; of several the first by their texts. Whatever else ends a
    job on a cluster, such as a machine that is lost, is a ToolError of one line.
    """
    runner = runner_name(options)
    counted = brings_counters_back(runner)
    try:
        with _quiet_local_workers(), _quiet_job_messages(), beam.Pipeline(options=options) as pipeline:
            yield pipeline, counted
    except (InputError, ToolError):
        raise
    except Exception as error:
        # Runners wrap it, traceback and all, in errors of their own.
        wrapped = re.search(r"(InputError|ToolError): (.+?)(?: \[while running .*)?$", str(error), re.MULTILINE)
        if wrapped is not None:
            raise _REPORTED[wrapped[1]](wrapped[2]) from error
        if runner == "local":
            raise
        said = " ".join(str(error).split())[:300]
        raise ToolError(f"the job on {runner} failed: {said}; rerun the same command to resume") from error
    for name, kind in _REPORTED.items() if counted else ():
        if messages := sorted(counters_of(pipeline.result, name)):
            raise kind(messages[0])


def counters_of(result: PipelineResult, namespace: str) -> Counter[str]:
    """Name -> count of the counters above zero; what a runner only tells as attempted counts."""
    counters = result.metrics().query(MetricsFilter().with_namespace(namespace))["counters"]
    counts: Counter[str] = Counter()
    for counter in counters:
        counts[counter.key.metric.name] += counter.committed or counter.attempted or 0
    return +counts


@contextmanager
def _quiet_job_messages() -> Iterator[None]:
    """Keep what a job server says, traces of Java's stack among it, out of stderr, unless --debug asks for it.

    Beam logs it by the root's logger itself; a failed job's error holds what counts of it.
    """

    def wanted(record: logging.LogRecord) -> bool:
        return logging.getLogger().isEnabledFor(logging.DEBUG)

    logging.getLogger().addFilter(wanted)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(wanted)


@contextmanager
def _quiet_local_workers() -> Iterator[None]:
    """Keep Beam's local worker processes from logging every channel that they open, unless --debug asks for it.

    Beam 2.77 hands them no option by other ways than this variable of the environment.
    """
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        yield
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json") as options:
        json.dump({"default_sdk_harness_log_level": "ERROR"}, options)
        options.flush()
        os.environ["PIPELINE_OPTIONS_FILE"] = options.name
        try:
            yield
        finally:
            del os.environ["PIPELINE_OPTIONS_FILE"]
