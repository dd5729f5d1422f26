"""`mcn freeze DATASET NAME`: a manifest of what the data set holds now, with held-out splits."""

import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.files import AlreadyThereError, digest_of_json, sha256_of_file, write_json
from pipeline.core.formatting import quoted
from pipeline.core.ledger import latest_states
from pipeline.core.lists import left_out_note
from pipeline.core.remote import address_of
from pipeline.core.reporting import RunSummary
from pipeline.core.video_ids import find_ids, read_split, read_video_list
from pipeline.dataset.addresses import with_upload
from pipeline.dataset.folder import forgotten, is_forgotten, read_description, refuse_half_forgotten
from pipeline.dataset.manifest import HELD_OUT, TRAIN, FreezeSettings, Manifest, manifest_path, read_manifest
from pipeline.dataset.shard_plans import Receipt, receipt_names, receipts, shard_path
from pipeline.download.remote_media import downloads_ledger


def run(settings: FreezeSettings) -> RunSummary:
    """Write the manifest; one of this name that is there is kept, and what has changed since is noted.

    Into a data set at an address it is uploaded; receipts and plans alone are fetched for it.
    """
    if address := address_of(settings.dataset):
        name = manifest_path(Path(), settings.name).as_posix()
        return with_upload(address, name, lambda copy: _freeze(replace(settings, dataset=copy)))
    return _freeze(settings)


def _freeze(settings: FreezeSettings) -> RunSummary:
    report = RunSummary("freeze")
    path = manifest_path(settings.dataset, settings.name)
    manifest, excluded = _manifest(settings, report)
    if not manifest.video_ids:
        left_out = ", ".join(f"{len(ids)} {reason}" for reason, ids in manifest.left_out.items() if ids)
        raise InputError(
            f"{settings.dataset}: no video to freeze{left_out and f' (left out: {left_out})'}; finish `mcn extract`, "
            "check --ids, --split and --exclude"
        )
    try:
        if path.exists():
            raise AlreadyThereError
        write_json(path, manifest.as_json() | {"digest": manifest.digest}, exclusive=True)
        report.done = len(manifest.video_ids)
    except AlreadyThereError:
        before = read_manifest(path)
        report.notes += _changes(path, before, manifest)
        manifest = before
        report.skipped = len(before.video_ids)
    report.detail = {
        "manifest": str(path),
        "digest": manifest.digest,
        "splits": {name: len(ids) for name, ids in manifest.splits.items()},
        "missing": {reason: len(ids) for reason, ids in manifest.missing.items()},
        "left out": {reason: len(ids) for reason, ids in manifest.left_out.items()},
        "shards": len(manifest.shards),
        "list": manifest.listed,
        "exclude": excluded,
    }
    report.finish().publish(settings.dataset / "freeze.json")
    sides = ", ".join(f"{len(ids)} {name}" for name, ids in manifest.splits.items())
    print(f"manifest: {path}, {sides}, digest {manifest.digest[:12]}")
    for name, found in excluded.items():
        print(f"  exclude, {name}: {found['in the data set']} of {found['ids']} ids are in the data set")
    for what in ("missing", "left out"):
        for reason, count in report.detail[what].items():
            print(f"  {what}, {reason}: {count}")
    return report


def _changes(path: Path, before: Manifest, now: Manifest) -> list[str]:
    """What differs from a manifest that is there; InputError if that was made by another rule."""
    for name, value in now.rule.items():
        if before.rule.get(name) != value:
            raise InputError(
                f"{path}: frozen with {name} {before.rule.get(name)!r}, not {value!r}; freeze under another name"
            )
    if (before.identity, before.words) != (now.identity, now.words):
        raise InputError(f"{path}: of another data set; freeze under another name")
    old, new = _sides_by_id(before), _sides_by_id(now)
    more, fewer = len(new.keys() - old.keys()), len(old.keys() - new.keys())
    moved = sum(new.get(video_id, side) != side for video_id, side in old.items())
    counts = {"videos gained": more, "videos lost": fewer, "videos on another side (another --ids)": moved}
    changes = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return [f"{path}: unchanged; since then {changes}: freeze under another name to use this"] if changes else []


def _sides_by_id(manifest: Manifest) -> dict[str, str]:
    return {video_id: side for side, ids in manifest.splits.items() for video_id in ids}


