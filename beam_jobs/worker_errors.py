"""A worker's InputError, brought to the process that drives the job: one line, with nothing of Beam's around it."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics, MetricsFilter
from apache_beam.runners.runner import PipelineResult

from pipeline.core.errors import InputError

_NAMESPACE = "InputError"


class ReportingDoFn(beam.DoFn):
    """A DoFn by `open`, `work` and `close`. After an InputError it takes up no further element.

    With `counted` errors are counters, named by their messages, for `raise_counted`: raised, an error is logged by
    workers, runner and driver, each with a traceback. Without, for runners that don't bring metrics back, it is raised.
    """

    def __init__(self, counted: bool) -> None:
        self._counted = counted
        self._error: InputError | None = None

    def open(self) -> None:
        """What is made once in a worker."""

    def work(self, element: Any) -> Iterator[Any]:
        """An element's results."""
        raise NotImplementedError

    def close(self) -> None:
        """The end of what `open` has made, if it has."""

    def failed(self) -> None:
        """Tell others that there is no use in going on."""

    def setup(self) -> None:
        try:
            self.open()
        except InputError as error:
            # Counted with the first element: there are no counters yet.
            self._error = error
            if not self._counted:
                raise

    def process(self, element: Any) -> Iterator[Any]:
        try:
            if self._error is not None:
                raise self._error
            yield from self.work(element)
        except InputError as error:
            self._error = error
            self.failed()
            if not self._counted:
                raise
            Metrics.counter(_NAMESPACE, str(error)).inc()

    def teardown(self) -> None:
        self.close()


def raise_counted(result: PipelineResult) -> None:
    """Raise the InputError that workers have counted, if any; of several the first by their texts."""
    counters = result.metrics().query(MetricsFilter().with_namespace(_NAMESPACE))["counters"]
    messages = sorted(counter.key.metric.name for counter in counters if counter.committed)
    if messages:
        raise InputError(messages[0])
