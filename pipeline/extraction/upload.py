"""A data set at an address: made in a folder of this machine; what is closed there is uploaded, and read back.

One process writes to a data set in a store. It says so by an object, `leases/writer-N.json`, that is made where there
is none (a conditional put) and renewed; who finds that it no longer is, takes over by making the next number. Once
uploaded, the local copy of a shard may be replaced by a hole of its size: the extraction looks at the names and sizes
of closed shards, and reads their receipts.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from extractors.cache_folder import cache_folder
from pipeline.core import signals
from pipeline.core.cache import GIB
from pipeline.core.errors import InputError, ToolError
from pipeline.core.files import ASIDE, write_aside
from pipeline.core.formatting import size as size_text
from pipeline.core.lease import BEATS_EVERY_S, EXPIRES_S, Holder, LeaseLostError, has_ended, this_process
from pipeline.core.remote import MissingError, Store, Stored, address_of
from pipeline.core.reporting import RunSummary
from pipeline.core.video_ids import find_part
from pipeline.dataset.shard_plans import read_receipt, receipt_names, shard_path
from pipeline.extraction.settings import ExtractSettings

_EVERY_S = 2.0
_NOT_UPLOADED = ("parts", "leases", "weights")
"""Folders of this machine's own; weights are given, or made of their names, where they are needed."""
_IN_ONE_PIECE = 64 << 20
"""Bytes of a file that is read at once: it may grow while it is uploaded."""
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class WriterLease:
    """The right to write to a data set in a store. InputError where another process has it."""

    def __init__(self, store: Store, every_s: float = BEATS_EVERY_S, expires_s: float = EXPIRES_S) -> None:
        self._store, self._every_s, self._expires_s = store, every_s, expires_s
        self._holder = this_process()
        self._number = 0
        self._beat = 0
        self._over = threading.Event()

    @contextmanager
    def held(self) -> Iterator["WriterLease"]:
        """Hold it while the block runs."""
        self._acquire()
        beating = threading.Thread(target=self._beats, daemon=True, name="lease of the store")
        beating.start()
        try:
            yield self
        finally:
            self._over.set()
            beating.join()
            with suppress(ToolError, InputError):
                if self._latest()[0] == self._number:
                    self._write(released=True)

    def check(self) -> None:
        """LeaseLostError unless this process has it still."""
        number, content = self._latest()
        if number != self._number:
            raise LeaseLostError(
                f"{self._store.address}: this process was stopped for longer than its lease lasts, and "
                f"{_name(content)} has taken it over: nothing more is written there; rerun to resume"
            )

    def _acquire(self) -> None:
        if not self._store.is_exclusive:
            raise InputError(
                f"{self._store.address}: no data set can be written there: a store of kind {self._store.protocol} has "
                "no conditional put, by which two writers are told apart; extract to a local folder and upload that"
            )
        seen: tuple[int, Any] | None = None
        since = time.monotonic()
        while True:
            number, content = self._latest()
            holder = _holder(content)
            is_free = not number or content.get("released") or (holder is not None and has_ended(holder))
            if is_free or time.monotonic() - since >= self._expires_s:
                if self._make(number + 1):
                    if number and not content.get("released"):
                        line = f"mcn: {self._store.address}: taken over from {_name(content)}, which has ended"
                        print(line, file=sys.stderr, flush=True)
                    return
                seen, since = None, time.monotonic()
                continue
            is_here = holder is not None and holder.boot == self._holder.boot and holder.host == self._holder.host
            if is_here or (seen is not None and seen != (number, content.get("beat"))):
                raise InputError(
                    f"{self._store.address}: already at work: {_name(content)} (its lock: {self._path(number)}); wait "
                    "for it or end it"
                )
            if seen is None:
                print(f"mcn: {self._store.address}: waiting for {_name(content)}", file=sys.stderr, flush=True)
            seen = number, content.get("beat")
            if signals.wait(min(1.0, self._expires_s / 4)):
                raise signals.StoppedError(f"{self._store.address}: stopped by a signal while it waited for its lease")

    def _make(self, number: int) -> bool:
        self._number = number
        try:
            self._store.put_bytes(self._content(False), self._path(number), exclusive=True)
        except FileExistsError:
            # The answer to a put may be lost, and the one sent again meets what it made itself.
            found = _holder(self._latest()[1])
            return found is not None and found.token == self._holder.token
        return True

    def _beats(self) -> None:
        while not self._over.wait(self._every_s):
            self._beat += 1
            # A store that is away costs a beat, not the work: the lease stands until it expires.
            with suppress(ToolError, InputError):
                if self._latest()[0] == self._number:
                    self._write(released=False)

    def _write(self, released: bool) -> None:
        self._store.put_bytes(self._content(released), self._path(self._number))

    def _content(self, released: bool) -> bytes:
        return json.dumps(asdict(self._holder) | {"beat": self._beat, "released": released}, indent=2).encode()

    def _latest(self) -> tuple[int, dict[str, Any]]:
        """The highest number, 0 for none, and what its object says."""
        try:
            names = [name for _, found in self._store.walk("leases") for name in found]
        except MissingError:
            return 0, {}
        numbers = [int(name[7:-5]) for name in names if name.startswith("writer-") and name[7:-5].isdigit()]
        if not numbers:
            return 0, {}
        try:
            content = json.loads(self._store.read(self._path(max(numbers))))
        except (ValueError, MissingError):
            content = {}
        return max(numbers), content if isinstance(content, dict) else {}

    @staticmethod
    def _path(number: int) -> str:
        return f"leases/writer-{number:06d}.json"


