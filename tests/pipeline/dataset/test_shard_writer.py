"""Parts and shards, against a reader written from docs/data-format.md alone."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.core.files import AlreadyThereError
from pipeline.core.records import VideoFeatures
from pipeline.dataset.shard_check import verify
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.dataset.shard_writer import Origin, to_float16, write_part, write_shard

MakeVideo = Callable[..., VideoFeatures]
STREAMS = {"resnet152": 6, "efficientnet-lite0": 3}


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    names: list[str] = []
    file.visit(names.append)
    return {name: file[name] for name in names if isinstance(file[name], h5py.Dataset)}


def read_by_the_page(path: Path) -> dict[str, dict[str, Any]]:
    """Every video of a shard by its id, by what docs/data-format.md says and nothing else."""
    with h5py.File(path, "r") as file:
        offsets, text = file["words/offsets"][:], file["words/text"][:].tobytes()
        table = [text[a:b].decode("utf-8") for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
        assert table == sorted(set(table))
        streams = json.loads(file.attrs["identity"])["streams"]
        videos: dict[str, dict[str, Any]] = {}
        for n, video_id in enumerate(file["videos/id"][:]):

            def span(index: str, n: int = n) -> slice:
                return slice(*file[index][n : n + 2].tolist())

            rows, sound, captions = span("rows/offsets"), span("audio/offsets"), span("captions/offsets")
            texts, lines = [], []
            for c in range(captions.start, captions.stop):
                texts.append(file["captions/text"][span("captions/text_offsets", c)].tobytes().decode("utf-8"))
                lines.append([table[i] for i in file["captions/words"][span("captions/word_offsets", c)]])
            videos[video_id.rstrip(b"\0").decode("ascii")] = {
                "duration": file["videos/duration"][n],
                "logmel_start": file["videos/logmel_start"][n],
                "decoder": file["videos/decoder"][n],
                "video_mask": file["rows/video_mask"][rows],
                **{stream: file[f"rows/{stream}"][rows] for stream in streams},
                "audio_mask": file["audio/mask"][sound],
                "davenet": file["audio/davenet"][sound],
                "logmel": file["logmel/frames"][span("logmel/offsets")],
                "times": file["captions/times"][captions],
                "texts": texts,
                "lines": lines,
                "digests": {name: file[f"digests/{name}"][n].tobytes() for name in file["digests"]},
            }
    return videos


def digests_by_the_page(video: dict[str, Any]) -> dict[str, bytes]:
    of_bytes = {
        name: video[name].tobytes()
        for name in ("duration", "logmel_start", "video_mask", *STREAMS, "audio_mask", "davenet", "logmel", "times")
    }
    of_bytes["decoder"] = video["decoder"].rstrip(b"\0")
    of_bytes["id"] = video["id"].encode("ascii")
    texts = [text.encode("utf-8") for text in video["texts"]]
    of_bytes["text"] = b"".join(texts)
    of_bytes["text_lengths"] = b"".join(len(text).to_bytes(8, "little") for text in texts)
    of_bytes["words"] = b"".join(
        b"".join(word.encode("utf-8") + b"\0" for word in line) + b"\0" for line in video["lines"]
    )
    return {name: hashlib.sha256(value).digest() for name, value in of_bytes.items()}


@pytest.fixture
def videos(make_video: MakeVideo) -> list[VideoFeatures]:
    """Without sound; without captions; with masked rows and words beyond ASCII."""
    return [
        make_video("silent-vid_", [(0.0, 1.5, "pour it"), (1.0, 2.0, "now pour")], 3.2, 1, STREAMS, sound=False),
        make_video("no-captions", (), 2.0, 2, STREAMS),
        make_video("masked-rows", [(0.25, 4.0, "größe 日本 l'été"), (4.0, 4.5, "🍲")], 5.0, 3, STREAMS, masked=(0, 3)),
    ]


@pytest.fixture
def identity(make_identity: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return make_identity(STREAMS)


@pytest.fixture
def parts(tmp_path: Path, videos: list[VideoFeatures], identity: dict[str, Any]) -> list[Path]:
    paths = [tmp_path / "parts" / f"{video.video_id}.h5" for video in videos]
    for path, video in zip(paths, videos, strict=True):
        write_part(path, video, Origin("000007", identity, {"host": "here"}))
    return paths


@pytest.fixture
def shard(tmp_path: Path, parts: list[Path], identity: dict[str, Any]) -> Path:
    path = tmp_path / "shards" / "000007.h5"
    write_shard(path, parts, Origin("000007", identity, {"host": "there"}, "plan's digest"))
    return path


def test_a_reader_written_from_the_page_finds_every_value(shard: Path, videos: list[VideoFeatures]) -> None:
    found = read_by_the_page(shard)
    assert list(found) == [video.video_id for video in videos]
    for video, read in zip(videos, found.values(), strict=True):
        assert read["duration"] == video.duration and read["logmel_start"] == video.logmel_start
        assert read["decoder"].decode() == video.decoder
        assert video.audio is not None and video.logmel is not None
        wanted = {**video.video, "davenet": video.audio, "logmel": video.logmel}
        wanted |= {"video_mask": video.video_mask.astype("u1"), "audio_mask": video.audio_mask.astype("u1")}
        for name, values in wanted.items():
            assert read[name].dtype == values.dtype, name
            np.testing.assert_array_equal(read[name], values, err_msg=name)
        assert read["times"].tolist() == [[caption.start, caption.end] for caption in video.captions]
        assert read["texts"] == [caption.text for caption in video.captions]
        assert read["lines"] == [caption.text.split() for caption in video.captions]
    assert found["silent-vid_"]["audio_mask"].tolist() == [0] * 4 and not len(found["silent-vid_"]["logmel"])
    assert found["masked-rows"]["video_mask"].tolist() == [0, 1, 1, 0, 1]


def test_digests_are_those_of_the_page(shard: Path) -> None:
    for video_id, video in read_by_the_page(shard).items():
        assert video["digests"] == digests_by_the_page(video | {"id": video_id})


def test_content_digest_and_seal_are_those_of_the_page(shard: Path) -> None:
    with h5py.File(shard, "r") as file:
        content = hashlib.sha256()
        for name in sorted(file["digests"]):
            content.update(name.encode() + b"\0" + file[f"digests/{name}"][:].tobytes())
        stated = {name: str(file.attrs[name]) for name in file.attrs if name != "digest"}
        assert len(stated) == 6 and stated["schema"] == "1"
        text = json.dumps(stated | {"content": content.hexdigest()}, sort_keys=True, separators=(",", ":"))
        assert file.attrs["digest"] == hashlib.sha256(text.encode()).hexdigest()
    with FeatureFile(shard) as own:
        assert own.content_digest() == content.hexdigest() and own.is_sealed()


def test_words_of_a_video_that_is_left_out_go_with_it(
    tmp_path: Path, shard: Path, videos: list[VideoFeatures], identity: dict[str, Any]
) -> None:
    path = tmp_path / "less.h5"
    write_shard(path, [shard], Origin("000008", identity, {}, "another plan's digest"), without={"masked-rows"})
    kept = {word for video in videos[:2] for caption in video.captions for word in caption.text.split()}
    with FeatureFile(path) as file:
        assert file.video_ids == ["silent-vid_", "no-captions"] and set(file.table()) == kept
    assert "größe".encode() in shard.read_bytes() and "größe".encode() not in path.read_bytes()


def test_attributes_types_and_layout_are_those_of_the_page(
    shard: Path, parts: list[Path], identity: dict[str, Any]
) -> None:
    for path, kind, plan in ((shard, "shard", "plan's digest"), (parts[0], "part", "")):
        with h5py.File(path, "r") as file:
            assert (file.attrs["schema"], file.attrs["kind"], file.attrs["name"]) == (1, kind, "000007")
            assert file.attrs["schema"].dtype == np.dtype("<i8")
            assert json.loads(file.attrs["identity"]) == identity and file.attrs["plan"] == plan
            assert json.loads(file.attrs["circumstance"])["host"] in ("here", "there")
            found = datasets(file)
            dtypes = {name: dataset.dtype.str for name, dataset in found.items() if "digests/" not in name}
            indices = [name for name in dtypes if name.endswith("offsets")]
            assert len(indices) == 7 and {dtypes[name] for name in indices} == {"<i8"}
            assert {dtypes[f"rows/{stream}"] for stream in STREAMS} == {"<f2"}
            assert dtypes["audio/davenet"] == dtypes["logmel/frames"] == "<f2"
            assert dtypes["videos/duration"] == dtypes["videos/logmel_start"] == dtypes["captions/times"] == "<f8"
            assert dtypes["captions/words"] == "<i4" and dtypes["videos/id"].startswith("|S")
            assert dtypes["rows/video_mask"] == dtypes["audio/mask"] == dtypes["captions/text"] == "|u1"
            for name, dataset in found.items():
                assert dataset.chunks is None and dataset.id.get_create_plist().get_nfilters() == 0, name
                assert dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS, name
                assert "digests/" not in name or dataset.dtype.itemsize == 32


def test_own_reader_gives_back_what_was_written(shard: Path, videos: list[VideoFeatures]) -> None:
    with FeatureFile(shard) as file:
        assert file.plan == "plan's digest" and file.provenance == {"host": "there"}
        for wanted, found in zip(videos, file.videos(), strict=True):
            assert found.captions == wanted.captions and found.decoder == wanted.decoder
            assert [found.words.of_caption(n) for n in range(len(found.captions))] == [
                wanted.words.of_caption(n) for n in range(len(wanted.captions))
            ]
            for stream in STREAMS:
                np.testing.assert_array_equal(found.video[stream], wanted.video[stream])
        lean = file.video(2, streams=("efficientnet-lite0",), audio=False, logmel=False)
        assert list(lean.video) == ["efficientnet-lite0"] and lean.audio is None and lean.logmel is None


def contents(path: Path) -> dict[str, bytes]:
    with h5py.File(path, "r") as file:
        return {name: dataset[()].tobytes() for name, dataset in datasets(file).items()}


def test_a_shard_does_not_depend_on_the_order_in_which_its_parts_were_made(
    tmp_path: Path, shard: Path, videos: list[VideoFeatures], identity: dict[str, Any]
) -> None:
    folder = tmp_path / "later"
    for video in reversed(videos):
        write_part(folder / f"{video.video_id}.h5", video, Origin("000007", identity, {"host": "elsewhere"}))
    again = tmp_path / "again.h5"
    write_shard(
        again, [folder / f"{v.video_id}.h5" for v in videos], Origin("000007", identity, {"time": "later"}, "p")
    )
    assert contents(again) == contents(shard)


def test_a_flipped_byte_is_found_in_every_dataset(shard: Path) -> None:
    assert verify(shard) == []
    with h5py.File(shard, "r") as file:
        places = {name: (dataset.id.get_offset(), dataset.nbytes) for name, dataset in datasets(file).items()}
    assert len(places) > 25
    whole = shard.read_bytes()
    for name, (offset, size) in places.items():
        for place, flip in ((0, 1), (size // 2, 0x80), (size - 1, 2)):
            broken = bytearray(whole)
            broken[offset + place] ^= flip
            shard.write_bytes(broken)
            assert verify(shard), f"{name} byte {place} xor {flip}"


@pytest.mark.parametrize("kept", [0, 100, 0.5, -1])
def test_a_truncated_file_is_found(shard: Path, kept: float) -> None:
    size = shard.stat().st_size
    os.truncate(shard, int(size * kept) if 0 < kept < 1 else int(kept) % size)
    (problem,) = verify(shard)
    assert str(shard) in problem and "\n" not in problem
    with pytest.raises(InputError, match="mcn verify DATASET --repair"):
        _ = FeatureFile(shard).video_ids


def test_missing_datasets_files_and_other_schemas_are_named(tmp_path: Path, shard: Path) -> None:
    assert "no such file" in verify(tmp_path / "none.h5")[0]
    with h5py.File(shard, "r+") as file:
        del file["digests/logmel"]
    assert "digests/logmel is missing" in verify(shard)[0]
    with h5py.File(shard, "r+") as file:
        file.attrs["schema"] = 2
    reader = FeatureFile(shard)
    for _ in range(2):
        with pytest.raises(InputError, match="schema 2, this program reads 1"):
            _ = reader.identity


def test_values_that_fit_no_half_are_refused() -> None:
    kept = np.array([-65504.0, 0.1, 65504.0], np.float32)
    assert to_float16(kept, "rows").tolist() == kept.astype(np.float16).tolist()
    for bad in (np.nan, np.inf, -np.inf, 65505.0, -65519.0, 1e30):
        with pytest.raises(ValueError, match="^resnet152: .*65,504"):
            to_float16(np.array([1.0, bad], np.float32), "resnet152")
    assert to_float16(np.zeros((0, 5), np.float32), "empty").shape == (0, 5)


@pytest.mark.parametrize("where", ["resnet152", "davenet", "logmel"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nothing_infinite_is_ever_written(
    tmp_path: Path, videos: list[VideoFeatures], identity: dict[str, Any], where: str, value: float
) -> None:
    video = videos[1]
    array = {**video.video, "davenet": video.audio, "logmel": video.logmel}[where]
    assert array is not None
    array[1, 2] = value
    with pytest.raises(OSError, match=f"{where} of video no-captions holds NaN or infinity"):
        write_part(tmp_path / "part.h5", video, Origin("000000", identity, {}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("calls", [0, 1, 20, 28])
def test_a_kill_while_writing_leaves_no_shard(
    tmp_path: Path, parts: list[Path], identity: dict[str, Any], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    seen = 0
    write = h5py.Dataset.__setitem__

    def killed(self: h5py.Dataset, place: Any, values: Any) -> None:
        nonlocal seen
        if seen == calls:
            raise KeyboardInterrupt
        seen += 1
        write(self, place, values)

    monkeypatch.setattr(h5py.Dataset, "__setitem__", killed)
    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "shards" / "000000.h5", parts, Origin("000000", identity, {}))
    assert list((tmp_path / "shards").iterdir()) == [] and all(verify(part) == [] for part in parts)


def test_a_shard_that_is_closed_is_never_replaced(
    tmp_path: Path, shard: Path, parts: list[Path], identity: dict[str, Any]
) -> None:
    """Two workers may come to close one: that which comes later keeps what is there."""
    before = (shard.read_bytes(), shard.stat().st_ino)
    with pytest.raises(AlreadyThereError):
        write_shard(shard, parts[:1], Origin("000007", identity, {}, "plan's digest"))
    assert (shard.read_bytes(), shard.stat().st_ino) == before and list(shard.parent.iterdir()) == [shard]


def test_a_part_is_replaced_only_where_that_is_asked_for(
    parts: list[Path], videos: list[VideoFeatures], identity: dict[str, Any]
) -> None:
    before, origin = parts[0].read_bytes(), Origin("000007", identity, {"host": "elsewhere"})
    with pytest.raises(AlreadyThereError):
        write_part(parts[0], videos[0], origin, replace=False)
    assert parts[0].read_bytes() == before
    write_part(parts[0], videos[0], origin)
    assert parts[0].read_bytes() != before and verify(parts[0]) == []


def test_parts_of_another_identity_are_refused(tmp_path: Path, parts: list[Path], identity: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="made with other settings"):
        write_shard(tmp_path / "shard.h5", parts, Origin("000000", identity | {"frame_size": "64x64"}, {}))


@pytest.mark.parametrize(
    ("store", "rate"), [("logmel", "rows"), ("davenet", "rows"), ("davenet", "native"), ("both", "native")]
)
def test_what_is_not_stored_is_not_there(
    tmp_path: Path,
    videos: list[VideoFeatures],
    make_identity: Callable[..., dict[str, Any]],
    store: str,
    rate: str,
) -> None:
    video = videos[2]
    assert video.audio is not None
    if rate == "native":
        video = dataclasses.replace(video, audio=np.tile(video.audio, (6, 1)), audio_mask=np.ones(30, bool))
    if store == "logmel":
        video = dataclasses.replace(video, audio=None)
    if store == "davenet":
        video = dataclasses.replace(video, logmel=None)
    origin = Origin("000000", make_identity(STREAMS, store=store, rate=rate), {})
    write_part(tmp_path / "part.h5", video, origin)
    write_shard(tmp_path / "shard.h5", [tmp_path / "part.h5"], origin)
    assert verify(tmp_path / "shard.h5") == []
    with h5py.File(tmp_path / "shard.h5") as file:
        assert ("davenet" in file["audio"]) == (store != "logmel") and (store != "davenet") == bool(
            len(file["logmel/frames"])
        )
        assert len(file["audio/mask"]) == (30 if rate == "native" else 5)
    with FeatureFile(tmp_path / "shard.h5") as reader:
        (read,) = reader.videos()
    assert read.audio_rate == rate and (read.audio is None) == (store == "logmel")


def test_a_shard_whose_videos_all_failed_is_empty_and_whole(tmp_path: Path, identity: dict[str, Any]) -> None:
    write_shard(tmp_path / "000000.h5", [], Origin("000000", identity, {}, "digest"))
    assert verify(tmp_path / "000000.h5") == []
    with FeatureFile(tmp_path / "000000.h5") as file:
        assert file.video_ids == [] and file.table() == ()


def test_a_reader_opens_anew_in_another_process_and_after_pickling(shard: Path, tmp_path: Path) -> None:
    import pickle

    with FeatureFile(shard) as file:
        ids = file.video_ids
        copied = pickle.loads(pickle.dumps(file))
        assert copied._file is None and copied.video_ids == ids
        copied.close()
        file._process = -1  # as a forked child sees it
        before = file._file
        assert file.video_ids == ids and file._file is not before
    shutil.copy(shard, tmp_path / "copy.h5")
    assert verify(tmp_path / "copy.h5") == []
