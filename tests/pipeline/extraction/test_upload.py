"""Data sets at addresses: all that is closed is uploaded and read back, by one writer; nothing is lost on the way."""

import dataclasses
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from pipeline.core.lease import LeaseLostError, this_process
from pipeline.core.remote import Store, StoreAwayError
from pipeline.core.reporting import RunSummary
from pipeline.dataset.addresses import copy_of
from pipeline.dataset.shard_plans import closed_names
from pipeline.extraction.settings import ExtractSettings
from pipeline.extraction.upload import WriterLease, extract_to_store

from ...loopback_store import forgetful, refused

NAMES = ("000000", "000001", "000002")


@pytest.fixture
def made(make_dataset: Callable[..., Path], make_video: Callable[..., Any], tmp_path: Path) -> Path:
    """What an extraction makes: a data set of three shards."""
    videos = [make_video(f"video-0000{number}", seed=number) for number in range(6)]
    made = make_dataset(tmp_path / "made", videos, shards=3)
    (made / "ledger").mkdir()
    (made / "ledger" / "extract-host-1-a.jsonl").write_text("{}\n")
    for folder in ("parts", "manifests", "leases"):
        shutil.rmtree(made / folder, ignore_errors=True)
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Extraction:
    """Closes the shards of `made` that aren't there, and ends with an error after `only` of them."""

    def __init__(self, made: Path, only: int | None = None, between: Callable[[Path], None] | None = None) -> None:
        self.made, self.only, self.between = made, only, between
        self.found: list[str] = []
        self.out = Path()

    def __call__(self, settings: ExtractSettings) -> RunSummary:
        self.out = settings.out
        self.found = closed_names(settings.out)
        for name in files(self.made):
            if not name.startswith("shards/") and not (self.out / name).exists():
                (self.out / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.made / name, self.out / name)
        new = [name for name in NAMES if name not in self.found]
        (self.out / "shards").mkdir(exist_ok=True)
        for number, name in enumerate(new):
            if number == self.only:
                raise InputError("killed")
            for suffix in (".h5", ".json"):
                shutil.copy(self.made / "shards" / f"{name}{suffix}", self.out / "shards" / f"{name}{suffix}")
        if self.between is not None:
            self.between(self.out)
        return RunSummary("extract")


def settings(address: str, cache: Path, **more: Any) -> ExtractSettings:
    return ExtractSettings(Path("media"), Path(address), cache=cache, **more)


def uploaded(store: Any, bucket: str) -> dict[str, bytes]:
    content = {key.removeprefix("dataset/"): value for key, value in store.content(bucket).items()}
    return {name: value for name, value in content.items() if not name.startswith("leases/")}


@pytest.fixture
def bucket(store: Any) -> str:
    name: str = store.bucket()
    return name


def test_all_is_uploaded_and_a_receipt_after_its_shard(store: Any, bucket: str, made: Path, tmp_path: Path) -> None:
    def work(out: Path) -> None:
        for name in ("weights/davenet.pt", "parts/000003/video.h5", "leases/000003.json", "shards/.000003.h5.1.aside"):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(b"of this machine alone")
        (out / "shards" / "000003.h5").write_bytes(b"a shard that has no receipt yet")

    extract_to_store(settings(f"s3://{bucket}/dataset", tmp_path / "one"), Extraction(made, between=work))
    assert uploaded(store, bucket) == files(made)
    put = [path.partition("dataset/")[2] for method, path in store.asked if method == "PUT" and "/shards/" in path]
    assert put == [f"shards/{name}{suffix}" for name in NAMES for suffix in (".h5", ".json")]
    assert copy_of(f"s3://{bucket}/dataset").is_dir()


def test_another_machine_goes_on_without_the_shards(
    store: Any, bucket: str, made: Path, tmp_path: Path
) -> None:
    address = f"s3://{bucket}/dataset"
    with pytest.raises(InputError, match="killed"):
        extract_to_store(settings(address, tmp_path / "one"), Extraction(made, only=1))
    assert {name for name in uploaded(store, bucket) if name.startswith("shards/")} == {
        "shards/000000.h5",
        "shards/000000.json",
    }
    store.asked.clear()
    extraction = Extraction(made)
    extract_to_store(settings(address, tmp_path / "two"), extraction)
    assert extraction.found == ["000000"]
    hole = extraction.out / "shards" / "000000.h5"
    assert hole.stat().st_size == (made / "shards" / "000000.h5").stat().st_size and not any(hole.read_bytes())
    assert not [path for method, path in store.asked if path.endswith("000000.h5") and method != "HEAD"]
    assert uploaded(store, bucket) == files(made)


