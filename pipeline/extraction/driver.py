"""The driver's side of extraction: prepare, plan, say which plans may be worked on now, again until all is done.

Processes that share a data set plan one after the other, under a lease; each works on plans that no other holds, and
takes over those of the dead.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import cached_property
from pathlib import Path

from pipeline.core import signals
from pipeline.core.config import as_plain
from pipeline.core.errors import InputError
from pipeline.core.files import ASIDE, remove
from pipeline.core.lease import Lease, LeaseWatch, locked, read_lease
from pipeline.core.ledger import latest_states
from pipeline.core.remote import address_of
from pipeline.core.reporting import RunSummary
from pipeline.core.video_ids import find_part
from pipeline.dataset.folder import refuse_half_forgotten
from pipeline.dataset.freeze import reasons_of
from pipeline.dataset.shard_plans import (
    Receipt,
    closed_names,
    lease_path,
    open_ids,
    plan_names,
    read_plan,
    receipts,
    shard_path,
)
from pipeline.download.budget import DownloadWatch, freeing, remark_aside, weight_aside
from pipeline.download.media import find_media
from pipeline.extraction.cleanup import delete_leftovers, move_undecodable
from pipeline.extraction.planning import Stock, check_inputs, plan_videos, take_stock
from pipeline.extraction.prepare import prepare, prepare_networks
from pipeline.extraction.settings import STAGE, ExtractSettings

_OTHERS_EVERY_S = 2.0
"""Seconds between looks at what other processes have finished."""
_REPORT_EVERY_S = 300.0
_OLD_S = 24 * 3600.0


class ExtractionRounds:
    """Iterating gives (plan names, their videos) to be worked on, round by round; between them it waits if it must.

    InputError as `pipeline.extraction.planning.check_inputs` and `pipeline.extraction.prepare.prepare` raise it.
    """

    def __init__(self, settings: ExtractSettings, name: str) -> None:
        self.settings, self.folder, self._name = settings, settings.out, name
        self._part = find_part(settings.part)
        self._watch = LeaseWatch()
        self._downloads = DownloadWatch(settings.media)
        self._idle: set[str] = set()
        self._report = RunSummary(STAGE)
        self._reported = 0.0
        self._offers = False
        self._kept: dict[str, str] = {}
        self._lock = self.folder / "leases" / "planning.json"
        refuse_half_forgotten(self.folder)
        # Before weights, which may take long to fetch or make.
        check_inputs(settings)
        if settings.delete_media and not settings.media.is_dir():
            raise InputError(f"{settings.media}: not a folder; --delete-media expects the folder of downloaded videos")
        with locked(self._lock, f"preparing {self.folder}", patient=True):
            self._prepared = prepare(settings)
            self._remove_leftovers()
            self._before = set(closed_names(self.folder))
            self._stock = self._plan()
        self._report.notes = self._prepared.notes + self._stock.notes

    @cached_property
    def weight_files(self) -> dict[str, Path]:
        """Network -> a file that `extractors.weights.load_weights` reads; InputError when one can't be provided.

        Looked at once there is something to extract: that takes another process, PyTorch and seconds.
        """
        return self._prepared.weight_files or prepare_networks(self.settings, self.settings.precision).files

    def stop_file(self) -> AbstractContextManager[Path]:
        """The file by which workers on any machine learn that this process was asked to stop."""
        return signals.stop_file(self.folder / "leases" / f"{self._name}.stop")

    def __iter__(self) -> Iterator[tuple[list[str], int]]:
        if not self.settings.follow:
            yield from self._rounds()
            return
        with ExitStack() as frees, suppress(signals.StoppedError):
            while not signals.asked_to_stop():
                self._offer_room(frees)
                yield from self._rounds()
                if not self._stock.unsettled and not self._stock.new:
                    break
                self._say(f"{self._stock.unsettled} listed videos may still come, {len(self._stock.new)} fill no shard")
                if signals.wait(self.settings.poll):
                    break
                with locked(self._lock, f"planning in {self.folder}", patient=True):
                    self._stock = self._plan()

    def _offer_room(self, frees: ExitStack) -> None:
        """Let a download with a budget wait for this process as long as there is something that it can free."""
        if not self.settings.delete_media:
            return
        if self._downloads.asks_for_room():
            self._make_room()
        busy = self._stock.new or any(name not in self._idle for name in self._open_names())
        stuck = not busy and self._downloads.is_stuck()
        if not stuck and not self._offers:
            frees.enter_context(freeing(self.settings.media))
            self._offers = True
        elif stuck and self._offers:
            left, (aside, _) = find_media(self.settings.media).paths, weight_aside(self.settings.media)
            example = f", e.g. {left[min(left)]}" if left else ""
            print(
                f"extract: the download's media budget is used up by what no plan will free: {len(left)} media files "
                f"that aren't listed, or failed and are kept{example}, and {aside} in .undecodable; move them or "
                "raise --media-budget",
                file=sys.stderr,
                flush=True,
            )
            frees.close()
            self._offers = False

    def _make_room(self) -> None:
        """Move media aside that gave no features and never will."""
        with locked(self._lock, f"making room in {self.settings.media}", patient=True):
            of_shards = receipts(self.folder, self._reasons)
            move_undecodable(self.settings.media, of_shards, open_ids(self.folder))

    def _rounds(self) -> Iterator[tuple[list[str], int]]:
        """The open plans of this part, until none is left that this process or another can work on."""
        while not signals.asked_to_stop():
            left = [name for name in self._open_names() if name not in self._idle]
            free = [name for name in left if self._is_free(name)]
            if free:
                yield free, sum(len(read_plan(self.folder / "plans", name).video_ids) for name in free)
                # What was free, is still open and isn't held by another waits for its media.
                open_still = set(self._open_names())
                self._idle |= {n for n in free if n in open_still and not lease_path(self.folder, n).exists()}
            elif not left or signals.wait(min(_OTHERS_EVERY_S, self.settings.poll)):
                break
            else:
                holder = read_lease(lease_path(self.folder, left[0]))
                self._say(f"{len(left)} plans are held by other processes, e.g. {left[0]} by {holder and holder[0]}")

    def _open_names(self) -> list[str]:
        closed = set(closed_names(self.folder))
        return [n for n in plan_names(self.folder / "plans") if n not in closed and self._part.owns(int(n))]

    def _is_free(self, name: str) -> bool:
        """Whether no live process holds the plan; a dead one's lease is taken from it."""
        path = lease_path(self.folder, name)
        if not path.exists():
            return True
        lease = Lease(path)
        if not self._watch.is_dead(path) or not lease.acquire(self._watch):
            return False
        lease.release()
        return True

    def _plan(self) -> Stock:
        stock = take_stock(self.settings)
        # A download that is at work and has room brings more: shards are filled. Else what is there is taken.
        waits = self.settings.follow and bool(stock.unsettled) and self._downloads.goes_on()
        names = plan_videos(self.settings, stock.new, full_only=waits, first=stock.first_plan)
        planned = {video_id for name in names for video_id in read_plan(self.folder / "plans", name).video_ids}
        stock.new = {video_id: seconds for video_id, seconds in stock.new.items() if video_id not in planned}
        return stock

    def _remove_leftovers(self) -> None:
        """Files that dead processes were writing, a day old; media whose deletion was interrupted."""
        now = time.time()
        for folder in ("shards", "parts", "plans", "leases", "manifests"):
            # Unlike rglob, os.walk takes no harm from a folder that another process removes meanwhile.
            for parent, _, names in os.walk(self.folder / folder):
                for path in (Path(parent, name) for name in names if name.startswith(".") and name.endswith(ASIDE)):
                    # A file that another process is writing has its final name a moment later.
                    with suppress(FileNotFoundError):
                        if now - path.stat().st_mtime > _OLD_S:
                            remove(path)
        if self.settings.delete_media:
            self._kept |= delete_leftovers(self.settings.media, self.folder, receipts(self.folder, self._reasons))

    def _reasons(self) -> dict[str, str]:
        return reasons_of(self.folder / "ledger", STAGE)

    def _say(self, text: str) -> None:
        if time.monotonic() - self._reported > _REPORT_EVERY_S or not self._reported:
            self._reported = time.monotonic()
            print(f"extract: waiting: {text}", file=sys.stderr, flush=True)

    def report(self) -> RunSummary:
        """What became of all of it: closed shards by their receipts, this run's and earlier ones'."""
        report, left_out = self._report, Counter[str]()
        tried = stored = 0
        new: list[Receipt] = []
        count = 0
        bad = dict(self._kept)
        for receipt in receipts(self.folder, self._reasons):
            count += 1
            stored += len(receipt.video_ids)
            left_out.update(receipt.left_out.values())
            path = shard_path(self.folder, receipt.name)
            if receipt.name not in bad and path.stat().st_size != receipt.bytes:
                bad[receipt.name] = f"{path}: not of the size that its receipt says; see `mcn verify {self.folder}`"
            if receipt.name in bad:
                left_out["damaged shard"] += len(receipt.video_ids)
            elif receipt.name in self._before:
                report.skipped += len(receipt.video_ids)
            elif self._part.owns(int(receipt.name)):
                report.done += len(receipt.video_ids)
                tried += len(receipt.video_ids) + len(receipt.left_out)
                new.append(receipt)
        report.failed.update(left_out)
        if bad:
            report.notes.append(f"{len(bad)} shards are damaged, e.g. {next(iter(bad.values()))}")
        may_come = self._stock.unsettled if self.settings.follow else 0
        if self._stock.absent > may_come:
            report.failed["no media file"] += self._stock.absent - may_come
        still_open = self._open_names()
        planned = sum(len(read_plan(self.folder / "plans", name).video_ids) for name in still_open)
        report.waiting = planned + may_come
        self._remark(new)
        report.detail |= {
            "dataset": str(self.folder),
            "shards": count,
            "part": str(self._part),
            "settings": as_plain(self.settings),
            "identity": self._prepared.description["identity"],
        }
        report.stopped = signals.asked_to_stop()
        if still_open and not report.stopped:
            waiting = [name for name in still_open if self._is_free(name)]
            report.notes.append(
                f"{len(still_open)} plans are open, e.g. {still_open[0]}: "
                + (self._lacking() if waiting else "other processes hold them")
            )
        fruitless = (tried and not report.done) or not stored
        if tried and fruitless:
            report.notes.append(f"none of {tried} videos gave features; `mcn doctor` tells whether decoding works here")
        report.notes += remark_aside(self.settings.media)
        report.complete = not (bad or still_open or fruitless or (self.settings.follow and self._stock.unsettled))
        return report

    def _lacking(self) -> str:
        if address := address_of(self.settings.media):
            return f"their media are not at {address}, or could not be fetched; rerun to resume"
        return f"their media are not in {self.settings.media}"

    def _remark(self, new: list[Receipt]) -> None:
        stored = [video_id for receipt in new for video_id in receipt.video_ids]
        states = latest_states(self.folder / "ledger", STAGE, wanted=set(stored)) if stored else {}
        details = [states[video_id].latest for video_id in stored if video_id in states]
        lacks = {name: sum(not latest.detail.get(name, True) for latest in details) for name in ("sound", "captions")}
        noted = sum(bool(latest.message) for latest in details)
        report = self._report
        report.detail |= {**{f"without {name}": count for name, count in lacks.items()}, "with remarks": noted}
        report.notes += [
            f"{count} videos have no {name}: masked, not invented" for name, count in lacks.items() if count
        ]
        odd = sum((Counter(latest.detail.get("captions left out", {})) for latest in details), Counter[str]())
        report.notes += [f"captions left out, {reason}: {number}" for reason, number in sorted(odd.items())]
        if noted:
            report.notes.append(f"{noted} videos have a remark of the decoder: see {self.folder / 'ledger'}")
        if not address_of(self.settings.media) and not self.settings.media.exists():
            raise InputError(f"{self.settings.media}: disappeared during the run; mount it and rerun to resume")
