"""`mcn doctor PATH`: what data sets and downloads rely on in a shared folder, tried in a subfolder that is removed."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

from pipeline.core.errors import InputError
from pipeline.core.files import fsync_folder, write_aside, write_text
from pipeline.tools.doctor.machine import GIB, Check, Finding

LEAST_ROOM = 2 * GIB
"""Two shards: one being written beside its parts."""
LONGEST_NAME = 143
"""Above the longest name made here: an id of 64 characters or a host's name, with what stands around it."""
RATE_S = 1.0
SLOW_FILES = 3.0
"""Flushed files a second below which one worker would wait for the folder."""
_ANSWER_S = 30.0
_GONE_WITH_THE_MACHINE = ("tmpfs", "ramfs", "overlay", "aufs")
_MOVE = "keep data sets in a folder of another kind: a local disk, NFS"

# Says for each line: what the file of that name holds. The first line asks for a file that is not there yet, since a
# client that remembers "no such file" is the trap. Then makes a file of its own.
_OTHER_PROCESS = """
import os, sys
folder = sys.argv[1]
for line in sys.stdin:
    path = os.path.join(folder, line.strip())
    try:
        with open(path) as file:
            print("holds", file.read(), flush=True)
    except FileNotFoundError:
        print("missing", flush=True)
    try:
        os.close(os.open(path + ".own", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        pass
"""


@contextmanager
def trial_folder(path: Path) -> Iterator[Path]:
    """A new folder in `path` to try things in, removed afterwards with all that is in it.

    InputError in one line when `path` is missing, no folder, or can't be written to.
    """
    if not path.is_dir():
        what = "not a folder" if path.exists() else "no such folder; make it first"
        raise InputError(f"{path}: {what}")
    trial = path / f".mcn-doctor-{uuid.uuid4().hex[:8]}"
    try:
        trial.mkdir()
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror}; mount it writable, or choose another") from None
    try:
        yield trial
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def shared_folder_checks(trial: Path) -> dict[str, Check]:
    """Name -> check, to be made in the folder `trial`, empty and on the file system in question."""
    return {
        "file system": partial(check_file_system, trial),
        "room": partial(check_room, trial),
        "write": partial(check_write, trial),
        "fsync": partial(check_fsync, trial),
        "exclusive": partial(check_exclusive, trial),
        "link": partial(check_link, trial),
        "rename": partial(check_rename, trial),
        "other process": partial(check_other_process, trial),
        "long names": partial(check_long_names, trial),
        "letter case": partial(check_letter_case, trial),
        "hdf5": partial(check_hdf5, trial),
        "folder's clock": partial(check_clock, trial),
        "small files": partial(check_rate, trial),
    }


def check_file_system(trial: Path) -> Finding:
    """Its type by the mount table."""
    path = trial.resolve()
    mounts = [
        mount
        for mount in psutil.disk_partitions(all=True)
        if path.is_relative_to(mount.mountpoint) and mount.mountpoint.startswith("/")
    ]
    if not mounts:
        return Finding("ok", "not in the mount table")
    # Of two mounts on one point the later one is on top.
    mount = max(enumerate(mounts), key=lambda item: (len(item[1].mountpoint), item[0]))[1]
    text = f"{mount.fstype}, {mount.device} on {mount.mountpoint}"
    if mount.fstype in _GONE_WITH_THE_MACHINE:
        return Finding("warning", text, "nothing there outlives the machine or container: mount a disk")
    return Finding("ok", text)


def check_room(trial: Path) -> Finding:
    """Free bytes, and free files where the file system counts them."""
    free = shutil.disk_usage(trial).free
    counted = os.statvfs(trial)
    text = f"{free / GIB:,.1f} GiB free"
    if free < LEAST_ROOM:
        return Finding("warning", text, "make room: a shard alone is about 1 GiB")
    if counted.f_files and counted.f_favail < 10_000:
        return Finding("warning", f"{text}, but only {counted.f_favail} further files", "delete small files")
    return Finding("ok", text)


def check_write(trial: Path) -> Finding:
    """What was written is what is read, twenty thousand bytes appended in two goes."""
    content, path = os.urandom(20_000), trial / "write"
    path.write_bytes(content[:1000])
    with open(path, "ab") as file:
        file.write(content[1000:])
    if path.read_bytes() != content:
        return Finding("problem", "a file holds other bytes than were written", _MOVE)
    return Finding("ok", "written, appended to, read again")


def check_fsync(trial: Path) -> Finding:
    """fsync of a file and of a folder: without them a power cut may empty what was renamed."""
    with open(trial / "fsync", "wb") as file:
        file.write(b"x")
        os.fsync(file.fileno())
    try:
        fsync_folder(trial)
    except OSError as error:
        text = f"of a file works, of a folder doesn't ({error.strerror})"
        return Finding("problem", text, f"every write would fail; {_MOVE}")
    return Finding("ok", "of a file and of a folder")


