"""Stores at addresses: what they say of themselves, what their faults cost, and that nothing unchecked passes."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.config import as_plain, convert
from pipeline.core.errors import InputError
from pipeline.core.remote import MissingError, Store, StoreAwayError, address_of

from ...loopback_store import busy, forgetful, refused, spoilt

CONTENT = bytes(range(256)) * 9


@pytest.fixture(params=["s3", "memory"])
def address(request: pytest.FixtureRequest) -> str:
    """An empty folder in a store of two kinds."""
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('store').bucket()}/folder"
    return f"memory://{request.node.name}"


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("s3://bucket/media", "s3://bucket/media"),
        ("memory://x", "memory://x"),
        ("file:///data/x", "file:///data/x"),
        ("hf://datasets/user/name@main/x", "hf://datasets/user/name@main/x"),
        ("random:0", None),
        ("/data/s3:/x", None),
        ("C:/media", None),
        ("media", None),
    ],
)
def test_a_path_remembers_the_address_that_it_was_made_of(path: str, address: str | None) -> None:
    assert address_of(Path(path)) == address == address_of(path)


def test_settings_take_addresses_and_give_them_back() -> None:
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Given:
        media: Path

    media = convert("s3://bucket/media/", Path, "media")
    assert as_plain(Given(media)) == {"media": "s3://bucket/media"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("s3://bucket//media", "isn't supported"),
        ("s3://bucket/../media", "isn't supported"),
        ("zip://a.zip::s3://bucket/b", "isn't supported"),
        ("sftp://user:secret@host/media", "must hold no password"),
    ],
)
def test_addresses_that_a_path_can_not_stand_for_are_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"^--media: .*{reason}") as refusal:
        convert(text, Path, "--media")
    assert "secret" not in str(refusal.value)


def test_what_is_put_is_listed_and_fetched(address: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(CONTENT)
    Store(address).put(one, "b/one.bin")
    Store(address).put_bytes(b"", "a.txt")
    listed = Store(address).listing()
    assert {name: stored.size for name, stored in listed.items()} == {"a.txt": 0, "b/one.bin": len(CONTENT)}
    Store(address).fetch("b/one.bin", two, listed["b/one.bin"])
    assert two.read_bytes() == CONTENT
    assert Store(address).read("b/one.bin", 3, 7) == CONTENT[3:7]
    assert Store(f"{address}/b/one.bin").listing().keys() == {""}


def test_an_exclusive_put_never_replaces(address: str) -> None:
    store = Store(address)
    store.put_bytes(b"first", "lease", exclusive=True)
    with pytest.raises(FileExistsError):
        store.put_bytes(b"second", "lease", exclusive=True)
    assert store.read("lease") == b"first"


def test_nothing_there_is_told(address: str) -> None:
    with pytest.raises(MissingError, match=re.escape(address)):
        Store(f"{address}/none").listing()
    assert Store(address).stored("none") is None


def test_no_such_bucket(store: Any) -> None:
    with pytest.raises(MissingError, match="s3://no-such-bucket/media: no such bucket"):
        Store("s3://no-such-bucket/media").listing()


def test_no_right_is_an_error_at_once(store: Any) -> None:
    address = f"s3://{store.bucket()}/media"
    store.faults.append(refused)
    with pytest.raises(InputError, match=f"{address}: no right to it"):
        Store(address).listing()
    assert len(store.asked) == 2 and store.asked[0][0] == "PUT"  # the bucket's, and one question


def test_a_busy_store_is_asked_again(store: Any) -> None:
    bucket = store.bucket()
    store.client.put_object(Bucket=bucket, Key="a", Body=CONTENT)
    store.faults.append(busy(3))
    assert Store(f"s3://{bucket}").listing().keys() == {"a"}
    store.faults = [busy(4)]
    with pytest.raises(StoreAwayError, match="doesn't answer"):
        Store(f"s3://{bucket}").listing()


def test_what_arrives_otherwise_than_stored_is_fetched_again_and_in_the_end_refused(store: Any, tmp_path: Path) -> None:
    bucket = store.bucket()
    store.client.put_object(Bucket=bucket, Key="a", Body=CONTENT)
    remote = Store(f"s3://{bucket}")
    stored = remote.stored("a")
    assert stored is not None and stored.digest == ("md5", hashlib.md5(CONTENT).hexdigest())
    store.faults.append(spoilt(1, CONTENT[:-1] + b"\0"))
    remote.fetch("a", tmp_path / "a", stored)
    assert (tmp_path / "a").read_bytes() == CONTENT
    for body, reason in ((CONTENT[:-1] + b"\0", "md5 is not"), (CONTENT[:-1], "bytes here")):
        store.faults = [spoilt(99, body)]
        with pytest.raises(StoreAwayError, match=reason):
            remote.fetch("a", tmp_path / "a", stored)


def test_a_store_that_forgets_what_it_took_is_noticed(store: Any, tmp_path: Path) -> None:
    bucket = store.bucket()
    (tmp_path / "a").write_bytes(CONTENT)
    store.faults.append(forgetful)
    with pytest.raises(StoreAwayError, match="has forgotten what it took"):
        Store(f"s3://{bucket}").put(tmp_path / "a", "a")


def test_a_store_without_digests_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    take = MemoryFileSystem.pipe_file

    def other(self: Any, path: str, value: bytes, **how: Any) -> None:
        take(self, path, value[::-1], **how)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", other)
    monkeypatch.setattr("pipeline.core.remote._FIRST_WAIT_S", 0.0)
    with pytest.raises(StoreAwayError, match="sha256 is not what the store says"):
        Store("memory://reversed").put_bytes(b"abc", "a")


def test_no_credentials(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = store.bucket()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
    with pytest.raises(InputError, match="no right to it: Unable to locate credentials"):
        Store(f"s3://{bucket}").listing()


def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.registry

    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    assert "s3" not in fsspec.registry
    with pytest.raises(InputError, match=r"s3://bucket/media: a package is missing: .*pip install 'mcn\[s3\]'"):
        Store("s3://bucket/media")


def test_an_unknown_kind_of_store() -> None:
    with pytest.raises(InputError, match="s4://bucket: not an address of a store: fsspec knows s3, gs"):
        Store("s4://bucket")


def test_local_paths_load_no_fsspec() -> None:
    code = "import sys, pipeline.dataset.addresses, pipeline.download.remote_media; print('fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
