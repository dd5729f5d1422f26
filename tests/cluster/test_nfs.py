"""Two NFS clients with a kernel each make one data set together, also when one of them loses power."""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.lease import BEATS_EVERY_S, EXPIRES_S, read_lease
from pipeline.core.ledger import decode_line
from pipeline.core.records import Outcome
from pipeline.dataset.shard_plans import read_plan

from .conftest import QUICKLY, REPOSITORY, WITHIN_S, Work, contents, ended
from .nfs_cluster import NfsClient, NfsCluster, lacking
from .slurm_cluster import wait_for

pytestmark = pytest.mark.endurance

NAMES = ("client1", "client2")
MCN = ("-m", "pipeline.cli")
SEVERAL_A_SHARD = ["--shard-size", "1024"]

# Each is told the shared folder. By listing that one they learn of each other at once.
HOLDER = """
import os, sys, time
from pathlib import Path
from pipeline.core.lease import locked
from pipeline.dataset.folder import add_tombstones
from pipeline.dataset.shard_plans import write_plans
shared = Path(sys.argv[1])
dataset = shared / "dataset"
with locked(dataset / "leases" / "planning.json", "planning"):
    (shared / "held").touch()
    while "looked" not in os.listdir(shared):
        time.sleep(0.1)
    write_plans(dataset / "plans", [["a"], ["b"], ["c"]])
    (dataset / "shards").mkdir()
    (dataset / "shards" / "000000.h5").touch()
    add_tombstones(dataset, ["d"])
"""
WAITER = """
import os, sys, time
from pathlib import Path
from pipeline.core.lease import locked
from pipeline.dataset.folder import forgotten
from pipeline.dataset.shard_plans import closed_names, plan_names
shared = Path(sys.argv[1])
dataset = shared / "dataset"
while "held" not in os.listdir(shared):
    time.sleep(0.1)
print(plan_names(dataset / "plans"), closed_names(dataset), len(forgotten(dataset)))
(shared / "looked").touch()
with locked(dataset / "leases" / "planning.json", "planning", patient=True):
    print(plan_names(dataset / "plans"), closed_names(dataset), len(forgotten(dataset)))
"""


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    """Before anything is made, what this machine lacks is told."""
    if what := lacking():
        pytest.skip(what)


@pytest.fixture
def nfs(tmp_path: Path) -> Iterator[NfsCluster]:
    """A server with an empty folder, and no client yet."""
    with NfsCluster(tmp_path / "nfs") as cluster:
        yield cluster


def start(nfs: NfsCluster, name: str, *words: object) -> NfsClient:
    """Python of these words on a client of that name."""
    environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return nfs.start(name, [sys.executable, *map(str, words)], environment)


def extract(work: Work, nfs: NfsCluster, *flags: str) -> dict[str, NfsClient]:
    """Name -> client, all of which extract the sample into one data set from now on."""
    # Before a client is there: of what changes on the server itself later, their caches aren't told.
    shutil.copytree(work.media, nfs.export / "media")
    shutil.copy(work.sample / "caption.json", nfs.export)
    given = ["--media", nfs.mount / "media", "--captions", nfs.mount / "caption.json", "--out", nfs.mount / "dataset"]
    return {name: start(nfs, name, *MCN, "extract", *given, *QUICKLY, *flags) for name in NAMES}


def recorded(dataset: Path) -> dict[str, list[Outcome]]:
    """Name of a client -> what it has written to the ledger."""
    found: dict[str, list[Outcome]] = {}
    for name in NAMES:
        paths = sorted((dataset / "ledger").glob(f"extract-{name}-*.jsonl"))
        lines = [line for path in paths for line in path.read_bytes().splitlines()]
        found[name] = [outcome for line in lines if (outcome := decode_line(line)) is not None]
    return found


def half_done(dataset: Path) -> tuple[str, str] | None:
    """A plan in work, some but not all of whose videos are recorded, and the client that works on it; None without."""
    for path in sorted(dataset.glob("leases/0*.json")):
        if lease := read_lease(path):
            planned = read_plan(dataset / "plans", path.stem).video_ids
            done = {outcome.video_id for outcome in recorded(dataset)[lease[0].host]}
            if 0 < len(done.intersection(planned)) < len(planned):
                return path.stem, lease[0].host
    return None


