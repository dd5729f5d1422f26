"""Videos to features: decoders and networks of one process; knows no plan, part or shard.

Several videos may be decoded at once, and frames of all of them share fixed-size batches: a row doesn't depend on which
other videos went through with it. A file is charged with an error of the decoding libraries on it, or with values that
can't be stored, and only while a made clip goes through the same decoder and networks. Any other error is the tool's:
it ends the work.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.audio import AudioNetwork, feature_rows
from extractors.clip_window import ClipWindow
from extractors.decode import DecodeSummary, FrameBatch, MediaInfo
from extractors.decoder_pool import DecoderPool, Event, Sound
from extractors.decoder_process import DecoderProcess
from extractors.devices import DeviceClaim
from extractors.errors import LibraryError, MediaError, UnstorableError, WeightsError
from extractors.frame_batcher import FrameBatcher
from extractors.logmel import log_mel, mel_filters
from extractors.networks import described
from extractors.text import words
from extractors.timm_networks import is_timm, timm_version
from extractors.video import FrameNetwork
from extractors.weights import Weights, load_weights
from models.davenet import output_steps
from pipeline.core.errors import InputError, tool_errors
from pipeline.core.files import Closeable
from pipeline.core.provenance import provenance
from pipeline.core.records import Caption, VideoFeatures, Words
from pipeline.dataset.shard_writer import BadValuesError, to_float16
from pipeline.extraction.made_clip import decode_made_clip
from pipeline.extraction.settings import ExtractSettings


@dataclass(frozen=True)
class Extracted:
    """One finished video."""

    features: VideoFeatures
    notes: tuple[str, ...]
    """Remarks of the decoder; empty for a video without fault."""


FileError = MediaError | BadValuesError
Result = Extracted | FileError
"""A video's features, or why it has none: its media's fault, or values that can't be stored."""


@dataclass
class _Audio:
    """A video's sound as it is stored."""

    rows: NDArray[np.float32]
    mask: NDArray[np.bool_]
    logmel: NDArray[np.float16]
    start: float


@dataclass
class _VideoInWork:
    """What there is of a video so far."""

    path: Path
    info: MediaInfo
    streams: dict[str, NDArray[np.float32]]
    clips: dict[str, ClipWindow]
    summary: DecodeSummary | None = None
    audio: _Audio | None = None
    notes: tuple[str, ...] = ()


def verified_weights(network: str, path: Path, digest: str) -> Weights:
    """The weights in a file; InputError where they aren't weights of this sha256."""
    try:
        weights = load_weights(network, path)
    except WeightsError as error:
        raise InputError(str(error)) from None
    if weights.digest != digest:
        raise InputError(
            f"{path}: sha256 of its tensors is {weights.digest[:12]}, the data set's {network} has {digest[:12]}; "
            "give the weights that it was extracted with"
        )
    return weights


def check_log_mel() -> None:
    """InputError when the log-mel can't be computed on this machine."""
    try:
        mel_filters()
    except LibraryError as error:
        raise InputError(str(error)) from None


def check_described(stream: str, recorded: Mapping[str, Any]) -> None:
    """InputError where a network isn't here what the data set's Identity says of it: timm's may change with timm."""
    if not is_timm(stream):
        return
    try:
        here = described(stream)
    except WeightsError as error:
        raise InputError(str(error)) from None
    differing = [
        f"{name} is {value}, the data set has {recorded.get(name)}"
        for name, value in here.items()
        if recorded.get(name) != value
    ]
    if differing:
        raise InputError(
            f"{stream}: by timm {timm_version()} its {'; '.join(differing)}; install the timm it was extracted with"
        )


