"""Media that take room for nothing: deleted once their features lie in a verified shard, moved aside if they gave none.

Only on request, and recorded in the downloads' ledger. What is to go is listed first, which is all that a dry run does.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.files import check_fences, remove
from pipeline.core.ledger import LedgerWriter, latest_states
from pipeline.core.records import EXTRACTED, NO_FEATURES, STAGE, Outcome
from pipeline.core.reporting import RunSummary
from pipeline.dataset.freeze import reasons_of
from pipeline.dataset.shard_check import ShardChecker
from pipeline.dataset.shard_plans import Receipt, closed_names, derive_receipt, open_ids, read_receipt, shard_path
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.download.budget import ASIDE_FOLDER, move_aside, remark_aside
from pipeline.download.media import MediaFinder, find_media
from pipeline.extraction.settings import STAGE as EXTRACTION
from pipeline.extraction.settings import ExtractSettings

FAULT_OF_THE_FILE = {"no-video-stream", "zero-length", "undecodable", "bad-values"}
"""Failures that another attempt would repeat; media that failed otherwise (time, memory, a crash) stay in place."""

Find = Callable[[str], Path | None]


@dataclass(frozen=True)
class Removal:
    """A media file that is to be deleted, or moved aside."""

    video_id: str
    path: Path
    bytes: int
    because: str
    """True before the file is gone, and after."""


def deletable(dataset: Path, receipt: Receipt, find: Find, checker: ShardChecker) -> list[Removal]:
    """The media of the videos whose features lie in a closed shard.

    The shard is read whole before, where there are any: InputError when it isn't sound or isn't what its receipt says.
    """
    removals = list(_removals(dict.fromkeys(receipt.video_ids, f"its features are in shard {receipt.name}"), find))
    if removals:
        _refuse_unsound(dataset, receipt, checker)
    return removals


def _removals(because: Mapping[str, str], find: Find) -> Iterator[Removal]:
    """Of the videos that have a file; `because`: id -> why it is no longer needed."""
    for video_id, reason in because.items():
        with suppress(FileNotFoundError):  # another process may be at work on the same files
            if path := find(video_id):
                yield Removal(video_id, path, path.stat().st_size, reason)


def _refuse_unsound(dataset: Path, receipt: Receipt, checker: ShardChecker) -> None:
    """A receipt says what a shard held when it was closed; what it holds now, the shard alone can tell."""
    path = shard_path(dataset, receipt.name)
    problems = checker.check(path)
    if not problems:
        with FeatureFile(path) as file:
            held = (file.plan, file.content_digest(), tuple(file.video_ids))
            if held != (receipt.plan, receipt.content, receipt.video_ids):
                problems = [f"{path}: not what its receipt says"]
    if problems:
        raise InputError(f"{problems[0]}: its media are kept; see `mcn verify {dataset} --repair`")


def movable(receipts: Iterable[Receipt], planned: Collection[str], find: Find) -> list[Removal]:
    """The media of videos that closed shards left out for a fault of the file.

    `receipts`: of all closed shards in order; `planned`: ids in open plans, which may try a video anew.
    """
    left_out: dict[str, str] = {}
    for receipt in receipts:
        faults = {i: reason for i, reason in receipt.left_out.items() if reason in FAULT_OF_THE_FILE}
        left_out |= {i: f"it gave no features: {reason}, shard {receipt.name}" for i, reason in faults.items()}
        for video_id in receipt.video_ids:
            left_out.pop(video_id, None)
    return list(_removals({i: reason for i, reason in left_out.items() if i not in planned}, find))


def _recorded(media: Path, removals: list[Removal], reason: str) -> Iterator[Removal]:
    """Each of them once its line is in the downloads' ledger.

    A video whose file is gone must not be taken for one that was never fetched.
    """
    states = latest_states(media / "ledger", STAGE, wanted={removal.video_id for removal in removals})
    with LedgerWriter(media / "ledger", STAGE) as ledger:
        for removal in removals:
            state = states.get(removal.video_id)
            detail = {"bytes": removal.bytes, "duration": state.latest.detail.get("duration", 0.0) if state else 0.0}
            attempt = state.latest.attempt + 1 if state else 1
            message = removal.because
            check_fences()
            ledger.append(Outcome(removal.video_id, STAGE, "done", reason, message, attempt, time.time(), detail))
            yield removal


def _delete(media: Path, removals: list[Removal]) -> None:
    for removal in _recorded(media, removals, EXTRACTED) if removals else ():
        remove(removal.path)


def delete_processed(media: Path, dataset: Path, receipt: Receipt) -> None:
    """Delete the media of the videos whose features lie in a closed shard; see `deletable`."""
    with ShardChecker() as checker:
        _delete(media, deletable(dataset, receipt, MediaFinder(media).find, checker))


def delete_leftovers(media: Path, dataset: Path, receipts: Iterable[Receipt]) -> dict[str, str]:
    """Delete what a kill between closing a shard and deleting its media has left; returns shard -> why its are kept."""
    kept: dict[str, str] = {}
    for removals in leftovers(media, dataset, receipts, kept):
        _delete(media, removals)
    return kept


def leftovers(
    media: Path, dataset: Path, receipts: Iterable[Receipt], kept: dict[str, str]
) -> Iterator[list[Removal]]:
    """The deletable media of closed shards, shard by shard; shards whose media are kept, and why, go into `kept`."""
    # One look at the folder: asked for one by one, a million deleted files take hours.
    paths = find_media(media).paths
    with ShardChecker() as checker:
        for receipt in receipts if paths else ():
            try:
                yield deletable(dataset, receipt, paths.get, checker)
            except InputError as error:
                kept[receipt.name] = str(error)


def move_undecodable(media: Path, receipts: Iterable[Receipt], planned: Collection[str]) -> int:
    """Move aside what `movable` names; returns how many files."""
    removals = movable(receipts, planned, MediaFinder(media).find)
    for removal in _recorded(media, removals, NO_FEATURES) if removals else ():
        check_fences()
        with suppress(FileNotFoundError):
            move_aside(media, removal.path)
    return len(removals)


def list_removals(settings: ExtractSettings) -> RunSummary:
    """Print what `mcn extract --delete-media` would delete before its first video, and move aside for want of room.

    Complete unless media would be kept because their shard isn't sound. InputError without a data set.
    """
    if not (settings.out / "dataset.json").exists():
        raise InputError(f"{settings.out}: no data set; --dry-run lists the media whose features are in one")
    kept: dict[str, str] = {}
    receipts = list(_receipts(settings))
    deleted = [one for some in leftovers(settings.media, settings.out, receipts, kept) for one in some]
    moved = movable(receipts, open_ids(settings.out), find_media(settings.media).paths.get)
    lines = [f"would delete {one.path}, {one.bytes:,} bytes: {one.because}" for one in deleted]
    lines += [f"would move to {ASIDE_FOLDER} {one.path}, {one.bytes:,} bytes: {one.because}" for one in moved]
    lines += [f"would keep: {why}" for why in kept.values()]
    lines += [
        f"extract: dry run, nothing is changed: {_total(deleted)} would be deleted at once; {_total(moved)} would be "
        "moved aside when a download with --media-budget waits for room",
        *(f"  note: {note}" for note in remark_aside(settings.media)),
    ]
    print("\n".join(lines), flush=True)
    return RunSummary(EXTRACTION, complete=not kept)


def _receipts(settings: ExtractSettings) -> Iterator[Receipt]:
    """Of all closed shards, those included that an extraction would write first."""
    for name in closed_names(settings.out):
        receipt = read_receipt(settings.out, name)
        yield receipt or derive_receipt(settings.out, name, reasons_of(settings.out / "ledger", EXTRACTION))


def _total(removals: Sequence[Removal]) -> str:
    return f"{len(removals)} files, {sum(removal.bytes for removal in removals):,} bytes,"
