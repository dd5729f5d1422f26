"""An id is found in a text of any encoding and compression; what can't be searched is named."""

import bz2
import codecs
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.tools.forget import references
from pipeline.tools.forget.references import files_naming

ID = "abcdefghijk"
TEXT = f"video_id,text\n{'-' * 11},né\n" * 3 + f"{ID},said\n"


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def packed(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("list.csv")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


FORMS = {
    "list.csv.gz": gzip.compress(TEXT.encode()),
    "renamed.csv": gzip.compress(TEXT.encode()),
    "two.csv.gz": gzip.compress(b"video_id\n") + gzip.compress(TEXT.encode()),
    "list.csv.bz2": bz2.compress(TEXT.encode()),
    "list.csv.xz": lzma.compress(TEXT.encode()),
    "list.zip": zipped("list.csv", TEXT.encode()),
    "named.zip": zipped(f"captions/{ID}.csv", b"start,end,text\n"),
    "list.tar.gz": packed(TEXT.encode()),
    "wide.csv.gz": gzip.compress(TEXT.encode("utf-16")),
    "utf16.csv": TEXT.encode("utf-16"),
    "utf16le.csv": TEXT.encode("utf-16-le"),
    "utf16be.csv": TEXT.encode("utf-16-be"),
    "utf16be-mark.csv": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf32.csv": TEXT.encode("utf-32"),
    "utf32be.csv": TEXT.encode("utf-32-be"),
    "latin.csv": TEXT.encode("latin-1"),
    "mark.csv": TEXT.encode("utf-8-sig"),
}


@pytest.mark.parametrize("name", FORMS)
def test_an_id_is_found_whatever_the_form(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMS[name])
    unsearched: dict[Path, str] = {}
    assert files_naming([tmp_path], [ID], (), unsearched) == [tmp_path / name] and not unsearched
    assert files_naming([tmp_path], [f"{ID}x", ID[:-1]], ()) == [], "no part of an id, nor a longer one"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_an_id_across_two_blocks_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(references, "_BLOCK_BYTES", 64)
    for shift in range(0, 64, 3):
        path = tmp_path / "list"
        path.write_bytes(pack(f"{'.' * shift} {'x' * 200} {ID} {'y' * 100}".encode(encoding)))
        assert files_naming([tmp_path], [ID], ()) == [path], shift


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(b"x" * 3_000_000), "holds more than"),
        (gzip.compress(TEXT.encode())[:-20], "can't be unpacked"),
        (zipped("list.csv", TEXT.encode())[:-30], "can't be unpacked"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "compressed by zstd"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(20), "compressed by 7z"),
    ],
    ids=["bomb", "cut gz", "cut zip", "zstd", "7z"],
)
def test_what_cannot_be_searched_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str
) -> None:
    monkeypatch.setattr(references, "MOST_BYTES", 2_000_000)
    (tmp_path / "list").write_bytes(content)
    unsearched: dict[Path, str] = {}
    assert files_naming([tmp_path], [ID], (), unsearched) == []
    assert list(unsearched) == [tmp_path / "list"] and reason in unsearched[tmp_path / "list"]


def test_other_binary_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "clips.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100) + ID.encode() + b"\0" * 100)
    unsearched: dict[Path, str] = {}
    assert files_naming([tmp_path], [ID], (), unsearched) == [] and not unsearched