class FeatureExtractor(Closeable):
    """Owns the networks and the decoders of one process. Use as a context manager.

    Raises InputError when the Identity can't be met here (other weights, other precision) or a library doesn't load,
    and ToolError for an error that isn't a file's.
    """

    def __init__(
        self,
        settings: ExtractSettings,
        identity: dict[str, Any],
        weight_files: dict[str, Path],
        cores: Callable[[], int] = lambda: 1,
    ) -> None:
        """`cores`: how many the networks may compute on now, of a processor; asked at each batch of frames."""
        check_log_mel()
        self._threads = torch.get_num_threads()
        # With a worker a core, one thread each is fastest.
        self._cores, self._computes_on = cores, 1
        torch.set_num_threads(1)
        self.settings, self.identity = settings, identity
        self._claim = DeviceClaim(settings.device)
        device = str(self._claim.device)
        for name, stream in identity["streams"].items():
            check_described(name, stream)
        self.networks = {
            name: FrameNetwork(
                verified_weights(name, weight_files[name], stream["weights"]),
                stream["view"],
                stream["precision"],
                device,
            )
            for name, stream in identity["streams"].items()
        }
        davenet = verified_weights("davenet", weight_files["davenet"], identity["audio"]["weights"])
        self.audio_network = AudioNetwork(davenet, device)
        self.batchers: dict[str, FrameBatcher[str]] = {
            name: FrameBatcher(network) for name, network in self.networks.items()
        }
        self.provenance = provenance(device)
        self._on_processor = device == "cpu"
        self.pool = DecoderPool(settings.decoding(), decode_made_clip, *settings.decoders_each(device))
        self._spent: Counter[str] = Counter()
        self._in_work: dict[str, _VideoInWork] = {}

    def close(self) -> None:
        """End the decoders' processes, give the device back."""
        self.pool.close()
        self._claim.close()
        torch.set_num_threads(self._threads)

    def spent(self) -> Counter[str]:
        """Nanoseconds so far: the networks at work (`network`), their device's own share of it (`computing`: of a
        processor its time, of a GPU the clock's), and those of `DecoderPool.spent`."""
        return self.pool.spent() + self._spent

    def extract(
        self, videos: Iterable[tuple[str, Path]], captions_of: Callable[[str], tuple[Caption, ...]]
    ) -> Iterator[tuple[str, Result]]:
        """Each video's id with its result, as soon as it is finished: not always in the order given.

        `videos`: (id, file); taken one by one, when a decoder is free, so that a generator may end the work between two
        videos, and may give a video again whose first result was an error. A made clip is decoded before each decoder's
        first, and after each error.
        """
        for left in list(self._in_work):
            self._discard(left)  # of an earlier call that was ended early
        with closing(self.pool.decode(videos)) as events:
            for video_id, path, event in events:
                try:
                    with tool_errors(str(path), but=(MediaError, BadValuesError)):
                        self._take(video_id, path, event)
                except MediaError as error:
                    self._discard(video_id)
                    yield video_id, error
                except BadValuesError as error:
                    self._discard(video_id)
                    yield video_id, self._charged(error)
                yield from self._finished(captions_of, [i for i in self._in_work if self._is_finished(i)])
        with tool_errors("the frames of " + ", ".join(self._in_work)), self._networks_at_work():
            for name, batcher in self.batchers.items():
                self._keep(name, batcher.flush())
        yield from self._finished(captions_of, list(self._in_work))

    def _take(self, video_id: str, path: Path, event: Event) -> None:
        """One event of the decoder."""
        if isinstance(event, Exception):
            raise event
        if isinstance(event, MediaInfo):
            streams = {
                name: np.zeros((event.rows, network.width), np.float32) for name, network in self.networks.items()
            }
            clips = {
                name: ClipWindow(network.clip, self.pool.settings)
                for name, network in self.networks.items()
                if network.clip is not None
            }
            self._in_work[video_id] = _VideoInWork(path, event, streams, clips)
            return
        work = self._in_work[video_id]
        if isinstance(event, FrameBatch):
            with self._networks_at_work():
                self._push(video_id, work, event)
        elif isinstance(event, DecodeSummary):
            work.summary = event
            with self._networks_at_work():
                for name, window in work.clips.items():
                    self._push_clips(video_id, name, window.finish())
        else:
            work.notes = event.notes
            with self._networks_at_work():
                work.audio = self._audio(event, work.info.rows)

    def _push(self, video_id: str, work: _VideoInWork, batch: FrameBatch) -> None:
        frames_per_row = self.pool.settings.frames_per_row
        own = batch.rows % frames_per_row == 0
        for name, batcher in self.batchers.items():
            if name in work.clips:
                self._push_clips(video_id, name, work.clips[name].push(batch.rows, batch.frames))
            else:
                self._keep(name, batcher.push(video_id, batch.rows[own] // frames_per_row, batch.frames[own]))

    def _push_clips(self, video_id: str, stream: str, clips: Iterable[tuple[int, NDArray[np.uint8]]]) -> None:
        for row, clip in clips:
            self._keep(stream, self.batchers[stream].push(video_id, np.array([row]), clip[None]))

    def _finished(
        self, captions_of: Callable[[str], tuple[Caption, ...]], video_ids: list[str]
    ) -> Iterator[tuple[str, Result]]:
        for video_id in video_ids:
            work = self._in_work.pop(video_id)
            try:
                with tool_errors(str(work.path), but=(BadValuesError,)):
                    features = self._features(video_id, work, captions_of(video_id))
            except BadValuesError as error:
                yield video_id, self._charged(error)
            else:
                assert work.summary is not None
                yield video_id, Extracted(features, work.summary.notes + work.notes)

    def _charged(self, error: BadValuesError) -> BadValuesError:
        """The error, as far as a made clip shows that decoder and networks aren't its cause; ToolError otherwise."""
        with DecoderProcess(self.settings.decoding()) as decoder:
            clip = decode_made_clip(decoder)
        with tool_errors("the networks fail on a made clip; choose other weights or another --device"):
            for name, network in self.networks.items():
                frames = clip.frames
                if network.clip is not None:
                    frames = np.resize(frames, (1, network.clip.frames, *frames.shape[1:]))
                to_float16(network.features(frames), name)
            self._steps(to_float16(log_mel(clip.samples), "log-mel"))
        return error

    @contextmanager
    def _networks_at_work(self) -> Iterator[None]:
        if self._on_processor and (cores := self._cores()) != self._computes_on:
            for network in self.networks.values():
                network.compute_on(cores)
            self._computes_on = cores
        began, computed = time.monotonic_ns(), time.process_time_ns()
        try:
            yield
        finally:
            elapsed = time.monotonic_ns() - began
            self._spent["network"] += elapsed
            self._spent["computing"] += time.process_time_ns() - computed if self._on_processor else elapsed

    def _discard(self, video_id: str) -> None:
        self._in_work.pop(video_id, None)
        for batcher in self.batchers.values():
            batcher.discard(video_id)

    def _is_finished(self, video_id: str) -> bool:
        work = self._in_work[video_id]
        decoded = work.summary is not None and work.audio is not None
        return decoded and not any(batcher.pending(video_id) for batcher in self.batchers.values())

    def _keep(self, stream: str, results: list[Any]) -> None:
        for key, rows, values in results:
            self._in_work[key].streams[stream][rows] = values

    def _steps(self, logmel: NDArray[np.float16]) -> NDArray[np.float32]:
        """DaveNet's; BadValuesError for those that can't be stored."""
        try:
            return self.audio_network.steps(logmel)
        except UnstorableError as error:
            raise BadValuesError(str(error)) from error

    def _audio(self, sound: Sound, rows: int) -> _Audio:
        settings, fps = self.identity["audio"], self.identity["feature_fps"]
        store, native = settings["store"], settings["rate"] == "native"
        audio = _Audio(
            np.zeros((0 if native else rows, self.audio_network.width), np.float32),
            np.zeros(0 if native else rows, bool),
            to_float16(sound.logmel, "log-mel"),
            sound.start,
        )
        if not len(audio.logmel):
            return audio
        if store == "logmel":
            audio.mask = _heard(len(audio.logmel), sound.start, rows, fps)
        elif native:
            audio.rows = self._steps(audio.logmel)
            audio.mask = np.ones(len(audio.rows), bool)
        else:
            audio.rows, audio.mask = feature_rows(self._steps(audio.logmel), sound.start, rows, fps)
        return audio

    def _features(self, video_id: str, work: _VideoInWork, captions: tuple[Caption, ...]) -> VideoFeatures:
        summary, audio, store = work.summary, work.audio, self.identity["audio"]["store"]
        assert summary is not None and audio is not None
        table, ids, offsets = _index_words(captions)
        return VideoFeatures(
            video_id=video_id,
            duration=work.info.duration,
            feature_fps=self.identity["feature_fps"],
            video={name: to_float16(rows, name) for name, rows in work.streams.items()},
            video_mask=summary.mask,
            audio=None if store == "logmel" else to_float16(audio.rows, "davenet"),
            audio_mask=audio.mask,
            logmel=None if store == "davenet" else audio.logmel,
            logmel_start=audio.start,
            captions=captions,
            words=Words(table, ids, offsets),
            decoder=summary.decoder,
        )


def _heard(frames: int, start: float, rows: int, fps: int) -> NDArray[np.bool_]:
    """Which rows have sound, where only the log-mel is kept: the same rule as DaveNet's rows."""
    return feature_rows(np.zeros((output_steps(frames), 1), np.float32), start, rows, fps)[1]


def _index_words(captions: tuple[Caption, ...]) -> tuple[tuple[str, ...], NDArray[np.int32], NDArray[np.int64]]:
    """Table of words (sorted), ids into it, offsets per caption."""
    lines = [words(caption.text) for caption in captions]
    table = sorted({word for line in lines for word in line})
    position = {word: index for index, word in enumerate(table)}
    ids = np.array([position[word] for line in lines for word in line], np.int32)
    return tuple(table), ids, np.cumsum([0, *map(len, lines)]).astype(np.int64)
