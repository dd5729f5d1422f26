"""Training by two processes that talk through gloo, against one on the same batches."""

import atexit
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from lightning_fabric import Fabric

from models.batch_step import BatchStep, StepLosses
from models.clips import ClipInputs
from models.kmeans import ClusterQueue
from models.mcn import MCN
from models.settings import ClusterSettings, LossSettings, ModelSettings
from pipeline.core.config import as_plain
from pipeline.core.errors import InputError
from pipeline.core.lease import Lease, LeaseWatch, read_lease
from pipeline.core.signals import SIGNALS
from pipeline.training import distributed
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.distributed import Agreement, communicator_of, started_from_outside
from pipeline.training.settings import TrainSettings
from pipeline.training.train import run

CLIPS, WIDTH, GROUP = 16, 12, 4


class OneOfTwo:
    """The communicator of one of two processes, of which the other says `others`."""

    processes = 2

    def __init__(self, rank: int, others: list[int]) -> None:
        self.rank, self.others = rank, others

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + torch.tensor(self.others).to(tensor)


@pytest.mark.parametrize(
    ("rank", "due", "others", "wanted"),
    [
        (0, True, [0, 0], (False, True)),
        (1, True, [0, 0], (False, False)),
        (1, False, [0, 1], (False, True)),
        (0, False, [1, 0], (True, False)),
    ],
)
def test_process_0_alone_says_when_a_checkpoint_is_due(
    rank: int, due: bool, others: list[int], wanted: tuple[bool, bool]
) -> None:
    """Clocks differ; whether to stop any process may say."""
    communicator: Any = OneOfTwo(rank, others)
    assert Agreement(communicator, torch.device("cpu"), None).stop_or_save(due) == wanted


@pytest.fixture(scope="module")
def small(planted: Any, small_training: dict[str, Any]) -> TrainSettings:
    """Two epochs; `out` is for the test to give."""
    return TrainSettings.flat(manifest=planted.manifest, out=Path("nowhere"), epochs=2, **small_training)


def clips_of(dtype: torch.dtype) -> ClipInputs:
    draw = torch.Generator().manual_seed(1)
    has = torch.rand(3, CLIPS, generator=draw) > 0.2
    return ClipInputs(
        video=torch.rand(CLIPS, 1, 9, generator=draw, dtype=dtype),
        video_rows=has[0].unsqueeze(1),
        audio=-80 * torch.rand(CLIPS, 40, 32, generator=draw, dtype=dtype),
        has_audio=has[1],
        audio_frames=torch.randint(16, 33, (CLIPS,), generator=draw),
        words=torch.randn(CLIPS, 4, 5, generator=draw, dtype=dtype),
        known_words=has[2].unsqueeze(1).expand(CLIPS, 4),
    )


def one_step_each(fabric: Fabric, folder: Path) -> None:
    """One step in double and one in single precision."""
    for dtype in (torch.float64, torch.float32):
        one_step(fabric, dtype, folder)


