"""Job arrays of a real SLURM, by the very scripts that we give out, end with what this machine alone gives."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.download.media import find_media

from .conftest import QUICKLY, REPOSITORY, WITHIN_S, Work, contents, ended
from .slurm_cluster import ENDED, SlurmCluster, lacking_programs, wait_for

pytestmark = pytest.mark.endurance

EPOCHS = 200


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Six videos, of which three are downloaded and extracted before the others, by this machine alone."""
    work = Work(tmp_path_factory.mktemp("work"), videos=6)
    work.make_sample()
    header, *lines = (work.sample / "split.csv").read_text().splitlines()
    (work.folder / "first.csv").write_text("\n".join([header, *lines[:3], ""]))
    assert ended(work.download(work.media, ids=work.folder / "first.csv")) == (0, [])
    shutil.copytree(work.media, work.folder / "first-media")
    assert ended(work.extract(work.dataset)) == (0, [])
    assert ended(work.download(work.media)) == (0, [])
    assert ended(work.extract(work.dataset)) == (0, [])
    assert len(contents(work.dataset)) > 0 and len(list((work.dataset / "shards").glob("*.h5"))) == 6
    return work


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[SlurmCluster]:
    """A cluster whose jobs find `mcn` on PATH."""
    if lacking := lacking_programs():
        pytest.skip(f"not on PATH: {', '.join(lacking)}; apt-get install --no-install-recommends slurm-wlm munge")
    mcn = tmp_path / "bin" / "mcn"
    mcn.parent.mkdir()
    mcn.write_text(f'#!/bin/sh\nexec {sys.executable} -m pipeline.cli "$@"\n')
    mcn.chmod(0o755)
    cluster = SlurmCluster(tmp_path / "slurm")
    cluster.environment |= {"PATH": f"{mcn.parent}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    cluster.environment |= {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    with cluster:
        yield cluster


def script_of_docs(replaced: dict[str, str]) -> str:
    """The job script of docs/howto100m.md, but for what stands there for the reader's own."""
    text = (REPOSITORY / "docs" / "howto100m.md").read_text()
    (script,) = re.findall(r"^```sh\n(#!/bin/bash\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for old, new in replaced.items():
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    assert "/mnt" not in script
    return script


def test_an_array_of_extractions_puts_back_the_task_that_was_stopped_and_no_other(
    work: Work, slurm: SlurmCluster, tmp_path: Path
) -> None:
    media, out = tmp_path / "media", tmp_path / "dataset"
    shutil.copytree(work.folder / "first-media", media)
    script = tmp_path / "extract.sh"
    nas = "/mnt/nas/howto100m"
    given = {f"{nas}/media": media, f"{nas}/HowTo100M_v1.csv": work.sample / "HowTo100M_v1.csv"}
    given |= {f"{nas}/caption.json": work.sample / "caption.json", f"{nas}/dataset": out}
    networks = {
        "--weights /mnt/nas/weights/resnet152.pth --davenet-weights /mnt/nas/weights/davenet.pth": " ".join(QUICKLY),
        "--word-vectors /mnt/nas/weights/GoogleNews-vectors-negative300.bin.gz ": "",
        "--workers 4": "--workers 1",
    }
    script.write_text(script_of_docs({old: str(new) for old, new in given.items()} | networks))
    array = slurm.submit(script, "--array=1-2")
    first, last = f"{array}_1", f"{array}_2"

    def closed() -> int:
        for task in (first, last):
            assert slurm.state(task)[0] not in ENDED, slurm.said(task)
        return len(list((out / "shards").glob("*.json")))

    # Three videos are there, and the others still wait to be downloaded when the time is over.
    wait_for("three shards", lambda: closed() == 3, WITHIN_S)
    for task in (first, last):
        slurm.near_limit(task)
    for task in (first, last):
        slurm.wait(task, "PENDING", 1, WITHIN_S)
        slurm.hold(task)
    assert not list((out / "leases").iterdir())

    assert ended(work.download(media)) == (0, [])
    slurm.release(first, "24:00:00")
    slurm.wait(first, "COMPLETED", 1, WITHIN_S)
    assert len(list((out / "shards").glob("*.json"))) == 4

    # By its SLURM_JOB_ID the last task would put back the first as well, which is through.
    slurm.release(last, "24:00:00")
    wait_for("work on the first of two videos", (out / "leases" / "000003.json").exists, WITHIN_S)
    slurm.ask("scancel", "--signal=USR1", last)
    slurm.wait(last, "PENDING", 2, WITHIN_S)
    assert slurm.state(first) == ("COMPLETED", 1)
    assert not list((out / "leases").iterdir()) and not (out / "shards" / "000005.json").exists()

    slurm.hold(last)
    slurm.release(last, "24:00:00")
    slurm.wait(last, "COMPLETED", 2, WITHIN_S)
    assert slurm.state(first) == ("COMPLETED", 1)
    assert [slurm.task(task)["ExitCode"] for task in (first, last)] == ["0:0", "0:0"]
    assert contents(out) == contents(work.dataset)
    assert not list((out / "leases").iterdir()) and not find_media(media).paths


def test_the_array_of_a_study_gives_the_tables_of_one_machine(work: Work, slurm: SlurmCluster, tmp_path: Path) -> None:
    names = ["--ids", work.sample / "HowTo100M_v1.csv", "--split", work.sample / "split.csv"]
    assert ended(work.start("freeze", work.dataset, "run", *names)) == (0, [])
    manifest = work.dataset / "manifests" / "run.json"
    # Saved every second: by the epochs that are saved it is seen how far a model is.
    training = {"preset": "sample", "streams": ["efficientnet-lite0"], "epochs": EPOCHS, "save_every": 1 / 60}
    training |= {"batch_videos": 2, "clusters": 4, "queue_rows": 16, "workers": 0}
    settings = {
        "out": "out",
        "train": training | {"manifest": str(manifest)},
        "evaluate": {"clips": str(work.sample / "steps.csv"), "split": "all", "bootstrap": 10},
        "compare": {"arms": ["shared", "disjoint"], "reference": "shared", "seeds": [1], "equal": ["width"]},
    }

    def compare(folder: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "pipeline.cli", "compare", "study.yaml", *flags]
        done = subprocess.run(command, cwd=folder, env=slurm.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    alone, array_folder = tmp_path / "alone", tmp_path / "array"
    for folder in (alone, array_folder):
        folder.mkdir()
        (folder / "study.yaml").write_text(yaml.safe_dump(settings))
    compare(alone)
    compare(array_folder, "--plan")
    study = array_folder / "out" / "study"
    array = slurm.submit(study / "array.sh")
    first, last = f"{array}_1", f"{array}_2"

    def epochs(arm: str) -> int:
        path = study / "runs" / f"{arm}-seed1" / "metrics.csv"
        return len(path.read_text().splitlines()) - 1 if path.exists() else 0

    def interrupt(task: str, arm: str, *words: str) -> None:
        _, restarts = slurm.state(task)
        before = epochs(arm)
        wait_for(f"an epoch of {arm}", lambda: epochs(arm) > before, WITHIN_S)
        slurm.ask(*words, task)
        slurm.wait(task, "PENDING", restarts + 1, WITHIN_S)
        slurm.hold(task)
        assert 0 < epochs(arm) < EPOCHS

    # The one is put back by the script, the other by SLURM itself, as for work that goes first.
    interrupt(last, "disjoint", "scancel", "--signal=USR1")
    interrupt(first, "shared", "scontrol", "requeue")
    slurm.release(first, "1:00:00")
    slurm.wait(first, "COMPLETED", 1, WITHIN_S)
    slurm.release(last, "1:00:00")
    interrupt(last, "disjoint", "scancel", "--signal=USR1")
    assert slurm.state(first) == ("COMPLETED", 1)
    slurm.release(last, "1:00:00")
    slurm.wait(last, "COMPLETED", 2, WITHIN_S)
    assert slurm.state(first) == ("COMPLETED", 1)

    compare(array_folder)
    made = [path.relative_to(study) for path in (*study.glob("compare.[mt]*"), *study.glob("runs/*/metrics.csv"))]
    assert len(made) == 4
    for name in made:
        assert (study / name).read_bytes() == (alone / "out" / "study" / name).read_bytes(), name
