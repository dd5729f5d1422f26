"""One worker's part of extraction: a plan's videos through decoder and networks into parts, the parts into a shard.

A kill costs the videos in flight: each finished video lies in a part file. Frames of the plan's videos share fixed-size
batches, so a row doesn't depend on which other videos were still missing.
"""

import shutil
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.audio import AudioNetwork, feature_rows, step_times
from extractors.audio_track import extract_audio
from extractors.decoder_process import DecoderProcess
from extractors.errors import MediaError, WeightsError
from extractors.frame_batcher import FrameBatcher
from extractors.logmel import log_mel
from extractors.precision import resolve_device
from extractors.text import words
from extractors.video import FrameNetwork
from extractors.weights import Weights, load_weights
from pipeline.circumstance import circumstance
from pipeline.errors import InputError
from pipeline.extract_settings import ExtractSettings
from pipeline.files import AlreadyThereError, read_json
from pipeline.ledger import LedgerWriter, latest_states
from pipeline.plans import read_plan
from pipeline.records import Caption, Outcome, ShardPlan, VideoFeatures, Words
from pipeline.shards import FeatureFile, Origin, to_float16, verify, write_part, write_shard

STAGE = "extract"

ONCE_MORE = {"timeout", "crashed", "memory"}
"""Failures that a busy machine may cause: such a video is tried a second time before it is left out."""


@dataclass
class _VideoInWork:
    duration: float
    rows: int
    streams: dict[str, NDArray[np.float32]]
    mask: NDArray[np.bool_] | None = None
    decoder: str = ""
    notes: tuple[str, ...] = ()


