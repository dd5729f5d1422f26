"""`mcn train`: an MCN, or DaveNet alone, on the clips of a manifest."""

import re
import resource
import shlex
from contextlib import nullcontext
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from models.mcn import MCN
from pipeline.clips.dataset import FeatureDataset
from pipeline.core.config import as_plain
from pipeline.core.errors import InputError
from pipeline.core.files import write_json, write_text
from pipeline.core.lease import LeaseLostError, locked
from pipeline.core.provenance import provenance
from pipeline.core.reporting import RunSummary
from pipeline.core.tables import percent
from pipeline.core.terminal import safe_output
from pipeline.dataset.folder import read_description, stream_of
from pipeline.dataset.manifest import TRAIN, read_manifest
from pipeline.training.batches import PermutedCaptions, TrainingBatches
from pipeline.training.checkpoint import FILE, VIDEOS, remove_leftovers, save_tensors
from pipeline.training.curves import RECALL, HeldOutClips
from pipeline.training.distributed import communicator_of, launch, precision_of
from pipeline.training.settings import TrainSettings, find_scheme
from pipeline.training.staging import stage
from pipeline.training.trainer import Data, Trainer
from pipeline.training.weights import share_initial_weights

SUMMARY_FILE = "train.json"
DAVENET_FILE = "davenet.pt"
"""Beside the checkpoint of model davenet: weights for `mcn extract --davenet-weights`."""


def run(settings: TrainSettings) -> RunSummary:
    """Train until `epochs` are done. Killed at any moment, the same call resumes from the last checkpoint."""
    _refuse_missing_streams(settings)
    try:
        return launch(settings, precision_of(settings), _work)
    except ValueError as error:  # a device that isn't there
        raise InputError(f"mcn train: {str(error).splitlines()[0]}") from None
    except ProcessRaisedException as error:
        message = re.search(r"(InputError|LeaseLostError): (.*)", str(error))
        if message is None:
            raise
        raise (InputError if message[1] == "InputError" else LeaseLostError)(message[2]) from None
    except ProcessExitedException as error:
        raise InputError(
            f"mcn train: one of {settings.devices} processes has died ({error}): memory may be too small; the last "
            "checkpoint is whole; rerun the same command to resume"
        ) from None


def _refuse_missing_streams(settings: TrainSettings) -> None:
    """InputError, before anything is read but two small files, where the data set lacks a stream that is asked for."""
    read_manifest(settings.manifest)
    folder = settings.manifest.resolve().parent.parent
    identity = read_description(folder)["identity"]
    for stream in settings.clips.streams:
        stream_of(folder, identity, stream)


def _work(fabric: Fabric, settings: TrainSettings, stop: Path | None) -> RunSummary:
    """What each process does."""
    # One that was started for this has the plain streams.
    with safe_output():
        return _train(fabric, settings, stop)


def _train(fabric: Fabric, settings: TrainSettings, stop: Path | None) -> RunSummary:
    report = RunSummary("train", unit="epoch")
    try:
        trainer = prepare(fabric, settings, report.notes)
    except ValueError as error:  # sizes that the model refuses
        raise InputError(f"mcn train: {str(error).splitlines()[0]}") from None
    lock = locked(settings.out / "lock.json", f"training in {settings.out}") if trainer.is_first else nullcontext()
    with lock:
        if trainer.is_first:
            remove_leftovers(settings.out)
        # All take it up, or none: one process that finds a checkpoint and one that doesn't would part for good.
        has_checkpoint = torch.tensor(int((settings.out / FILE).exists()), device=fabric.device)
        if bool(communicator_of(fabric).first(has_checkpoint)):
            report.notes += trainer.resume()
        report.skipped = trainer.epoch
        if trainer.epoch < settings.epochs:
            if fabric.device.type == "cuda":
                # cuDNN would otherwise choose among its ways by their speed of the moment.
                torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
                torch.backends.cudnn.allow_tf32 = trainer.precision != "fp32"
            if trainer.is_first:
                write_json(settings.out / "settings.json", as_plain(settings))
                ids = trainer.data.batches.video_ids
                write_text(settings.out / VIDEOS, "".join(f"{video_id}\n" for video_id in ids))
            if trainer.steps_done == 0:
                trainer.begin()
            trainer.train(stop)
        return _report(trainer, report)


