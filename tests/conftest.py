"""Fixtures that all tests share."""

import ctypes
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Nothing depends on how busy the machine is, or on chance.
settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


def pytest_runtest_setup() -> None:
    """urllib keeps the proxies of its first use, which may have been another test's."""
    urllib.request.install_opener(None)  # type: ignore[arg-type]


SHARED = Path(__file__).resolve().parents[2] / "shared"

# Reads all that h5py gives of a file, types and places included, without any of the project's code: a line a flip.
READER = """
import hashlib, json, resource, sys, time
import h5py
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
def content(path):
    try:
        with h5py.File(path, "r", locking=False) as file:
            found = {f"@{name}": repr(value) for name, value in file.attrs.items()}
            def visit(name, item):
                if isinstance(item, h5py.Dataset):
                    values = item[()]
                    found[name] = [str(item.dtype), str(item.shape), hashlib.sha256(values.tobytes()).hexdigest(),
                                   hashlib.sha256(values.astype(item.dtype.newbyteorder("=")).tobytes()).hexdigest()]
                found[name + "@"] = sorted(item.attrs)
            file.visititems(visit)
            return json.dumps(found, sort_keys=True)
    except Exception as error:
        return "unreadable"
whole, path = bytearray(open(sys.argv[1], "rb").read()), sys.argv[2]
sys.stdout.write(content(sys.argv[1]) + "\\n"); sys.stdout.flush()
for line in sys.stdin:
    # Two seconds of the processor and not of the clock, so that a busy machine makes no difference.
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 3, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    place, bit = map(int, line.split())
    whole[place] ^= 1 << bit
    open(path, "wb").write(whole)
    whole[place] ^= 1 << bit
    print(content(path), flush=True)
"""


class FlipReader:
    """Says what another process reads of the file with one bit flipped; one that dies or hangs has read nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", READER, str(self.path), str(self.path.with_suffix(".read"))]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.original = self.line()

    def line(self) -> bytes:
        assert self.child.stdout is not None
        return self.child.stdout.readline()

    def differs(self, place: int, bit: int) -> bool:
        assert self.child.stdin is not None
        self.child.stdin.write(f"{place} {bit}\n".encode())
        self.child.stdin.flush()
        found = self.line()
        if not found:
            self.end()
            self.start()
        return found != self.original

    def end(self) -> None:
        """End the other process."""
        self.child.kill()
        self.child.communicate()


@pytest.fixture(scope="session")
def shared_media() -> Path:
    """Folder of real media files beside the checkout."""
    folder = SHARED / "media"
    if not folder.is_dir():
        pytest.skip("the folder of real media files isn't beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Folder of numbers computed with the published code."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("the folder of reference numbers isn't beside this checkout")
    return folder


@pytest.fixture(scope="session")
def flip_reader() -> Callable[[Path], FlipReader]:
    """`flip_reader(path)`: see `FlipReader`; `end` it."""
    return FlipReader


class OpeningWatch:
    """Counts how often any process opens a file, by the kernel's own word (inotify)."""

    IN_OPEN = 0x20

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self.descriptor = library.inotify_init1(os.O_NONBLOCK)
        if library.inotify_add_watch(self.descriptor, os.fsencode(path), self.IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), f"{path} can't be watched")

    def __call__(self) -> int:
        """Openings since the last call; the kernel counts those that follow each other as one."""
        try:
            return len(os.read(self.descriptor, 1 << 16)) // 16
        except BlockingIOError:
            return 0


@pytest.fixture
def opened() -> Iterator[Callable[[Path], OpeningWatch]]:
    """`opened(path)`: call what it returns to learn how often the file was opened since."""
    watches: list[OpeningWatch] = []

    def watch(path: Path) -> OpeningWatch:
        watches.append(OpeningWatch(path))
        return watches[-1]

    yield watch
    for one in watches:
        os.close(one.descriptor)


@pytest.fixture(scope="session")
def _loopback_store() -> Iterator[Any]:
    from .loopback_store import LoopbackStore

    store = LoopbackStore()
    yield store
    store.close()


@pytest.fixture
def store(_loopback_store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """See `loopback_store.LoopbackStore`: what addresses that begin with s3:// lead to, and copies of them to a cache
    of the test's own."""
    variables = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
    variables |= {"AWS_ENDPOINT_URL": _loopback_store.endpoint, "AWS_MAX_ATTEMPTS": "1"}
    variables |= {"AWS_EC2_METADATA_DISABLED": "true", "MCN_CACHE": str(tmp_path / "cache")}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pipeline.core.remote._FIRST_WAIT_S", 0.0)
    return _loopback_store
