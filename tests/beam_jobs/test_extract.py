"""The extraction job, whole: real decoders and networks on small made videos."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import imageio_ffmpeg
import numpy as np
import psutil
import pytest
import torch
import torchvision
from PIL import Image

from beam_jobs.extract import ExtractSettings, run
from extractors.decoder_process import DecoderProcess
from extractors.errors import LibraryError
from extractors.made_clip import write_made_clip
from pipeline.core.errors import InputError
from pipeline.core.lease import LeaseWatch
from pipeline.core.ledger import latest_states
from pipeline.dataset.shard_check import verify
from pipeline.dataset.shard_reader import FeatureFile

REPOSITORY = Path(__file__).resolve().parents[2]
ONE_OR_TWO = [1, pytest.param(2, marks=pytest.mark.slow)]


def test_good_videos_are_stored_and_bad_ones_cost_a_line_each(local: Path) -> None:
    found: dict[str, tuple[int, int, int]] = {}
    for path in sorted((local / "shards").glob("*.h5")):
        assert verify(path) == []
        with h5py.File(path) as file:
            rows, logmel, captions = (np.diff(file[f"{name}/offsets"][:]) for name in ("rows", "logmel", "captions"))
            for index, video_id in enumerate(file["videos/id"][:]):
                found[video_id.decode()] = (int(rows[index]), int(logmel[index]), int(captions[index]))
            assert file["rows/efficientnet-lite0"].shape[1] == 1280
            assert file["rows/video_mask"][:].all()
    assert {video_id: counts[0] for video_id, counts in found.items()} == {
        "video-00000": 2,
        "video-00001": 2,
        "video-00002": 3,
        "video-00003": 1,
        "without-snd": 2,
    }
    assert found["without-snd"][1:] == (0, 0)
    assert found["video-00000"][2] == 2 and found["video-00003"][2] == 0
    assert found["video-00000"][1] == pytest.approx(201, abs=3)
    states = latest_states(local / "ledger", "extract")
    failed = {video_id: state.latest.reason for video_id, state in states.items() if state.latest.outcome == "failed"}
    assert set(failed) == {"zero-length", "not-a-video"}
    summary = json.loads((local / "extract.json").read_text())
    assert summary["done"] == 5 and sum(summary["failed"].values()) == 2
    assert not list((local / "parts").glob("*"))


@pytest.mark.parametrize("name", ["timm.test_resnet.r160_in1k"])
def test_a_network_of_timms_makes_a_stream_beside_another(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm isn't installed: pip install 'mcn[timm]'")
    (tmp_path / "media").mkdir()
    for video_id, seconds in (("made-video-1", 3.0), ("made-video-2", 2.0)):
        write_made_clip(tmp_path / "media" / f"{video_id}.mp4", seconds, 96, 54)
    settings = ExtractSettings(
        media=tmp_path / "media",
        out=tmp_path / "dataset",
        streams=("squeezenet1_1", name),
        weights=f"squeezenet1_1=random:0,{name}=random:3",
        precision="fp32",
        workers=1,
    )
    report = run(settings)
    assert report.done == 2 and f"{name} has random weights (random:3): its rows prove plumbing alone" in report.notes
    identity = json.loads((settings.out / "dataset.json").read_text())["identity"]["streams"]
    assert (identity[name]["view"], identity[name]["width"], identity[name]["cut"]) == ("own", 96, [160, 160])
    assert (identity["squeezenet1_1"]["view"], identity["squeezenet1_1"]["width"]) == ("full", 512)
    network = timm.create_model(name.removeprefix("timm."), num_classes=0).eval()
    network.load_state_dict(torch.load(settings.out / "weights" / f"{name}-random-3.pt"))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    for path in sorted((settings.out / "shards").glob("*.h5")):
        assert verify(path) == []
    with DecoderProcess(settings.decoding()) as decoder:
        for video in (video for path in (settings.out / "shards").glob("*.h5") for video in FeatureFile(path).videos()):
            decoder.open(tmp_path / "media" / f"{video.video_id}.mp4")
            frames = np.concatenate([batch.frames for batch in decoder.batches()])
            with torch.inference_mode():
                expected = network(torch.stack([transform(Image.fromarray(frame)) for frame in frames])).numpy()
            rows = video.video[name].astype(np.float64)
            assert rows.shape == (len(frames), 96) and video.video["squeezenet1_1"].shape == (len(frames), 512)
            # Timm's transform rounds the resized frame to bytes, float16 the row.
            np.testing.assert_allclose(rows, expected, atol=0.01 * np.abs(expected).max())
            assert np.abs(rows[0] - rows[1]).max() > 0.05 * np.abs(rows).max()
    assert run(settings).skipped == 2


def test_a_second_run_computes_nothing(local: Path, settings: Callable[..., ExtractSettings]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (local / "shards").glob("*.h5")}
    again = settings()
    report = run(ExtractSettings(**{**again.__dict__, "out": local}))
    assert report.complete and report.done == 0 and report.skipped == 5
    assert {path: path.stat().st_mtime_ns for path in (local / "shards").glob("*.h5")} == before


def test_other_settings_are_refused_by_name(local: Path, settings: Callable[..., ExtractSettings]) -> None:
    other = settings(feature_fps=2)
    with pytest.raises(InputError, match=r"--feature-fps was 1, now 2"):
        run(ExtractSettings(**{**other.__dict__, "out": local}))


def test_new_videos_make_new_shards_and_leave_old_ones_alone(
    settings: Callable[..., ExtractSettings], tmp_path: Path, local: Path
) -> None:
    few = tmp_path / "few.csv"
    few.write_text("video_id\nvideo-00000\nvideo-00001\n")
    growing = settings(out="growing", media=tmp_path / "media", ids=None)
    (tmp_path / "media").mkdir()
    for name in ("video-00000.mp4", "video-00002.mp4"):
        os.link(settings().media / name, tmp_path / "media" / name)
    report = run(growing)
    assert report.done == 2
    time = report.detail["time"]
    # Shares of all of it, each as it is, and rounded.
    assert all(sum(time[of].values()) == pytest.approx(1, abs=0.003) for of in ("of workers", "of decoders"))
    assert time["of workers"]["networks"] > 0 and time["of workers"]["writing"] > 0
    assert time["of decoders"]["decoding"] > 0 and 0 < time["of the networks alone"] < 1
    assert sum(note.startswith(f"time of {time['workers']} worker") for note in report.notes) == 1
    old = {path.name: path.read_bytes() for path in (growing.out / "shards").glob("*.h5")}
    for name in ("video-00001.mp4", "video-00003.mp4", "without-snd.mp4"):
        os.link(settings().media / name, tmp_path / "media" / name)
    assert run(growing).done == 3
    assert {name: (growing.out / "shards" / name).read_bytes() for name in old} == old

    def rows(folder: Path) -> dict[bytes, bytes]:
        found = {}
        for path in (folder / "shards").glob("*.h5"):
            with h5py.File(path) as file:
                offsets = file["rows/offsets"][:]
                for index, video_id in enumerate(file["videos/id"][:]):
                    found[video_id] = file["rows/efficientnet-lite0"][offsets[index] : offsets[index + 1]].tobytes()
        return found

    assert rows(growing.out) == rows(local)


@pytest.mark.slow
def test_killed_at_its_first_part_it_resumes_to_the_same_datasets(
    settings: Callable[..., ExtractSettings],
    local: Path,
    datasets: Callable[[Path], dict[str, bytes]],
    command_of: Callable[..., list[str]],
) -> None:
    interrupted = settings(out="interrupted")
    process = subprocess.Popen(
        command_of(interrupted), cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not list(interrupted.out.glob("parts/*/*.h5")):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
    process.kill()
    process.wait()
    assert not len(list((interrupted.out / "shards").glob("*.h5"))) == len(list((local / "shards").glob("*.h5")))
    assert run(interrupted).complete
    assert datasets(interrupted.out) == datasets(local)


@pytest.mark.slow
def test_several_worker_processes_give_the_same_datasets(
    settings: Callable[..., ExtractSettings], local: Path, datasets: Callable[[Path], dict[str, bytes]]
) -> None:
    shared = settings(out="several", workers=2)
    assert run(shared).complete
    assert datasets(shared.out) == datasets(local)


Extract = Callable[[ExtractSettings], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def extract(command_of: Callable[..., list[str]]) -> Extract:
    """`mcn extract`, as a process: what workers and libraries write to the error stream is seen too."""
    return lambda settings: subprocess.run(command_of(settings), cwd=REPOSITORY, capture_output=True, text=True)


def said(ended: "subprocess.CompletedProcess[str]") -> list[str]:
    """The lines of its error stream, those of progress apart, which a busy machine has."""
    return [line for line in ended.stderr.splitlines() if not re.match(r"extract: \d+/\d+ videos, ", line)]


@pytest.mark.parametrize("workers", ONE_OR_TWO)
def test_an_error_of_a_worker_is_one_line(
    settings: Callable[..., ExtractSettings], extract: Extract, workers: int
) -> None:
    broken = settings(out="broken", workers=workers)
    broken.out.mkdir()
    (broken.out / "parts").write_text("a file where the folder of parts should be")
    ended = extract(broken)
    assert ended.returncode == 2
    (line,) = said(ended)
    assert line.startswith("mcn: ") and "parts" in line and "can't be written" in line


def test_a_torchaudio_that_does_not_load_is_charged_to_no_video(
    settings: Callable[..., ExtractSettings], tmp_path: Path
) -> None:
    def broken() -> None:
        raise LibraryError("torchaudio doesn't load beside torch 2.11.0 (undefined symbol)")

    shutil.copytree(settings().media, tmp_path / "media")
    before = sorted(path.name for path in (tmp_path / "media").iterdir())
    asked = settings(media=tmp_path / "media", delete_media=True)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="torchaudio doesn't load"):
        patch.setattr("pipeline.extraction.features.mel_filters", broken)
        run(asked)
    assert sorted(path.name for path in (tmp_path / "media").iterdir()) == before
    assert not list((asked.out / "shards").glob("*")) and not latest_states(asked.out / "ledger", "extract")


@pytest.mark.parametrize("workers", ONE_OR_TWO)
def test_nothing_but_the_report_is_said_when_all_goes_well(
    settings: Callable[..., ExtractSettings], extract: Extract, workers: int
) -> None:
    ended = extract(settings(out="quiet", workers=workers))
    assert (ended.returncode, said(ended)) == (0, []) and ended.stdout.startswith("extract: 5 videos done")


OTHER_PYAV = """
import av
whole = av.open
def open(file, mode=None, *, format=None, **named):
    if named:
        raise TypeError(f"open() got an unexpected keyword argument {min(named)!r}")
    return whole(file, mode, format=format)
