"""The data set's side of `mcn status`: plans, receipts, parts and ledger; no shard is opened."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.files import weight_of
from pipeline.core.ledger_scan import LedgerScan, VideoNumbers
from pipeline.dataset.shard_plans import closed_names, plan_names, read_plan, read_receipt, receipt_names, receipt_path
from pipeline.tools.rates import Rate, recent_rate

STAGE = "extract"

_UNPLANNED, _WAITING, _STORED, _IN_PART, _FAILED = range(5)
_NOTES_SHOWN = 3

Numbers = NDArray[np.uint32]


@dataclass(frozen=True)
class Shards:
    """Where the shards and their videos stand."""

    folder: str
    closed: int
    open: int
    """Planned and not closed."""
    without_receipt: int
    """Of the closed ones: the next extraction makes the receipt."""
    lost: int
    """Of the open ones: closed once, the shard gone since."""
    planned: int
    """Videos in plans."""
    in_closed_shards: int
    in_parts: int
    """Finished videos of open shards."""
    failed: dict[str, int]
    """Reason -> planned videos that gave no features."""
    waiting: int
    """Planned videos that are none of these."""
    seconds: float
    """Of video in closed shards."""
    bytes: int
    """Of all files of the data set."""
    extracted: Rate | None
    """How fast videos are extracted."""
    torn_lines: int
    notes: list[str]

    @property
    def videos(self) -> int:
        """Videos whose features are there."""
        return self.in_closed_shards + self.in_parts


@dataclass(frozen=True)
class _Receipt:
    """What is kept of a receipt."""

    stamp: tuple[int, int]
    """Time of change and size of its file."""
    stored: Numbers
    left_out: dict[str, Numbers]
    """Reason -> videos."""
    seconds: float


class DatasetScan:
    """Looks at a data set, again and again; plans and receipts that were read are not read twice."""

    def __init__(self, dataset: Path, numbers: VideoNumbers) -> None:
        self.dataset, self._numbers = dataset, numbers
        self.ledger = LedgerScan(dataset / "ledger", STAGE, numbers)
        self._plans: dict[str, Numbers] = {}
        self._receipts: dict[str, _Receipt] = {}
        self._parts: dict[str, Numbers] = {}
        self._closed: list[str] = []
        self._broken: list[str] = []

    def update(self) -> None:
        """Read what is new."""
        # In the order in which extraction makes and removes: looked at so, no video and no shard slips through.
        names = _listed(plan_names, self.dataset / "plans")
        self._parts = self._found_parts()
        receipts = {name: self._receipt(name) for name in _listed(receipt_names, self.dataset)}
        self._receipts = {name: receipt for name, receipt in receipts.items() if receipt is not None}
        self._closed = _listed(closed_names, self.dataset)
        self._read_plans(names)
        self.ledger.update()

    def _read_plans(self, names: list[str]) -> None:
        self._broken = []
        self._plans = {name: self._plans[name] for name in names if name in self._plans}
        for name in names:
            if name not in self._plans:
                try:
                    self._plans[name] = self._numbered(read_plan(self.dataset / "plans", name).video_ids)
                except (InputError, KeyError, TypeError, AttributeError) as error:
                    self._broken.append(str(error) if isinstance(error, InputError) else f"plan {name}: no plan")

    def _numbered(self, video_ids: Iterable[str]) -> Numbers:
        numbers = self._numbers
        return np.array([numbers.setdefault(str(i).encode(), len(numbers)) for i in video_ids], np.uint32)

    def _receipt(self, name: str) -> _Receipt | None:
        try:
            state = receipt_path(self.dataset, name).stat()
        except OSError:
            return None
        stamp, known = (state.st_mtime_ns, state.st_size), self._receipts.get(name)
        if known is not None and known.stamp == stamp:
            return known
        receipt = read_receipt(self.dataset, name)
        if receipt is None:
            return None
        try:
            reasons = dict.fromkeys(receipt.left_out.values())
            left_out = {r: self._numbered(i for i, why in receipt.left_out.items() if why == r) for r in reasons}
            return _Receipt(stamp, self._numbered(receipt.video_ids), left_out, float(receipt.seconds))
        except (TypeError, ValueError, AttributeError):
            return None

    def _found_parts(self) -> dict[str, Numbers]:
        parts = {}
        with suppress(OSError):
            for entry in os.scandir(self.dataset / "parts"):
                with suppress(OSError):
                    names = [name for name in os.listdir(entry.path) if not name.startswith(".")]
                    parts[entry.name] = self._numbered(name[:-3] for name in names if name.endswith(".h5"))
        return parts

    def standing(self) -> tuple[NDArray[np.uint8], Counter[str]]:
        """By number where each video stands; and how many failed for which reason."""
        kinds = self.ledger.kind()
        standing = np.zeros(len(self._numbers), np.uint8)
        reasons: list[str] = []
        why = np.zeros(len(self._numbers), np.uint32)

        def fail(videos: Numbers, reason: str) -> None:
            if reason not in reasons:
                reasons.append(reason)
            standing[videos], why[videos] = _FAILED, reasons.index(reason)

        closed = set(self._closed)
        for name in sorted({*self._plans, *self._receipts}):
            planned, receipt = self._plans.get(name, np.zeros(0, np.uint32)), self._receipts.get(name)
            if name in closed and receipt is not None:
                standing[receipt.stored] = _STORED
            else:
                # A video that an earlier shard left out is planned once more: its failure is history.
                again = standing[planned] == _FAILED
                standing[planned] = _WAITING
                for kind in np.unique(kinds[planned[~again]]):
                    outcome, reason = self.ledger.kinds[kind]
                    of_kind = planned[~again][kinds[planned[~again]] == kind]
                    if outcome == "failed":
                        fail(of_kind, reason)
                    elif outcome == "done" and name in closed:
                        standing[of_kind] = _STORED
                if name not in closed:
                    standing[self._parts.get(name, np.zeros(0, np.uint32))] = _IN_PART
            for reason, videos in receipt.left_out.items() if receipt is not None else ():
                fail(videos, reason)
        counts = np.bincount(why[standing == _FAILED], minlength=len(reasons))
        return standing, Counter({reason: int(n) for reason, n in zip(reasons, counts, strict=False) if n})

    def look(self, now: float) -> tuple[Shards, NDArray[np.bool_]]:
        """What `update` has found, and by number which videos are in no plan. `now`: seconds since 1970."""
        standing, failed = self.standing()
        closed, open_names = set(self._closed), set(self._plans) - set(self._closed)
        count = np.bincount(standing, minlength=5)
        shown = self._broken[:_NOTES_SHOWN]
        if len(self._broken) > len(shown):
            shown = [*shown, f"{len(self._broken) - len(shown)} more plans can't be read; see `mcn verify`"]
        return (
            Shards(
                folder=str(self.dataset),
                closed=len(closed),
                open=len(open_names),
                without_receipt=len(closed - self._receipts.keys()),
                lost=sum(len(receipt.stored) > 0 for name, receipt in self._receipts.items() if name not in closed),
                planned=int(count.sum() - count[_UNPLANNED]),
                in_closed_shards=int(count[_STORED]),
                in_parts=int(count[_IN_PART]),
                failed=dict(failed.most_common()),
                waiting=int(count[_WAITING]),
                seconds=round(sum(self._receipts[name].seconds for name in closed & self._receipts.keys()), 3),
                bytes=weight_of(self.dataset),
                extracted=recent_rate(self.ledger.done_times(), now),
                torn_lines=self.ledger.torn_lines(),
                notes=shown,
            ),
            standing == _UNPLANNED,
        )


def _listed(names: Callable[[Path], list[str]], folder: Path) -> list[str]:
    """What `names` finds in a folder; nothing where it can't be read."""
    try:
        return names(folder)
    except OSError:
        return []
