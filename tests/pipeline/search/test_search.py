"""Search from the command line, against brute force over the model's own vectors; every bad input is one line."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.core.files import read_json
from pipeline.download.media import media_path
from pipeline.search.embed import run as embed
from pipeline.search.embeddings import EmbeddingsFile
from pipeline.search.index import make_index, read_description
from pipeline.search.index import run as index
from pipeline.search.search import run
from pipeline.search.settings import EmbedSettings, IndexSettings, SearchSettings, memory_bytes
from pipeline.training.checkpoint import open_trained


@dataclasses.dataclass(frozen=True)
class Made:
    """A model's embeddings, and an index of the video vectors in the space with text."""

    model: Path
    manifest: Path
    embeddings: Path
    index: Path


@pytest.fixture(scope="module")
def made(trained: Any, tmp_path_factory: Any) -> Made:
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(trained.model, folder / "model")
    embed(EmbedSettings(folder / "model", folder / "clips.h5", trained.manifest))
    index(IndexSettings(folder / "clips.h5", folder / "index"))
    return Made(folder / "model", trained.manifest, folder / "clips.h5", folder / "index")


def stored(path: Path, name: str) -> np.ndarray:
    with EmbeddingsFile(path) as file:
        return np.asarray(file.dataset(f"vectors/{name}")[:], np.float64)


def clips(path: Path) -> list[tuple[str, float, float]]:
    with EmbeddingsFile(path) as file:
        found = [file.clip(row) for row in range(file.clips)]
    return [(clip.video_id, clip.start, clip.end) for clip in found]


def places(report: Any) -> list[tuple[str, float, float]]:
    return [(one["video_id"], one["start"], one["end"]) for one in report.detail["found"]]


@pytest.mark.parametrize("query", ["action3", "now action7 again"])
def test_a_text_finds_what_brute_force_finds(made: Made, query: str) -> None:
    report = run(SearchSettings(made.index, query, top=7))
    text = (
        open_trained(made.model, made.manifest).embed_texts([query]).vectors["video-text"]["text"][0].double().numpy()
    )
    scores = stored(made.embeddings, "video-text/video") @ text
    order = np.argsort(-scores, kind="stable")[:7]
    assert places(report) == [clips(made.embeddings)[row] for row in order]
    assert [one["score"] for one in report.detail["found"]] == pytest.approx(scores[order].tolist(), abs=1e-5)
    assert report.complete and report.detail["space"] == "video-text" and not report.notes


def test_like_finds_the_nearest_to_a_clip_without_itself(made: Made) -> None:
    table = clips(made.embeddings)
    # Clips of 4 s that overlap by half: the middle of the second is the nearest to its own middle.
    row = table.index(("heldout0001", 2.0, 6.0))
    report = run(SearchSettings(made.index, like="heldout0001@4.1", top=5))
    vectors = stored(made.embeddings, "video-text/video")
    scores = vectors @ vectors[row]
    scores[row] = -np.inf
    assert places(report) == [table[place] for place in np.argsort(-scores, kind="stable")[:5]]
    assert "heldout0001, 2.0 to 6.0 s" in report.detail["asked"]


def test_like_takes_the_nearest_clip_and_the_half_open_one(made: Made) -> None:
    late = run(SearchSettings(made.index, like="heldout0001@5000", top=1))
    assert "heldout0001, 4.0 to 8.0 s" in late.detail["asked"]
    edge = run(SearchSettings(made.index, like="nocaption01@10", top=1))
    assert "nocaption01, 10.0 to 20.0 s" in edge.detail["asked"]


