"""`mcn forget ID...`: a video leaves everything that was made of it, and can't come back.

A journal says which ids are on their way out; while it lies there, the data set isn't extracted to or frozen, and the
same command, with or without ids, goes on.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.caption_store import FILE as CAPTIONS
from pipeline.caption_store import remove_from_store
from pipeline.checkpoint import VIDEOS
from pipeline.dataset_folder import FORGETTING, read_description
from pipeline.errors import InputError
from pipeline.feature_file import FeatureFile
from pipeline.files import fsync_folder, read_json, write_aside, write_json, write_text
from pipeline.lease import locked
from pipeline.ledger import decode_line
from pipeline.manifest import Manifest, read_manifest
from pipeline.media_budget import SCRATCH, download_lock
from pipeline.media_folder import MediaFinder
from pipeline.plans import lease_path, plan_names, read_plan, write_plans
from pipeline.receipts import Receipt, make_receipt, read_receipt, receipt_path, shard_path
from pipeline.recomputation import settings_of
from pipeline.report import StageReport
from pipeline.shards import Origin, write_part, write_shard
from pipeline.tombstones import add_tombstones, tombstone
from pipeline.video_ids import check_media_name

DERIVED = {".json", ".html", ".csv", ".md", ".tex", ".jpg", ".npy"}
"""Suffixes of what is made of a data set and can be made again: such a file that names the video is deleted."""


@dataclass(frozen=True)
class ForgetSettings:
    """Which videos, and where they may be."""

    ids: tuple[str, ...] = ()
    """Ids of the videos to forget; none: finish an interrupted `mcn forget`."""
    dataset: Path | None = None
    """Data set folder; default: RUN/dataset."""
    media: Path | None = None
    """Media folder; default: RUN/media, or the one that the data set was made from."""
    run: Path | None = None
    """Folder of a run (`mcn run`), or any folder with models and reports: checkpoints are listed, reports removed."""

    def __post_init__(self) -> None:
        if self.dataset is None and self.run is None:
            raise ValueError("dataset or run is needed: where the videos are")


def run(settings: ForgetSettings) -> StageReport:
    """Complete when none of the videos is left anywhere; says which checkpoints saw them."""
    report = StageReport("forget")
    dataset = settings.dataset or Path(str(settings.run)) / "dataset"
    read_description(dataset)
    media = _media(settings, dataset)
    ids = {check_media_name(video_id, "mcn forget") for video_id in settings.ids} | _journal(dataset)
    if not ids:
        raise InputError(f"mcn forget: ids are needed; none was left half forgotten in {dataset}")
    with ExitStack() as stack:
        for path, what in _locks(dataset, media):
            stack.enter_context(locked(path, what))
        write_json(dataset / FORGETTING, {"ids": sorted(ids)})
        for folder in (dataset, media):
            if folder is not None and folder.is_dir():
                add_tombstones(folder, ids)
        report.detail = {
            "media": _forget_media(media, ids) if media is not None and media.is_dir() else 0,
            "shards": _forget_shards(dataset, ids),
            "captions": _forget_captions(dataset, ids),
            "manifests": _forget_in_manifests(dataset, ids),
            "ledger lines": sum(_forget_in_ledger(folder / "ledger", ids) for folder in (dataset, media) if folder),
        }
        checkpoints = _checkpoints(settings.run, ids) if settings.run else []
        removed = _forget_reports(settings.run, dataset, media, ids)
        (dataset / FORGETTING).unlink()
    report.detail |= {"reports": [str(path) for path in removed], "checkpoints": [str(path) for path in checkpoints]}
    report.done = len(ids)
    report.notes += [
        f"{path} was trained on some of them: train anew to be rid of what it learnt" for path in checkpoints
    ]
    if settings.run is None:
        report.notes.append("models and reports were not looked for: give --run FOLDER")
    if removed:
        report.notes.append(f"{len(removed)} reports that named them are removed; `mcn run` makes them anew")
    report.finish().publish(dataset / "forget.json")
    return report


def _media(settings: ForgetSettings, dataset: Path) -> Path | None:
    if settings.media is not None or settings.run is not None:
        return settings.media or Path(str(settings.run)) / "media"
    try:
        return settings_of(dataset, None).media
    except InputError:
        return None


def _journal(dataset: Path) -> set[str]:
    path = dataset / FORGETTING
    return set(read_json(path)["ids"]) if path.exists() else set()


def _locks(dataset: Path, media: Path | None) -> Iterator[tuple[Path, str]]:
    """Everything that a process at work on these folders holds."""
    yield dataset / "leases" / "planning.json", f"planning in {dataset}"
    for name in plan_names(dataset / "plans"):
        if lease_path(dataset, name).exists():
            yield lease_path(dataset, name), f"extracting shard {name}"
    if media is not None and media.is_dir():
        yield download_lock(media, "1/1"), f"downloading to {media}"
        for path in sorted((media / SCRATCH).glob("*.json")):
            if path != download_lock(media, "1/1"):
                yield path, f"{path.stem} in {media}"


def _forget_media(media: Path, ids: Collection[str]) -> int:
    finder = MediaFinder(media)
    count = 0
    for video_id in ids:
        while (path := finder.find(video_id)) is not None:
            path.unlink()
            fsync_folder(path.parent)
            finder = MediaFinder(media)
            count += 1
    return count


def _forget_shards(dataset: Path, ids: Collection[str]) -> dict[str, str]:
    """Replace every plan that names one of the ids, with its shard or parts; returns old name -> new name."""
    replaced: dict[str, str] = {}
    plans = dataset / "plans"
    for name in plan_names(plans):
        plan = read_plan(plans, name)
        if not set(ids) & set(plan.video_ids):
            continue
        kept = tuple(video_id for video_id in plan.video_ids if video_id not in ids)
        # An earlier call that was killed may have written the plan in its place already.
        new = next((n for n in plan_names(plans) if n != name and read_plan(plans, n).video_ids == kept), None)
        if kept:
            new = new or write_plans(plans, [kept])[0]
            _move_features(dataset, name, new, kept)
            replaced[name] = new
        else:
            replaced[name] = ""
        for path in (shard_path(dataset, name), receipt_path(dataset, name), plans / f"{name}.json"):
            path.unlink(missing_ok=True)
            fsync_folder(path.parent if path.parent.is_dir() else dataset)
        shutil.rmtree(dataset / "parts" / name, ignore_errors=True)
    return replaced


def _move_features(dataset: Path, name: str, new: str, kept: tuple[str, ...]) -> None:
    """What plan `name` has of the videos `kept`, as a closed shard or as parts of plan `new`."""
    source, target, parts = shard_path(dataset, name), shard_path(dataset, new), dataset / "parts" / new
    for part in (dataset / "parts" / name).glob("*.h5"):
        if part.stem in kept:
            parts.mkdir(parents=True, exist_ok=True)
            os.replace(part, parts / part.name)
    if not source.exists():
        return
    receipt = read_receipt(dataset, name)
    if not target.exists():
        _rewrite(dataset, source, new, kept)
    if read_receipt(dataset, new) is None:
        make_receipt(dataset, new, receipt.left_out if receipt is not None else {})
    shutil.rmtree(parts, ignore_errors=True)


def _rewrite(dataset: Path, source: Path, new: str, kept: tuple[str, ...]) -> None:
    """Close shard `new` with the videos `kept` of the shard `source`."""
    parts = dataset / "parts" / new
    identity = read_description(dataset)["identity"]
    with FeatureFile(source) as file:
        circumstance, table = file.circumstance, file.table()
        places = {video_id: place for place, video_id in enumerate(file.video_ids)}
        stored = [video_id for video_id in kept if video_id in places]
        for video_id in stored:
            video = file.video(places[video_id], video_id, table)
            write_part(parts / f"{video_id}.h5", video, Origin(new, identity, circumstance))
    origin = Origin(new, identity, circumstance, read_plan(dataset / "plans", new).digest)
    write_shard(shard_path(dataset, new), [parts / f"{video_id}.h5" for video_id in stored], origin)


def _forget_captions(dataset: Path, ids: Collection[str]) -> bool:
    if not (dataset / CAPTIONS).exists():
        return False
    remove_from_store(dataset / CAPTIONS, ids)
    return True


def _forget_in_manifests(dataset: Path, ids: Collection[str]) -> list[str]:
    """Take the ids from every manifest, and name the shards that hold its other videos now."""
    homes = {
        name: read_receipt(dataset, name)
        for name in plan_names(dataset / "plans")
        if receipt_path(dataset, name).exists()
    }
    changed = []
    for path in sorted((dataset / "manifests").glob("*.json")):
        before = read_manifest(path)
        after = _without(before, ids, [receipt for receipt in homes.values() if receipt is not None])
        if after != before:
            write_json(path, after.as_json() | {"digest": after.digest})
            changed.append(before.name)
    return changed


def _without(manifest: Manifest, ids: Collection[str], receipts: list[Receipt]) -> Manifest:
    def cut(lists: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return {name: tuple(i for i in members if i not in ids) for name, members in lists.items()}

    there = {receipt.name for receipt in receipts}
    if set(manifest.shards) <= there and not any(
        set(ids) & set(members)
        for lists in (manifest.splits, manifest.left_out, manifest.missing)
        for members in lists.values()
    ):
        return manifest
    frozen = {i for lists in (manifest.splits, manifest.left_out) for members in lists.values() for i in members}
    shards = {
        receipt.name: {"content": receipt.content, "videos": len(receipt.video_ids)}
        for receipt in receipts
        if receipt.name in manifest.shards or (frozen - set(ids)).intersection(receipt.video_ids)
    }
    return replace(
        manifest,
        splits=cut(manifest.splits),
        left_out=cut(manifest.left_out),
        missing=cut(manifest.missing),
        shards=shards,
    )


def _forget_in_ledger(folder: Path, ids: Collection[str]) -> int:
    """Write every ledger file that has lines of the ids anew without them; returns how many lines."""
    count = 0
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_bytes().split(b"\n")
        kept = [line for line in lines if not _is_of(line, ids)]
        if len(kept) < len(lines):
            count += len(lines) - len(kept)
            with write_aside(path) as aside:
                aside.write_bytes(b"\n".join(kept))
    return count


def _is_of(line: bytes, ids: Collection[str]) -> bool:
    outcome = decode_line(line)
    return outcome.video_id in ids if outcome is not None else any(video_id.encode() in line for video_id in ids)


def _checkpoints(folder: Path, ids: Collection[str]) -> list[Path]:
    """Folders of checkpoints that were trained on one of the ids; beside them its sha256 takes the id's place."""
    found = []
    for path in sorted(folder.rglob(VIDEOS)):
        lines = path.read_text(encoding="utf-8").split("\n")
        if set(ids) & set(lines):
            found.append(path.parent)
            write_text(path, "\n".join(f"sha256 {tombstone(line)}" if line in ids else line for line in lines))
    return found


def _forget_reports(folder: Path | None, dataset: Path, media: Path | None, ids: Collection[str]) -> list[Path]:
    """Delete reports, pages and thumbnails that name one of the ids."""
    wanted = [video_id.encode() for video_id in ids]
    removed = []
    for top in filter(None, (folder, dataset, media)):
        for path in sorted(top.rglob("*")):
            if path.suffix not in DERIVED or not path.is_file() or _is_source(path, folder, dataset):
                continue
            if any(i in path.name.encode() for i in wanted) or any(i in path.read_bytes() for i in wanted):
                path.unlink()
                removed.append(path)
    return sorted(set(removed))


def _is_source(path: Path, folder: Path | None, dataset: Path) -> bool:
    """Whether a file isn't a report: the data set's own, or the sample's lists, which are the user's input."""
    kept = {dataset / name for name in ("plans", "shards", "manifests", "leases", "weights", "parts")}
    kept |= {folder / "sample"} if folder is not None else set()
    return path in (dataset / FORGETTING, dataset / "dataset.json") or any(path.is_relative_to(place) for place in kept)
