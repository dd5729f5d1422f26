"""A proxy's password is found in no file that a download leaves, and in nothing that it prints."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main
from pipeline.core.ledger import read_ledger

PASSWORD = "s3cr3t/sw@rdfish"
WRITTEN = ("s3cr3t/sw@rdfish", "s3cr3t%2Fsw%40rdfish", "sw@rdfish", "s3cr3t", "dXNlcm5hbWU6czNjcjN0L3N3QHJkZmlzaA==")


@pytest.fixture
def refusing_proxy() -> Iterator[int]:
    """A proxy that wants other credentials; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    asked = connection.recv(65536).split(b"\r\n")
                    quoted = b"".join(line for line in asked if line.lower().startswith(b"proxy-authorization"))
                    connection.sendall(b"HTTP/1.1 407 not " + quoted + b"\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize(
    "proxy",
    [
        "http://username:s3cr3t%2Fsw%40rdfish@127.0.0.1:{port}",
        "socks5://username:s3cr3t%2Fsw%40rdfish@127.0.0.1:1",
        "username:s3cr3t%2Fsw%40rdfish@127.0.0.1:{port}",
    ],
    ids=["http", "socks", "no scheme"],
)
@pytest.mark.parametrize("stage", ["download", "run"])
def test_the_password_of_the_proxy_stands_nowhere(
    tmp_path: Path, refusing_proxy: int, proxy: str, stage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ids = tmp_path / "ids.csv"
    ids.write_text("video_id\nabcdefghijk\n")
    address = proxy.format(port=refusing_proxy)
    quick = {"retries": 0, "attempts": 1, "retry_wait_s": 0.0, "sleep_interval": 0.0, "max_sleep_interval": 0.0}
    quick |= {"sleep_requests": 0.0, "workers": 1}
    out = tmp_path / "out"
    if stage == "download":
        flags = [word for name, value in quick.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        status = main(["download", "--ids", str(ids), "--out", str(out / "media"), "--proxy", address, *flags])
    else:
        experiment = tmp_path / "experiment.yaml"
        experiment.write_text(yaml.safe_dump({"out": str(out), "download": {"ids": str(ids)} | quick}))
        status = main(["run", str(experiment), "--set", f"download.proxy={address}"])
    assert status == 1
    printed = "".join(capfd.readouterr())
    files = [path for path in out.rglob("*") if path.is_file()]
    (line,) = read_ledger(out / "media" / "ledger")
    assert line.message, "yt-dlp said why it failed"
    named = [path for path in files if "proxy" in path.read_text() and path.suffix in (".json", ".yaml")]
    assert len(named) == (1 if stage == "download" else 3), "the settings are there"
    for written in WRITTEN:
        assert written not in printed
        for path in files:
            assert written.encode() not in path.read_bytes(), path
