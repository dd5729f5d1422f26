"""What is there of a video: every file that `mcn forget` removes or writes anew, found without changing any."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.files import ASIDE
from pipeline.core.ledger import decode_line
from pipeline.dataset import shard_plans
from pipeline.dataset.caption_store import FILE as CAPTIONS
from pipeline.dataset.folder import FILE as TOMBSTONES
from pipeline.dataset.folder import made_from
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.download.budget import SCRATCH
from pipeline.download.media import MEDIA_SUFFIXES, find_media
from pipeline.search.embeddings import EmbeddingsFile
from pipeline.search.index import FILE as INDEX_FILE
from pipeline.search.index import read_description as read_index
from pipeline.tools.forget.references import figures_of, files_naming, is_report
from pipeline.tools.verify.repair import WITHOUT_MEDIA
from pipeline.training.checkpoint import VIDEOS


def given_files(dataset: Path) -> dict[str, Path]:
    """The user's own files that the data set was made from: setting -> path."""
    files = {name: made_from(dataset, name) for name in ("ids", "captions", "split")}
    return {name: path for name, path in files.items() if path is not None}


def affected_plans(dataset: Path, ids: Collection[str]) -> list[str]:
    """Names of the plans that name one of the ids."""
    return [p.name for p in shard_plans.read_plans(dataset / "plans") if not set(ids).isdisjoint(p.video_ids)]


def media_files(media: Path, ids: Collection[str]) -> list[Path]:
    """All media of the ids, in hidden folders too, save those still being written."""
    folder = find_media(media)
    paths = {folder.paths[video_id] for video_id in ids if video_id in folder.paths}
    paths.update(path for video_id in ids for path in folder.duplicates.get(video_id, ()))
    for hidden in media.glob(".*/"):
        if hidden.name != SCRATCH:
            paths.update(
                path
                for path in hidden.rglob("*")
                if path.name.partition(".")[0] in ids and path.suffix.lower() in MEDIA_SUFFIXES and path.is_file()
            )
    return sorted(paths)


def scratch_files(media: Path, ids: Collection[str]) -> list[Path]:
    """What a killed download has left of the ids."""
    return [path for path in files_naming([media / SCRATCH], ids, ()) if not path.is_dir()]


def shard_files(dataset: Path, name: str) -> list[Path]:
    """A plan's files in the order in which they go: its receipt before its shard, without which it would be lost."""
    shard = shard_plans.shard_path(dataset, name)
    # A repair that was killed leaves the damaged shard aside; a closing that was, one half written.
    leftovers = sorted(shard.parent.glob(f".{shard.name}.*"))
    paths = (*leftovers, shard_plans.receipt_path(dataset, name), shard, dataset / "plans" / f"{name}.json")
    return [path for path in paths if path.exists()]


def caption_files_aside(dataset: Path) -> list[Path]:
    """Caption stores that were being written when a process was killed."""
    return sorted(dataset.glob(f".{CAPTIONS}.*{ASIDE}"))


def manifest_without(manifest: Manifest, ids: Collection[str], receipts: list[shard_plans.Receipt]) -> Manifest:
    """The manifest without the ids; it names the shards of `receipts` that hold its other videos."""

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


def ledger_lines(folder: Path, ids: Collection[str]) -> Iterator[tuple[Path, list[bytes], int]]:
    """Each ledger file that has lines of the ids: the lines to keep, and how many go."""
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_bytes().split(b"\n")
        kept = [line for line in lines if not _is_of(line, ids)]
        if len(kept) < len(lines):
            yield path, kept, len(lines) - len(kept)


def _is_of(line: bytes, ids: Collection[str]) -> bool:
    outcome = decode_line(line)
    return outcome.video_id in ids if outcome is not None else any(video_id.encode() in line for video_id in ids)


def lists_of_trained(folder: Path, ids: Collection[str]) -> list[Path]:
    """The lists, beside checkpoints, of the videos that these were trained on, where they name one of the ids."""
    paths = sorted(folder.rglob(VIDEOS))
    return [path for path in paths if set(ids) & set(path.read_text(encoding="utf-8").split("\n"))]


def embedded(folder: Path, dataset: Path, ids: Collection[str]) -> tuple[list[Path], list[Path]]:
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


@dataclass
class NamingFiles:
    """Files outside of data set and media proper that name one of the ids."""

    reports: list[Path] = field(default_factory=list)
    """This program's own, with all figures of a page that names one; they are made again."""
    others: list[Path] = field(default_factory=list)
    """Someone else's, which are left."""
    unsearched: dict[Path, str] = field(default_factory=dict)
    """Compressed files that can't be searched, and why."""


