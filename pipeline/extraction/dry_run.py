"""`mcn extract --delete-media --dry-run`: which media would go, file by file; nothing is written."""

from collections.abc import Iterator, Sequence

from pipeline.core.errors import InputError
from pipeline.core.reporting import RunSummary
from pipeline.dataset.freeze import reasons_of
from pipeline.dataset.shard_plans import Receipt, closed_names, derive_receipt, open_ids, read_receipt
from pipeline.download.media import find_media
from pipeline.download.undecodable import FOLDER, remark_aside
from pipeline.extraction.cleanup import Removal, leftovers, movable
from pipeline.extraction.settings import STAGE, ExtractSettings


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
    lines += [f"would move to {FOLDER} {one.path}, {one.bytes:,} bytes: {one.because}" for one in moved]
    lines += [f"would keep: {why}" for why in kept.values()]
    lines += [
        f"extract: dry run, nothing is changed: {_total(deleted)} would be deleted at once; {_total(moved)} would be "
        "moved aside when a download with --media-budget waits for room",
        *(f"  note: {note}" for note in remark_aside(settings.media)),
    ]
    print("\n".join(lines), flush=True)
    return RunSummary(STAGE, complete=not kept)


def _receipts(settings: ExtractSettings) -> Iterator[Receipt]:
    """Of all closed shards, those included that an extraction would write first."""
    for name in closed_names(settings.out):
        receipt = read_receipt(settings.out, name)
        yield receipt or derive_receipt(settings.out, name, reasons_of(settings.out / "ledger", STAGE))


def _total(removals: Sequence[Removal]) -> str:
    return f"{len(removals)} files, {sum(removal.bytes for removal in removals):,} bytes,"
