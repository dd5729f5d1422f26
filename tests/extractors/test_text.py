"""Words by the published rule; vectors that repeat, in files that can't run code."""

import gzip
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors

from extractors.errors import WeightsError
from extractors.text import train_vectors, vectors_digest, words
from extractors.word_vector_file import BEYOND, EMPTY, NOT_UTF8, REPEATED, WITH_SPACES, load_vectors, save_vectors

SENTENCES = [
    f"cut the {food} and {verb} it in a pan".split() for food in ("onion", "egg", "leek") for verb in ("fry", "stir")
]

IN_ANOTHER_PROCESS = """
from extractors.text import train_vectors, vectors_digest
sentences = [f"cut the {food} and {verb} it in a pan".split()
             for food in ("onion", "egg", "leek") for verb in ("fry", "stir")]
print(vectors_digest(train_vectors(sentences, width=24, seed=3)))
"""


@pytest.fixture(scope="module")
def vectors() -> KeyedVectors:
    return train_vectors(SENTENCES, width=24, seed=3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("don't over-mix the Batter!", ["don't", "over", "mix", "the", "Batter"]),
        ("add 2.5 cups_of", ["add", "2", "5", "cups_of"]),
        ("crème brûlée — 500°", ["crème", "brûlée", "500"]),
        ("'tis a 'test'", ["'tis", "a", "'test'"]),
        (" \n\t.,;", []),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_every_word_has_a_vector(vectors):
    assert set(vectors.index_to_key) == {word for sentence in SENTENCES for word in sentence}
    assert vectors.vectors.shape == (len(vectors), 24)
    assert vectors.vectors.dtype == np.float32
    assert np.isfinite(vectors.vectors).all()


def test_training_learns_from_company():
    random = np.random.default_rng(0)
    kinds = [[f"kitchen{n}" for n in range(30)], [f"workshop{n}" for n in range(30)]]
    sentences = [list(random.choice(kinds[n % 2], 8)) for n in range(1500)]
    trained = train_vectors(sentences, width=16)
    similar = [trained.similarity("kitchen0", word) for word in kinds[0][1:]]
    strange = [trained.similarity("kitchen0", word) for word in kinds[1]]
    assert min(similar) > max(strange) + 0.3


def test_another_process_gives_the_same_bits(vectors):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": str(root)}
    run = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == vectors_digest(vectors)


def test_the_seed_counts(vectors):
    assert vectors_digest(train_vectors(SENTENCES, width=24, seed=4)) != vectors_digest(vectors)


def test_rare_words_go():
    trained = train_vectors([*SENTENCES, ["salt", "egg"]], width=8, min_count=2, epochs=1)
    assert "egg" in trained
    assert "salt" not in trained


@pytest.mark.parametrize(("sentences", "min_count"), [([], 1), ([[], []], 1)])
def test_no_words_no_vectors(sentences, min_count):
    with pytest.raises(ValueError, match="word vectors need captions"):
        train_vectors(sentences, width=8, min_count=min_count)


def test_saved_vectors_come_back_to_the_bit(vectors, tmp_path):
    path = tmp_path / "words.kv"
    save_vectors(vectors, path)
    loaded = load_vectors(path)
    assert loaded.index_to_key == vectors.index_to_key
    np.testing.assert_array_equal(loaded.vectors, vectors.vectors)
    assert vectors_digest(loaded) == vectors_digest(vectors)
    assert [entry.name for entry in tmp_path.iterdir()] == ["words.kv"]


def test_a_failed_write_leaves_what_was_there(vectors, tmp_path, monkeypatch):
    path = tmp_path / "words.kv"
    path.write_bytes(b"before")

    def fail(name, binary):
        Path(name).write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr(vectors, "save_word2vec_format", fail)
    with pytest.raises(OSError, match="no space"):
        save_vectors(vectors, path)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("words.kv", b"before")]


@pytest.mark.parametrize("name", ["vectors.txt", "vectors.vec", "vectors.txt.gz"])
def test_text_files(tmp_path, name):
    content = b"2 3\nEgg 1 2 3\npan -0.5 0 4e-1\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    loaded = load_vectors(tmp_path / name)
    assert loaded.index_to_key == ["Egg", "pan"]
    np.testing.assert_array_equal(loaded.vectors, np.array([[1, 2, 3], [-0.5, 0, 0.4]], dtype=np.float32))


def test_of_a_word_listed_twice_the_first_vector_counts_and_is_counted(tmp_path, caplog):
    rows = np.arange(12, dtype="<f4").reshape(4, 3)
    names = [b"the", b"fry", b"the", b"onion"]
    binary = b"4 3\n" + b"".join(name + b" " + row.tobytes() + b"\n" for name, row in zip(names, rows, strict=True))
    lines = b"".join(b"%s %d %d %d\n" % (name, *row) for name, row in zip(names, rows, strict=True))
    for name, content in (
        ("a.bin", binary),
        ("a.txt", b"4 3\n" + lines),
        ("a.vec", lines),
        ("b.bin", gzip.compress(binary)),
    ):
        (tmp_path / name).write_bytes(content)
        left_out = Counter()
        loaded = load_vectors(tmp_path / name, left_out)
        assert loaded.index_to_key == ["the", "fry", "onion"] and +left_out == {REPEATED: 1}
        np.testing.assert_array_equal(loaded.vectors, rows[[0, 1, 3]])
        save_vectors(loaded, tmp_path / "words.kv")
        assert vectors_digest(load_vectors(tmp_path / "words.kv")) == vectors_digest(loaded)
    assert not caplog.records