av.open = open
"""


@pytest.mark.parametrize("workers", ONE_OR_TWO)
def test_a_pyav_of_another_version_is_one_line_and_costs_no_media(
    settings: Callable[..., ExtractSettings],
    media: Path,
    tmp_path: Path,
    command_of: Callable[..., list[str]],
    workers: int,
) -> None:
    kept = Path(shutil.copytree(media, tmp_path / "media"))
    (tmp_path / "sitecustomize.py").write_text(OTHER_PYAV)
    other = settings(out="other", media=kept, workers=workers)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    ended = subprocess.run(
        command_of(other, "--delete-media"), cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    (line,) = said(ended)
    assert line.startswith("mcn: the decoder process did not start") and "TypeError" in line
    assert {path.name for path in kept.iterdir()} == {path.name for path in media.iterdir()}
    assert not latest_states(other.out / "ledger", "extract") and not list(other.out.glob("shards/*"))
    again = run(settings(out="other", media=kept, workers=workers, delete_media=True))
    assert again.complete and again.done == 5
    assert {path.stem for path in kept.rglob("*.mp4")} == {"zero-length", "not-a-video"}


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.parametrize(("workers", "room"), [(1, 200_000), (2, 40_000)])
def test_a_disk_that_fills_up_in_a_worker_is_one_line_and_room_mends_it(
    settings: Callable[..., ExtractSettings],
    local: Path,
    extract: Extract,
    datasets: Callable[[Path], dict[str, bytes]],
    workers: int,
    room: int,
) -> None:
    small = settings(out="small", workers=workers)
    small.out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(small.out)], check=True)
    try:
        # All that is made before the first video.
        for name in ("dataset.json", "captions.h5", "words.kv"):
            shutil.copy(local / name, small.out)
        state = os.statvfs(small.out)
        (small.out / "filler").write_bytes(b"x" * (state.f_bavail * state.f_frsize - room))
        ended = extract(small)
        assert ended.returncode == 2
        (line,) = said(ended)
        assert line.startswith(f"mcn: {small.out}") and "can't be written: No space left on device" in line
        (small.out / "filler").unlink()
        again = extract(small)
        assert (again.returncode, said(again)) == (0, [])
        assert datasets(small.out) == datasets(local)
    finally:
        subprocess.run(["umount", "-l", str(small.out)], check=True)


@pytest.mark.slow
def test_workers_end_when_the_process_that_drives_them_is_killed(
    settings: Callable[..., ExtractSettings], command_of: Callable[..., list[str]]
) -> None:
    orphaned = settings(out="orphaned", workers=2)
    process = subprocess.Popen(
        command_of(orphaned), cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    driver = psutil.Process(process.pid)
    while not list(orphaned.out.glob("leases/0*.json")):
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert process.wait(timeout=0.02) is None
    started = driver.children(recursive=True)
    held = list(orphaned.out.glob("leases/0*.json"))
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(started, timeout=600)
    assert started and not alive
    watch = LeaseWatch()
    assert all(watch.is_dead(path) for path in held if path.exists())


@pytest.mark.parametrize("workers", ONE_OR_TWO)
def test_odd_csv_captions_are_told_and_stop_nothing(
    settings: Callable[..., ExtractSettings], tmp_path: Path, workers: int
) -> None:
    folder = tmp_path / "captions"
    folder.mkdir()
    (folder / "video-00000.csv").touch()
    (folder / "video-00001.csv").write_text("start,end,text\n0,1,whisk\n1,0.5,reversed\nnan,2,odd\n1,nan,odd\n")
    (folder / "video-00002.csv").write_text("start,end,text\n0,1,stir\n2,1,reversed\n")
    (folder / "video-00003.csv").write_text("start,end,text\n0,1," + "a" * (2 << 20) + "\n")
    report = run(settings(out="odd", captions=folder, workers=workers))
    assert report.complete and report.done == 5
    assert [note for note in report.notes if note.startswith("captions left out")] == [
        "captions left out, file that is no csv with start,end,text: 1",
        "captions left out, line of more than 1048576 characters: 1",
        "captions left out, reversed or negative time: 2",
        "captions left out, time is not a number: 2",
    ]


@pytest.mark.slow
def test_dask_cluster_gives_the_same_datasets(
    settings: Callable[..., ExtractSettings], local: Path, datasets: Callable[[Path], dict[str, bytes]]
) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster:
        spread = settings(out="dask")
        address = f"--dask_client_address={cluster.scheduler_address}"
        assert run(spread, ["--runner=DaskRunner", address, "--dask_npartitions=2"]).complete
    assert datasets(spread.out) == datasets(local)


@pytest.mark.slow
def test_a_worker_runs_from_the_sdist_alone(
    media: Path,
    captions: Path,
    small: dict[str, Any],
    local: Path,
    tmp_path: Path,
    datasets: Callable[[Path], dict[str, bytes]],
) -> None:
    """What Beam ships (`--setup_file`): built, unpacked elsewhere, run there."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    build = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "sdist", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, env=environment, capture_output=True)
    (archive,) = tmp_path.glob("mcn-*.tar.gz")
    with tarfile.open(archive) as packed:
        names = packed.getnames()
        packed.extractall(tmp_path / "unpacked", filter="data")
    (root,) = (tmp_path / "unpacked").iterdir()
    assert not [name for name in names if "/tests/" in name]
    out = tmp_path / "shipped"
    script = (
        "import pipeline, sys; from pathlib import Path; from beam_jobs.extract import ExtractSettings, run\n"
        "root, media, captions, out = map(Path, sys.argv[1:])\n"
        "assert Path(pipeline.__file__).is_relative_to(root), pipeline.__file__\n"
        f"run(ExtractSettings(media=media, captions=captions, out=out, **{small!r}))\n"
    )
    command = [sys.executable, "-c", script, str(root), str(media), str(captions), str(out)]
    subprocess.run(command, cwd=tmp_path, check=True, env=environment | {"PYTHONPATH": str(root)}, capture_output=True)
    assert datasets(out) == datasets(local)