def test_sound_has_its_own_space_and_lacking_clips_are_counted(made: Made, tmp_path: Path, capsys: Any) -> None:
    report = index(IndexSettings(made.embeddings, tmp_path / "sound", modality="audio"))
    description = read_description(tmp_path / "sound")
    with EmbeddingsFile(made.embeddings) as file:
        lacking = int((~file.present("audio")).sum())
    assert (description.space, description.left_out) == ("video-audio", lacking) and lacking >= 1
    assert f"{lacking} clips have no audio and can't be found" in report.notes
    found = run(SearchSettings(tmp_path / "sound", like="heldout0001@1", top=1000))
    assert "nosound0001" not in {one["video_id"] for one in found.detail["found"]}
    assert len(found.detail["found"]) == description.count - 1
    with pytest.raises(InputError, match="none of its clips has audio"):
        run(SearchSettings(tmp_path / "sound", like="nosound0001@1"))
    with pytest.raises(InputError, match="space video-audio holds no text; use --like"):
        run(SearchSettings(tmp_path / "sound", "action1"))


def test_unknown_words_are_named_and_the_known_ones_searched(made: Made, capsys: Any) -> None:
    report = run(SearchSettings(made.index, "Action3 action3 zzz"))
    assert report.notes == ["unknown word left out: Action3 (did you mean action3?)", "unknown word left out: zzz"]
    assert places(report) == places(run(SearchSettings(made.index, "action3")))
    assert "note: unknown word left out: zzz" in capsys.readouterr().err


def test_words_beyond_the_models_reach_are_named(made: Made) -> None:
    report = run(SearchSettings(made.index, " ".join(["action1"] * 20 + ["action2", "again"])))
    assert report.notes == ["the model reads 20 words, left out: action2 again"]


def lines_of(capsys: Any, *arguments: str) -> tuple[int, list[str]]:
    status = main(["search", *arguments])
    return status, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([""], "the query is empty"),
        (["  "], "the query is empty"),
        ([], "the query is empty"),
        (["?!"], "the query is empty"),
        (["nonsense Actoin3"], "no word that the model knows: nonsense, Actoin3; near ones: action3"),
        (["--like", "heldout0001"], "expected VIDEO@SECONDS"),
        (["--like", "heldout0001@soon"], "expected VIDEO@SECONDS"),
        (["--like", "heldout0001@nan"], "expected VIDEO@SECONDS"),
        (["--like", "nobody00001@3"], "holds no such video"),
        (["action1", "--like", "heldout0001@3"], "not both"),
        (["action1", "--top", "0"], "top must be 1 to 1000"),
        (["action1", "--media", "m"], "--media goes with --thumbnails"),
        (["action1", "--checkpoint", "nowhere.pt"], "nowhere.pt: no such file or folder (--checkpoint: "),
        (["action1", "--embeddings", "nowhere.h5"], "no such file"),
    ],
)
def test_bad_input_is_one_line(made: Made, capsys: Any, arguments: list[str], said: str) -> None:
    capsys.readouterr()
    status, lines = lines_of(capsys, str(made.index), *arguments)
    assert status == 2 and len(lines) == 1 and said in lines[0]