def test_text_without_a_header_is_read_as_gensim_reads_it(tmp_path):
    values = np.random.default_rng(0).normal(size=(9000, 5))
    lines = [f"w{number} {' '.join(map(repr, row.tolist()))}" for number, row in enumerate(values)]
    (tmp_path / "glove.txt").write_text("\n".join(lines) + "\n")
    loaded = load_vectors(tmp_path / "glove.txt")
    wanted = KeyedVectors.load_word2vec_format(str(tmp_path / "glove.txt"), no_header=True)
    assert loaded.index_to_key == wanted.index_to_key
    np.testing.assert_array_equal(loaded.vectors, wanted.vectors)


def test_what_no_caption_can_hold_is_left_out_and_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"the 1 2\n. . . 3 4\nat name@domain.com 5 6\n\xff\xfe 7 8\nfry 9 0 \n")
    left_out = Counter()
    loaded = load_vectors(tmp_path / "a.txt", left_out)
    assert loaded.index_to_key == ["the", "fry"] and loaded["fry"].tolist() == [9, 0]
    assert +left_out == {WITH_SPACES: 2, NOT_UTF8: 1}
    (tmp_path / "c.txt").write_bytes(b"the 1 2\n\nfry 3 4\r\n \n")
    left_out.clear()
    assert load_vectors(tmp_path / "c.txt", left_out).index_to_key == ["the", "fry"] and +left_out == {EMPTY: 2}
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf1 2\nthe 1 2\nfry 3 4\n")
    left_out.clear()
    assert load_vectors(tmp_path / "b.txt", left_out).index_to_key == ["the"] and +left_out == {BEYOND: 1}


def test_compressed_binary(vectors, tmp_path):
    save_vectors(vectors, tmp_path / "plain.bin")
    (tmp_path / "packed.bin.gz").write_bytes(gzip.compress((tmp_path / "plain.bin").read_bytes()))
    assert vectors_digest(load_vectors(tmp_path / "packed.bin.gz")) == vectors_digest(vectors)


def test_the_digest_sees_words_order_and_values():
    def digest(names, values):
        keyed = KeyedVectors(2)
        keyed.add_vectors(names, np.array(values, dtype=np.float32))
        return vectors_digest(keyed)

    base = digest(["a", "b"], [[1, 2], [3, 4]])
    others = [
        digest(["a", "c"], [[1, 2], [3, 4]]),
        digest(["b", "a"], [[3, 4], [1, 2]]),
        digest(["a", "b"], [[1, 2], [3, 5]]),
    ]
    assert len({base, *others}) == 4
    assert base == digest(["a", "b"], [[1, 2], [3, 4]])


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_unread(tmp_path):
    (tmp_path / "words.kv").write_bytes(pickle.dumps(RunsCode(tmp_path / "ran")))
    with pytest.raises(WeightsError, match="a pickle, which can run code"):
        load_vectors(tmp_path / "words.kv")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bin", b"", "first line is not"),
        ("a.bin", b"<html>not found</html>", "first line is not"),
        ("a.bin", b"900000000 300\nx", "promises 900000000 words"),
        ("a.bin", b"3 0\n", "promises 3 words of 0"),
        ("a.txt", b"2 3\nEgg 1 2 3\n", "promises|not a word2vec file"),
        ("a.txt", b"1 3\nEgg 1 two 3\n", "line 2: expected 3 numbers after the word, got 'two'"),
        ("a.txt", b"1 3\nEgg 1 nan 3\n", "line 2: NaN or infinity in the vector of 'Egg'"),
        ("a.vec", b"Egg 1 2 3\npan 1 inf 3\n", "line 2: NaN or infinity in the vector of 'pan'"),
        ("a.bin", b"2 1\na \0\0\0\0b \0\0\x80\x7f", "word 2: NaN or infinity in the vector of 'b'"),
        ("a.vec", b"Egg 1 2 3\npan 1 2\n", "line 2: expected 3 numbers after the word, got 2 of them"),
        ("a.vec", b"Egg 1\npan 1 2 3\nfry 1 2 3\n", "most lines have more numbers than the first line tells"),
        ("a.vec", b"<html>\n", "first line is not NUMBER-OF-WORDS WIDTH, nor a word and its numbers"),
        ("a.bin.gz", b"no gzip", "first line is not"),
        ("a.bin", b"2 3\nthe 0.1 0.2 0.3\nof -0.4 5e-05 0.6\n", "its numbers are text; name it .txt"),
        ("a.vec", b"Egg\t1 2 3\n", "its first line has tabs"),
        ("a.vec", b"Egg 1 2 3\n\npan 1 1e39 3\n", "line 3: NaN or infinity in the vector of 'pan'"),
        ("a.npy", b"", "word vectors end in"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_broken_files_get_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        load_vectors(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_cut_short(vectors, tmp_path):
    save_vectors(vectors, tmp_path / "whole.bin")
    whole = (tmp_path / "whole.bin").read_bytes()
    (tmp_path / "torn.bin").write_bytes(whole[:-10])
    with pytest.raises(WeightsError, match="torn.bin"):
        load_vectors(tmp_path / "torn.bin")


def test_a_missing_file(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere.bin: word vectors can't be read: No such file"):
        load_vectors(tmp_path / "nowhere.bin")