def test_who_gets_a_lock_sees_what_its_last_holder_made(nfs: NfsCluster) -> None:
    holder, waiter = (
        start(nfs, name, "-c", program, nfs.mount) for name, program in zip(NAMES, (HOLDER, WAITER), strict=True)
    )
    for client in (holder, waiter):
        status, said = client.ended(WITHIN_S)
        assert status == 0, said
    # A client takes up to a minute to ask again for what it has once looked for in vain, unless it is made to.
    assert waiter.said("stdout").splitlines() == ["[] [] 0", "['000000', '000001', '000002'] ['000000'] 1"]


def test_two_clients_extract_one_data_set_at_once(work: Work, nfs: NfsCluster) -> None:
    clients = extract(work, nfs)
    for name, client in clients.items():
        status, said = client.ended(WITHIN_S)
        assert (status, "taken over" in said) == (0, False), (name, said)
    dataset = nfs.export / "dataset"
    assert contents(dataset) == contents(work.dataset)
    assert not list((dataset / "leases").iterdir())
    outcomes = recorded(dataset)
    assert all(outcomes.values()), "one client did all the work"
    assert [(outcome.outcome, outcome.attempt) for found in outcomes.values() for outcome in found] == 4 * [("done", 1)]


def test_a_client_whose_kernel_is_killed_is_taken_over_by_the_other(work: Work, nfs: NfsCluster) -> None:
    alone = work.folder / "several-a-shard"
    assert ended(work.extract(alone, *SEVERAL_A_SHARD)) == (0, [])
    assert len(list((alone / "shards").glob("*.h5"))) == 2

    clients = extract(work, nfs, *SEVERAL_A_SHARD)
    dataset = nfs.export / "dataset"

    def is_half_done() -> bool:
        for name, client in clients.items():
            assert client.is_up(), (name, client.said("console"), client.said("stderr"))
        return half_done(dataset) is not None

    wait_for("a plan of two videos of which one is recorded", is_half_done, WITHIN_S)
    found = half_done(dataset)
    assert found is not None
    plan, victim = found
    (survivor,) = set(NAMES) - {victim}
    clients[victim].kill()
    killed = time.monotonic()
    lease, before = dataset / "leases" / f"{plan}.json", recorded(dataset)
    left = read_lease(lease)
    assert left is not None and left[0].host == victim and not (dataset / "shards" / f"{plan}.h5").exists()

    def is_taken_over() -> bool:
        now = read_lease(lease)
        return now is None or now[0] != left[0]

    wait_for("another holder", is_taken_over, WITHIN_S)
    # It counts from the last change that the survivor saw: up to a beat before the end, and a look later than that.
    assert time.monotonic() - killed > EXPIRES_S - 2 * BEATS_EVERY_S
    status, said = clients[survivor].ended(WITHIN_S)
    assert status == 0, said
    assert f"mcn: {plan}: taken over from {left[0]}, which has ended\n" in said

    assert contents(dataset) == contents(alone)
    assert not list((dataset / "leases").iterdir())
    after = recorded(dataset)
    assert after[victim] == before[victim]
    outcomes = [(outcome.outcome, outcome.attempt) for found in after.values() for outcome in found]
    assert outcomes == 4 * [("done", 1)]
    # What the victim had recorded of the plan wasn't computed again, and the rest is the survivor's.
    of_plan = set(read_plan(dataset / "plans", plan).video_ids)
    parts = [{outcome.video_id for outcome in after[name]} & of_plan for name in (victim, survivor)]
    assert [len(part) for part in parts] == [1, 1] and set.union(*parts) == of_plan


def test_the_doctor_finds_the_folder_fit(nfs: NfsCluster) -> None:
    client = start(nfs, NAMES[0], *MCN, "doctor", nfs.mount)
    status, said = client.ended(WITHIN_S)
    report = client.said("stdout")
    assert status == 0, (said, report)
    assert f"nfs4, 10.77.0.1:/data on {nfs.mount}" in report
    assert not list(nfs.export.iterdir())
