"""The data set's word vectors: from the training split alone, frozen at the first run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gensim.models import KeyedVectors

from extractors.text import vectors_digest
from pipeline.core.errors import InputError
from pipeline.core.records import Caption
from pipeline.core.video_ids import read_split
from pipeline.dataset.word_vectors import check_given, freeze_words


@dataclass
class Given:
    """Captions by id, in the order that a store gives them."""

    captions: dict[str, tuple[Caption, ...]]

    def items(self) -> list[tuple[str, tuple[Caption, ...]]]:
        return sorted(self.captions.items())


CAPTIONS: Any = Given({
    "aaaaaaaaaaa": (Caption(0, 1, "Cut the onion"), Caption(1, 2, "it's raw, the onion")),
    "bbbbbbbbbbb": (Caption(0, 1, "secret words"),),
    "ccccccccccc": (),
})  # fmt: skip


@pytest.fixture
def split(tmp_path: Path) -> Path:
    path = tmp_path / "split.csv"
    path.write_text("video_id,split,note\naaaaaaaaaaa,train,x\nbbbbbbbbbbb,heldout,y\nccccccccccc,train,z\n")
    return path


def load(path: Path) -> KeyedVectors:
    return KeyedVectors.load_word2vec_format(str(path), binary=True)


def test_vectors_are_trained_on_the_training_split_alone(tmp_path: Path, split: Path) -> None:
    digest, note = freeze_words(tmp_path / "words.kv", CAPTIONS, None, split)
    found = load(tmp_path / "words.kv")
    assert set(found.index_to_key) == {"Cut", "the", "onion", "it's", "raw"} and found.vector_size == 300
    assert digest == vectors_digest(found)
    assert "2 captions of 2 videos (the training split), 5 words" in note


def test_without_a_split_all_captions_count_and_it_is_said(tmp_path: Path) -> None:
    _, note = freeze_words(tmp_path / "words.kv", CAPTIONS, None, None)
    assert "secret" in load(tmp_path / "words.kv") and "all videos: give --split" in note


def test_vectors_of_a_run_that_never_got_a_data_set_are_made_anew(tmp_path: Path) -> None:
    """A run killed before dataset.json was written may have seen other captions, perhaps held-out ones."""
    more: Any = Given(CAPTIONS.captions | {"ddddddddddd": (Caption(0, 1, "something new"),)})
    freeze_words(tmp_path / "words.kv", more, None, None)
    assert "new" in load(tmp_path / "words.kv").key_to_index
    digest, _ = freeze_words(tmp_path / "words.kv", CAPTIONS, None, None)
    found = load(tmp_path / "words.kv")
    assert "new" not in found.key_to_index and vectors_digest(found) == digest


def test_other_vectors_than_the_frozen_ones_are_refused(tmp_path: Path) -> None:
    digest, _ = freeze_words(tmp_path / "words.kv", CAPTIONS, None, None)
    check_given(tmp_path / "words.kv", digest, tmp_path)
    with pytest.raises(InputError, match=r"words\.kv: not the word vectors that .* was made with"):
        check_given(tmp_path / "words.kv", "0" * 64, tmp_path)


def test_given_vectors_are_taken_as_they_are(tmp_path: Path) -> None:
    given = KeyedVectors(3)
    given.add_vectors(["größe", "b"], np.array([[1, 2, 3], [0.1, 0.2, 0.3]], np.float32))
    given.save_word2vec_format(str(tmp_path / "given.txt"), binary=False)
    digest, note = freeze_words(tmp_path / "out.kv", CAPTIONS, tmp_path / "given.txt", None)
    found = load(tmp_path / "out.kv")
    assert list(found.index_to_key) == ["größe", "b"] and note == ""
    np.testing.assert_array_equal(found.vectors, given.vectors)
    assert digest == vectors_digest(given)


def test_words_of_a_given_file_that_are_passed_over_are_said(tmp_path: Path) -> None:
    given = tmp_path / "given.txt"
    given.write_text("the 1 2 3\nfry 4 5 6\nthe 7 8 9\n")
    digest, note = freeze_words(tmp_path / "out.kv", None, given, None)
    assert note == f"{given}: passed over: 1 (word listed again, its first vector counts)"
    found = load(tmp_path / "out.kv")
    assert list(found.index_to_key) == ["the", "fry"] and found["the"].tolist() == [1, 2, 3]
    assert digest == vectors_digest(found)
    check_given(given, digest, tmp_path)


def test_no_captions_leave_no_vectors_and_say_so(tmp_path: Path, split: Path) -> None:
    for captions, of_split in ((None, None), ({}, None), ({"bbbbbbbbbbb": CAPTIONS.captions["bbbbbbbbbbb"]}, split)):
        given: Any = None if captions is None else Given(captions)
        digest, note = freeze_words(tmp_path / "words.kv", given, None, of_split)
        assert digest == "" and "no captions to train word vectors on" in note
    assert not (tmp_path / "words.kv").exists()


def test_vectors_that_can_not_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "given.bin").write_bytes(b"\x80\x04pickle")
    with pytest.raises(InputError, match=r"given\.bin: a pickle"):
        freeze_words(tmp_path / "words.kv", CAPTIONS, tmp_path / "given.bin", None)
    assert not (tmp_path / "words.kv").exists()
    freeze_words(tmp_path / "words.kv", CAPTIONS, None, None)
    (tmp_path / "words.kv").write_bytes((tmp_path / "words.kv").read_bytes()[:-5])
    with pytest.raises(InputError, match=r"words\.kv"):
        check_given(tmp_path / "words.kv", "", tmp_path)


def test_a_split_is_read(split: Path) -> None:
    assert read_split(split) == {"aaaaaaaaaaa": "train", "bbbbbbbbbbb": "heldout", "ccccccccccc": "train"}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "line 1: no column video_id,split; expected video_id,split"),
        (b"video_id\na\n", "line 1: no column split"),
        (b"video_id,split\na,train\nb,Test\n", "line 3: split must be train or heldout, not 'Test'"),
        (b"video_id,split\na\n", "line 2: expected 2 fields, as in line 1, got 1"),
        (b"video_id,split\n,train\n", "line 2"),
        (b"video_id,split\n\xff,train\n", "line 2: byte 0xff isn't UTF-8"),
    ],
)
def test_a_broken_split_is_refused_with_its_line(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "split.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_split(path)
    assert named in str(refused.value) and str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; expected a csv with video_id,split"):
        read_split(tmp_path / "none.csv")
    with pytest.raises(InputError, match="can't be read"):
        read_split(tmp_path)
