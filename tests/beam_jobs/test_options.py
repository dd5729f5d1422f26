"""Beam's options are taken or refused, never dropped."""

import pytest
from apache_beam.options.pipeline_options import DirectOptions, FlinkRunnerOptions, StandardOptions

from beam_jobs.options import LOCAL_RUNNER, beam_options, check_beam_arguments
from pipeline.core.errors import InputError


@pytest.mark.parametrize("arguments", [[], ["--runner=DirectRunner"], ["--runner", "direct"], ["--runner=FnApiRunner"]])
def test_local_means_in_process_offline_and_on_all_workers(arguments: list[str]) -> None:
    options = beam_options(arguments, local_mode="multi_processing", local_workers=3)
    assert options.view_as(StandardOptions).runner == LOCAL_RUNNER
    direct = options.view_as(DirectOptions)
    assert (direct.direct_running_mode, direct.direct_num_workers) == ("multi_processing", 3)


def test_what_is_given_wins_over_the_local_defaults() -> None:
    given = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    direct = beam_options(given, local_workers=7).view_as(DirectOptions)
    assert (direct.direct_running_mode, direct.direct_num_workers) == ("multi_threading", 2)


@pytest.mark.parametrize(
    ("given", "mode", "workers"),
    [
        ("--direct_num_workers=2", "multi_processing", 2),
        ("--direct_num_workers=1", "in_memory", 1),
        ("--direct_running_mode=multi_threading", "multi_threading", 7),
    ],
)
def test_what_is_not_given_follows_from_what_is(given: str, mode: str, workers: int) -> None:
    direct = beam_options([given], local_workers=7).view_as(DirectOptions)
    assert (direct.direct_running_mode, direct.direct_num_workers) == (mode, workers)


def test_other_runners_get_their_options_and_no_local_ones() -> None:
    given = ["--runner=PortableRunner", "--job_endpoint=embed", "--flink_master=host:8081", "--parallelism=4"]
    options = beam_options(given, local_workers=7)
    assert options.view_as(StandardOptions).runner == "PortableRunner"
    assert options.view_as(FlinkRunnerOptions).flink_master == "host:8081"
    assert options.view_as(DirectOptions).direct_num_workers == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--paralelism=4"], "did you mean '--parallelism'"),
        (["--runner=FlinkRuner"], "did you mean 'FlinkRunner'"),
        (["--runner=no.such.Runner"], "unknown runner"),
        (["--direct-num-workers=2"], "did you mean '--direct_num_workers'"),
        (["--direct_num_workers=two"], "invalid int value"),
        (["--direct_running_mode=threads"], "choose from"),
        (["--zzzzzzzzzz"], "unknown option '--zzzzzzzzzz'"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_what_beam_would_drop_is_refused_with_the_nearest_known(arguments: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        check_beam_arguments(arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)
