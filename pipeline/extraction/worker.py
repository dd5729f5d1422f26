"""One worker's part of extraction: a plan's videos into parts, the parts into a closed shard with its receipt.

A kill costs the videos in flight: each finished video lies in a part file. A plan is worked on under a lease, so that
any number of processes may share a data set.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from extractors.errors import MediaError
from pipeline.core import signals
from pipeline.core.cache import NoRoomError
from pipeline.core.errors import InputError
from pipeline.core.files import AlreadyThereError, Closeable, remove_tree
from pipeline.core.lease import Lease, LeaseLostError, LeaseWatch, at_work_here
from pipeline.core.ledger import LedgerWriter, latest_states
from pipeline.core.records import Caption, Outcome, ShardPlan, VideoFeatures
from pipeline.core.remote import address_of
from pipeline.dataset.caption_store import open_captions
from pipeline.dataset.folder import read_description
from pipeline.dataset.shard_check import ShardChecker
from pipeline.dataset.shard_plans import lease_path, make_receipt, read_plan, read_receipt, shard_path
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.dataset.shard_writer import Origin, write_part, write_shard
from pipeline.download.media import MediaFinder
from pipeline.download.remote_media import MediaFetcher
from pipeline.extraction.cleanup import delete_processed
from pipeline.extraction.features import Extracted, FeatureExtractor
from pipeline.extraction.settings import STAGE, ExtractSettings

LOOK_EVERY_S = 5.0
"""Seconds between two looks at which workers of this machine have a plan."""
ONCE_MORE = {"timeout", "crashed", "memory"}
"""Failures that a busy machine may cause: such a video is tried a second time before it is left out."""


class CoreShare:
    """Called, it gives the cores that a worker may compute on: one, and its share of those whose workers have no plan.

    So the last plan of a job, or one that holds a video of hours, is not the work of one core.
    """

    def __init__(self, leases: Path, workers: int) -> None:
        """`workers`: how many there are on this machine when all have work."""
        self._leases, self._workers = leases, workers
        self._cores = 1
        self._next_look = time.monotonic() + LOOK_EVERY_S

    def __call__(self) -> int:
        began = time.monotonic()
        if self._workers > 1 and began >= self._next_look:
            busy = sum(at_work_here(path) for path in self._leases.glob("[0-9]*.json"))
            self._cores = max(1, self._workers // max(1, busy))
            # On a slow shared folder with many leases, looking stays a hundredth of the time.
            self._next_look = time.monotonic() + max(LOOK_EVERY_S, 100 * (time.monotonic() - began))
        return self._cores


class ShardWorker(Closeable):
    """Owns the networks, the decoder and a ledger file of one worker process. Use as a context manager.

    `stop`: a file whose coming asks to finish the video in hand and to take up no other. Raises InputError when the
    data set's Identity can't be met here (other weights, other precision).
    """

    def __init__(self, settings: ExtractSettings, weight_files: dict[str, Path], stop: Path | None = None) -> None:
        self._began, self._spent = time.monotonic_ns(), Counter[str]()
        self.settings, self.folder, self._stop = settings, settings.out, stop
        self.identity: dict[str, Any] = read_description(self.folder)["identity"]
        cores = CoreShare(self.folder / "leases", settings.local_workers())
        self.extractor = FeatureExtractor(settings, self.identity, weight_files, cores)
        self.captions = open_captions(self.folder, self.identity["captions"], settings.captions)
        self._odd: dict[str, Counter[str]] = {}
        self.media = _media_finder(settings)
        self.ledger = LedgerWriter(self.folder / "ledger", STAGE)

    def close(self) -> None:
        """End the decoder, close the ledger."""
        self.extractor.close()
        self.media.close()
        self.ledger.close()

    def spent(self) -> Counter[str]:
        """Nanoseconds so far: those of `FeatureExtractor.spent`, `writing`, and `all` since this worker began."""
        return self.extractor.spent() + self._spent + Counter({"all": time.monotonic_ns() - self._began})

    def extract(self, name: str) -> Counter[str]:
        """Make shard `name`, unless it is there or another process works on it; returns outcome -> number of videos.

        Outcomes: `done`, `skipped` (a part or the shard was there), `failed REASON`, `waiting` (no media), `stopped`,
        `elsewhere` (another process has the lease). A receipt without its shard is that of one to be made anew: what it
        says was left out stays out.
        """
        plan = read_plan(self.folder / "plans", name)
        shard = shard_path(self.folder, name)
        lease = Lease(lease_path(self.folder, name))
        if shard.exists():
            return Counter(skipped=len(plan.video_ids))
        if not lease.acquire(LeaseWatch()):
            return Counter(elsewhere=len(plan.video_ids))
        try:
            with lease.held():
                if shard.exists():
                    return Counter(skipped=len(plan.video_ids))
                receipt = read_receipt(self.folder, name)
                left_out = receipt.left_out if receipt is not None and receipt.plan == plan.digest else {}
                return self._extract(plan, lease, dict(left_out))
        except LeaseLostError as error:
            print(f"mcn: {error}", file=sys.stderr, flush=True)
            return Counter(elsewhere=len(plan.video_ids))

    def _extract(self, plan: ShardPlan, lease: Lease, failed: dict[str, str]) -> Counter[str]:
        parts = self.folder / "parts" / plan.name
        origin = Origin(plan.name, self.identity, self.extractor.provenance, plan.digest)
        wanted = [video_id for video_id in plan.video_ids if video_id not in failed]
        with ShardChecker() as checker:
            missing = [video_id for video_id in wanted if not self._finished(parts / f"{video_id}.h5", checker)]
        states = latest_states(self.folder / "ledger", STAGE, wanted=missing) if missing else {}
        self._attempts = {video_id: state.latest.attempt for video_id, state in states.items()}
        counts = Counter(skipped=len(wanted) - len(missing))
        counts += self._extract_videos(missing, parts, origin, failed, lease)
        if not counts["waiting"] and not counts["stopped"]:
            with self._at_writing():
                self._close_shard(plan, parts, origin, failed)
        return counts

    def _finished(self, part: Path, checker: ShardChecker) -> bool:
        """Whether a sound part of this Identity is there; one of an older Identity is computed anew."""
        if not part.exists() or checker.check(part):
            return False
        with FeatureFile(part) as file:
            return file.identity == self.identity

    def _extract_videos(
        self, video_ids: list[str], parts: Path, origin: Origin, failed: dict[str, str], lease: Lease
    ) -> Counter[str]:
        counts: Counter[str] = Counter()
        tried: set[str] = set()
        queue = deque(video_ids)
        self.media.begin()
        unfit = {video_id for video_id in video_ids if (parts / f"{video_id}.h5").exists()}

        def videos() -> Iterator[tuple[str, Path]]:
            while queue:
                if self._asked_to_stop() or not lease.is_mine():
                    counts["stopped"] += len(queue)
                    return
                video_id = queue.popleft()
                try:
                    path = self.media.find(video_id)
                except (NoRoomError, signals.StoppedError):
                    # What is in work is finished first, and lets go of its files.
                    queue.appendleft(video_id)
                    return
                if path is None:
                    counts["waiting"] += 1
                else:
                    yield video_id, path

        # A video that fails last of all is tried again after the extractor has ended.
        while queue and not counts["stopped"]:
            for video_id, result in self.extractor.extract(videos(), self._captions_of):
                self.media.release(video_id)
                lease.check()
                if isinstance(result, MediaError) and result.kind in ("missing-file", "unreadable"):
                    # Gone since it was looked for, or not to be read now, maybe with the disk that it is on.
                    counts["waiting"] += 1
                    continue
                if isinstance(result, Extracted):
                    of_part = Origin(origin.name, origin.identity, origin.provenance)
                    with suppress(AlreadyThereError), self._at_writing():
                        write_part(parts / f"{video_id}.h5", result.features, of_part, replace=video_id in unfit)
                    detail = _detail(result.features, self._odd.pop(video_id, Counter()))
                    self._record(video_id, "done", "", "; ".join(result.notes), detail)
                    counts["done"] += 1
                    continue
                reason = result.kind if isinstance(result, MediaError) else "bad-values"
                self._record(video_id, "failed", reason, str(result), {})
                if reason in ONCE_MORE and video_id not in tried:
                    tried.add(video_id)
                    queue.append(video_id)
                else:
                    failed[video_id] = reason
                    counts[f"failed {reason}"] += 1
        return counts

    @contextmanager
    def _at_writing(self) -> Iterator[None]:
        began = time.monotonic_ns()
        try:
            yield
        finally:
            self._spent["writing"] += time.monotonic_ns() - began

    def _asked_to_stop(self) -> bool:
        return signals.asked_to_stop() or (self._stop is not None and self._stop.exists())

    def _captions_of(self, video_id: str) -> tuple[Caption, ...]:
        if self.captions is None:
            return ()
        # Of a folder of csv files nobody but this process knows what could not be used: its driver reads the ledger.
        before = Counter(self.captions.left_out)
        captions = self.captions.of(video_id)
        self._odd[video_id] = Counter(self.captions.left_out) - before
        return captions

    def _close_shard(self, plan: ShardPlan, parts: Path, origin: Origin, failed: Mapping[str, str]) -> None:
        paths = [parts / f"{video_id}.h5" for video_id in plan.video_ids if video_id not in failed]
        shard = shard_path(self.folder, plan.name)
        try:
            write_shard(shard, paths, origin)
        except AlreadyThereError:
            pass
        except InputError:
            # A process that was taken for dead may have closed the shard and removed the parts meanwhile.
            if not shard.exists():
                raise
        receipt = make_receipt(self.folder, plan.name, failed)
        remove_tree(parts)
        if self.settings.delete_media:
            delete_processed(self.settings.media, self.folder, receipt)

    def _record(self, video_id: str, outcome: str, reason: str, message: str, detail: dict[str, Any]) -> None:
        self._attempts[video_id] = attempt = self._attempts.get(video_id, 0) + 1
        self.ledger.append(Outcome(video_id, STAGE, outcome, reason, message, attempt, time.time(), detail))


def _media_finder(settings: ExtractSettings) -> MediaFinder:
    if address_of(settings.media):
        return MediaFetcher(settings.media, settings.media_cache, settings.cache_size)
    return MediaFinder(settings.media)


def _detail(video: VideoFeatures, odd: Counter[str]) -> dict[str, Any]:
    detail: dict[str, Any] = {
        "seconds": round(video.duration, 3),
        "decoder": video.decoder,
        "sound": bool(video.audio_mask.any()),
        "captions": len(video.captions),
    }
    return detail | ({"captions left out": dict(odd)} if odd else {})
