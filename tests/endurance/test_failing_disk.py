"""The n-th write, flush, rename or unlink of a small `mcn run --delete-media` fails: nothing is lost, the next run ends
right.

Each stage's operations fail in a run that begins with what the stages before it left. All of them take two hours of a
core, `make endurance` runs them; `make test-slow` takes samples.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.ledger import latest_states
from pipeline.dataset.shard_check import verify
from pipeline.dataset.shard_reader import FeatureFile

from .. import faulty_disk

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "out": "run",
    "sample": {"videos": 3, "seconds": 16},
    "download": {},
    "extract": {
        "streams": ["efficientnet-lite0"],
        "precision": "fp32",
        "davenet_weights": "random:0",
        "workers": 1,
        "delete_media": True,
    },
    "freeze": {},
    "train": {"preset": "sample", "batch_videos": 2, "epochs": 1, "clusters": 2, "queue_rows": 8},
}
STAGES = ("sample", "download", "extract", "freeze", "train")
SAMPLED = 3
"""Operations of each kind that fail in the sample."""
WRITES = 16
"""Of the writes every so many-th fails: most are HDF5's, which are alike."""


@dataclass(frozen=True)
class Whole:
    """A run in which nothing fails, stage by stage."""

    before: dict[str, Path]
    """Stage -> copy of the folder as it was before."""
    operations: dict[str, dict[str, range]]
    """Stage -> kind -> numbers of its own ones in a run that begins with it."""
    result: dict[str, Any]


def on_faulty_disk(make_run: Callable[..., Any], folder: Path, before: Path, kind: str, number: int) -> Any:
    """A run, from a copy of the folder `before`, in whose processes that operation fails."""
    site = folder / "site"
    site.mkdir(parents=True)
    shutil.copy(str(faulty_disk.__file__), site)
    (site / "sitecustomize.py").write_text("import faulty_disk\nfaulty_disk.install_from_environment()\n")
    shutil.copytree(before, folder / "run")
    given = [str(folder / "run"), str(folder / "count"), kind, str(number)]
    environment = {
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
        faulty_disk.VARIABLE: "\n".join(given),
        "OMP_NUM_THREADS": "1",
    }
    return make_run(folder / "run", SMALL, environment)


@pytest.fixture(scope="module")
def whole(make_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """What a run of every stage leaves, and what comes out."""
    folder = tmp_path_factory.mktemp("whole")
    before, operations = {STAGES[0]: folder / "empty"}, {}
    before[STAGES[0]].mkdir()
    for index, stage in enumerate(STAGES):
        run = on_faulty_disk(make_run, folder / stage, before[stage], "none", 0)
        run.complete(STAGES[: index + 1])
        begun = json.loads((folder / stage / f"count.{stage}").read_text()) if index else {}
        operations[stage] = {
            kind: range(begun.get(kind, 0) + 1, _size(folder / stage / f"count.{kind}") + 1)
            for kind in faulty_disk.KINDS
        }
        if stage != STAGES[-1]:
            before[STAGES[index + 1]] = run.folder
    assert not list((run.out / "media").rglob("*.mp4")), "all media have features"
    return Whole(before, operations, run.result())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def nothing_is_lost(run: Any) -> None:
    """Every shard is sound; every video that was downloaded has its media or its features."""
    stored: set[str] = set()
    for path in (run.out / "dataset" / "shards").glob("*.h5"):
        assert verify(path) == []
        with FeatureFile(path) as file:
            stored |= {*file.video_ids}
    there = {path.stem for path in (run.out / "media").rglob("*.mp4")}
    for video_id, state in latest_states(run.out / "media" / "ledger", "download").items():
        assert state.latest.outcome != "done" or video_id in there | stored, f"{video_id} is lost"
        if state.latest.reason == "extracted":
            assert video_id in stored, f"{video_id} isn't in the shard that the ledger names"
    for state in latest_states(run.out / "dataset" / "ledger", "extract").values():
        assert state.latest.outcome == "done", "a good video is charged"


def survives(
    make_run: Callable[..., Any], folder: Path, whole: Whole, stage: str, kind: str, number: int
) -> None:
    """One operation fails."""
    run = on_faulty_disk(make_run, folder, whole.before[stage], kind, number)
    process = run.start()
    output, _ = process.communicate(timeout=900)
    where = f"{stage}, {kind} {number}: {output}"
    assert process.returncode in (0, 1, 2) and "Traceback" not in output, where
    nothing_is_lost(run)
    del run.environment[faulty_disk.VARIABLE]
    run.complete()
    nothing_is_lost(run)
    assert run.result() == whole.result, where
    assert not list((run.out / "media").rglob("*.mp4"))
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", faulty_disk.KINDS)
def test_after_operations_that_fail_the_next_run_ends_right(
    whole: Whole, make_run: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    operations = [(stage, number) for stage in STAGES for number in whole.operations[stage][kind]]
    for part in range(SAMPLED):
        stage, number = operations[(2 * part + 1) * len(operations) // (2 * SAMPLED)]
        survives(make_run, tmp_path / f"{stage}{number}", whole, stage, kind, number)


@pytest.mark.endurance
@pytest.mark.timeout(24 * 3600)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", faulty_disk.KINDS)
def test_after_any_operation_that_fails_the_next_run_ends_right(
    whole: Whole, make_run: Callable[..., Any], tmp_path: Path, kind: str, stage: str
) -> None:
    for number in whole.operations[stage][kind][:: WRITES if kind == "write" else 1]:
        survives(make_run, tmp_path / f"{stage}{number}", whole, stage, kind, number)
