"""The n-th write, flush, rename or unlink of a small `mcn run --delete-media` fails: nothing is lost, the next run ends
right.

All of them take hours, `make endurance` runs them; `make test-slow` takes samples.
"""

import os
import shutil
from collections.abc import Callable
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
SAMPLED = 3
"""Operations of each kind that fail in the sample."""
WRITES = 16
"""Of the writes every so many-th fails: most are HDF5's, which are alike."""


def on_faulty_disk(make_run: Callable[..., Any], folder: Path, kind: str, number: int) -> Any:
    """A run in whose processes that operation fails."""
    site = folder / "site"
    site.mkdir(parents=True)
    shutil.copy(str(faulty_disk.__file__), site)
    (site / "sitecustomize.py").write_text("import faulty_disk\nfaulty_disk.install_from_environment()\n")
    given = [str(folder / "run"), str(folder / "count"), kind, str(number)]
    environment = {
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
        faulty_disk.VARIABLE: "\n".join(given),
        "OMP_NUM_THREADS": "1",
    }
    return make_run(folder / "run", SMALL, environment)


def operations(folder: Path) -> dict[str, int]:
    """Kind -> how many there were."""
    return {kind: (folder / f"count.{kind}").stat().st_size for kind in faulty_disk.KINDS}


@pytest.fixture(scope="module")
def whole(make_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], Any]:
    """How many operations there are in a run in which none fails, and what comes out."""
    folder = tmp_path_factory.mktemp("whole")
    run = on_faulty_disk(make_run, folder, "none", 0)
    run.complete()
    assert not list((run.out / "media").rglob("*.mp4")), "all media have features"
    return operations(folder), run.result()


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


def survives(make_run: Callable[..., Any], folder: Path, kind: str, number: int, result: Any) -> None:
    """One operation fails."""
    run = on_faulty_disk(make_run, folder, kind, number)
    process = run.start()
    output, _ = process.communicate(timeout=900)
    where = f"{kind} {number}: {output}"
    assert process.returncode in (0, 1, 2) and "Traceback" not in output, where
    nothing_is_lost(run)
    del run.environment[faulty_disk.VARIABLE]
    run.complete()
    nothing_is_lost(run)
    assert run.result() == result, where
    assert not list((run.out / "media").rglob("*.mp4"))
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", faulty_disk.KINDS)
def test_after_operations_that_fail_the_next_run_ends_right(
    whole: tuple[dict[str, int], Any], make_run: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    counts, result = whole
    for part in range(SAMPLED):
        number = 1 + (2 * part + 1) * counts[kind] // (2 * SAMPLED)
        survives(make_run, tmp_path / str(number), kind, number, result)


@pytest.mark.endurance
@pytest.mark.timeout(24 * 3600)
@pytest.mark.parametrize("kind", faulty_disk.KINDS)
def test_after_any_operation_that_fails_the_next_run_ends_right(
    whole: tuple[dict[str, int], Any], make_run: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    counts, result = whole
    for number in range(1, counts[kind] + 1, WRITES if kind == "write" else 1):
        survives(make_run, tmp_path / str(number), kind, number, result)