class ShardWorker:
    """Owns the networks and the decoder of one worker process. Use as a context manager.

    Raises InputError when the data set's Identity can't be met here (other weights, other precision).
    """

    def __init__(self, settings: ExtractSettings, weight_files: dict[str, Path]) -> None:
        # With a worker a core, one thread each is fastest.
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self.settings, self.folder = settings, settings.out
        self.identity: dict[str, Any] = read_json(self.folder / "dataset.json")["identity"]
        device = str(resolve_device(settings.device))
        self.networks = {
            name: FrameNetwork(
                self._weights(name, weight_files, stream["weights"]), stream["view"], stream["precision"], device
            )
            for name, stream in self.identity["streams"].items()
        }
        davenet = self._weights("davenet", weight_files, self.identity["audio"]["weights"])
        self.audio_network = AudioNetwork(davenet, device)
        self.batchers: dict[str, FrameBatcher[str]] = {
            name: FrameBatcher(network) for name, network in self.networks.items()
        }
        self.circumstance = circumstance(device)
        self.decoder = DecoderProcess(settings.decoding())
        self.ledger = LedgerWriter(self.folder / "ledger", STAGE)

    def _weights(self, network: str, files: dict[str, Path], digest: str) -> Weights:
        try:
            weights = load_weights(network, files[network])
        except WeightsError as error:
            raise InputError(str(error)) from None
        if weights.digest != digest:
            raise InputError(f"{files[network]}: sha256 of its tensors is {weights.digest}, the data set's is {digest}")
        return weights

    def __enter__(self) -> "ShardWorker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.decoder.close()
        self.ledger.close()
        torch.set_num_threads(self._threads)

    def extract(self, name: str, media: dict[str, Path]) -> Counter[str]:
        """Make shard `name`, unless it is there; returns outcome -> number of videos. `media`: id -> file."""
        plan_file = read_plan(self.folder / "plans", name)
        shard = self.folder / "shards" / f"{name}.h5"
        counts: Counter[str] = Counter()
        if shard.exists():
            counts["skipped"] += len(plan_file.plan.video_ids)
            return counts
        parts = self.folder / "parts" / name
        origin = Origin(name, self.identity, self.circumstance, plan_file.digest)
        self._attempts = {i: s.latest.attempt for i, s in latest_states(self.folder / "ledger", STAGE).items()}
        missing = [video_id for video_id in plan_file.plan.video_ids if not self._finished(parts / f"{video_id}.h5")]
        counts["skipped"] += len(plan_file.plan.video_ids) - len(missing)
        lost = [video_id for video_id in missing if video_id not in media]
        if lost:
            raise InputError(
                f"{self.settings.media}: {len(lost)} planned videos have no file there, e.g. {lost[0]}; "
                "give the --media folder that holds them"
            )
        failed: set[str] = set()
        counts += self._extract_videos(missing, media, plan_file.captions, parts, origin, failed)
        self._close_shard(shard, plan_file.plan, parts, origin, failed)
        return counts

    def _finished(self, part: Path) -> bool:
        """Whether a sound part of this Identity is there; one of an older Identity is computed anew."""
        if not part.exists() or verify(part):
            return False
        with FeatureFile(part) as file:
            return file.identity == self.identity

    def _close_shard(self, shard: Path, plan: ShardPlan, parts: Path, origin: Origin, failed: set[str]) -> None:
        paths = [parts / f"{video_id}.h5" for video_id in plan.video_ids if video_id not in failed]
        try:
            if not shard.exists():
                write_shard(shard, paths, origin)
        except AlreadyThereError:
            pass
        except InputError:
            # A second worker on this plan, e.g. a bundle that the runner started again, may have closed the shard
            # and removed the parts meanwhile.
            if not shard.exists():
                raise
        shutil.rmtree(parts, ignore_errors=True)

    def _extract_videos(
        self,
        video_ids: list[str],
        media: dict[str, Path],
        captions: dict[str, tuple[Caption, ...]],
        parts: Path,
        origin: Origin,
        failed: set[str],
    ) -> Counter[str]:
        counts: Counter[str] = Counter()
        in_work: dict[str, _VideoInWork] = {}
        with tempfile.TemporaryDirectory(prefix="mcn-audio-") as scratch:

            def finish(video_id: str) -> None:
                work = in_work.pop(video_id)
                try:
                    video = self._features(video_id, work, media[video_id], captions.get(video_id, ()), Path(scratch))
                except (MediaError, ValueError) as error:
                    fail(video_id, error)
                    return
                write_part(parts / f"{video_id}.h5", video, Origin(origin.name, origin.identity, origin.circumstance))
                detail = {
                    "seconds": round(video.duration, 3),
                    "decoder": work.decoder,
                    "sound": bool(video.audio_mask.any()),
                    "captions": len(video.captions),
                }
                self._record(video_id, "done", "", "; ".join(work.notes), detail)
                counts["done"] += 1

            def fail(video_id: str, error: Exception) -> None:
                reason = error.kind if isinstance(error, MediaError) else "bad-values"
                self._record(video_id, "failed", reason, str(error), {})
                if reason in ONCE_MORE and video_id not in tried:
                    tried.add(video_id)
                    waiting.append(video_id)
                else:
                    failed.add(video_id)
                    counts[f"failed {reason}"] += 1

            tried: set[str] = set()
            waiting = deque(video_ids)
            while waiting:
                video_id = waiting.popleft()
                try:
                    self._decode(video_id, media[video_id], in_work)
                except MediaError as error:
                    in_work.pop(video_id, None)
                    for batcher in self.batchers.values():
                        batcher.discard(video_id)
                    fail(video_id, error)
                for ready in [i for i, work in in_work.items() if work.mask is not None and not self._waiting(i)]:
                    finish(ready)
            for name, batcher in self.batchers.items():
                self._keep(name, batcher.flush(), in_work)
            for video_id in list(in_work):
                finish(video_id)
        return counts

    def _waiting(self, video_id: str) -> int:
        return sum(batcher.pending(video_id) for batcher in self.batchers.values())

    def _keep(self, stream: str, results: list[Any], in_work: dict[str, _VideoInWork]) -> None:
        for key, rows, values in results:
            in_work[key].streams[stream][rows] = values

    def _decode(self, video_id: str, path: Path, in_work: dict[str, _VideoInWork]) -> None:
        info = self.decoder.open(path)
        streams = {name: np.zeros((info.rows, network.width), np.float32) for name, network in self.networks.items()}
        in_work[video_id] = _VideoInWork(info.duration, info.rows, streams)
        for batch in self.decoder.batches():
            for name, batcher in self.batchers.items():
                self._keep(name, batcher.push(video_id, batch.rows, batch.frames), in_work)
        summary = self.decoder.summary
        in_work[video_id].mask, in_work[video_id].decoder = summary.mask, summary.decoder
        in_work[video_id].notes = summary.notes

    def _features(
        self, video_id: str, work: _VideoInWork, path: Path, captions: tuple[Caption, ...], scratch: Path
    ) -> VideoFeatures:
        assert work.mask is not None
        audio_settings, fps = self.identity["audio"], self.identity["feature_fps"]
        store, native = audio_settings["store"], audio_settings["rate"] == "native"
        audio = np.zeros((0 if native else work.rows, self.audio_network.width), np.float32)
        audio_mask = np.zeros(len(audio), bool)
        logmel, start = np.zeros((0, 40), np.float16), 0.0
        track = extract_audio(path, scratch, self.settings.time_limit)
        if track is not None:
            work.notes += track.notes
        if track is not None and len(track.samples):
            start = track.start
            logmel = to_float16(log_mel(track.samples), "log-mel")
            if store != "logmel":
                steps = self.audio_network.steps(logmel)
                if native:
                    audio, audio_mask = steps, np.ones(len(steps), bool)
                else:
                    audio, audio_mask = feature_rows(steps, start, work.rows, fps)
            else:
                audio_mask = _heard(len(logmel), start, work.rows, fps)
        for leftover in scratch.iterdir():
            leftover.unlink()
        table, ids, offsets = _index_words(captions)
        return VideoFeatures(
            video_id=video_id,
            duration=work.duration,
            feature_fps=fps,
            video={name: to_float16(rows, name) for name, rows in work.streams.items()},
            video_mask=work.mask,
            audio=None if store == "logmel" else to_float16(audio, "davenet"),
            audio_mask=audio_mask,
            logmel=None if store == "davenet" else logmel,
            logmel_start=start,
            captions=captions,
            words=Words(table, ids, offsets),
            decoder=work.decoder,
        )

    def _record(self, video_id: str, outcome: str, reason: str, message: str, detail: dict[str, Any]) -> None:
        self._attempts[video_id] = attempt = self._attempts.get(video_id, 0) + 1
        self.ledger.append(Outcome(video_id, STAGE, outcome, reason, message, attempt, time.time(), detail))


