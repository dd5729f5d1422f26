"""Media whose features lie in a verified shard: deleted on request, and told to the downloads' ledger."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.ledger import LedgerWriter, latest_states
from pipeline.media_folder import MediaFinder, find_media
from pipeline.receipts import Receipt
from pipeline.records import Outcome

STAGE = "download"

EXTRACTED = "extracted"
"""Reason of a download that is done and whose file is deleted: not fetched again unless asked for by this word."""

FAULT_OF_THE_FILE = {"no-video-stream", "zero-length", "undecodable", "bad-values"}
"""Failures that another attempt would repeat; media that failed otherwise (time, memory, a crash) are kept."""


def delete_processed(media: Path, receipt: Receipt) -> int:
    """Delete the media of a closed shard's videos, and of those it left out for a fault of the file; returns how many.

    The ledger's line comes first: a video whose file is gone must not be taken for one that was never fetched.
    """
    return _delete(media, receipt, MediaFinder(media).find)


def _delete(media: Path, receipt: Receipt, find: Callable[[str], Path | None]) -> int:
    spoilt = [video_id for video_id, reason in receipt.left_out.items() if reason in FAULT_OF_THE_FILE]
    paths = {video_id: path for video_id in (*receipt.video_ids, *spoilt) if (path := find(video_id))}
    if not paths:
        return 0
    states = latest_states(media / "ledger", STAGE, wanted=list(paths))
    with LedgerWriter(media / "ledger", STAGE) as ledger:
        for video_id, path in paths.items():
            attempt = states[video_id].latest.attempt + 1 if video_id in states else 1
            seconds = states[video_id].latest.detail.get("duration", 0.0) if video_id in states else 0.0
            detail = {"bytes": path.stat().st_size, "duration": seconds}
            message = f"its features are in shard {receipt.name}"
            ledger.append(Outcome(video_id, STAGE, "done", EXTRACTED, message, attempt, time.time(), detail))
            path.unlink(missing_ok=True)
    return len(paths)


def delete_leftovers(media: Path, receipts: Iterable[Receipt]) -> int:
    """Delete what a kill between closing a shard and deleting its media has left; returns how many files."""
    # One look at the folder: asked for one by one, a million deleted files take hours.
    there = find_media(media).paths
    return sum(_delete(media, receipt, there.get) for receipt in receipts) if there else 0
