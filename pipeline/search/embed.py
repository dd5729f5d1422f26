"""`mcn embed`: the clips of a manifest as vectors, by a trained model, in one HDF5 file.

A part file for each shard of the data set, then all joined: a kill costs the shard in hand, and changes no byte.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.pairing import scheme_to_dict
from pipeline.clips.cutting import ClipFeatures, Cutter, known_words
from pipeline.clips.rules import ClipRules, ClipSpan, caption_clips, window_clips
from pipeline.core.errors import InputError
from pipeline.core.files import ASIDE, remove, remove_tree
from pipeline.core.formatting import plain
from pipeline.core.lease import locked
from pipeline.core.provenance import provenance
from pipeline.core.reporting import Progress, RunSummary
from pipeline.core.signals import asked_to_stop
from pipeline.dataset.shard_writer import to_float16
from pipeline.search.embeddings import EmbeddingsFile, MadeOf, join_parts, vectors_name, write_part
from pipeline.search.settings import EmbedSettings
from pipeline.training.checkpoint import BATCH_CLIPS, TrainedModel, open_trained


def run(settings: EmbedSettings) -> RunSummary:
    """Complete when the file is there and holds these settings' embeddings; InputError when it holds others."""
    report = RunSummary("embed", unit="clip")
    model = open_trained(settings.checkpoint, settings.manifest)
    made_of = made_of_settings(model, settings)
    summary = settings.out.with_suffix(".json")
    parts_folder = settings.out.with_name(f".{settings.out.name}.parts")
    if settings.out.exists():
        with EmbeddingsFile(settings.out) as existing:
            if existing.made_of != made_of:
                raise InputError(
                    f"{settings.out}: holds {_difference(existing.made_of, made_of)}; delete it or choose another --out"
                )
        # A kill between the last rename and the parts' removal leaves them.
        shutil.rmtree(parts_folder, ignore_errors=True)
        _describe(report, settings, model)
        report.finish().publish(None if summary.exists() else summary)
        return report
    with locked(parts_folder / "lock.json", f"embedding to {settings.out}"):
        for aside in (*parts_folder.rglob(f"*{ASIDE}"), *settings.out.parent.glob(f".{settings.out.name}.*{ASIDE}")):
            remove(aside)
        parts = _write_parts(model, settings, made_of, parts_folder / made_of.key[:16], report)
        if not report.stopped:
            paths = {"checkpoint": str(model.checkpoint.resolve()), "manifest": str(model.dataset.path.resolve())}
            join_parts(settings.out, made_of, paths, parts)
            for folder in parts_folder.iterdir():
                if folder.is_dir():
                    remove_tree(folder)
    if not report.stopped:
        with suppress(OSError):  # another process has come, and looks
            parts_folder.rmdir()
        _describe(report, settings, model)
    report.complete = not report.stopped
    report.finish().publish(None if report.stopped else summary)
    return report


def made_of_settings(model: TrainedModel, settings: EmbedSettings) -> MadeOf:
    """All that the embeddings of these settings follow from."""
    network, rules = model.network.settings, asdict(model.rules)
    rules["min_seconds"] = rules.pop("min_clip_seconds")  # its name in files since version 0.1.0
    return MadeOf(
        checkpoint=model.digest,
        scheme=json.loads(json.dumps(scheme_to_dict(network.scheme))),
        manifest={"name": model.dataset.manifest.name, "digest": model.dataset.manifest.digest},
        split=settings.split,
        clips=settings.clips,
        window_seconds=settings.window_seconds,
        rules=json.loads(json.dumps(rules)),
        precision=settings.precision,
        normalised=model.normalised,
        widths={
            space.name: dict.fromkeys(space.modalities, network.width_of(space)) for space in network.scheme.spaces
        },
    )


def _difference(actual: MadeOf, expected: MadeOf) -> str:
    """What an embeddings file holds instead, by the first difference that matters to a reader."""
    if actual.checkpoint != expected.checkpoint:
        return "embeddings by another checkpoint"
    if actual.manifest != expected.manifest:
        name, digest = actual.manifest.get("name", ""), actual.manifest.get("digest", "")
        return f"embeddings of another manifest ({plain(name, 64)}, {plain(digest[:12])})"
    names = [name for name, value in asdict(expected).items() if asdict(actual)[name] != value]
    return f"embeddings with another {names[0].replace('_', ' ')} ({asdict(actual)[names[0]]})"


