"""Caption stores, caption files and word vectors that someone made to do harm: one line, soon, and no memory taken."""

import gzip
import hashlib
import json
import os
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from extractors import word_vector_file
from extractors.word_vector_file import save_vectors
from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.dataset.caption_store import CaptionStore, build_caption_store
from pipeline.dataset.captions import read_caption_file
from pipeline.dataset.word_vectors import read_vectors

from ...hdf5_changes import Change, instead, put

MIB = 1 << 20


@pytest.fixture
def within() -> Iterator[Callable[[int], None]]:
    """`within(bytes)`: the test may take no more memory than that, and no more than some seconds of the processor."""
    limits: list[int] = []
    tracemalloc.start()
    began = time.process_time()
    yield limits.append
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < limits[0] and time.process_time() - began < 10


def swelled(file: h5py.File) -> None:
    del file["captions/text"]
    file.create_dataset("captions/text", (1 << 50,), "u1", chunks=(1 << 16,))


STORES: dict[str, tuple[Change, str]] = {
    "place below 0": (put("videos/place", (1, 0), -5), "place|lie elsewhere|can't be one"),
    "place without end": (put("videos/place", (1, 1), 1 << 62), "sha256|lie elsewhere"),
    "text past the end": (put("videos/place", (1, 3), 1 << 62), "sha256|lie elsewhere"),
    "lengths below 0": (put("captions/text_bytes", 1, -5), "sha256|lie elsewhere"),
    "id is a path": (put("videos/id", slice(None), b"../x"), "ascending"),
    "ids in no order": (put("videos/id", 0, b"zzzz"), "videos/id isn't in ascending order"),
    "fewer places": (instead("videos/place", lambda values: values[:1]), "differ in length"),
    "fewer times": (instead("captions/times", lambda values: values[:1]), "differ in length"),
    "other type": (instead("captions/times", lambda values: values.astype("<f4")), "isn't of type <f8"),
    "other shape": (instead("videos/place", lambda values: values[:, :3]), "has the shape"),
    "compressed": (instead("captions/text", lambda values: values, compression="gzip"), "isn't contiguous"),
    "shuffled": (instead("captions/text", lambda values: values, shuffle=True, chunks=(1,)), "isn't contiguous"),
    "2^50 bytes": (swelled, "size beyond that of the file"),
    "more": (lambda file: file.__setitem__("more", 1), "more doesn't belong there"),
    "no attribute": (lambda file: file.attrs.__delitem__("left_out"), "no captions of this program"),
    "another schema": (lambda file: file.attrs.__setitem__("schema", np.int64(9)), "schema 9, this program reads 1"),
    "no JSON": (lambda file: file.attrs.__setitem__("identity", "{"), "Expecting"),
    "deep JSON": (lambda file: file.attrs.__setitem__("identity", "[" * 60_000), "recursion"),
    "a list": (lambda file: file.attrs.__setitem__("identity", "[1]"), "."),
    "counts of text": (lambda file: file.attrs.__setitem__("left_out", '{"x": "y"}'), "left_out is none of a store"),
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of five videos of two captions each."""
    said = {"start": [0.0, 2.0], "end": [1.0, 3.0], "text": ["cut it", "größe"]}
    (tmp_path / "caption.json").write_text(json.dumps({f"video{n:06d}": said for n in range(5)}))
    build_caption_store(tmp_path / "caption.json", tmp_path / "captions.h5", drop_overlaps=False).close()
    return tmp_path / "captions.h5"


@pytest.mark.parametrize("kind", STORES)
def test_a_hostile_caption_store_is_one_line_with_its_name(
    store: Path, kind: str, within: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    change, said = STORES[kind]
    with h5py.File(store, "r+") as file:
        change(file)
    within(32 * MIB)
    with pytest.raises(InputError, match=said) as error:
        opened = CaptionStore(store)
        len(opened), opened.identity, opened.left_out, list(opened.items())
    line = str(error.value)
    assert line.startswith(f"{store}: ") and "delete it" in line and "\n" not in line


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([[np.nan, 1.0], [2.0, 3.0]], "a caption of video000000 has no time"),
        ([[0.0, np.inf], [2.0, 3.0]], "a caption of video000000 has no time"),
        ([[-1.0, 1.0], [2.0, 3.0]], "a caption of video000000 has no time"),
        ([[1.0, 0.0], [2.0, 3.0]], "a caption of video000000 has no time"),
        (b"\xff" * 13, "can't decode byte 0xff"),
        ([-6, 19], "lie elsewhere"),
        ([2**31 - 1, 2**31 - 1], "lie elsewhere"),
    ],
    ids=str,
)
def test_captions_with_the_right_sha256_are_looked_at_too(store: Path, value: Any, said: str) -> None:
    with h5py.File(store, "r+") as file:
        if isinstance(value, bytes):
            file["captions/text"][:13] = np.frombuffer(value, np.uint8)
        else:
            file["captions/times" if isinstance(value[0], list) else "captions/text_bytes"][:2] = value
        times, lengths = file["captions/times"][:2].tobytes(), file["captions/text_bytes"][:2].tobytes()
        content = b"video000000\0" + times + lengths + file["captions/text"][:13].tobytes()
        file["videos/sha256"][0] = np.frombuffer(hashlib.sha256(content).digest(), "V32")[0]
        assert file["videos/place"][0].tolist() == [0, 2, 0, 13]
    with pytest.raises(InputError, match=said):
        CaptionStore(store).of("video000000")


def bomb(path: Path, head: bytes, block: bytes, blocks: int) -> Path:
    """A .gz of `head` and then `block`, some MiB that repeat themselves, again and again."""
    member = gzip.compress(block * (16 * MIB // len(block)), 6)
    with open(path, "wb") as file:
        file.write(gzip.compress(head))
        for _ in range(blocks):
            file.write(member)
    return path


@pytest.mark.parametrize(
    ("name", "head", "block", "said"),
    [
        ("a.bin.gz", b"1 1\n", b"x", "has a word of more than"),
        ("a.bin.gz", b"500000 300\n", b"\0", "too many for|has a word of more than"),
        ("a.bin.gz", b"2500000 1000\n", b"\0", "too many for .* bytes"),
        ("a.txt.gz", b"1 1\n", b"x", "has a word of more than"),
        ("a.vec.gz", b"999999999 1\n", b"x 1\n", "too many for"),
        ("a.kv.gz", b"999999999 999999\n", b"x", "too many for"),
        ("a.kv.gz", b"99999999999999999999 3\n", b"x", "first line is not"),
        ("a.kv.gz", b"-5 300\n", b"x", "first line is not"),
        ("a.kv.gz", b"5 -300\n", b"x", "first line is not"),
        ("a.kv.gz", b"", b"x", "first line is not"),
        ("a.kv.gz", b"0 300\n", b"x", "promises 0 words"),
    ],
)
def test_a_gz_that_swells_a_thousandfold_is_refused_before_it_does(
    tmp_path: Path, name: str, head: bytes, block: bytes, said: str, within: Callable[[int], None]
) -> None:
    path = bomb(tmp_path / name, head, block, 640)  # 10 GiB
    assert path.stat().st_size < 16 * MIB
    within(64 * MIB)
    with pytest.raises(InputError, match=said) as error:
        read_vectors(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.bin", b"1 1\n" + b"x" * (80 * MIB), "has a word of more than"),
        ("a.txt", b"1 1\n" + b"x" * (80 * MIB), "has a word of more than"),
        ("a.bin", b"3 4\na " + bytes(16) + b"b " + bytes(16) + b"c " + bytes(15), "too many for|it ends before"),
        ("a.bin", b"2 4\na " + bytes(16) + b"b" * 18, "it ends before"),
        ("a.bin", b"-1 300\nx", "first line is not"),
        ("a.bin", b"1 -1\nx", "first line is not"),
        ("a.bin", b"99999999 300\nx", "promises 99999999 words"),
        ("a.bin.gz", b"\x1f\x8b\x08" + bytes(40), "not a whole .gz|can't be read|first line is not"),
        ("a.bin.gz", gzip.compress(b"2 4\na " + bytes(16) + b"b " + bytes(16), mtime=0)[:-12], "not a whole .gz"),
        ("a.bin.gz", b"no gzip", "first line is not"),
        ("a.bin.gz", b"", "first line is not"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_hostile_word_vectors_are_one_line(
    tmp_path: Path, name: str, content: bytes, said: str, within: Callable[[int], None]
) -> None:
    (tmp_path / name).write_bytes(content)
    within(96 * MIB)
    with pytest.raises(InputError, match=said) as error:
        read_vectors(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("head", [b"", b"9999 3\n"])
def test_text_that_swells_line_by_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    monkeypatch.setattr(word_vector_file, "_ALWAYS_UNPACKED", 80_000)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(head + b"x 1 2 3" + b" " * 93 + b"\n" + b"x 1 2 3 \n" * 20_000))
    with pytest.raises(InputError, match="unpacks to more than 80000 bytes"):
        read_vectors(tmp_path / "a.txt.gz")


def test_what_is_more_than_promised_is_not_read(tmp_path: Path, within: Callable[[int], None]) -> None:
    path = bomb(tmp_path / "a.vec.gz", b"1 1\n", b"x 1\n", 640)
    within(64 * MIB)
    assert read_vectors(path).index_to_key == ["x"]


def test_word_vectors_from_a_pipe_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.bin")
    with pytest.raises(InputError, match="not a regular file"):
        read_vectors(tmp_path / "a.bin")


def test_long_words_and_numbers_that_the_product_writes_are_read(tmp_path: Path, make_vectors: Any) -> None:
    words = ["größe" * 4000, "x", "y" * 10_000]
    vectors = make_vectors(words)
    save_vectors(vectors, tmp_path / "a.kv")
    (tmp_path / "a.kv.gz").write_bytes(gzip.compress((tmp_path / "a.kv").read_bytes()))
    vectors.save_word2vec_format(str(tmp_path / "a.txt"))
    (tmp_path / "a.vec.gz").write_bytes(gzip.compress((tmp_path / "a.txt").read_bytes()))
    for name in ("a.kv", "a.kv.gz", "a.txt", "a.vec.gz"):
        assert read_vectors(tmp_path / name).index_to_key == words


def test_captions_in_a_gz_are_refused_before_they_are_unpacked(tmp_path: Path, within: Callable[[int], None]) -> None:
    path = bomb(tmp_path / "caption.json.gz", b'{"a": {"start": [0], "end": [1], "text": ["', b"x", 640)
    within(64 * MIB)
    with pytest.raises(InputError, match="packed by gzip; unpack it"):
        list(read_caption_file(path, Counter()))


def test_a_command_tells_hostile_vectors_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bomb(tmp_path / "a.kv.gz", b"999999999 999999\n", b"x", 1)
    assert main(["inspect", str(path)]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"mcn: {path}: its first line promises") and line.count("\n") == 1