def test_a_store_that_forgets_costs_an_error_and_no_work(
    store: Any, bucket: str, made: Path, tmp_path: Path
) -> None:
    asked = settings(f"s3://{bucket}/dataset", tmp_path / "one")
    store.faults.append(lambda request: forgetful(request) if request.path.endswith("000001.h5") else None)
    with pytest.raises(StoreAwayError, match="000001.h5: the store has forgotten what it took"):
        extract_to_store(asked, Extraction(made))
    assert "shards/000001.json" not in uploaded(store, bucket)
    store.faults.clear()
    extraction = Extraction(made)
    extract_to_store(asked, extraction)
    assert extraction.found == list(NAMES)
    assert uploaded(store, bucket) == files(made)


def test_without_rights_nothing_is_begun(store: Any, bucket: str, made: Path, tmp_path: Path) -> None:
    store.faults.append(refused)
    extraction = Extraction(made)
    with pytest.raises(InputError, match="no right to it"):
        extract_to_store(settings(f"s3://{bucket}/dataset", tmp_path / "one"), extraction)
    assert extraction.out == Path()


def test_uploaded_shards_make_room(store: Any, bucket: str, made: Path, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in (made / "shards").glob("*.h5"))
    extraction = Extraction(made)
    asked = settings(f"s3://{bucket}/dataset", tmp_path / "one", cache_size=0.7 * size / 2**30)
    extract_to_store(asked, extraction)
    here, whole = (folder / "shards" for folder in (extraction.out, made))
    kept = [path.read_bytes() == (whole / path.name).read_bytes() for path in here.glob("*.h5")]
    assert sorted(kept) == [False, True, True]
    assert uploaded(store, bucket) == files(made)


def test_a_folder_of_another_data_set_is_kept_aside(store: Any, bucket: str, made: Path, tmp_path: Path) -> None:
    asked = settings(f"s3://{bucket}/dataset", tmp_path / "one")
    extraction = Extraction(made)
    extract_to_store(asked, extraction)
    store.client.put_object(Bucket=bucket, Key="dataset/dataset.json", Body=b'{"identity": {}}')
    again = Extraction(made)
    extract_to_store(asked, again)
    assert (again.out / "dataset.json").read_bytes() == b'{"identity": {}}'
    (aside,) = again.out.parent.glob("*.other-*")
    assert files(aside) == files(made)


def test_a_second_writer_is_refused_with_the_first_ones_name(
    store: Any, bucket: str, made: Path, tmp_path: Path
) -> None:
    address = f"s3://{bucket}/dataset"

    def second(out: Path) -> None:
        with pytest.raises(InputError, match=rf"already at work: .*process {this_process().pid}.*writer-000001.json"):
            extract_to_store(settings(address, tmp_path / "two"), Extraction(made))

    extract_to_store(settings(address, tmp_path / "one"), Extraction(made, between=second))
    extract_to_store(settings(address, tmp_path / "three"), Extraction(made))


def foreign(beat: int) -> bytes:
    holder = dataclasses.replace(this_process(), host="elsewhere", boot="other")
    return json.dumps(dataclasses.asdict(holder) | {"beat": beat, "released": False}).encode()


def test_a_lease_of_another_host_is_refused_while_it_beats_and_taken_over_after_its_term() -> None:
    store = Store("memory://beats")
    store.put_bytes(foreign(0), "leases/writer-000007.json")
    over, beat = threading.Event(), 0

    def beats() -> None:
        nonlocal beat
        while not over.wait(0.01):
            beat += 1
            store.put_bytes(foreign(beat), "leases/writer-000007.json")

    beating = threading.Thread(target=beats)
    beating.start()
    with pytest.raises(InputError, match="already at work: elsewhere"), WriterLease(store, expires_s=4.0).held():
        pass
    over.set()
    beating.join()
    with WriterLease(store, expires_s=0.1).held() as lease:
        lease.check()
        store.put_bytes(foreign(0), "leases/writer-000009.json", exclusive=True)
        with pytest.raises(LeaseLostError, match="elsewhere, process"):
            lease.check()


def test_a_store_that_can_not_tell_writers_apart_is_refused() -> None:
    store = Store("memory://none")
    store.protocol = "hf"
    with pytest.raises(InputError, match="a store of kind hf has no conditional put"), WriterLease(store).held():
        pass


@pytest.mark.parametrize("more", [{"part": "1/2"}, {"follow": True, "ids": Path("ids")}, {"delete_media": True}])
def test_what_asks_for_a_folder_that_others_see_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="goes with a local `out`"):
        ExtractSettings(Path("media"), Path("s3://bucket/dataset"), **more)
