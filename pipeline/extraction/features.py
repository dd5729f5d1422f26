"""Videos to features: decoder and networks of one process; knows no plan, part or shard.

Frames of several videos share fixed-size batches, so a row doesn't depend on which other videos went through with it.
A file is charged with an error of the decoding libraries on it, or with values that can't be stored, and only while a
made clip goes through the same decoder and networks. Any other error is the tool's: it ends the work.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.audio import AudioNetwork, feature_rows
from extractors.audio_track import extract_audio
from extractors.decoder_process import DecoderProcess
from extractors.errors import LibraryError, MediaError, UnstorableError, WeightsError
from extractors.frame_batcher import FrameBatcher
from extractors.logmel import log_mel, mel_filters
from extractors.precision import resolve_device
from extractors.text import words
from extractors.video import FrameNetwork
from extractors.weights import Weights, load_weights
from models.davenet import output_steps
from models.settings import MEL_BANDS
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
class _VideoInWork:
    path: Path
    duration: float
    rows: int
    streams: dict[str, NDArray[np.float32]]
    mask: NDArray[np.bool_] | None = None
    decoder: str = ""
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


class FeatureExtractor(Closeable):
    """Owns the networks and the decoder of one process. Use as a context manager.

    Raises InputError when the Identity can't be met here (other weights, other precision) or a library doesn't load,
    and ToolError for an error that isn't a file's.
    """

    def __init__(self, settings: ExtractSettings, identity: dict[str, Any], weight_files: dict[str, Path]) -> None:
        check_log_mel()
        # With a worker a core, one thread each is fastest.
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self.settings, self.identity = settings, identity
        device = str(resolve_device(settings.device))
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
        self.decoder = DecoderProcess(settings.decoding())
        self._in_work: dict[str, _VideoInWork] = {}
        self._proven = False

    def close(self) -> None:
        """End the decoder's process."""
        self.decoder.close()
        torch.set_num_threads(self._threads)

    def extract(
        self, videos: Iterable[tuple[str, Path]], captions_of: Callable[[str], tuple[Caption, ...]]
    ) -> Iterator[tuple[str, Result]]:
        """Each video's id with its result, as soon as it is finished: not always in the order given.

        `videos`: (id, file); taken one by one, so that a generator may end the work between two videos, and may give a
        video again whose first result was an error. A made clip is decoded before the first, and after each error.
        """
        self._in_work.clear()
        with tempfile.TemporaryDirectory(prefix="mcn-audio-") as scratch:

            def finished(video_id: str) -> tuple[str, Result]:
                work = self._in_work.pop(video_id)
                try:
                    with tool_errors(str(work.path), but=(MediaError, BadValuesError)):
                        features = self._features(video_id, work, captions_of(video_id), Path(scratch))
                except (MediaError, BadValuesError) as error:
                    return video_id, self._charged(error)
                return video_id, Extracted(features, work.notes)

            for video_id, path in videos:
                if not self._proven:
                    decode_made_clip(self.decoder)
                    self._proven = True
                try:
                    with tool_errors(str(path), but=(MediaError,)):
                        self._decode(video_id, path)
                except MediaError as error:
                    self._discard(video_id)
                    yield video_id, self._charged(error)
                for ready in [i for i, work in self._in_work.items() if work.mask is not None and not self._pending(i)]:
                    yield finished(ready)
            with tool_errors("the frames of " + ", ".join(self._in_work)):
                for name, batcher in self.batchers.items():
                    self._keep(name, batcher.flush())
            for video_id in list(self._in_work):
                yield finished(video_id)

    def _charged(self, error: FileError) -> FileError:
        """The error, as far as a made clip shows that decoder and networks aren't its cause; ToolError otherwise."""
        clip = decode_made_clip(self.decoder)
        if isinstance(error, BadValuesError):
            with tool_errors("the networks fail on a made clip; choose other weights or another --device"):
                for name, network in self.networks.items():
                    to_float16(network.features(clip.frames), name)
                self._steps(to_float16(log_mel(clip.samples), "log-mel"))
        return error

    def _discard(self, video_id: str) -> None:
        self._in_work.pop(video_id, None)
        for batcher in self.batchers.values():
            batcher.discard(video_id)

    def _pending(self, video_id: str) -> int:
        return sum(batcher.pending(video_id) for batcher in self.batchers.values())

    def _keep(self, stream: str, results: list[Any]) -> None:
        for key, rows, values in results:
            self._in_work[key].streams[stream][rows] = values

    def _decode(self, video_id: str, path: Path) -> None:
        info = self.decoder.open(path)
        streams = {name: np.zeros((info.rows, network.width), np.float32) for name, network in self.networks.items()}
        work = self._in_work[video_id] = _VideoInWork(path, info.duration, info.rows, streams)
        for batch in self.decoder.batches():
            for name, batcher in self.batchers.items():
                self._keep(name, batcher.push(video_id, batch.rows, batch.frames))
        summary = self.decoder.summary
        work.mask, work.decoder, work.notes = summary.mask, summary.decoder, summary.notes

    def _steps(self, logmel: NDArray[np.float16]) -> NDArray[np.float32]:
        """DaveNet's; BadValuesError for those that can't be stored."""
        try:
            return self.audio_network.steps(logmel)
        except UnstorableError as error:
            raise BadValuesError(str(error)) from error

    def _features(
        self, video_id: str, work: _VideoInWork, captions: tuple[Caption, ...], scratch: Path
    ) -> VideoFeatures:
        assert work.mask is not None
        audio_settings, fps = self.identity["audio"], self.identity["feature_fps"]
        store, native = audio_settings["store"], audio_settings["rate"] == "native"
        audio = np.zeros((0 if native else work.rows, self.audio_network.width), np.float32)
        audio_mask = np.zeros(len(audio), bool)
        logmel, start = np.zeros((0, MEL_BANDS), np.float16), 0.0
        track = extract_audio(work.path, scratch, decoder=self.decoder)
        if track is not None:
            work.notes += track.notes
        if track is not None and len(track.samples):
            start = track.start
            logmel = to_float16(log_mel(track.samples), "log-mel")
            if store != "logmel":
                steps = self._steps(logmel)
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
