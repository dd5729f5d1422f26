"""`mcn forget ID...`: a video leaves everything that was made of it, and can't come back.

A journal says which ids are on their way out; while it lies there, the data set isn't extracted to or frozen, and the
same command, with or without ids, goes on.
"""

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.files import check_fences, fsync_folder, remove, remove_tree, write_aside, write_json, write_text
from pipeline.core.lease import locked
from pipeline.core.ledger import read_ledger
from pipeline.core.reporting import RunSummary
from pipeline.core.terminal import one_line
from pipeline.core.video_ids import check_media_name, each_video_id
from pipeline.dataset import shard_plans
from pipeline.dataset.caption_store import FILE as CAPTIONS
from pipeline.dataset.caption_store import CaptionStore, remove_from_store
from pipeline.dataset.folder import (
    FORGETTING,
    add_tombstones,
    forgotten,
    half_forgotten,
    is_forgotten,
    read_description,
    tombstone,
)
from pipeline.dataset.freeze import reasons_of
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.dataset.shard_writer import Origin, write_shard
from pipeline.download.budget import SCRATCH, download_lock
from pipeline.download.media import MediaFinder
from pipeline.extraction.settings import settings_of
from pipeline.tools.forget import traces
from pipeline.tools.settings import ForgetSettings
from pipeline.tools.verify.findings import check_shards
from pipeline.training.checkpoint import VIDEOS


def run(settings: ForgetSettings) -> RunSummary:
    """Complete when none of the videos is left anywhere; says which checkpoints saw them.

    InputError, with nothing changed, when what is to be rewritten is damaged: a copy must not get valid digests.
    """
    report = RunSummary("forget", detail={"dry run": True} if settings.dry_run else {})
    dataset = settings.dataset or Path(str(settings.run)) / "dataset"
    read_description(dataset)
    media = _media(settings, dataset)
    if settings.dry_run or not settings.yes and sys.stdin.isatty() and sys.stdout.isatty():
        ids, unknown = _asked_for(settings, dataset, media)
        _preview(report, settings, dataset, media, ids)
        if settings.dry_run or not _confirmed(ids):
            return _nothing_done(report, settings, unknown)
    with ExitStack() as stack:
        stack.enter_context(locked(dataset / "leases" / "planning.json", f"planning in {dataset}"))
        ids, unknown = _asked_for(settings, dataset, media)
        affected = traces.affected_plans(dataset, ids)
        for path, what in _locks(dataset, media, affected):
            stack.enter_context(locked(path, what))
        if ids:
            _refuse_damage(dataset, affected)
            _forget(report, settings, dataset, media, ids)
    report.done = len(ids)
    _tell_unknown(report, unknown)
    report.finish().publish(dataset / "forget.json")
    return report


def _asked_for(settings: ForgetSettings, dataset: Path, media: Path | None) -> tuple[set[str], set[str]]:
    """The ids to forget, those half forgotten among them, and those that nothing names."""
    requested = {check_media_name(video_id, "mcn forget") for video_id in settings.ids}
    half_done = half_forgotten(dataset)
    if not requested | half_done:
        raise InputError(f"mcn forget: ids are needed; none was left half forgotten in {dataset}")
    known = _known(requested, dataset, media, settings.run)
    unknown = set() if settings.even_if_unknown else requested - half_done - known
    return (requested | half_done) - unknown, unknown


def _tell_unknown(report: RunSummary, unknown: Collection[str]) -> None:
    for video_id in sorted(unknown):
        report.failed["unknown"] += 1
        report.notes.append(
            f"nothing names {video_id}: mistyped? Nothing is done for it; --even-if-unknown keeps it out all the same"
        )
    report.complete = not unknown


def _preview(
    report: RunSummary, settings: ForgetSettings, dataset: Path, media: Path | None, ids: Collection[str]
) -> None:
    """Print each file that would go or be written anew; changes nothing, takes no lock."""
    if not ids:
        return
    _refuse_damage(dataset, traces.affected_plans(dataset, ids))
    found = traces.traces_of(ids, dataset, media, settings.run)
    print("\n".join(map(one_line, found.lines("would"))))
    _tell_left(report, found.naming)
    report.detail |= {
        "would remove": [str(path) for path in found.removed],
        "would rewrite": [str(path) for path in found.rewritten],
    }


def _confirmed(ids: Collection[str]) -> bool:
    """Whether the person at the terminal says yes; there is nothing to ask where nothing is to be forgotten."""
    return not ids or input(f"forget {len(ids)} videos for good? [y/N] ").strip().lower() in ("y", "yes")


def _nothing_done(report: RunSummary, settings: ForgetSettings, unknown: Collection[str]) -> RunSummary:
    _tell_unknown(report, unknown)
    if not settings.dry_run:
        report.complete = False
    report.notes.append("nothing was changed" + ("" if settings.dry_run else ": not confirmed; --yes doesn't ask"))
    report.finish().publish()
    return report