def check_exclusive(trial: Path) -> Finding:
    """O_EXCL: of two who make a file of one name, the second is refused."""
    path, flags = trial / "exclusive", os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(path, flags))
    try:
        os.close(os.open(path, flags))
    except FileExistsError:
        return Finding("ok", "a second creation of one name is refused")
    text = "a second exclusive creation of one name is let through: two jobs would both think they own it"
    return Finding("problem", text, _MOVE)


def check_link(trial: Path) -> Finding:
    """link(): gives a name once; by it shards and leases are closed without replacing another's."""
    first, second, name = trial / "link-1", trial / "link-2", trial / "link"
    first.write_text("1")
    second.write_text("2")
    try:
        os.link(first, name)
    except OSError as error:
        text = f"hard links don't work ({error.strerror}): a shard or lease can't get its name without replacing"
        return Finding("problem", text, _MOVE)
    try:
        os.link(second, name)
    except FileExistsError:
        if name.read_text() == "1":
            return Finding("ok", "a link to a taken name is refused")
    return Finding("problem", "a link to a taken name replaces it: two jobs could close one shard", _MOVE)


def check_rename(trial: Path) -> Finding:
    """A rename replaces, and whoever had the old file open still reads the old one."""
    path = trial / "rename"
    write_text(path, "old")
    with open(path) as reader:
        write_text(path, "new")
        before = reader.read()
    left = [name for name in os.listdir(trial) if name.endswith(".aside")]
    if path.read_text() != "new" or before != "old" or left:
        return Finding("problem", "a rename doesn't replace a file whole", _MOVE)
    return Finding("ok", "replaces a file whole; a reader keeps the old one")


def check_other_process(trial: Path) -> Finding:
    """A process that has looked for a file in vain sees it once it is there; and the other way round."""
    mend = f"mount it without long attribute caching; {_MOVE}"
    child = subprocess.Popen(
        [sys.executable, "-c", _OTHER_PROCESS, str(trial)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        answers = []
        for content in ("", "here"):
            if content:
                write_text(trial / "seen", content)
            child.stdin.write("seen\n")
            child.stdin.flush()
            answers.append(child.stdout.readline().strip())
        child.stdin.close()
        child.wait(_ANSWER_S)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    if answers != ["missing", "holds here"]:
        return Finding("problem", "a new file isn't seen by another process at once", mend)
    try:
        os.close(os.open(trial / "seen.own", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return Finding("ok", "sees a new file at once, and its own is kept; run this on the other machines too")
    return Finding("problem", "a name made by another process is given a second time", mend)


def check_long_names(trial: Path) -> Finding:
    """A name as long as ours get."""
    path = trial / ("n" * LONGEST_NAME)
    try:
        path.touch()
    except OSError as error:
        mend = f"{_MOVE}; an encrypted home folder is short of names"
        return Finding("problem", f"{LONGEST_NAME} characters don't work ({error.strerror})", mend)
    return Finding("ok", f"{LONGEST_NAME} characters work")


def check_letter_case(trial: Path) -> Finding:
    """That `a` and `A` are two files, as there are ids that differ so alone."""
    (trial / "dQw4w9WgXcQ").write_text("lower")
    (trial / "DQW4W9WGXCQ").write_text("upper")
    if (trial / "dQw4w9WgXcQ").read_text() != "lower":
        text = "names that differ by case alone are one file: videos would overwrite each other, as ids differ so"
        return Finding("problem", text, _MOVE)
    return Finding("ok", "names that differ by case alone are two files")


def check_hdf5(trial: Path) -> Finding:
    """That HDF5 writes and reads there, opened as shards are: without locks."""
    import h5py
    import numpy as np

    from pipeline.core.hdf5 import DatasetLayout, read_hdf5

    values = np.arange(10_000, dtype="<i8")
    with write_aside(trial / "values.h5") as aside, h5py.File(aside, "w", locking=False) as file:
        file["values"] = values
    read = read_hdf5(trial / "values.h5", lambda attributes, names: {"values": DatasetLayout("<i8")})
    with read.hdf5:
        same = bool((read.values("values") == values).all())
    if not same:
        return Finding("problem", "an HDF5 file holds other values than were written", _MOVE)
    return Finding("ok", "a file is written and read")


def check_clock(trial: Path) -> Finding:
    """The clock by which the folder's host dates its files, against ours: leases don't compare the two."""
    before = time.time()
    (trial / "clock").touch()
    away = (trial / "clock").stat().st_mtime - (before + time.time()) / 2
    if abs(away) < 1:
        return Finding("ok", "is ours")
    relation = "ahead of" if away > 0 else "behind"
    return Finding("ok", f"is {abs(away):,.0f} s {relation} ours, which does no harm here")


def check_rate(trial: Path) -> Finding:
    """Small files written, flushed and renamed in a second: a worker does a few for each video."""
    files, began = 0, time.monotonic()
    while (seconds := time.monotonic() - began) < RATE_S or not files:
        write_text(trial / f"rate-{files}", "x")
        files += 1
    rate = files / seconds
    if rate < SLOW_FILES:
        text = f"{rate:.1f} a second, each flushed"
        return Finding("warning", text, "workers will wait for the folder: give them larger shares")
    return Finding("ok", f"{rate:,.0f} a second, each flushed")