def test_an_index_of_another_checkpoint_is_refused(made: Made, tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "other.pt"
    shutil.copy(made.model / "checkpoint.pt", other)
    with open(other, "ab") as file:
        file.write(b"x")
    for query in (["action1"], ["--like", "heldout0001@1"]):
        status, lines = lines_of(capsys, str(made.index), *query, "--checkpoint", str(other))
        assert status == 2 and len(lines) == 1 and "an index of another checkpoint than" in lines[0]


def test_no_index_a_changed_one_and_other_embeddings_are_one_line(
    made: Made, tmp_path: Path, capsys: Any, make_embeddings: Callable[..., Path]
) -> None:
    capsys.readouterr()
    assert "no index (it has no index.json)" in lines_of(capsys, str(tmp_path), "action1")[1][0]
    shutil.copytree(made.index, tmp_path / "index")
    (tmp_path / "index" / "vectors.faiss").write_bytes(b"short")
    assert "of another size than it was written" in lines_of(capsys, str(tmp_path / "index"), "action1")[1][0]
    another = make_embeddings(tmp_path / "another.h5", np.ones((30, 8), np.float16))
    status, lines = lines_of(capsys, str(made.index), "action1", "--embeddings", str(another))
    assert status == 2 and len(lines) == 1 and "not the embeddings that" in lines[0]


def test_a_score_that_is_no_number_is_told(tmp_path: Path, make_embeddings: Callable[..., Path], capsys: Any) -> None:
    """What a disk may do to a file after it was indexed."""
    vectors = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float16)
    path = make_embeddings(tmp_path / "clips.h5", vectors)
    with EmbeddingsFile(path) as file:
        make_index(file, tmp_path / "index", "made", "video", 1 << 30, 1 << 30, lambda text: None)
        offset = file.dataset("vectors/made/video").id.get_offset()
    with open(path, "r+b") as raw:
        raw.seek(offset + 4 * 16)
        raw.write(np.float16(np.nan).tobytes())
    status, lines = lines_of(capsys, str(tmp_path / "index"), "--like", "v00001p1@1")
    assert status == 2 and len(lines) == 1 and "clip 4 has NaN or infinity in its vector" in lines[0]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("row", "names clip 4611686018427387904, "),
        ("width", "an index of width 5, expected 8 and inner products"),
        ("metric", "expected 8 and inner products"),
        ("space", "holds no video in space other, of which"),
        ("plan", "no index of this program"),
        ("path", "no index of this program"),
    ],
)
def test_an_index_that_someone_else_made_is_one_line(
    tmp_path: Path, make_embeddings: Callable[..., Path], capsys: Any, fault: str, said: str
) -> None:
    import faiss

    path = make_embeddings(tmp_path / "clips.h5", np.random.default_rng(0).normal(size=(30, 8)).astype(np.float16))
    folder = tmp_path / "index"
    with EmbeddingsFile(path) as file:
        make_index(file, folder, "made", "video", 1 << 30, 1 << 30, lambda text: None)
    description = read_json(folder / "index.json")
    if fault in ("row", "width", "metric"):
        width = 5 if fault == "width" else 8
        flat = faiss.IndexFlatL2(width) if fault == "metric" else faiss.IndexFlatIP(width)
        foreign = faiss.IndexIDMap2(flat)
        rows = np.array([1, 1 << 62 if fault == "row" else 2])
        foreign.add_with_ids(np.ones((2, width), np.float32), rows)
        faiss.write_index(foreign, str(folder / "vectors.faiss"))
        description["bytes"] = (folder / "vectors.faiss").stat().st_size
    elif fault == "space":
        description["space"] = "other"
    elif fault == "plan":
        description["plan"]["depth"] = "deep"
    else:
        description["embeddings"]["path"] = ["clips.h5"]
    (folder / "index.json").write_text(json.dumps(description))
    status, lines = lines_of(capsys, str(folder), "--like", "v00001p1@1")
    assert status == 2 and len(lines) == 1 and said in lines[0]


