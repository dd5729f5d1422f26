"""A job that its cluster can't run is refused with what to do, in one line and before anything is loaded."""

import json
import socket
import sys
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from apache_beam.options.pipeline_options import PortableOptions

from beam_jobs.options import beam_options
from pipeline.cli import main
from pipeline.core.errors import InputError

Flink = Callable[..., list[str]]


@pytest.fixture
def flink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flink]:
    """`flink(managers)`: flags for a cluster of that many task managers, whose REST address is served from here.

    Beside the Python that runs this stands a worker's program.
    """
    jar, programs = tmp_path / "server.jar", tmp_path / "bin"
    with zipfile.ZipFile(jar, "w") as written:
        written.writestr("META-INF/MANIFEST.MF", "")
    programs.mkdir()
    for name in ("mcn-beam-worker", "java"):
        (programs / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", str(programs))
    answers = {"": b""}

    class Rest(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/overview"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[""])

        def log_message(self, *words: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Rest)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def flags(managers: object = 2, answer: bytes | None = None) -> list[str]:
        answers[""] = json.dumps({"taskmanagers": managers}).encode() if answer is None else answer
        address = f"127.0.0.1:{server.server_port}"
        return ["--runner=flink", f"--flink_master={address}", f"--flink_job_server_jar={jar}"]

    yield flags
    server.shutdown()
    server.server_close()


def refusal(arguments: list[str]) -> str:
    with pytest.raises(InputError) as caught:
        beam_options(arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def environment(arguments: list[str]) -> tuple[str | None, list[str] | None]:
    portable = beam_options(arguments).view_as(PortableOptions)
    return portable.environment_type, portable.environment_options


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """A port at which nobody listens, and which nobody else is given."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize("runner", ["flink", "Flink", "FLINK", "FlinkRunner"])
def test_flink_without_jar_and_cluster_says_what_to_do_and_loads_nothing(
    runner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "media").mkdir()
    out = tmp_path / "dataset"
    assert main(["extract", "--media", str(tmp_path / "media"), "--out", str(out), f"--runner={runner}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mcn: --runner=FlinkRunner needs --flink_job_server_jar=JAR")
    assert "python -m beam_jobs.flink_jar" in line and "--flink_master=HOST:PORT" in line
    assert not out.exists()


def test_what_is_given_is_not_asked_for_again(flink: Flink) -> None:
    runner, master, jar = flink()
    assert "--flink_job_server_jar" not in refusal([runner, jar])
    assert "--flink_master" not in refusal([runner, master])


def test_a_jar_that_is_none_is_refused(flink: Flink, tmp_path: Path) -> None:
    runner, master, _ = flink()
    (tmp_path / "text.jar").write_text("no archive")
    assert "text.jar: not a jar" in refusal([runner, master, f"--flink_job_server_jar={tmp_path / 'text.jar'}"])
    assert "none.jar: no such file" in refusal([runner, master, f"--flink_job_server_jar={tmp_path / 'none.jar'}"])
    assert "jre/bin/java: not on PATH" in refusal([*flink(), "--job_server_java_launcher=jre/bin/java"])


def test_a_cluster_that_does_not_answer_is_named(flink: Flink, closed_port: int) -> None:
    runner, _, jar = flink()
    said = refusal([runner, jar, f"--flink_master=127.0.0.1:{closed_port}"])
    assert f"127.0.0.1:{closed_port}: no Flink cluster answers there" in said and "refused" in said


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"taskmanagers": null}', b"{}"])
def test_another_server_is_no_flink_cluster(flink: Flink, answer: bytes) -> None:
    assert "no Flink cluster answers there" in refusal(flink(answer=answer))


@pytest.mark.parametrize(
    "flags",
    [
        ["--runner=DaskRunner", "--dask_client_address=tcp://127.0.0.1:{port}"],
        ["--runner=SparkRunner", "--job_endpoint=127.0.0.1:{port}"],
        ["--runner=PortableRunner", "--job_endpoint=localhost:{port}"],
        ["--runner=FlinkRunner", "--job_endpoint=127.0.0.1:{port}"],
    ],
)
def test_other_addresses_that_do_not_answer_are_named(flags: list[str], closed_port: int) -> None:
    runner, address = flags[0], flags[1].format(port=closed_port)
    assert f"{address}: nothing answers there" in refusal([runner, address])


@pytest.mark.parametrize("address", ["host", "host:", ":1", "host:port"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    assert "expected HOST:PORT" in refusal(["--runner=SparkRunner", f"--job_endpoint={address}"])


@pytest.mark.parametrize("runner", ["SparkRunner", "PortableRunner"])
def test_runners_without_a_job_server_say_what_they_need(runner: str) -> None:
    assert f"--runner={runner} needs --job_endpoint=HOST:PORT" in refusal([f"--runner={runner}"])


def test_loopback_is_for_one_task_manager(flink: Flink) -> None:
    loopback = "--environment_type=LOOPBACK"
    said = refusal([*flink(2), loopback, "--parallelism=2"])
    assert "one task manager" in said and "2 were found" in said and "1-1" in said
    assert "0 were found" in refusal([*flink(0), loopback])
    assert "2 were found" in refusal([*flink(2), "--environment_type=loopback"])
    assert environment([*flink(2), loopback, "--parallelism=1"]) == ("LOOPBACK", None)
    assert environment([*flink(1), loopback, "--parallelism=2"]) == ("LOOPBACK", None)


def test_loopback_is_refused_where_the_managers_are_not_known(flink: Flink) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"--job_endpoint=127.0.0.1:{server.getsockname()[1]}"
        assert "isn't known" in refusal(["--runner=FlinkRunner", endpoint, "--environment_type=LOOPBACK"])


def test_workers_are_started_by_this_packages_program_unless_the_options_say_how(flink: Flink, tmp_path: Path) -> None:
    ours = ("PROCESS", [f"process_command={tmp_path / 'bin' / 'mcn-beam-worker'}"])
    assert environment(flink()) == ours
    assert environment([*flink(), "--environment_type=PROCESS"]) == ours
    other = [*flink(), "--environment_type=PROCESS", "--environment_option=process_command=/other"]
    assert environment(other) == ("PROCESS", ["process_command=/other"])
    assert environment([*flink(), "--environment_type=DOCKER"]) == ("DOCKER", None)
    assert environment([*flink(), "--sdk_container_image=image"]) == (None, None)
    assert "--setup_file: mcn-beam-worker installs nothing" in refusal([*flink(), "--setup_file=./setup.py"])
    (tmp_path / "bin" / "mcn-beam-worker").unlink()
    assert "mcn-beam-worker: no such file" in refusal(flink())


def test_flink_within_the_job_server_needs_no_cluster(flink: Flink) -> None:
    runner, _, jar = flink()
    assert environment([runner, jar, "--flink_master=[local]"])[0] == "PROCESS"
    assert environment([runner, jar, "--flink_master=[local]", "--environment_type=LOOPBACK"])[0] == "LOOPBACK"