def one_step(fabric: Fabric, dtype: torch.dtype, folder: Path) -> None:
    """Gradients and terms of one step on this process's share of the clips, saved by its rank."""
    communicator = communicator_of(fabric)
    torch.manual_seed(0)
    settings = ModelSettings(width=WIDTH, video_streams=(9,), word_dim=5, reconstruction_hidden=8, audio_from="logmel")
    model = MCN(settings).to(dtype).train()
    queue = ClusterQueue(WIDTH, ClusterSettings(clusters=4, queue_rows=16)).to(dtype)
    share = CLIPS // communicator.processes
    mine = slice(communicator.rank * share, (communicator.rank + 1) * share)
    step = BatchStep(model, {"shared": queue}, LossSettings(), GROUP, communicator)
    videos = (torch.arange(CLIPS) // 4)[mine]
    losses: StepLosses = step.backward(clips_of(dtype)[mine], videos, torch.Generator().manual_seed(0))
    found = {f"gradient/{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    found |= {f"buffer/{name}": buffer for name, buffer in model.named_buffers()}
    found |= {f"term/{name}": term for name, term in losses.terms.items()}
    torch.save(
        found | {"centroids": queue.centroids}, folder / f"{dtype}-{communicator.processes}-{communicator.rank}.pt"
    )


def one_step_each_and_leave(fabric: Fabric, folder: Path) -> None:
    """`one_step_each` by one of several."""
    one_step_each(fabric, folder)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process and what two processes found."""
    folder = tmp_path_factory.mktemp("steps")
    one_step_each(Fabric(accelerator="cpu", devices=1), folder)
    Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn").launch(one_step_each_and_leave, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
def test_two_processes_give_the_gradients_of_one(dtype: torch.dtype, relative: float, steps: Path) -> None:
    wanted = torch.load(steps / f"{dtype}-1-0.pt", weights_only=True)
    assert any(name.startswith("gradient/davenet") for name in wanted)
    for rank in (0, 1):
        found = torch.load(steps / f"{dtype}-2-{rank}.pt", weights_only=True)
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert (found[name] - tensor).double().norm() <= relative * tensor.double().norm(), name


def test_a_run_of_two_processes_is_that_of_one_and_may_be_gone_on_with_by_one(
    small: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a batch job of one task.
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_JOB_NAME", "study")
    alone = dataclasses.replace(small, out=tmp_path / "alone")
    run(alone)
    shared = dataclasses.replace(alone, out=tmp_path / "shared", devices=2)
    report = run(shared)
    assert report.complete and report.detail["processes"] == 2 and report.done == 2
    wanted, found = load_checkpoint(alone.out), load_checkpoint(shared.out)
    for name, tensor in wanted["model"].items():
        # As a whole: Adam turns a gradient that is zero but for rounding into a step of any size up to the rate.
        difference = (found["model"][name] - tensor).double().norm()
        assert difference <= 1e-3 * tensor.double().norm() + 1e-4, name
    assert [epoch["total"] for epoch in found["history"]] == pytest.approx(
        [epoch["total"] for epoch in wanted["history"]], rel=1e-4
    )
    again = run(dataclasses.replace(shared, devices=1))
    assert (again.done, again.skipped) == (0, 2)


@pytest.mark.slow
def test_what_processes_refuse_is_one_line(small: TrainSettings, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / ".stop").touch()  # left by a run that was killed while it stopped
    for change, named in (
        ({"streams": ("resnet50",)}, "no video stream 'resnet50'; it has: resnet152"),
        ({"clusters": 25, "queue_rows": 0, "epochs": 1}, "at least 25 clips"),
    ):
        bad = TrainSettings.flat(**as_plain(small) | {"out": tmp_path / "bad", "devices": 2} | change)
        with pytest.raises(InputError, match=named) as refused:
            run(bad)
        assert "\n" not in str(refused.value)


def test_a_batch_that_can_not_be_shared_is_refused(small: TrainSettings) -> None:
    with pytest.raises(ValueError, match="`batch_videos` 4 can't be shared by 3 processes"):
        dataclasses.replace(small, devices=3)


def test_processes_wait_for_one_another_as_long_as_they_are_told(
    small: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[timedelta] = []

    def strategy(timeout: timedelta, **given: object) -> NoReturn:
        waits.append(timeout)
        raise StopIteration

    monkeypatch.setattr(distributed, "DDPStrategy", strategy)
    for given in ({}, {"patience": timedelta(seconds=3)}):
        with pytest.raises(StopIteration):
            distributed.launch(dataclasses.replace(small, out=tmp_path, devices=2), "fp32", one_step_each, **given)
    assert waits == [distributed.PATIENCE, timedelta(seconds=3)]


def note_group_at_exit(fabric: Fabric, settings: TrainSettings, stop: Path | None) -> str:
    """Whether the process still shares a group once Python ends, written then."""
    note = settings.out / f"{fabric.global_rank}.txt"
    atexit.register(lambda: note.write_text(str(torch.distributed.is_initialized())))
    fabric.all_reduce(torch.ones(1))
    return f"of {fabric.global_rank}"


def test_processes_leave_their_group_before_python_ends(small: TrainSettings, tmp_path: Path) -> None:
    """A thread of gloo with a tensor in hand aborts the process then, however well the work went."""
    settings = dataclasses.replace(small, out=tmp_path, devices=2)
    assert distributed.launch(settings, "fp32", note_group_at_exit) == "of 0"
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["False", "False"]


def test_several_machines_want_a_starter(small: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert not started_from_outside()
    with pytest.raises(InputError, match="start `mcn train` by torchrun or srun"):
        run(dataclasses.replace(small, out=tmp_path, nodes=2))
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert not started_from_outside(), "sbatch says so before anything is started"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert started_from_outside()
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert started_from_outside()


def begin(planted: Any, out: Path, settings: dict[str, Any], **environment: str) -> "subprocess.Popen[str]":
    """`mcn train` without an end, in a process group of its own."""
    settings = settings | {"epochs": 100_000, "save_every": 1e-9}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "train", "--manifest", str(planted.manifest), "--out", str(out), *flags],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_a_checkpoint(out: Path, process: "subprocess.Popen[str]") -> None:
    while not (out / "checkpoint.pt").exists() and process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
    assert process.poll() is None, process.communicate()[0]


def output_of(process: "subprocess.Popen[str]") -> str:
    """What a process that ends with status 75 has printed."""
    try:
        output, _ = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"the signal was swallowed: {process.communicate()[0]}")
    assert process.returncode == 75 and "Traceback" not in output, output
    return output


def assert_saved(out: Path, process: "subprocess.Popen[str]") -> None:
    assert "stopped by a signal" in output_of(process)
    content = load_checkpoint(out)
    assert content["epoch"] * 3 + content["step"] > 0
    assert not list(out.glob(".*")) and not (out / "lock.json").exists()


TERM, USR1 = SIGNALS


@pytest.mark.parametrize(
    ("devices", "workers", "number", "group"),
    [
        (1, 0, TERM, False),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                (1, 0, USR1, True),
                (1, 1, TERM, True),
                (1, 2, TERM, False),
                (1, 2, USR1, True),
                (2, 0, TERM, False),
                (2, 0, USR1, True),
                (2, 1, TERM, True),
                (2, 1, USR1, False),
            )
        ),
    ],
)
def test_a_signal_saves_and_ends_with_75(
    planted: Any,
    small_training: dict[str, Any],
    tmp_path: Path,
    devices: int,
    workers: int,
    number: signal.Signals,
    group: bool,
) -> None:
    out = tmp_path / "model"
    process = begin(planted, out, small_training | {"devices": devices, "workers": workers})
    wait_for_a_checkpoint(out, process)
    (os.killpg if group else os.kill)(process.pid, number)
    assert_saved(out, process)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_to_one_of_the_processes_that_torchrun_starts_ends_them_all_with_75(
    planted: Any, small_training: dict[str, Any], tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "model"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    settings = small_training | {"devices": 2, "workers": 1}
    processes = [begin(planted, out, settings, RANK=rank, LOCAL_RANK=rank, **common) for rank in "01"]
    wait_for_a_checkpoint(out, processes[0])
    os.kill(processes[1].pid, number)
    output_of(processes[1])
    assert_saved(out, processes[0])


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_stopped_for_longer_than_its_lock_lasts_it_writes_no_checkpoint(
    planted: Any, small_training: dict[str, Any], tmp_path: Path, devices: int
) -> None:
    out = tmp_path / "model"
    process = begin(planted, out, small_training | {"devices": devices})
    wait_for_a_checkpoint(out, process)
    found = read_lease(out / "lock.json")
    assert found is not None
    # Of several processes the first holds the lock.
    os.killpg(process.pid, signal.SIGSTOP)
    while Path(f"/proc/{found[0].pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        threading.Event().wait(0.005)
    mine, watch = Lease(out / "lock.json"), LeaseWatch(expires_s=0.05)
    while not mine.acquire(watch):
        threading.Event().wait(0.01)
    # What it had half written is not of the folder yet.
    before = {p.name: (p.stat().st_ino, p.read_bytes()) for p in out.glob("[a-z]*") if p.is_file() and p != mine.path}
    os.killpg(process.pid, signal.SIGCONT)
    output, _ = process.communicate()
    assert process.returncode == 1 and "has taken it over: nothing more is written" in output, output
    assert "Traceback" not in output
    after = {p.name: (p.stat().st_ino, p.read_bytes()) for p in out.glob("[a-z]*") if p.is_file() and p != mine.path}
    assert after == before and mine.is_mine()
    mine.release()