def _manifest(settings: FreezeSettings, report: RunSummary) -> tuple[Manifest, dict[str, dict[str, int]]]:
    """The manifest, and what each list of `exclude` holds; notes go to the report."""
    refuse_half_forgotten(settings.dataset)
    description = read_description(settings.dataset)
    # Before the shards: one that is closed meanwhile isn't taken for lost.
    stated = receipt_names(settings.dataset)
    closed = list(receipts(settings.dataset, lambda: reasons_of(settings.dataset / "ledger", "extract")))
    _refuse_lost(settings.dataset, stated, closed)
    gone = forgotten(settings.dataset)
    stored = {video_id for video_id in _stored(closed) if not is_forgotten(video_id, gone)}
    # Of a million lines the ids and tasks alone are kept.
    listed: dict[str, str] = {}
    notes, passed_over = report.notes, Counter[str]()
    if settings.ids is not None:
        listed = {r.video_id: sys.intern(r.task_id) for r in read_video_list(settings.ids, passed_over)}
        notes += left_out_note(settings.ids, passed_over)
    excluded, counts = _excluded(settings, stored, notes)
    left_out = {"benchmark": stored & excluded, "unlisted": set[str]()}
    usable = stored - excluded
    if settings.ids is not None:
        left_out["unlisted"] = usable - listed.keys()
        usable -= left_out["unlisted"]
    if settings.split is not None:
        passed_over.clear()
        splits = read_split(settings.split, passed_over)
        notes += left_out_note(settings.split, passed_over)
        left_out["unlisted"] |= {video_id for video_id in usable if video_id not in splits}
        sides = {name: [i for i in usable if splits.get(i) == name] for name in (TRAIN, HELD_OUT)}
    else:
        if settings.heldout_tasks and not any(listed.values()):
            notes.append("no tasks are known (--ids with a column task_id gives them): none are held out as a whole")
        sides = _sides(settings, usable, listed)
    absent = listed.keys() - stored - excluded
    # The manifest doesn't bring a forgotten id back, not even as a missing one.
    remembered = {video_id for video_id in absent if not is_forgotten(video_id, gone)}
    if len(remembered) < len(absent):
        notes.append(f"{len(absent) - len(remembered)} listed videos were forgotten and are not in the manifest")
    missing = _missing(settings, remembered, closed)
    chosen = {video_id for ids in sides.values() for video_id in ids}
    needed = [receipt for receipt in closed if not chosen.isdisjoint(receipt.video_ids)]
    circumstances = provenances_of(needed)
    if len(circumstances) > 1:
        notes.append(
            f"its shards have {len(circumstances)} different provenances (processor, device, libraries; the "
            "manifest lists them): rows may differ slightly"
        )
    return (
        Manifest(
            name=settings.name,
            identity=digest_of_json(description["identity"]),
            words=description["words"],
            listed={"source": settings.ids.name, "sha256": sha256_of_file(settings.ids), "ids": len(listed)}
            if settings.ids is not None
            else None,
            splits={name: tuple(sorted(ids)) for name, ids in sides.items()},
            left_out={reason: tuple(sorted(ids)) for reason, ids in left_out.items() if ids},
            missing={reason: tuple(sorted(ids)) for reason, ids in sorted(missing.items())},
            shards={r.name: {"content": r.content, "videos": len(r.video_ids)} for r in needed},
            rule={
                "seed": settings.seed,
                "heldout_videos": settings.heldout_videos,
                "heldout_tasks": settings.heldout_tasks,
                "split": sha256_of_file(settings.split) if settings.split else None,
                "exclude": _digests_by_name(settings.exclude),
            },
            circumstances=tuple(circumstances),
        ),
        counts,
    )


def _digests_by_name(paths: Iterable[Path]) -> dict[str, str]:
    """Name of a file, wherever it lies, -> its sha256; of several of one name all, with spaces between."""
    digests: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        digests[path.name].append(sha256_of_file(path))
    return {name: " ".join(sorted(of_name)) for name, of_name in digests.items()}


