"""One worker's part of extraction: a plan's videos through decoder and networks into parts, the parts into a shard.

A kill costs the videos in flight: each finished video lies in a part file. Frames of the plan's videos share fixed-size
batches, so a row doesn't depend on which other videos were still missing.
"""

import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from extractors.audio_track import extract_audio
from numpy.typing import NDArray

from extractors.audio import AudioNetwork, feature_rows, step_times
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
from pipeline.files import read_json
from pipeline.ledger import LedgerWriter, latest_states
from pipeline.plans import read_plan
from pipeline.records import Caption, Outcome, ShardPlan, VideoFeatures, Words
from pipeline.shards import FeatureFile, Origin, to_float16, verify, write_part, write_shard

STAGE = "extract"


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
        # One thread a worker: with a worker a core that is fastest, and sums are added in the same order everywhere.
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
        missing = []
        for video_id in plan_file.plan.video_ids:
            if (parts / f"{video_id}.h5").exists() and not verify(parts / f"{video_id}.h5"):
                counts["skipped"] += 1
            else:
                missing.append(video_id)
        counts += self._extract_videos(missing, media, plan_file.captions, parts, origin)
        self._close_shard(shard, plan_file.plan, parts, origin)
        return counts

    def _close_shard(self, shard: Path, plan: ShardPlan, parts: Path, origin: Origin) -> None:
        paths = [parts / f"{video_id}.h5" for video_id in plan.video_ids]
        write_shard(shard, [path for path in paths if path.exists()], origin)
        shutil.rmtree(parts, ignore_errors=True)

    def _extract_videos(
        self,
        video_ids: list[str],
        media: dict[str, Path],
        captions: dict[str, tuple[Caption, ...]],
        parts: Path,
        origin: Origin,
    ) -> Counter[str]:
        counts: Counter[str] = Counter()
        in_work: dict[str, _VideoInWork] = {}
        with tempfile.TemporaryDirectory(prefix="mcn-audio-") as scratch:

            def finish(video_id: str) -> None:
                work = in_work.pop(video_id)
                try:
                    video = self._features(video_id, work, media[video_id], captions.get(video_id, ()), Path(scratch))
                except (MediaError, ValueError) as error:
                    self._failed(video_id, error, counts)
                    return
                write_part(parts / f"{video_id}.h5", video, Origin(origin.name, origin.identity, origin.circumstance))
                notes = "; ".join(work.notes)
                self._record(
                    video_id, "done", "", notes, {"seconds": round(video.duration, 3), "decoder": work.decoder}
                )
                counts["done"] += 1
                counts["without sound"] += not video.audio_mask.any()
                counts["without captions"] += not video.captions

            for video_id in video_ids:
                try:
                    self._decode(video_id, media, in_work)
                except (MediaError, ValueError) as error:
                    in_work.pop(video_id, None)
                    for batcher in self.batchers.values():
                        batcher.discard(video_id)
                    self._failed(video_id, error, counts)
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

    def _decode(self, video_id: str, media: dict[str, Path], in_work: dict[str, _VideoInWork]) -> None:
        if video_id not in media:
            raise MediaError("missing-file", f"{video_id}: no media file")
        info = self.decoder.open(media[video_id])
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

    def _failed(self, video_id: str, error: Exception, counts: Counter[str]) -> None:
        reason = error.kind if isinstance(error, MediaError) else "bad-values"
        self._record(video_id, "failed", reason, str(error), {})
        counts[f"failed {reason}"] += 1

    def _record(self, video_id: str, outcome: str, reason: str, message: str, detail: dict[str, Any]) -> None:
        attempt = self._attempts.get(video_id, 0) + 1
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


def closed_videos(folder: Path) -> set[str]:
    """Ids in the closed shards of a data set."""
    found: set[str] = set()
    for path in (folder / "shards").glob("[0-9]*.h5"):
        with FeatureFile(path) as file:
            found |= set(file.video_ids)
    return found
