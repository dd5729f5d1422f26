"""`mcn forget ID...`: a video leaves everything that was made of it, and can't come back.

A journal says which ids are on their way out; while it lies there, the data set isn't extracted to or frozen, and the
same command, with or without ids, goes on.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.files import (
    ASIDE,
    check_fences,
    fsync_folder,
    remove,
    remove_tree,
    write_aside,
    write_json,
    write_text,
)
from pipeline.core.lease import locked
from pipeline.core.ledger import decode_line, read_ledger
from pipeline.core.reporting import RunSummary
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
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.dataset.shard_writer import Origin, write_shard
from pipeline.download.budget import SCRATCH, download_lock
from pipeline.download.media import MediaFinder
from pipeline.extraction.settings import settings_of
from pipeline.search.embeddings import EmbeddingsFile
from pipeline.search.index import FILE as INDEX_FILE
from pipeline.search.index import read_description as read_index
from pipeline.tools.forget.references import figures_of, files_naming, is_report
from pipeline.tools.settings import ForgetSettings
from pipeline.tools.verify.findings import check_shards
from pipeline.tools.verify.repair import WITHOUT_MEDIA
from pipeline.training.checkpoint import VIDEOS


def run(settings: ForgetSettings) -> RunSummary:
    """Complete when none of the videos is left anywhere; says which checkpoints saw them.

    InputError, with nothing changed, when what is to be rewritten is damaged: a copy must not get valid digests.
    """
    report = RunSummary("forget")
    dataset = settings.dataset or Path(str(settings.run)) / "dataset"
    read_description(dataset)
    media = _media(settings, dataset)
    requested = {check_media_name(video_id, "mcn forget") for video_id in settings.ids}
    with ExitStack() as stack:
        stack.enter_context(locked(dataset / "leases" / "planning.json", f"planning in {dataset}"))
        half_done = half_forgotten(dataset)
        if not requested | half_done:
            raise InputError(f"mcn forget: ids are needed; none was left half forgotten in {dataset}")
        known = _known(requested, dataset, media, settings.run)
        unknown = set() if settings.even_if_unknown else requested - half_done - known
        ids = (requested | half_done) - unknown
        affected = _affected(dataset, ids)
        for path, what in _locks(dataset, media, affected):
            stack.enter_context(locked(path, what))
        if ids:
            _refuse_damage(dataset, affected)
            _forget(report, settings, dataset, media, ids)
    report.done = len(ids)
    for video_id in sorted(unknown):
        report.failed["unknown"] += 1
        report.notes.append(
            f"nothing names {video_id}: mistyped? Nothing is done for it; --even-if-unknown keeps it out all the same"
        )
    report.complete = not unknown
    report.finish().publish(dataset / "forget.json")
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
    embeddings, indices = _embedded(settings.run, dataset, ids) if settings.run else ([], [])
    removed, left = _forget_reports(settings.run, dataset, media, ids)
    remove(dataset / FORGETTING)
    report.detail |= {"reports": [str(path) for path in removed], "files left": len(left)}
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
    if removed:
        report.notes.append(f"{len(removed)} reports that named them are removed; `mcn run` makes them anew")
    if left:
        print("\n".join(f"still names the id: {path}" for path in left))
        report.notes.append(f"{len(left)} files that aren't this program's still name them, and are left to you")
    if report.detail["shards"]:
        copies = ", ".join(f"{name}-*.h5" for name in sorted(report.detail["shards"]))
        report.notes.append(f"copies made by `mcn train --stage-to` still hold them: delete {copies} there by hand")


def _media(settings: ForgetSettings, dataset: Path) -> Path | None:
    """The media folder; None where there is none."""
    choices = [settings.media] if settings.media else [settings.run / "media"] if settings.run else []
    if settings.media is None:
        with suppress(InputError):
            choices.append(settings_of(dataset, None).media)
    return next((folder for folder in choices if folder.is_dir()), None)


def _given(dataset: Path) -> dict[str, Path]:
    """The user's own files that the data set was made from: setting -> path."""
    settings = read_description(dataset).get("settings", {})
    return {name: Path(settings[name]) for name in ("ids", "captions", "split") if settings.get(name)}


def _affected(dataset: Path, ids: Collection[str]) -> list[str]:
    """Names of the plans that name one of the ids."""
    return [p.name for p in shard_plans.read_plans(dataset / "plans") if not set(ids).isdisjoint(p.video_ids)]


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
    given = _given(dataset)
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
    finder = MediaFinder(media)
    count = 0
    for video_id in ids:
        while (path := finder.find(video_id)) is not None:
            remove(path)
            fsync_folder(path.parent)
            finder = MediaFinder(media)
            count += 1
    # What a killed download has left; its lock says that none is at work.
    for path in files_naming([media / SCRATCH], ids, ()):
        remove(path)
    return count