@pytest.mark.slow
def test_a_row_of_clips_is_torchvisions_feature_of_ffmpegs_frames(
    settings: Callable[..., ExtractSettings], media: Path, tmp_path: Path
) -> None:
    (tmp_path / "one.csv").write_text("video_id\nvideo-00000\n")
    asked = settings(
        streams=("resnet18", "mc3_18"), weights="resnet18=random:0,mc3_18=random:1", ids=tmp_path / "one.csv"
    )
    report = run(asked)
    assert report.complete and report.notes[:2] == [
        f"{name} has random weights (random:{seed}): its rows prove plumbing alone"
        for name, seed in (("resnet18", 0), ("mc3_18", 1))
    ]
    (path,) = (asked.out / "shards").glob("*.h5")
    assert verify(path) == []
    with h5py.File(path) as file:
        rows = file["rows/mc3_18"][:].astype(np.float32)
        assert rows.shape == (2, 512) and file["rows/resnet18"].shape == (2, 512)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(media / "video-00000.mp4")]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    decoded = np.frombuffer(raw, np.uint8).reshape(60, 180, 320, 3)
    resized = [Image.fromarray(one).resize((454, 256), Image.Resampling.BILINEAR) for one in decoded]
    frames = np.stack([np.asarray(one) for one in resized])
    models: Any = torchvision.models.video
    network = models.mc3_18()
    network.load_state_dict(torch.load(asked.out / "weights" / "mc3_18-random-1.pt"), strict=False)
    network.fc = torch.nn.Identity()
    transforms = models.MC3_18_Weights.KINETICS400_V1.transforms()
    for row in range(2):
        shown = frames[[min(max(30 * row + 2 * (i - 8), 0), 58) for i in range(16)]]
        with torch.inference_mode():
            expected = network.eval()(transforms(torch.from_numpy(shown).permute(0, 3, 1, 2).float()[None] / 255))[0]
        np.testing.assert_allclose(rows[row], expected, rtol=2e-3, atol=5e-3)