def prepare(fabric: Fabric, settings: TrainSettings, notes: list[str]) -> Trainer:
    """A trainer at the very beginning; adds to `notes` what a reader of the report must know. Raises InputError."""
    scheme = find_scheme(settings.scheme)
    rules = settings.clip_rules(scheme)
    dataset = FeatureDataset(settings.manifest)
    other = {"davenet": "logmel", "logmel": "davenet"}.get(rules.audio)
    if other is not None and dataset.identity["audio"]["store"] == other:
        raise InputError(
            f"{dataset.folder}: extracted with --audio-store {other}, --audio-from {rules.audio} needs the other; "
            "extract with --audio-store both"
        )
    trained = {modality for space in scheme.spaces for modality in space.trained_modalities}
    if settings.model == "davenet" and trained != {"audio", "video"}:
        raise InputError(
            f"scheme {scheme.name}: model davenet is trained on sound and pictures alone: leave --scheme out"
        )
    streams = tuple(dataset.stream_width(stream) for stream in settings.clips.streams)
    silent = dataset.without_captions()
    video_ids = _training_videos(settings, dataset, silent, notes)
    vectors = dataset.word_vectors()
    if settings.stage_to is not None:
        notes += stage(dataset, rules, settings.stage_to, settings.stage_budget)
    permuted = None
    if settings.permute_captions:
        permuted = PermutedCaptions(dataset, video_ids, settings.seed)
        notes.append("a control: captions are permuted across the training videos")

    def batches(rank: int, processes: int) -> TrainingBatches:
        return TrainingBatches(
            dataset,
            video_ids,
            vectors,
            rules,
            batch_videos=settings.batch_videos,
            clips_per_video=settings.clips_per_video,
            seed=settings.seed,
            shuffle_shards=settings.shuffle_shards,
            permuted=permuted,
            rank=rank,
            processes=processes,
        )

    heldout = HeldOutClips(dataset, vectors, rules, settings.heldout_clips, settings.seed, silent)
    whole = batches(0, 1)
    mine = whole if fabric.world_size == 1 else batches(fabric.global_rank, fabric.world_size)
    torch.manual_seed(settings.seed)
    model = MCN(settings.model_settings(scheme, streams, vectors.vector_size))
    if settings.share_initial_weights:
        share_initial_weights(model, settings.seed)
    data = Data(dataset, mine, whole, heldout)
    return Trainer(settings, fabric, precision_of(settings), scheme, model, data)


def _training_videos(settings: TrainSettings, dataset: FeatureDataset, silent: set[str], notes: list[str]) -> list[str]:
    listed = dataset.manifest.ids(TRAIN)
    present = sorted(set(listed) - silent)
    if len(present) < len(listed):
        notes.append(f"{len(listed) - len(present)} videos without captions can't be drawn from and are left out")
    if len(present) < settings.batch_videos:
        raise InputError(
            f"{settings.manifest}: {len(present)} videos to train on make no batch of {settings.batch_videos}; "
            "lower --batch-videos or extract more"
        )
    return present


def _report(trainer: Trainer, report: RunSummary) -> RunSummary:
    settings, dataset = trainer.settings, trainer.data.dataset
    report.done = trainer.epoch - report.skipped
    report.stopped = trainer.epoch < settings.epochs
    report.complete = not report.stopped
    passed = trainer.waited_s + trainer.worked_s
    report.detail = {
        "checkpoint": str(settings.out / FILE),
        "scheme": trainer.scheme.name,
        "videos": len(trainer.data.batches.video_ids),
        "manifest": {"name": dataset.manifest.name, "digest": dataset.manifest.digest},
        "circumstance": provenance(str(trainer.fabric.device)),
        "processes": trainer.communicator.processes,
        "precision": trainer.precision,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "last": trainer.history[-1] if trainer.history else {},
        "steps": trainer.steps_now,
        "peak memory bytes": _peak_memory(trainer.fabric.device),
        "waiting for data": round(trainer.waited_s / passed, 4) if passed else None,
        "settings": as_plain(settings),
    }
    if trainer.is_first:
        trainer.save_metrics()
        if settings.model == "davenet" and report.complete:
            report.detail["davenet"] = str(_write_davenet(trainer.model, settings.out / DAVENET_FILE))
        # The report of the run that did the work stays.
        again = not trainer.steps_now and (settings.out / SUMMARY_FILE).exists()
        report.finish().publish(None if again else settings.out / SUMMARY_FILE)
        if report.complete:
            print("\n".join(_what_came_out(settings, report)), flush=True)
    return report


def _what_came_out(settings: TrainSettings, report: RunSummary) -> list[str]:
    """The score after the last epoch, where the model is, and what to do with it."""
    last, checkpoint = report.detail["last"], report.detail["checkpoint"]
    # DaveNet alone has no text to be found by.
    if "davenet" in report.detail:
        return [f"  DaveNet's weights: {report.detail['davenet']}, for `mcn extract --davenet-weights`"]
    scores = [
        f"{name.partition('/')[2]} {percent(value)} %" for name, value in last.items() if name.startswith(RECALL)
    ]
    held_out = [f"  held-out clips, text -> video: {', '.join(scores)}"] if scores else []
    command = ["mcn", "evaluate", "retrieval", "--checkpoint", str(settings.out), "--out", str(settings.out)]
    return [*held_out, f"  checkpoint: {checkpoint}", f"  next: {shlex.join(command)} --clips CLIPS.csv"]


def _peak_memory(device: torch.device) -> dict[str, int]:
    """The most bytes that this process has held so far, and on a GPU those that PyTorch had given out."""
    status = Path("/proc/self/status")
    if status.exists():
        # The figure of getrusage begins, on Linux, with that of the process which started this one.
        lines = status.read_text(encoding="utf-8").splitlines()
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peaks = {"process": peak}
    if device.type == "cuda":
        peaks["gpu"] = torch.cuda.max_memory_allocated(device)
    return peaks


def _write_davenet(model: MCN, path: Path) -> Path:
    assert model.davenet is not None
    save_tensors(path, {name: tensor.detach().cpu() for name, tensor in model.davenet.state_dict().items()})
    return path