def _forget(
    report: RunSummary, settings: ForgetSettings, dataset: Path, media: Path | None, ids: Collection[str]
) -> None:
    write_json(dataset / FORGETTING, {"ids": sorted(ids)})
    for folder in (dataset, media):
        if folder is not None:
            add_tombstones(folder, ids)
    report.detail = {
        "media": _forget_media(media, ids) if media is not None else 0,
        "shards": _forget_shards(dataset, ids),
        "captions": _forget_captions(dataset, ids),
        "manifests": _forget_in_manifests(dataset, ids),
        "ledger lines": sum(_forget_in_ledger(folder / "ledger", ids) for folder in (dataset, media) if folder),
    }
    checkpoints = _checkpoints(settings.run, ids) if settings.run else []
    embeddings, indices = traces.embedded(settings.run, dataset, ids) if settings.run else ([], [])
    found = _forget_reports(settings.run, dataset, media, ids)
    remove(dataset / FORGETTING)
    report.detail |= {"reports": [str(path) for path in found.reports], "files left": len(found.others)}
    for what, paths, note in (
        ("checkpoints", checkpoints, "was trained on some of them: train anew to be rid of what it learnt"),
        ("embeddings", embeddings, "holds their clips: delete it, and embed anew"),
        ("indices", indices, "is an index of such a file, or of one that is gone: delete it, and index anew"),
    ):
        report.detail[what] = [str(path) for path in paths]
        report.notes += [f"{path} {note}" for path in paths]
    if media is None:
        report.notes.append("media were not looked for: give --media FOLDER")
    if settings.run is None:
        report.notes.append("models and reports were not looked for: give --run FOLDER")
    if found.reports:
        report.notes.append(f"{len(found.reports)} reports that named them are removed; `mcn run` makes them anew")
    _tell_left(report, found)
    if report.detail["shards"]:
        copies = ", ".join(f"{name}-*.h5" for name in sorted(report.detail["shards"]))
        report.notes.append(f"copies made by `mcn train --stage-to` still hold them: delete {copies} there by hand")


def _tell_left(report: RunSummary, found: traces.NamingFiles) -> None:
    for path in found.others:
        print(one_line(f"still names the id: {path}"))
    if found.others:
        report.notes.append(
            f"{len(found.others)} files that aren't this program's still name them, and are left to you"
        )
    for path, reason in found.unsearched.items():
        print(one_line(f"not searched: {path}: {reason}"))
    if found.unsearched:
        report.notes.append(f"{len(found.unsearched)} files can't be searched: they may name them")


def _media(settings: ForgetSettings, dataset: Path) -> Path | None:
    """The media folder; None where there is none."""
    choices = [settings.media] if settings.media else [settings.run / "media"] if settings.run else []
    if settings.media is None:
        with suppress(InputError):
            choices.append(settings_of(dataset, None).media)
    return next((folder for folder in choices if folder.is_dir()), None)


def _known(ids: Collection[str], dataset: Path, media: Path | None, folder: Path | None) -> set[str]:
    """Ids that something names or that were forgotten before; all of `ids` of which that is so are among them."""
    known: set[str] = set()
    for plan in shard_plans.read_plans(dataset / "plans"):
        known.update(set(ids).intersection(plan.video_ids))
    for path in sorted((dataset / "manifests").glob("*.json")):
        manifest = read_manifest(path)
        for lists in (manifest.splits, manifest.left_out, manifest.missing):
            known.update(*lists.values())
    for path in sorted(folder.rglob(VIDEOS)) if folder is not None else ():
        known.update(path.read_text(encoding="utf-8").split("\n"))
    gone: frozenset[str] = frozenset()
    for top in filter(None, (dataset, media)):
        gone |= forgotten(top)
        known.update(outcome.video_id for outcome in read_ledger(top / "ledger", wanted=set(ids)))
    given = traces.given_files(dataset)
    # A list that isn't there any more, or no longer one, names nothing.
    with suppress(InputError):
        known.update(set(ids).intersection(each_video_id(given["ids"])) if "ids" in given else ())
    captions = given.get("captions")
    store = CaptionStore(dataset / CAPTIONS) if (dataset / CAPTIONS).exists() else None
    finder = MediaFinder(media) if media is not None else None
    known.update(
        video_id
        for video_id in ids
        if is_forgotten(video_id, gone)
        or (store is not None and store.of(video_id))
        or (captions is not None and (captions / f"{video_id}.csv").is_file())
        or (finder is not None and finder.find(video_id) is not None)
    )
    return known


def _refuse_damage(dataset: Path, names: Collection[str]) -> None:
    """InputError when a shard that is to be rewritten isn't what was closed."""
    bad = check_shards(dataset, names).bad_shards
    if bad:
        more = f" ({len(bad) - 1} more shards are bad)" if len(bad) > 1 else ""
        raise InputError(
            f"{next(iter(bad.values()))}{more}; nothing was forgotten, repair first: mcn verify {dataset} --repair"
        )


