"""Media whose features lie in a verified shard: deleted on request, and recorded in the downloads' ledger."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.ledger import LedgerWriter, latest_states
from pipeline.core.records import EXTRACTED, STAGE, Outcome
from pipeline.dataset.shard_check import ShardChecker
from pipeline.dataset.shard_plans import Receipt, shard_path
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.download.media import MediaFinder, find_media

FAULT_OF_THE_FILE = {"no-video-stream", "zero-length", "undecodable", "bad-values"}
"""Failures that another attempt would repeat; media that failed otherwise (time, memory, a crash) are kept."""


def delete_processed(media: Path, dataset: Path, receipt: Receipt) -> None:
    """Delete the media of a closed shard's videos, and of those it left out for a fault of the file.

    The shard is read whole before: InputError, and no file deleted, when it isn't sound or isn't what its receipt says.
    """
    with ShardChecker() as checker:
        _delete(media, dataset, receipt, MediaFinder(media).find, checker)


def _delete(
    media: Path, dataset: Path, receipt: Receipt, find: Callable[[str], Path | None], checker: ShardChecker
) -> None:
    spoilt = [video_id for video_id, reason in receipt.left_out.items() if reason in FAULT_OF_THE_FILE]
    paths = {video_id: path for video_id in (*receipt.video_ids, *spoilt) if (path := find(video_id))}
    if not paths:
        return
    _refuse_unsound(dataset, receipt, checker)
    states = latest_states(media / "ledger", STAGE, wanted=list(paths))
    with LedgerWriter(media / "ledger", STAGE) as ledger:
        for video_id, path in paths.items():
            attempt = states[video_id].latest.attempt + 1 if video_id in states else 1
            seconds = states[video_id].latest.detail.get("duration", 0.0) if video_id in states else 0.0
            detail = {"bytes": path.stat().st_size, "duration": seconds}
            message = f"its features are in shard {receipt.name}"
            # The line comes first: a video whose file is gone must not be taken for one that was never fetched.
            ledger.append(Outcome(video_id, STAGE, "done", EXTRACTED, message, attempt, time.time(), detail))
            path.unlink(missing_ok=True)


def _refuse_unsound(dataset: Path, receipt: Receipt, checker: ShardChecker) -> None:
    """A receipt says what a shard held when it was closed; whether it still does, the shard alone can tell."""
    path = shard_path(dataset, receipt.name)
    problems = checker.check(path)
    if not problems:
        with FeatureFile(path) as file:
            if (file.plan, file.content_digest()) != (receipt.plan, receipt.content):
                problems = [f"{path}: not what its receipt says"]
    if problems:
        raise InputError(f"{problems[0]}: its media are kept; see `mcn verify {dataset} --repair`")


def delete_leftovers(media: Path, dataset: Path, receipts: Iterable[Receipt]) -> dict[str, str]:
    """Delete what a kill between closing a shard and deleting its media has left; returns shard -> why its are kept."""
    # One look at the folder: asked for one by one, a million deleted files take hours.
    paths = find_media(media).paths
    kept: dict[str, str] = {}
    with ShardChecker() as checker:
        for receipt in receipts if paths else ():
            try:
                _delete(media, dataset, receipt, paths.get, checker)
            except InputError as error:
                kept[receipt.name] = str(error)
    return kept
