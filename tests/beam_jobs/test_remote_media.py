"""`mcn extract` on media, captions and ids in a store: equal shards, and what the store's faults cost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from werkzeug.wrappers import Request, Response

from beam_jobs.extract import ExtractSettings
from pipeline.cli import main

from ..cluster.conftest import contents
from ..loopback_store import refused


@pytest.fixture
def remote(store: Any, media: Path, captions: Path) -> str:
    """Address of a folder with `media`, captions and ids."""
    bucket = store.bucket()
    store.upload(media, bucket, "in/media")
    store.client.upload_file(str(captions), bucket, "in/caption.json")
    return f"s3://{bucket}/in"


def keeps_back(request: Request) -> Response | None:
    """One video can be looked at, and not be fetched."""
    wanted = request.method == "GET" and "video-00001" in request.path and "Range" not in request.headers
    return Response("<Error><Code>InternalError</Code></Error>", 500) if wanted else None


def words_of(command: list[str], **instead: str) -> list[str]:
    """A command line's words after the program's, with other values for some flags."""
    words = command[command.index("extract") :]
    for flag, value in instead.items():
        words[words.index(f"--{flag}") + 1] = value
    return words


@pytest.mark.filterwarnings("ignore")
def test_shards_are_equal_to_those_of_a_local_folder(
    remote: str, local: Path, settings: Callable[..., ExtractSettings], command_of: Callable[..., list[str]]
) -> None:
    words = words_of(command_of(settings("remote")), media=f"{remote}/media", captions=f"{remote}/caption.json")
    assert main(words) == 0
    out = settings("remote").out
    assert contents(out) == contents(local) != {}
    assert json.loads((out / "dataset.json").read_text())["settings"]["media"] == f"{remote}/media"


def test_what_the_network_keeps_back_waits_and_is_charged_to_nobody(
    remote: str,
    store: Any,
    local: Path,
    settings: Callable[..., ExtractSettings],
    command_of: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = command_of(settings("remote"), "--cache-size", "0.001")
    words = words_of(command, media=f"{remote}/media", captions=f"{remote}/caption.json")
    store.faults.append(keeps_back)
    assert main(words) == 1
    said = capsys.readouterr()
    assert "video-00001 waits" in said.err and "could not be fetched; rerun to resume" in said.out
    out = settings("remote").out
    assert "video-00001" not in "".join(path.read_text() for path in (out / "ledger").iterdir() if path.is_file())
    store.faults = []
    assert main(words) == 0
    assert contents(out) == contents(local)


@pytest.mark.parametrize("kind", ["no bucket", "no right", "empty", "delete", "follow"])
def test_what_can_not_be_read_is_a_line(
    kind: str,
    remote: str,
    store: Any,
    settings: Callable[..., ExtractSettings],
    command_of: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    media = {"no bucket": "s3://no-such-bucket/media", "empty": f"{remote}/none"}.get(kind, f"{remote}/media")
    more = {"delete": ["--delete-media"], "follow": ["--follow", "--ids", __file__]}.get(kind, [])
    if kind == "no right":
        store.faults.append(refused)
    assert main(words_of(command_of(settings("remote"), *more), media=media)) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "Traceback" not in line
    reasons = {"no bucket": "no such bucket", "no right": "no right to it", "empty": "no such bucket, folder"}
    assert reasons.get(kind, f"--{kind}") in line
    assert not (settings("remote").out / "plans").exists()
