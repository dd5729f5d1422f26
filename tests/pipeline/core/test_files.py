"""Files are whole or absent, whatever happens while they are written."""

import contextlib
import errno
import hashlib
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from pipeline.core import files
from pipeline.core.errors import InputError, suggest
from pipeline.core.files import (
    AlreadyThereError,
    digest_of_json,
    read_json,
    sha256_of_file,
    write_aside,
    write_json,
    write_text,
)


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, before: str | None, error: type[BaseException]
) -> None:
    path = tmp_path / "folder" / "file"
    if before is not None:
        write_text(path, before)
    with pytest.raises(error):
        with write_aside(path) as aside:
            aside.write_text("half of")
            assert aside.parent == path.parent and aside.name.startswith(".") and aside.name.endswith(".aside")
            raise error
    assert [entry.name for entry in path.parent.iterdir()] == ([] if before is None else ["file"])
    assert before is None or path.read_text() == before


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    happened: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"
        happened.append(f"fsync {kind}, {'named' if path.exists() else 'not named'}")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", noted_fsync)
    monkeypatch.setattr(files.os, "replace", lambda a, b: happened.append("rename") or replace(a, b))
    write_text(path, "text")
    assert happened == ["fsync file, not named", "rename", "fsync folder, named"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_what_the_user_can_mend_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(first: Path, second: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(InputError, match=f"file: can't be written: {os.strerror(number)}; choose another --out"):
        write_text(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_what_hdf5_says_of_a_full_disk_is_one_line_too(tmp_path: Path, error: type[Exception]) -> None:
    text = "Can't decrement id ref count (file write failed: time = 1\n, file descriptor = 3, errno = 28, error message"
    with pytest.raises(InputError, match="file: can't be written: No space left on device") as refused:
        with write_aside(tmp_path / "file"):
            raise error(text)
    assert "\n" not in str(refused.value)


def test_other_faults_of_hdf5_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="errno = 5"), write_aside(tmp_path / "file"):
        raise RuntimeError("file write failed: errno = 5, error message = 'Input/output error'")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_disk_that_is_read_only_all_at_once_is_told(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=True)
    try:
        with pytest.raises(InputError, match="file: can't be written: Read-only file system; choose another --out"):
            with write_aside(tmp_path / "file") as aside:
                aside.write_text("text")
                subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_link_whose_answer_was_lost_has_succeeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def sent_twice(first: Path, second: Path) -> None:
        with contextlib.suppress(FileExistsError):
            link(first, second)
        link(first, second)

    monkeypatch.setattr(files.os, "link", sent_twice)
    write_text(tmp_path / "file", "mine", exclusive=True)
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(AlreadyThereError):
        write_text(tmp_path / "file", "another's", exclusive=True)
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_fence_within_a_fence_leaves_the_outer_one_standing(tmp_path: Path) -> None:
    asked: list[str] = []

    def refuse() -> None:
        raise PermissionError("not now")

    path = tmp_path / "file"
    with files.fenced(lambda: asked.append("outer")):
        with files.fenced(lambda: asked.append("inner")):
            write_text(path, "text")
            assert asked == ["outer", "inner"]
        files.remove(path)
        assert asked == ["outer", "inner", "outer"] and not path.exists()
        with files.fenced(refuse), pytest.raises(PermissionError, match="not now"):
            write_text(path, "other")
    files.check_fences()
    assert asked == ["outer", "inner", "outer", "outer"] and list(tmp_path.iterdir()) == []


def test_other_faults_of_the_disk_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(first: Path, second: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "file", "text")


def test_a_folder_or_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    for path in (tmp_path / "folder", tmp_path / "file" / "below", tmp_path / "file" / "far" / "below"):
        with pytest.raises(InputError, match="can't be written"):
            write_text(path, "new")
    assert (tmp_path / "file").read_text() == "old" and not any((tmp_path / "folder").iterdir())


def test_json_goes_there_and_back_and_never_holds_nan(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "größe"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert (tmp_path / "x.json").read_text().index('"a"') < (tmp_path / "x.json").read_text().index('"b"')
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert read_json(tmp_path / "x.json") == value


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"nope"])
def test_a_broken_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json: not a JSON file") as refused:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["socket", "device", "pipe"])
def test_what_is_no_file_is_not_read_as_json(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.json"
    if kind == "device":
        path = Path("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as unused:
            unused.bind(str(path))
    with pytest.raises(InputError, match=f"^{path}: not a regular file$"):
        read_json(path)


def test_a_missing_json_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none.json: no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(InputError, match="can't be read: Is a directory"):
        read_json(tmp_path)


def test_digests(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "x").write_bytes(content)
    assert sha256_of_file(tmp_path / "x") == hashlib.sha256(content).hexdigest()
    value = {"z": [1, "ü"], "a": {"y": 1.5, "x": None}}
    assert digest_of_json(value) == digest_of_json(json.loads(json.dumps(dict(reversed(value.items())))))
    assert digest_of_json(value) == hashlib.sha256(b'{"a":{"x":null,"y":1.5},"z":[1,"\\u00fc"]}').hexdigest()


def test_the_nearest_known_word_is_suggested() -> None:
    known = ["shared", "disjoint", "fine-and-coarse"]
    assert suggest("disjiont", known) == "did you mean 'disjoint'?"
    assert suggest("zebra", known) == "known: disjoint, fine-and-coarse, shared"
