"""A worker's error as the driver sees it: what it was, in one line, and the status that goes with it."""

import logging
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.portable_runner import PortableMetrics

from beam_jobs.options import beam_options
from beam_jobs.worker_errors import ReportingDoFn, running
from extractors.errors import DecoderError
from pipeline import cli
from pipeline.commands import COMMANDS
from pipeline.core.errors import InputError, ToolError


class Failing(ReportingDoFn):
    def __init__(self, counted: bool, error: Exception, in_open: bool) -> None:
        super().__init__(counted)
        self.error, self.in_open = error, in_open

    def open(self) -> "Failing":
        if self.in_open:
            raise self.error
        return self

    def close(self) -> None: ...

    def work(self, opened: object, element: int) -> Iterator[int]:
        if element == 1:
            raise self.error
        yield element


@pytest.mark.parametrize("in_open", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (InputError("x.csv: no such file"), InputError, r"^x\.csv: no such file$"),
        (ToolError("the decoder fails"), ToolError, r"^the decoder fails$"),
        (RuntimeError("CUDA error:\nan illegal access"), ToolError, r"RuntimeError: CUDA error: an illegal access$"),
        (OSError(5, "Input/output error", "/x"), ToolError, r"OSError: \[Errno 5\] Input/output error: '/x'$"),
        (MemoryError(), ToolError, r"MemoryError$"),
    ],
)
def test_an_error_arrives_as_what_it_is_and_in_one_line(
    error: Exception, kind: type[Exception], said: str, in_open: bool
) -> None:
    options = beam_options([], "in_memory")
    with pytest.raises(kind, match=said) as caught, running(options) as (pipeline, counted):
        assert counted
        _ = pipeline | beam.Create([1, 2]) | beam.ParDo(Failing(counted, error, in_open))
    assert "\n" not in str(caught.value) and type(caught.value) is kind


class Noting(Failing):
    """Writes down what it takes up, and that others are told."""

    def __init__(self, notes: Path, counted: bool) -> None:
        super().__init__(counted, InputError("the disk is full"), False)
        self.notes = notes

    def note(self, what: object) -> None:
        with open(self.notes, "a") as file:
            file.write(f"{what}\n")

    def work(self, opened: object, element: int) -> Iterator[int]:
        self.note(element)
        yield from super().work(opened, element)

    def failed(self) -> None:
        self.note("failed")


def test_after_an_error_no_further_element_is_taken_up_and_others_are_told(tmp_path: Path) -> None:
    options, notes = beam_options([], "in_memory"), tmp_path / "notes"
    with pytest.raises(InputError, match="^the disk is full$"), running(options) as (pipeline, counted):
        _ = pipeline | beam.Create([0, 1, 2, 3]) | beam.ParDo(Noting(notes, counted))
    assert notes.read_text().split()[:3] == ["0", "1", "failed"]
    assert set(notes.read_text().split()[3:]) <= {"failed"}


@pytest.mark.parametrize("wrapped", [InputError("x.csv: no such file"), ToolError("the decoder fails")])
def test_runners_that_bring_no_counters_back_tell_it_in_the_error(
    wrapped: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = beam_options([], "in_memory")
    monkeypatch.setattr("beam_jobs.worker_errors.runner_name", lambda options: "DaskRunner")
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    with pytest.raises(type(wrapped), match=str(wrapped)), running(options) as (pipeline, counted):
        assert not counted
        _ = pipeline | beam.Create([1]) | beam.ParDo(Failing(counted, wrapped, False))


EMBEDDED = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]
"""A job server in this process, spoken to as to that of a cluster."""


def test_counters_that_were_only_attempted_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flink's job server brings back no others."""
    whole = PortableMetrics.__init__

    def attempted(metrics: PortableMetrics, response: object) -> None:
        whole(metrics, response)
        metrics.attempted, metrics.committed = metrics.committed, tuple({} for _ in metrics.committed)

    monkeypatch.setattr(PortableMetrics, "__init__", attempted)
    with pytest.raises(InputError, match="no such file"), running(beam_options(EMBEDDED)) as (pipeline, counted):
        _ = pipeline | beam.Create([1]) | beam.ParDo(Failing(counted, InputError("x.csv: no such file"), False))


@pytest.mark.parametrize("in_open", [False, True])
def test_an_error_fails_no_job_of_a_cluster_which_would_start_it_again(
    in_open: bool,
) -> None:
    error = InputError("x.csv: no such file")
    with pytest.raises(InputError, match=r"^x\.csv: no such file$") as caught:
        with running(beam_options(EMBEDDED)) as (pipeline, counted):
            assert counted
            _ = pipeline | beam.Create([1]) | beam.ParDo(Failing(counted, error, in_open))
    assert caught.value.__cause__ is None  # the job itself ended well
    assert pipeline.result.state == "DONE"


def test_whatever_else_ends_a_job_on_a_cluster_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def lost(element: int) -> int:
        raise RuntimeError("a machine\nis lost")

    options = beam_options(EMBEDDED)
    with pytest.raises(ToolError, match="the job on PortableRunner failed: .*rerun") as caught:
        with running(options) as (pipeline, _):
            _ = pipeline | beam.Create([1]) | beam.Map(lost)
    assert "\n" not in str(caught.value)
    # What a job server sends with its traces is logged by the root's logger.
    assert not [record for record in caplog.records if record.name == "root"]


@pytest.mark.parametrize("error", [ToolError("it fails"), DecoderError("it fails"), ImportError("it fails")])
def test_the_command_line_says_it_in_one_line_with_status_1(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*given: object) -> None:
        raise error

    monkeypatch.setattr(type(COMMANDS["doctor"]), "run", run)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err == "mcn: it fails (--debug shows where)\n"