def _holder(content: dict[str, Any]) -> Holder | None:
    with suppress(TypeError):
        return Holder(**{name: value for name, value in content.items() if name not in ("beat", "released")})
    return None


def _name(content: dict[str, Any]) -> str:
    return str(_holder(content) or "a process that left no name")


class UploadedDataset:
    """A local folder, and the data set in the store that it is uploaded to. `lease`: asked before each upload."""

    def __init__(self, store: Store, folder: Path, lease: WriterLease, budget_gib: float) -> None:
        self._store, self.folder, self._lease = store, folder, lease
        self._budget = budget_gib * GIB
        self._failures: set[str] = set()
        self._done: dict[str, tuple[int, int]] = {}
        self.shards, self.bytes = 0, 0

    def begin(self) -> None:
        """Bring the folder to what the store has, shards as holes. A folder that has something else is set aside."""
        try:
            stored = self._store.listing()
        except MissingError:
            stored = {}
        stored = {name: one for name, one in stored.items() if name.split("/")[0] not in _NOT_UPLOADED}
        if any(self._differs(name, one) for name, one in stored.items() if _is_settled(name)):
            aside = self.folder.with_name(f"{self.folder.name}.other-{int(time.time())}")
            self.folder.rename(aside)
            note = f"mcn: {self._store.address} holds another data set than {self.folder}, which is kept as {aside}"
            print(note, file=sys.stderr, flush=True)
        for name in sorted(name for name in stored if not _is_shard(name)):
            path = self.folder / name
            if not path.exists() or (_is_settled(name) and path.stat().st_size != stored[name].size):
                with write_aside(path) as aside:
                    self._store.fetch(name, aside, stored[name])
            if not self._differs(name, stored[name]):
                self._done[name] = _state(path)
        for name in receipt_names(self.folder):
            self._begin_shard(name, stored.get(f"shards/{name}.h5"))

    def _begin_shard(self, name: str, stored: Stored | None) -> None:
        path, receipt = shard_path(self.folder, name), read_receipt(self.folder, name)
        if stored is None or receipt is None or receipt.bytes != stored.size:
            # Not whole in the store: what is whole here is uploaded, all else made anew.
            if path.exists() and _is_hole(path):
                path.unlink()
            return
        if not path.exists():
            _make_hole(path, stored.size)
        self._done[f"shards/{name}.h5"] = _state(path)

    def _differs(self, name: str, stored: Stored) -> bool:
        """Whether a local file is there and isn't what the store has; of a large one by its size."""
        path = self.folder / name
        if not path.is_file():
            return False
        if path.stat().st_size != stored.size:
            return True
        if stored.size > _IN_ONE_PIECE or not stored.size:
            return False
        content = path.read_bytes()
        if stored.digest is None:
            return self._store.read(name) != content
        return hashlib.new(stored.digest[0], content, usedforsecurity=False).hexdigest() != stored.digest[1]

    def upload(self, ledgers: bool = True) -> None:
        """Upload what is new or has grown; a receipt after its shard. StoreAwayError, InputError, LeaseLostError.

        Without `ledgers`, which grow with every video, these go only with a new shard.
        """
        before = self.shards
        try:
            for name in self._ready():
                if not name.startswith("ledger/") or ledgers or self.shards > before:
                    self._upload(name)
        finally:
            self._make_room()

    def _upload(self, name: str) -> None:
        path = self.folder / name
        state = _state(path)
        if self._done.get(name) == state:
            return
        self._lease.check()
        if _is_shard(name):
            self._store.put(path, name)
        elif state[0] < _IN_ONE_PIECE:
            self._store.put_bytes(path.read_bytes(), name)
        else:
            # A copy: it may grow while it is sent.
            with tempfile.TemporaryDirectory(prefix="mcn-upload-") as scratch:
                self._store.put(Path(shutil.copyfile(path, Path(scratch, path.name))), name)
        self._done[name] = state
        self.shards += _is_shard(name)
        self.bytes += state[0]

    def _ready(self) -> list[str]:
        closed = {f"shards/{name}.h5" for name in receipt_names(self.folder)}
        names = []
        for parent, folders, found in os.walk(self.folder):
            below = Path(parent).relative_to(self.folder)
            folders[:] = [name for name in folders if below != Path() or name not in _NOT_UPLOADED]
            names += [(below / name).as_posix() for name in found if not name.startswith(".")]
        names = [name for name in names if not name.endswith(ASIDE)]
        # One that was closed meanwhile waits, with its receipt, for the next time.
        ready = [name for name in names if not name.startswith("shards/") or f"{name.rpartition('.')[0]}.h5" in closed]
        # What a shard needs to be understood lies there before it, and its receipt says that it is whole.
        order = {"shards": 1, "ledger": 2}
        return sorted(ready, key=lambda name: (order.get(name.split("/")[0], 0), Path(name).stem, not _is_shard(name)))

    def _make_room(self) -> None:
        """Replace the oldest uploaded shards by holes, as far as the budget asks."""
        kept = [shard_path(self.folder, name) for name in receipt_names(self.folder)]
        kept = [path for path in kept if path.exists() and not _is_hole(path)]
        sizes = {path: path.stat().st_size for path in kept}
        for path in sorted(kept, key=lambda path: path.stat().st_mtime):
            name = path.relative_to(self.folder).as_posix()
            receipt = path.with_suffix(".json").relative_to(self.folder).as_posix()
            if sum(sizes.values()) <= self._budget:
                break
            if name in self._done and receipt in self._done:
                _make_hole(path, sizes.pop(path))
                self._done[name] = _state(path)

    @contextmanager
    def uploads(self) -> Iterator[None]:
        """Upload what is ready every few seconds while the block runs, and the rest at its end.

        What can't be uploaded meanwhile is told once and tried again; at the end it is an error.
        """
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_EVERY_S):
                try:
                    self.upload(ledgers=False)
                except LeaseLostError:
                    signals.ask_to_stop()
                    return
                except Exception as error:
                    line = f"mcn: not uploaded yet: {' '.join(str(error).split())}"
                    if line not in self._failures:
                        self._failures.add(line)
                        print(line, file=sys.stderr, flush=True)

        watcher = threading.Thread(target=watch, daemon=True, name="uploads")
        watcher.start()
        try:
            yield
        except Exception:
            over.set()
            watcher.join()
            with suppress(ToolError, InputError):
                self.upload()
            raise
        over.set()
        watcher.join()
        self.upload()