def _heard(frames: int, start: float, rows: int, fps: int) -> NDArray[np.bool_]:
    """Which rows have sound, where only the log-mel is kept: the same rule as DaveNet's rows."""
    outputs = step_times(-(-frames // 16), start)
    return feature_rows(np.zeros((len(outputs), 1), np.float32), start, rows, fps)[1]


def _index_words(captions: tuple[Caption, ...]) -> tuple[tuple[str, ...], NDArray[np.int32], NDArray[np.int64]]:
    """Table of words (sorted), ids into it, offsets per caption."""
    lines = [words(caption.text) for caption in captions]
    table = sorted({word for line in lines for word in line})
    position = {word: index for index, word in enumerate(table)}
    ids = np.array([position[word] for line in lines for word in line], np.int32)
    return tuple(table), ids, np.cumsum([0, *map(len, lines)]).astype(np.int64)


def closed_videos(folder: Path, identity: dict[str, Any]) -> set[str]:
    """Ids in the closed shards of a data set; InputError for a shard of another Identity."""
    found: set[str] = set()
    for path in (folder / "shards").glob("[0-9]*.h5"):
        with FeatureFile(path) as file:
            if file.identity != identity:
                raise InputError(f"{path}: its Identity isn't the data set's; move it away and extract again")
            found |= set(file.video_ids)
    return found