def _excluded(
    settings: FreezeSettings, stored: set[str], notes: list[str]
) -> tuple[set[str], dict[str, dict[str, int]]]:
    """The ids of all lists of `exclude`, and for each list the number of its ids and of those in the data set."""
    excluded: set[str] = set()
    counts: dict[str, dict[str, int]] = {}
    for path in settings.exclude:
        found = find_ids(path, stored)
        present = len(found.ids & stored)
        if not present and not settings.allow_empty:
            raise InputError(
                f"{path}: none of its {len(found.ids)} ids is in the data set, e.g. {min(found.ids)} in {found.place}; "
                "check the list, or accept it by --allow-empty"
            )
        if found.header:
            notes.append(f"{path}: its first line is taken for the name of a column: {quoted(found.header)}")
        if found.elsewhere:
            notes.append(
                f"{path}: the ids of {found.place} are left out; {len(found.elsewhere)} others of the data set stand "
                f"elsewhere in it, e.g. {min(found.elsewhere)}"
            )
        excluded |= found.ids
        counts[str(path)] = {"ids": len(found.ids), "in the data set": present}
    return excluded, counts


def _refuse_lost(dataset: Path, stated: Collection[str], closed: Iterable[Receipt]) -> None:
    """InputError when a shard isn't there, or not of the size, that its receipt states."""
    sizes = {receipt.name: receipt.bytes for receipt in closed}
    for name in sorted({*stated, *sizes}):
        path = shard_path(dataset, name)
        size = path.stat().st_size if path.exists() else None
        if name not in sizes or size != sizes[name]:
            what = "is gone" if size is None else f"has {size} bytes, its receipt says {sizes.get(name)}"
            raise InputError(f"{path}: {what}; repair first: mcn verify {dataset} --repair")


def _stored(closed: Iterable[Receipt]) -> set[str]:
    stored: set[str] = set()
    for receipt in closed:
        twice = stored.intersection(receipt.video_ids)
        if twice:
            raise InputError(f"shard {receipt.name}: video {min(twice)} is in another shard too; see `mcn verify`")
        stored.update(receipt.video_ids)
    return stored


def _sides(settings: FreezeSettings, usable: Collection[str], tasks: Mapping[str, str]) -> dict[str, list[str]]:
    sides: dict[str, list[str]] = {TRAIN: [], f"{HELD_OUT}-videos": [], f"{HELD_OUT}-tasks": []}
    for video_id in usable:
        task = tasks.get(video_id)
        if task and _share("task", task, settings.seed) < settings.heldout_tasks:
            sides[f"{HELD_OUT}-tasks"].append(video_id)
        elif _share("video", video_id, settings.seed) < settings.heldout_videos:
            sides[f"{HELD_OUT}-videos"].append(video_id)
        else:
            sides[TRAIN].append(video_id)
    return sides


def _share(kind: str, name: str, seed: int) -> float:
    """A number from 0 to below 1 that follows from seed and name alone."""
    digest = hashlib.sha256(f"{seed} {kind} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _missing(settings: FreezeSettings, absent: set[str], closed: Iterable[Receipt]) -> dict[str, list[str]]:
    """Why listed ids are in no shard: the extraction's reason, else the download's."""
    left_out = {video_id: reason for receipt in closed for video_id, reason in receipt.left_out.items()}
    extracted = reasons_of(settings.dataset / "ledger", "extract", absent)
    downloads = {}
    if settings.media:
        with downloads_ledger(settings.media) as ledger:
            downloads = latest_states(ledger, "download", wanted=absent)
    missing: dict[str, list[str]] = defaultdict(list)
    for video_id in absent:
        state = downloads.get(video_id)
        if video_id in left_out or video_id in extracted:
            reason = left_out.get(video_id) or extracted[video_id]
        elif state is None:
            reason = "not tried" if settings.media else "not in the data set"
        elif state.latest.outcome == "done":
            reason = "not extracted yet"
        else:
            reason = state.latest.reason or "waiting"
        missing[reason].append(video_id)
    return missing


def reasons_of(ledger: Path, stage: str, wanted: Collection[str] | None = None) -> dict[str, str]:
    """Why videos failed, by the ledger's latest word on each: id -> reason."""
    states = latest_states(ledger, stage, wanted=wanted)
    return {video_id: state.latest.reason for video_id, state in states.items() if state.latest.reason}


def provenances_of(closed: Iterable[Receipt]) -> list[dict[str, Any]]:
    """The distinct provenances of shards, each with its number of `videos`."""
    videos: Counter[str] = Counter()
    for receipt in closed:
        kept = {key: receipt.circumstance.get(key) for key in ("processor", "device", "libraries")}
        videos[json.dumps(kept, sort_keys=True)] += len(receipt.video_ids)
    return [json.loads(kept) | {"videos": count} for kept, count in sorted(videos.items())]