def _write_parts(
    model: TrainedModel, settings: EmbedSettings, made_of: MadeOf, folder: Path, report: RunSummary
) -> list[Path]:
    """Write the parts that aren't there yet; sets `report.stopped` where a signal cut this short."""
    model.dataset.keep_no_more()
    shards = model.dataset.by_shard(model.dataset.manifest.ids(settings.split))
    if not shards:
        raise InputError(f"{model.dataset.path}: split {settings.split} has no video; choose another --split")
    parts = []
    with Progress("embed", len(shards), "shard") as progress:
        for number, video_ids in enumerate(shards):
            part = folder / f"{number:06d}.h5"
            parts.append(part)
            if not _is_whole(part, made_of, video_ids):
                if asked_to_stop():
                    report.stopped = True
                    report.waiting += 1
                    continue
                clips = [(video_id, _spans(model, video_id, settings)) for video_id in video_ids]
                write_part(part, made_of, clips, _rows(model, clips, made_of))
                report.done += sum(len(spans) for _, spans in clips)
            progress.to(number + 1)
    return parts


def _is_whole(part: Path, made_of: MadeOf, video_ids: list[str]) -> bool:
    if not part.exists():
        return False
    try:
        with EmbeddingsFile(part) as file:
            return file.made_of == made_of and file.video_ids == video_ids
    except InputError:
        # What a power cut may leave of a part is computed anew.
        return False


def _spans(model: TrainedModel, video_id: str, settings: EmbedSettings) -> list[ClipSpan]:
    video = model.dataset.video(video_id, ClipRules(streams=(), audio="none"), texts=True)
    if settings.clips == "windows" or not video.captions:
        return window_clips(video, settings.window_seconds)
    return caption_clips(video, model.rules)


def _cut(model: TrainedModel, clips: Iterable[tuple[str, list[ClipSpan]]]) -> Iterator[ClipFeatures]:
    for video_id, spans in clips:
        cutter = Cutter(model.dataset.video(video_id, model.rules), model.rules)
        for span in spans:
            yield cutter.cut(span.start, span.end, known_words(span.words, model.vectors))


def _rows(
    model: TrainedModel, clips: list[tuple[str, list[ClipSpan]]], made_of: MadeOf
) -> Iterator[tuple[str, NDArray[Any]]]:
    """(dataset, rows) of vectors and presence, a batch of clips at a time: batches depend on the shard alone."""
    left = _cut(model, clips)
    while batch := list(islice(left, BATCH_CLIPS)):
        embedded = model.embed(batch)
        for modality in made_of.modalities:
            yield f"present/{modality}", embedded.present[modality].numpy()
        for space, widths in made_of.widths.items():
            for modality in widths:
                vectors = embedded.vectors[space][modality].float().numpy()
                vectors = np.where(embedded.present[modality].numpy()[:, None], vectors, np.float32(0))
                yield vectors_name(space, modality), _stored(vectors, made_of.precision, batch, f"{space}/{modality}")


def _stored(vectors: NDArray[np.float32], precision: str, batch: list[ClipFeatures], name: str) -> NDArray[Any]:
    """The vectors as they are stored; InputError names the first clip whose values don't fit."""
    try:
        if precision == "float16":
            return to_float16(vectors, name)
        if np.isfinite(vectors).all():
            return vectors
    except ValueError:
        pass
    largest = np.finfo(precision).max
    wrong = int(np.argmin((np.abs(vectors) <= largest).all(axis=1)))
    clip, finite = batch[wrong], bool(np.isfinite(vectors[wrong]).all())
    reason = f"a value beyond {largest:,.0f}; use --precision float32" if finite else "NaN or infinity; train anew"
    raise InputError(f"video {clip.video_id} at {clip.start:.1f} s: its vector {name} holds {reason}")


def _describe(report: RunSummary, settings: EmbedSettings, model: TrainedModel) -> None:
    with EmbeddingsFile(settings.out) as file:
        report.skipped = file.clips - report.done
        absent = {m: file.clips - int(file.present(m).sum()) for m in file.made_of.modalities}
        video_ids = file.video_ids
        report.detail = {
            # Where it lay says the summary alone: equal embeddings are equal files.
            "file": str(settings.out.resolve()),
            "bytes": settings.out.stat().st_size,
            "digest": file.digest,
            "videos": len(video_ids),
            "clips": file.clips,
            "absent": absent,
            "made of": asdict(file.made_of),
            "circumstance": provenance("cpu"),
        }
    silent = model.dataset.without_captions().intersection(video_ids)
    if silent and settings.clips == "captions":
        report.notes.append(
            f"{len(silent)} videos have no captions: windows of {settings.window_seconds:g} s stand for them"
        )
    report.notes += [f"{count} clips have no {modality}" for modality, count in absent.items() if count]
    if seen := model.training_videos.intersection(video_ids):
        report.notes.append(f"the model was trained on {len(seen)} of these {len(video_ids)} videos")
