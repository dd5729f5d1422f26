"""A worker's plan, with networks that give nothing: which videos are tried again."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from extractors.errors import MediaError
from pipeline.core.files import write_json
from pipeline.core.lease import Lease, LeaseWatch, this_process
from pipeline.core.ledger import read_ledger
from pipeline.dataset.folder import settle
from pipeline.dataset.shard_plans import read_receipt, write_plans
from pipeline.dataset.shard_writer import Origin, write_part
from pipeline.extraction import worker
from pipeline.extraction.settings import ExtractSettings

from .conftest import BAD, GOOD, WIDTH, Extraction


class NoSound:
    """In place of the networks: of every video the sound takes too long, which shows once all were decoded."""

    provenance: dict[str, Any] = {}

    def __init__(self, *given: object) -> None: ...

    def extract(self, videos: Iterable[tuple[str, Path]], captions_of: object) -> Iterator[tuple[str, MediaError]]:
        for video_id, path in list(videos):
            yield video_id, MediaError("timeout", f"{path}: its sound was not decoded within 60 s")

    def close(self) -> None: ...


def test_a_video_that_fails_last_of_all_is_tried_twice(
    tmp_path: Path, make_identity: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "FeatureExtractor", NoSound)
    settings = ExtractSettings(tmp_path, tmp_path / "dataset")
    settle(settings.out, {"identity": make_identity({"resnet152": 2048}) | {"captions": {"format": ""}}})
    (name,) = write_plans(settings.out / "plans", [["first-video", "last--video"]])
    for video_id in ("first-video", "last--video"):
        (tmp_path / f"{video_id}.mp4").write_bytes(b"x")
    with worker.ShardWorker(settings, {}) as own:
        assert own.extract(name) == {"failed timeout": 2}
    receipt = read_receipt(settings.out, name)
    assert receipt is not None and receipt.left_out == {"first-video": "timeout", "last--video": "timeout"}
    assert [outcome.attempt for outcome in read_ledger(settings.out / "ledger", "extract")] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("part", "counts"),
    [
        ("sound", {"skipped": 1, "done": 1}),
        ("of other settings", {"done": 2}),
        ("cut short", {"done": 2}),
        ("empty", {"done": 2}),
    ],
)
def test_a_part_counts_only_where_it_is_sound_and_of_these_settings(
    extraction: Extraction, make_video: Callable[..., Any], part: str, counts: dict[str, int]
) -> None:
    path = extraction.settings.out / "parts" / extraction.name / f"{GOOD[0]}.h5"
    identity = extraction.description["identity"]
    if part == "of other settings":
        identity = identity | {"frame_size": "64x64"}
    write_part(path, make_video(GOOD[0], streams={"resnet152": WIDTH}), Origin(extraction.name, identity, {}))
    if part in ("cut short", "empty"):
        path.write_bytes(path.read_bytes()[: {"cut short": -500, "empty": 0}[part]])
    assert extraction.run() == counts | {"failed undecodable": 1}
    assert extraction.stored() == dict.fromkeys(GOOD, extraction.name)
    assert (GOOD[0] in {line[0] for line in extraction.lines("extract")}) == (part != "sound")
    assert set(extraction.there()) == {f"{BAD}.mp4"}


@pytest.mark.parametrize(
    ("workers", "plans", "cores"), [(2, 1, 2), (2, 2, 1), (8, 3, 2), (8, 1, 8), (1, 1, 1), (1, 3, 1), (4, 0, 4)]
)
def test_the_cores_of_workers_without_a_plan_are_shared_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, plans: int, cores: int
) -> None:
    """`plans` are held on this machine; others by another machine and by a process that has ended; one lease is no
    plan's."""
    clock = Clock(monkeypatch)
    leases = [Lease(tmp_path / f"{number:06d}.json") for number in range(plans)]
    assert all(lease.acquire(LeaseWatch()) for lease in [*leases, Lease(tmp_path / "planning.json")])
    here = this_process().__dict__
    write_json(tmp_path / "000100.json", here | {"host": "far-away", "beat": 0})
    write_json(tmp_path / "000101.json", here | {"started": "before", "beat": 0})
    share = worker.CoreShare(tmp_path, workers)
    assert share() == 1, "other workers may not have begun"
    clock.now += worker.LOOK_EVERY_S
    assert share() == cores
    for lease in leases[1:]:
        lease.release()
    assert share() == cores, "it doesn't look before each batch"
    clock.now += worker.LOOK_EVERY_S
    assert share() == workers


class Clock:
    """In place of the steady clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(worker.time, "monotonic", lambda: self.now)