def test_moved_together_it_is_found_by_its_relative_path(made: Made, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(made.index, tmp_path / "index")
    shutil.copy(made.embeddings, tmp_path / "clips.h5")
    description = read_json(tmp_path / "index" / "index.json")
    description["embeddings"]["path"] = str(tmp_path / "gone.h5")
    (tmp_path / "index" / "index.json").write_text(json.dumps(description))
    assert run(SearchSettings(tmp_path / "index", like="heldout0001@1")).complete
    (tmp_path / "clips.h5").unlink()
    with pytest.raises(InputError, match="gone.h5: gone, .* --embeddings"):
        run(SearchSettings(tmp_path / "index", like="heldout0001@1"))


def test_the_same_index_is_skipped_and_another_refused(made: Made, monkeypatch: Any) -> None:
    before = (made.index / "index.json").stat().st_mtime_ns
    report = index(IndexSettings(made.embeddings, made.index))
    assert report.done == 0 and report.skipped == read_description(made.index).count
    with pytest.raises(InputError, match="holds an index of .*, space video-text, video, 1024 MiB; delete it"):
        index(IndexSettings(made.embeddings, made.index, memory="2GiB"))
    assert (made.index / "index.json").stat().st_mtime_ns == before


def test_an_index_that_was_killed_before_its_description_is_made_anew(made: Made, tmp_path: Path) -> None:
    (tmp_path / "vectors.faiss").write_bytes(b"of a killed run")
    (tmp_path / ".vectors.faiss.1234.aside").write_bytes(b"half")
    assert index(IndexSettings(made.embeddings, tmp_path)).complete
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", "vectors.faiss"]
    assert (tmp_path / "vectors.faiss").read_bytes() == (made.index / "vectors.faiss").read_bytes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"space": "video-txt"}, "no space 'video-txt'; did you mean 'video-text'"),
        ({"space": "video-text", "modality": "audio"}, "space video-text holds no audio, but video-audio does"),
        ({"modality": "smell"}, "no modality 'smell'"),
    ],
)
def test_unknown_spaces_and_modalities_are_named(made: Made, tmp_path: Path, settings: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        index(IndexSettings(made.embeddings, tmp_path / "i", **settings))


def test_memory_is_read_in_its_units() -> None:
    assert memory_bytes("800000KB") == 800_000_000
    assert (
        memory_bytes("1GiB") == 1 << 30 and memory_bytes("800 MiB") == 800 << 20 and memory_bytes("1.5GB") == 15 * 10**8
    )
    for wrong in ("1", "much", "10MiB", "nanGiB", "infGiB", "-1GiB"):
        with pytest.raises(ValueError, match="memory"):
            memory_bytes(wrong)


def test_pictures_are_of_the_clips_middle_where_media_are(made: Made, tmp_path: Path) -> None:
    """Each second of the film has a grey of its own."""
    path = media_path(tmp_path / "media", "heldout0001")
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for frame in range(80):
            image = np.full((240, 320, 3), 20 + 25 * (frame // 10), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    settings = SearchSettings(made.index, "action3", top=1000, thumbnails=tmp_path / "shown", media=tmp_path / "media")
    report = run(settings)
    shown = [one for one in report.detail["found"] if "thumbnail" in one]
    assert sorted((one["start"], one["end"]) for one in shown) == [(0, 4), (2, 6), (4, 8)]
    for one in shown:
        grey = np.asarray(Image.open(one["thumbnail"]).convert("L")).mean()
        assert grey == pytest.approx(20 + 25 * ((one["start"] + one["end"]) // 2), abs=6)
    assert f"{len(report.detail['found']) - 3} clips have no thumbnail" in report.notes[-1]
    with pytest.raises(InputError, match="no such folder"):
        run(dataclasses.replace(settings, media=tmp_path / "nowhere"))


def test_json_holds_what_the_table_shows(made: Made, capsys: Any) -> None:
    capsys.readouterr()
    run(SearchSettings(made.index, "action3", top=3))
    table = capsys.readouterr().out.splitlines()
    run(SearchSettings(made.index, "action3", top=3, json=True))
    found = json.loads(capsys.readouterr().out)["found"]
    assert len(found) == 3 and len(table) == 5
    for line, one in zip(table[2:], found, strict=True):
        score, video_id, start, end, *caption = line.split()
        assert (video_id, float(start), float(end)) == (one["video_id"], one["start"], one["end"])
        assert float(score) == pytest.approx(one["score"], abs=1e-4) and " ".join(caption) == one["caption"]


def test_inspect_knows_embeddings_and_index(made: Made, capsys: Any) -> None:
    for path, kind in ((made.embeddings, "embeddings"), (made.index, "index")):
        capsys.readouterr()
        assert main(["inspect", str(path), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["kind"] == kind
    assert facts["count"] == read_description(made.index).count
