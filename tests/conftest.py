"""Fixtures that all tests share."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