def extract_to_store(settings: ExtractSettings, extract: Callable[[ExtractSettings], RunSummary]) -> RunSummary:
    """Do `extract` for a data set at an address. InputError, StoreAwayError, LeaseLostError: what is here stays here,
    and the same command goes on with it."""
    address = address_of(settings.out)
    assert address is not None
    if find_part(settings.part).count > 1:
        raise InputError(f"{address}: one process writes to a data set at an address; leave out --part and job arrays")
    store = Store(address)
    home = (settings.cache or cache_folder()) / "datasets" / hashlib.sha256(address.encode()).hexdigest()[:16]
    with WriterLease(store).held() as lease:
        data = UploadedDataset(store, home / Path(address).name, lease, settings.cache_size)
        data.begin()
        with data.uploads():
            report = extract(replace(settings, out=data.folder.resolve()))
    print(f"uploaded: {data.shards} shards, {size_text(data.bytes)} in all, to {address}", flush=True)
    return report


def _is_shard(name: str) -> bool:
    return name.startswith("shards/") and name.endswith(".h5")


def _is_settled(name: str) -> bool:
    """Whether a file of a data set never changes."""
    return name == "dataset.json" or (name.startswith(("plans/", "shards/")) and name.endswith(".json"))


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _is_hole(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(_SIGNATURE)) != _SIGNATURE


def _make_hole(path: Path, size: int) -> None:
    with write_aside(path) as aside, open(aside, "wb") as file:
        file.truncate(size)