def _locks(dataset: Path, media: Path | None, affected: Collection[str]) -> Iterator[tuple[Path, str]]:
    """Everything, planning apart, that a process at work on these folders holds or may come to hold."""
    for name in shard_plans.plan_names(dataset / "plans"):
        if name in affected or shard_plans.lease_path(dataset, name).exists():
            yield shard_plans.lease_path(dataset, name), f"extracting shard {name}"
    if media is not None:
        yield download_lock(media, "1/1"), f"downloading to {media}"
        for path in sorted((media / SCRATCH).glob("*.json")):
            if path != download_lock(media, "1/1"):
                yield path, f"{path.stem} in {media}"


def _forget_media(media: Path, ids: Collection[str]) -> int:
    files = traces.media_files(media, ids)
    for path in files:
        remove(path)
        fsync_folder(path.parent)
    # The download's lock says that none is at work.
    for path in traces.scratch_files(media, ids):
        remove(path)
    return len(files)


def _forget_shards(dataset: Path, ids: Collection[str]) -> dict[str, str]:
    """Replace every plan that names one of the ids, with its shard or parts; returns old name -> new name."""
    replaced: dict[str, str] = {}
    plans = dataset / "plans"
    for name in traces.affected_plans(dataset, ids):
        kept = tuple(video_id for video_id in shard_plans.read_plan(plans, name).video_ids if video_id not in ids)
        # An earlier call that was killed may have written the plan in its place already.
        new = next((p.name for p in shard_plans.read_plans(plans) if p.name != name and p.video_ids == kept), None)
        replaced[name] = ""
        if kept:
            replaced[name] = new or shard_plans.write_plans(plans, [kept])[0]
            _move_features(dataset, name, replaced[name], kept)
        for path in traces.shard_files(dataset, name):
            remove(path)
            fsync_folder(path.parent)
        remove_tree(dataset / "parts" / name)
    return replaced


def _move_features(dataset: Path, name: str, new: str, kept: tuple[str, ...]) -> None:
    """What plan `name` has of the videos `kept`, as a closed shard or as parts of plan `new`."""
    source, target = (shard_plans.shard_path(dataset, plan) for plan in (name, new))
    parts = dataset / "parts" / new
    for part in (dataset / "parts" / name).glob("*.h5"):
        if part.stem in kept:
            parts.mkdir(parents=True, exist_ok=True)
            check_fences()
            os.replace(part, parts / part.name)
    if not source.exists():
        return
    receipt = shard_plans.read_receipt(dataset, name)
    if not target.exists():
        with FeatureFile(source) as file:
            plan = shard_plans.read_plan(dataset / "plans", new)
            origin = Origin(new, file.identity, file.provenance, plan.digest)
            write_shard(target, [source], origin, without=set(file.video_ids) - set(kept))
    if shard_plans.read_receipt(dataset, new) is None:
        left_out = receipt.left_out if receipt is not None else reasons_of(dataset / "ledger", "extract")
        shard_plans.make_receipt(dataset, new, left_out)
    remove_tree(parts)


def _forget_captions(dataset: Path, ids: Collection[str]) -> bool:
    for aside in traces.caption_files_aside(dataset):
        remove(aside)
    if not (dataset / CAPTIONS).exists():
        return False
    remove_from_store(dataset / CAPTIONS, ids)
    return True


def _forget_in_manifests(dataset: Path, ids: Collection[str]) -> list[str]:
    """Take the ids from every manifest, and name the shards that hold its other videos now."""
    receipts = shard_plans.whole_receipts(dataset, shard_plans.plan_names(dataset / "plans"))
    changed = []
    for path in sorted((dataset / "manifests").glob("*.json")):
        before = read_manifest(path)
        after = traces.manifest_without(before, ids, receipts)
        if after != before:
            write_json(path, after.as_json() | {"digest": after.digest})
            changed.append(before.name)
    return changed


def _forget_in_ledger(folder: Path, ids: Collection[str]) -> int:
    """Write every ledger file that has lines of the ids anew without them; returns how many lines."""
    count = 0
    for path, kept, gone in traces.ledger_lines(folder, ids):
        count += gone
        with write_aside(path) as aside:
            aside.write_bytes(b"\n".join(kept))
    return count


def _checkpoints(folder: Path, ids: Collection[str]) -> list[Path]:
    """Folders of checkpoints that were trained on one of the ids; beside them its sha256 takes the id's place."""
    paths = traces.lists_of_trained(folder, ids)
    for path in paths:
        lines = path.read_text(encoding="utf-8").split("\n")
        write_text(path, "\n".join(f"sha256 {tombstone(line)}" if line in ids else line for line in lines))
    return [path.parent for path in paths]


def _forget_reports(
    folder: Path | None, dataset: Path, media: Path | None, ids: Collection[str]
) -> traces.NamingFiles:
    """Delete the reports that name one of the ids; returns these, and what is left."""
    found = traces.naming_files(folder, dataset, media, ids)
    for path in found.reports:
        remove(path)
    return found