def _forget_shards(dataset: Path, ids: Collection[str]) -> dict[str, str]:
    """Replace every plan that names one of the ids, with its shard or parts; returns old name -> new name."""
    replaced: dict[str, str] = {}
    plans = dataset / "plans"
    for name in _affected(dataset, ids):
        kept = tuple(video_id for video_id in shard_plans.read_plan(plans, name).video_ids if video_id not in ids)
        # An earlier call that was killed may have written the plan in its place already.
        new = next((p.name for p in shard_plans.read_plans(plans) if p.name != name and p.video_ids == kept), None)
        replaced[name] = ""
        if kept:
            replaced[name] = new or shard_plans.write_plans(plans, [kept])[0]
            _move_features(dataset, name, replaced[name], kept)
        # A repair that was killed leaves the damaged shard aside; a closing that was, one half written.
        shard = shard_plans.shard_path(dataset, name)
        leftovers = sorted(shard.parent.glob(f".{shard.name}.*"))
        # The receipt first: one without its shard would stand for a shard that is lost.
        for path in (*leftovers, shard_plans.receipt_path(dataset, name), shard, plans / f"{name}.json"):
            remove(path)
            fsync_folder(path.parent if path.parent.is_dir() else dataset)
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
    for aside in dataset.glob(f".{CAPTIONS}.*{ASIDE}"):
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
        after = _without(before, ids, receipts)
        if after != before:
            write_json(path, after.as_json() | {"digest": after.digest})
            changed.append(before.name)
    return changed


def _without(manifest: Manifest, ids: Collection[str], receipts: list[shard_plans.Receipt]) -> Manifest:
    def cut(lists: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return {name: tuple(i for i in members if i not in ids) for name, members in lists.items()}

    closed = {receipt.name for receipt in receipts}
    if set(manifest.shards) <= closed and not any(
        set(ids) & set(members)
        for lists in (manifest.splits, manifest.left_out, manifest.missing)
        for members in lists.values()
    ):
        return manifest
    frozen = {i for lists in (manifest.splits, manifest.left_out) for members in lists.values() for i in members}
    # A shard that is gone without having been replaced stays named, so that `mcn verify` tells.
    homeless = (frozen - set(ids)).difference(*(receipt.video_ids for receipt in receipts))
    shards = {name: entry for name, entry in manifest.shards.items() if homeless and name not in closed} | {
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
    checkpoints = []
    for path in sorted(folder.rglob(VIDEOS)):
        lines = path.read_text(encoding="utf-8").split("\n")
        if set(ids) & set(lines):
            checkpoints.append(path.parent)
            write_text(path, "\n".join(f"sha256 {tombstone(line)}" if line in ids else line for line in lines))
    return checkpoints


def _embedded(folder: Path, dataset: Path, ids: Collection[str]) -> tuple[list[Path], list[Path]]:
    """Embeddings files and parts of one that hold one of the ids, and the index folders made of these."""
    embeddings, digests = [], set()
    for path in sorted(folder.rglob("*.h5")):
        if path.is_relative_to(dataset):
            continue
        with suppress(InputError), EmbeddingsFile(path) as file:
            if not set(ids).isdisjoint(file.video_ids):
                embeddings.append(path)
                digests.add(file.digest)
    indices = []
    for path in sorted(folder.rglob(INDEX_FILE)):
        with suppress(InputError):
            made_of = read_index(path.parent).embeddings
            # Without the file that it was made of, nobody can say whose clips an index holds.
            gone = not any(file.exists() for file in (Path(made_of["path"]), path.parent / made_of["relative"]))
            if made_of["digest"] in digests or gone:
                indices.append(path.parent)
    return embeddings, indices


def _forget_reports(
    folder: Path | None, dataset: Path, media: Path | None, ids: Collection[str]
) -> tuple[list[Path], list[Path]]:
    """Delete the reports that name one of the ids; returns these, and the files not of this program that do."""
    own = "plans shards manifests leases weights parts ledger dataset.json forgetting.json forgotten.json".split()
    but = [dataset / name for name in own]
    but += [media / "ledger", media / SCRATCH] if media is not None else []
    given = [path.resolve() for path in _given(dataset).values()]
    removed, left = [], []
    for path in files_naming([top for top in (folder, dataset, media) if top is not None], ids, but):
        users = any(path.resolve().is_relative_to(own) for own in given)
        if not users and (path == dataset / WITHOUT_MEDIA or is_report(path)):
            for trace in (*(figures_of(path) if path.suffix == ".html" else ()), path):
                remove(trace)
                removed.append(trace)
        else:
            left.append(path)
    return removed, left
