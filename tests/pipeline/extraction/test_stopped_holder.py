"""A worker that is stopped (SIGSTOP) for longer than its lease lasts, and woken once another has taken that over."""

import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest

from pipeline.core import files, lease
from pipeline.core.lease import Lease, LeaseLostError, LeaseWatch
from pipeline.dataset.shard_plans import lease_path, shard_path
from pipeline.tools.verify import repair
from pipeline.tools.verify.findings import check_shards

CALLS = ("link", "rename", "replace", "unlink")
"""By which names are given and taken."""


def begin(work: Callable[[], object], stop: Callable[[], None]) -> int:
    """Do the work in a process of its own, in which `stop` has been called; 0 is its status if it ends by itself."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            stop()
            work()
            status = 0
        finally:
            os._exit(status)
    return process


def stopped(process: int) -> bool:
    """Whether the process stops itself; False if it ends in place of that."""
    status = os.waitpid(process, os.WUNTRACED)[1]
    if os.WIFSTOPPED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


@contextmanager
def woken(process: int) -> Iterator[None]:
    """In the end the process is woken and has ended well."""
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def before_call(owner: Any, names: tuple[str, ...], number: int, place: Path) -> Callable[[], None]:
    """Have the process stop itself before the n-th call of these that concerns files below `place`, leases apart."""
    seen = 0

    def patch(name: str) -> None:
        whole = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            concerned = [str(path) for path in arguments if isinstance(path, str | Path)]
            if not arguments or any(path.startswith(str(place)) and "/leases/" not in path for path in concerned):
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGSTOP)
            return whole(*arguments, **named)

        setattr(owner, name, call)

    return lambda: [patch(name) for name in names] and None


def take_over(path: Path) -> Lease:
    mine, watch = Lease(path), LeaseWatch(expires_s=0.02)
    while not mine.acquire(watch):
        threading.Event().wait(0.005)
    return mine


def state(*folders: Path) -> dict[str, str]:
    """What others see of the folders: path -> inode and sha256. Without leases; and without ledgers, to which each adds
    in a file of its own."""
    found = {}
    for path in (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()):
        if not path.name.startswith(".") and not {"ledger", "leases"}.intersection(path.parts):
            found[str(path)] = f"{path.stat().st_ino} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return found


@pytest.fixture(autouse=True)
def _quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEATS_EVERY_S", 0.005)


def test_stopped_before_any_of_its_writes_it_changes_nothing(extraction: Any, tmp_path: Path) -> None:
    work, begun = (extraction.media, extraction.settings.out), tmp_path / "begun"
    for folder in work:
        shutil.copytree(folder, begun / folder.name)
    moments = 0
    while True:
        # What a write looks at first, the lease's own apart: a stop at any time since the last write comes before it.
        process = begin(extraction.run, before_call(files, ("check_fences",), moments + 2, tmp_path))
        if not stopped(process):
            break
        moments += 1
        mine, before = take_over(lease_path(extraction.settings.out, extraction.name)), state(*work)
        with woken(process):
            pass
        assert state(*work) == before, f"moment {moments}"
        extraction.nothing_is_lost()
        assert mine.is_mine()
        mine.release()
        for folder in work:
            shutil.rmtree(folder)
            shutil.copytree(begun / folder.name, folder)
    assert moments == 8, "two parts, the shard, its receipt, two parts' removal, two media files'"
    extraction.ends_right()


@pytest.mark.parametrize("number", [1, 3, 5, 7, 9])
def test_stopped_right_at_a_write_it_replaces_nothing_of_what_the_new_holder_made(
    extraction: Any, tmp_path: Path, number: int
) -> None:
    process = begin(extraction.run, before_call(os, CALLS, number, tmp_path))
    assert stopped(process)
    with woken(process):
        take_over(lease_path(extraction.settings.out, extraction.name)).release()
        extraction.run()
        before = state(extraction.settings.out)
    after = state(extraction.settings.out)
    # Of a shard that is closed the parts are litter.
    for name, content in before.items():
        assert after.get(name) == content or ("/parts/" in name and extraction.stored())
    extraction.ends_right()


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
def test_a_repair_that_is_stopped_moves_and_removes_nothing_more(
    extraction: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    settings = replace(extraction.settings, delete_media=False)
    replace(extraction, settings=settings).run()
    shard = shard_path(settings.out, extraction.name)
    with h5py.File(shard, "r+") as file:
        file["rows/resnet152"][0] = file["rows/resnet152"][0] + 1
    monkeypatch.setattr(repair, "settings_of", lambda *given: settings)
    monkeypatch.setattr(repair, "prepare_weights", lambda *given: {"resnet152": Path(), "davenet": Path()})
    findings = check_shards(settings.out, [extraction.name])
    assert findings.bad_shards

    def mend() -> None:
        with suppress(LeaseLostError):
            repair.repair(settings.out, findings, settings.media)

    def stop() -> None:
        before_call(files, ("check_fences",), number, tmp_path)()
        repair.check_fences = files.check_fences

    process = begin(mend, stop)
    assert stopped(process)
    mine, before = take_over(settings.out / "leases" / "planning.json"), state(settings.out, settings.media)
    with woken(process):
        pass
    assert state(settings.out, settings.media) == before and mine.is_mine()
    mine.release()
    mend()
    assert extraction.stored() == dict.fromkeys(("good-video-1", "good-video-2"), extraction.name)
