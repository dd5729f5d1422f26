"""Settings at addresses: copies that are checked, fetched once, and what is refused before anything is fetched."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.dataset.addresses import copy_of, with_copies
from pipeline.dataset.manifest import read_manifest
from pipeline.extraction.settings import ExtractSettings
from pipeline.tools.settings import VerifySettings
from pipeline.training.settings import TrainSettings

from ...loopback_store import spoilt


@pytest.fixture
def dataset(make_dataset: Callable[..., Path], make_video: Callable[..., Any], tmp_path: Path) -> Path:
    """Three shards, with a manifest `all`."""
    videos = [make_video(f"video-0000{number}", [(0.0, 2.0, "fry it")], seed=number) for number in range(6)]
    return make_dataset(tmp_path / "dataset", videos, shards=3)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_and_folders_are_copied_under_their_names(store: Any, tmp_path: Path) -> None:
    (tmp_path / "in" / "captions").mkdir(parents=True)
    (tmp_path / "in" / "ids.csv").write_text("video_id\n")
    (tmp_path / "in" / "captions" / "a.csv").write_text("start,end,text\n")
    address = store.upload(tmp_path / "in", store.bucket(), "in")
    asked = ExtractSettings(
        Path(f"{address}/media"), tmp_path / "out", captions=Path(f"{address}/captions"), ids=Path(f"{address}/ids.csv")
    )
    given = with_copies(asked, "extract", ("out",), ("media",))
    assert given.media == asked.media and given.out == asked.out
    assert given.ids.name == "ids.csv" and given.ids.read_text() == "video_id\n"
    assert files(given.captions) == {"a.csv": b"start,end,text\n"}


def test_weights_at_an_address_become_a_file(store: Any, tmp_path: Path) -> None:
    bucket = store.bucket()
    store.client.put_object(Bucket=bucket, Key="davenet.pt", Body=b"weights")
    asked = ExtractSettings(tmp_path, tmp_path / "out", davenet_weights=f"s3://{bucket}/davenet.pt")
    given = with_copies(asked, "extract", ("out",), ("media",))
    assert Path(given.davenet_weights).read_bytes() == b"weights" and given.weights == asked.weights


def test_weights_of_several_streams_are_fetched_each(store: Any, tmp_path: Path) -> None:
    bucket = store.bucket()
    store.client.put_object(Bucket=bucket, Key="r3d.pt", Body=b"of clips")
    weights = f"random:0,r3d_18=s3://{bucket}/r3d.pt"
    asked = ExtractSettings(tmp_path, tmp_path / "out", streams=("resnet152", "r3d_18"), weights=weights)
    first, second = with_copies(asked, "extract", ("out",), ("media",)).weights.split(",r3d_18=")
    assert first == "random:0" and Path(second).read_bytes() == b"of clips"


def test_settings_without_an_address_stay_as_they_are(tmp_path: Path) -> None:
    asked = ExtractSettings(tmp_path, tmp_path / "out")
    assert with_copies(asked, "extract", ("out",), ("media",)) is asked


@pytest.mark.parametrize(
    ("settings", "written", "message"),
    [
        (ExtractSettings(Path("media"), Path("s3://b/out")), ("out",), "--out: s3://b/out: what is written"),
        (VerifySettings(Path("s3://b/data")), ("dataset",), "--dataset: s3://b/data: what is written"),
        (VerifySettings(Path("data"), media=Path("s3://b/media")), (), "--media: s3://b/media: only `mcn extract`"),
        (TrainSettings(Path("s3://b/all.json"), Path("out")), (), "expected the address of a manifest"),
    ],
)
def test_what_needs_a_local_folder_is_refused_unasked(
    store: Any, settings: Any, written: tuple[str, ...], message: str
) -> None:
    store.asked.clear()
    with pytest.raises(InputError, match=message):
        with_copies(settings, "any", written, ())
    assert not store.asked


def test_what_is_unchanged_is_fetched_once(store: Any, dataset: Path) -> None:
    bucket = store.bucket()
    address = store.upload(dataset, bucket, "dataset")
    copy = copy_of(address)
    assert files(copy) == files(dataset)
    store.asked.clear()
    assert copy_of(address) == copy
    assert not [path for method, path in store.asked if method == "GET" and "dataset" in path]
    store.client.put_object(Bucket=bucket, Key="dataset/dataset.json", Body=b"{}")
    store.client.delete_object(Bucket=bucket, Key="dataset/shards/000002.h5")
    (copy / "words.kv").unlink(missing_ok=True)
    (copy / "shards" / "000001.h5").write_bytes(b"cut")
    copy_of(address)
    assert (copy / "dataset.json").read_bytes() == b"{}" and not (copy / "shards" / "000002.h5").exists()
    assert files(copy) == store_content(store, bucket)


def store_content(store: Any, bucket: str) -> dict[str, bytes]:
    return {key.removeprefix("dataset/"): content for key, content in store.content(bucket).items()}


def test_of_a_manifest_its_shards_alone_are_fetched(store: Any, dataset: Path) -> None:
    address = store.upload(dataset, store.bucket(), "dataset")
    content = json.loads((dataset / "manifests" / "all.json").read_text())
    other = "000001"
    assert other in content["shards"]
    shutil.copy(dataset / "shards" / "000000.h5", dataset / "shards" / "000009.h5")
    store.client.upload_file(
        str(dataset / "shards" / "000009.h5"), address.split("/")[2], "dataset/shards/000009.h5"
    )
    settings = TrainSettings(Path(f"{address}/manifests/all.json"), Path("out"))
    manifest = with_copies(settings, "train", ("out",), ()).manifest
    assert manifest.read_bytes() == (dataset / "manifests" / "all.json").read_bytes()
    copied = {path.name for path in (manifest.parents[1] / "shards").glob("*.h5")}
    assert copied == {f"{name}.h5" for name in content["shards"]}


def test_a_shard_that_is_not_what_its_receipt_says_is_refused(store: Any, dataset: Path) -> None:
    shutil.copy(dataset / "shards" / "000000.h5", dataset / "shards" / "000001.h5")
    address = store.upload(dataset, store.bucket(), "dataset")
    with pytest.raises(InputError, match=r"shards/000001.h5: not what its receipt says"):
        copy_of(address)


def test_a_shard_that_is_not_sound_is_refused(store: Any, dataset: Path) -> None:
    (dataset / "shards" / "000001.h5").write_bytes(b"no shard")
    address = store.upload(dataset, store.bucket(), "dataset")
    with pytest.raises(InputError, match=r"shards/000001.h5: .*upload it anew"):
        copy_of(address)


def test_a_data_set_at_an_address_is_frozen_without_its_shards(store: Any, dataset: Path, tmp_path: Path) -> None:
    bucket = store.bucket()
    address = store.upload(dataset, bucket, "dataset")
    store.asked.clear()
    assert main(["freeze", address, "other", "--heldout-videos", "0", "--heldout-tasks", "0"]) == 0
    assert not [path for method, path in store.asked if path.endswith(".h5") and method != "HEAD"]
    (tmp_path / "other.json").write_bytes(store.content(bucket)["dataset/manifests/other.json"])
    frozen, before = read_manifest(tmp_path / "other.json"), read_manifest(dataset / "manifests" / "all.json")
    assert (frozen.splits, frozen.shards) == (before.splits, before.shards)
    assert main(["freeze", address, "other", "--heldout-videos", "0.5", "--heldout-tasks", "0"]) == 2
    settings = TrainSettings(Path(f"{address}/manifests/other.json"), Path("out"))
    assert with_copies(settings, "train", ("out",), ()).manifest.is_file()


def test_want_of_room_is_told_before_anything_is_fetched(
    store: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = store.upload(dataset, store.bucket(), "dataset")
    usage = shutil.disk_usage(dataset)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(InputError, match="are to be fetched, .*has room for 1 kB"):
        copy_of(address)


def test_a_data_set_at_an_address_is_verified(
    store: Any, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = store.bucket()
    address = store.upload(dataset, bucket, "dataset")
    before = store.content(bucket)
    assert main(["verify", address]) == 0
    assert "3 files done" in capsys.readouterr().out
    assert main(["verify", address, "--repair"]) == 2
    assert "--repair changes a data set, which must be a local folder" in capsys.readouterr().err
    assert store.content(bucket) == before


def test_a_store_that_spoils_all_it_gives_ends_the_command_in_a_line(
    store: Any, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = store.upload(dataset, store.bucket(), "dataset")
    store.faults.append(spoilt(10_000, b"spoilt"))
    assert main(["verify", address]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