def naming_files(folder: Path | None, dataset: Path, media: Path | None, ids: Collection[str]) -> NamingFiles:
    """Look through all files of a run's folder, the data set and the media folder."""
    own = "plans shards manifests leases weights parts ledger dataset.json forgetting.json forgotten.json".split()
    but = [dataset / name for name in own]
    but += [media / "ledger", media / SCRATCH] if media is not None else []
    given = [path.resolve() for path in given_files(dataset).values()]
    found = NamingFiles()
    reports: dict[Path, None] = {}
    tops = [top for top in (folder, dataset, media) if top is not None]
    for path in files_naming(tops, ids, but, found.unsearched):
        users = any(path.resolve().is_relative_to(own) for own in given)
        if not users and (path == dataset / WITHOUT_MEDIA or is_report(path)):
            reports.update(dict.fromkeys((*(figures_of(path) if path.suffix == ".html" else ()), path)))
        else:
            found.others.append(path)
    found.reports = list(reports)
    return found


@dataclass
class Traces:
    """All that forgetting changes."""

    removed: dict[Path, str] = field(default_factory=dict)
    """File -> what it is."""
    rewritten: dict[Path, str] = field(default_factory=dict)
    """File -> what of it changes."""
    naming: NamingFiles = field(default_factory=NamingFiles)

    def lines(self, verb: str) -> list[str]:
        """A line for each file, with its size, and the sums."""
        sizes = {path: path.lstat().st_size for path in self.removed}
        shown = [f"{verb} remove {path} ({what}, {sizes[path]:,} bytes)" for path, what in self.removed.items()]
        shown += [f"{verb} rewrite {path} ({what})" for path, what in self.rewritten.items()]
        sums = f"{len(sizes)} files with {sum(sizes.values()):,} bytes, and rewrite {len(self.rewritten)}"
        return [*shown, f"{verb} remove {sums}"]


def traces_of(ids: Collection[str], dataset: Path, media: Path | None, folder: Path | None) -> Traces:
    """What is there of the ids; only reads."""
    traces = Traces()
    for path in (*media_files(media, ids), *scratch_files(media, ids)) if media is not None else ():
        traces.removed[path] = "media" if path.suffix.lower() in MEDIA_SUFFIXES else "unfinished download"
    names = affected_plans(dataset, ids)
    for name in names:
        planned = shard_plans.read_plan(dataset / "plans", name).video_ids
        kept = len([video_id for video_id in planned if video_id not in ids])
        what = f"of shard {name}: {len(planned) - kept} videos go, {kept} move to a new one"
        parts = sorted((dataset / "parts" / name).rglob("*"))
        traces.removed |= dict.fromkeys((*shard_files(dataset, name), *filter(Path.is_file, parts)), what)
    traces.removed |= dict.fromkeys(caption_files_aside(dataset), "half a caption store")
    if (dataset / CAPTIONS).exists():
        traces.rewritten[dataset / CAPTIONS] = "without their captions"
    receipts = _receipts_after(dataset, names, ids)
    for path in sorted((dataset / "manifests").glob("*.json")):
        before = read_manifest(path)
        if manifest_without(before, ids, receipts) != before:
            traces.rewritten[path] = "manifest"
    for top in filter(None, (dataset, media)):
        traces.rewritten[top / TOMBSTONES] = "keeps them out, by their sha256"
        for path, _, gone in ledger_lines(top / "ledger", ids):
            traces.rewritten[path] = f"{gone} ledger lines go"
    if folder is not None:
        traces.rewritten |= dict.fromkeys(lists_of_trained(folder, ids), "the sha256 takes the id's place")
    traces.naming = naming_files(folder, dataset, media, ids)
    traces.naming.others = [path for path in traces.naming.others if not {path} & {*traces.removed, *traces.rewritten}]
    traces.removed |= dict.fromkeys(traces.naming.reports, "report")
    return traces


def _receipts_after(dataset: Path, replaced: Iterable[str], ids: Collection[str]) -> list[shard_plans.Receipt]:
    """The receipts that there will be: those of shards that are replaced without the ids, and under another name."""
    after = []
    for receipt in shard_plans.whole_receipts(dataset, shard_plans.plan_names(dataset / "plans")):
        if receipt.name in replaced:
            kept = tuple(video_id for video_id in receipt.video_ids if video_id not in ids)
            receipt = replace(receipt, name=f"{receipt.name} anew", video_ids=kept)
        after.append(receipt)
    return after
