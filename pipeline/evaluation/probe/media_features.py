"""Features of changed media: sound and frames through the very networks that the data set was extracted with."""

import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, floor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractors.audio import STEP_S, AudioNetwork, feature_rows
from extractors.audio_track import extract_audio
from extractors.decoder_process import DecoderProcess
from extractors.errors import MediaError, WeightsError
from extractors.feature_format import SAMPLE_RATE
from extractors.logmel import log_mel
from extractors.video import FrameNetwork
from extractors.weights import Weights, materialise
from models.davenet import RECEPTIVE_FRAMES, output_steps
from models.settings import STRIDE
from pipeline.core.errors import InputError
from pipeline.core.files import Closeable
from pipeline.core.records import VideoFeatures, Words
from pipeline.dataset.shard_writer import to_float16
from pipeline.extraction.features import check_log_mel, verified_weights
from pipeline.extraction.prepare import weight_specs
from pipeline.extraction.settings import ExtractSettings
from pipeline.training.checkpoint import TrainedModel

_HALO_STEPS = ceil(RECEPTIVE_FRAMES / STRIDE)
_MARGIN_S = 1.0
"""Rows at a clip's ends are means over steps beyond them."""


@dataclass(frozen=True)
class Sound:
    """A recording: 16 kHz mono samples (n,) int16, the first of them at `start` seconds."""

    samples: NDArray[np.int16]
    start: float


class MediaFeatures(Closeable):
    """Makes features as `mcn extract` did. Use as a context manager.

    InputError where the networks' weights can't be had, or aren't those of the data set, or a library doesn't load.
    """

    def __init__(self, model: TrainedModel, settings: ExtractSettings) -> None:
        """`settings`: those that the data set was made with."""
        check_log_mel()
        self._dataset, self._rules, self._settings = model.dataset, model.rules, settings
        self._scratch = tempfile.TemporaryDirectory(prefix="mcn-probe-")
        self._decoder = DecoderProcess(replace(settings.decoding(), frames_per_row=1))

    def close(self) -> None:
        """End the decoder's process and remove what it has written."""
        self._decoder.close()
        self._scratch.cleanup()

    @cached_property
    def audio_network(self) -> AudioNetwork:
        """DaveNet with the data set's weights."""
        return AudioNetwork(self._weights("davenet", self._dataset.identity["audio"]["weights"]))

    @cached_property
    def frame_networks(self) -> dict[str, FrameNetwork]:
        """The networks of the streams that the model reads."""
        streams = {name: self._dataset.identity["streams"][name] for name in self._rules.streams}
        return {
            name: FrameNetwork(self._weights(name, stream["weights"]), stream["view"], stream["precision"])
            for name, stream in streams.items()
        }

    def _weights(self, network: str, digest: str) -> Weights:
        try:
            path = materialise(network, weight_specs(self._settings)[network], self._settings.out / "weights")
        except WeightsError as error:
            raise InputError(str(error)) from None
        return verified_weights(network, path, digest)

    def sound(self, path: Path) -> Sound | None:
        """The sound of a media file; None where it has none. MediaError where it can't be decoded."""
        track = extract_audio(path, self._scratch.name, decoder=self._decoder)
        if track is None or not len(track.samples):
            return None
        sound = Sound(np.array(track.samples, np.int16), track.start)
        for leftover in Path(self._scratch.name).iterdir():
            leftover.unlink()
        return sound

    def recording(self, name: str, sound: Sound) -> VideoFeatures:
        """A recording as a video of which there is nothing to see and no caption."""
        identity = self._dataset.identity
        fps = int(identity["feature_fps"])
        duration = sound.start + len(sound.samples) / SAMPLE_RATE
        rows = max(1, ceil(duration * fps - 1e-9))
        native = identity["audio"]["rate"] == "native"
        video = VideoFeatures(
            video_id=name,
            duration=duration,
            feature_fps=fps,
            video={},
            video_mask=np.zeros(rows, bool),
            audio=None,
            audio_mask=np.zeros(0 if native else rows, bool),
            logmel=None,
            logmel_start=0.0,
            captions=(),
            words=Words((), np.zeros(0, np.int32), np.zeros(1, np.int64)),
            audio_rate="native" if native else "rows",
        )
        return self.heard(video, sound, 0.0, duration)

    def heard(self, video: VideoFeatures, sound: Sound, start: float, end: float) -> VideoFeatures:
        """The video with another sound, right for clips within [start, end) seconds and absent elsewhere.

        The log-mel is that of the whole recording, whose loudest value it refers to; DaveNet goes over the span and
        what it sees on either side of it, so that its rows are those of the whole.
        """
        logmel = to_float16(log_mel(sound.samples), "log-mel")
        if self._rules.audio == "logmel":
            return replace(video, logmel=logmel, logmel_start=sound.start)
        total = output_steps(len(logmel))
        first = min(max(0, floor((start - _MARGIN_S - sound.start) / STEP_S)), total)
        last = min(max(first, ceil((end + _MARGIN_S - sound.start) / STEP_S)), total)
        begin = max(0, first - _HALO_STEPS)
        steps = self.audio_network.steps(logmel[begin * STRIDE : (last + _HALO_STEPS) * STRIDE])[first - begin :]
        steps = steps[: last - first]
        if video.audio_rate == "native":
            rows, mask = np.zeros((total, self.audio_network.width), np.float32), np.zeros(total, bool)
            rows[first:last], mask[first:last] = steps, True
        else:
            rows, mask = feature_rows(steps, sound.start + first * STEP_S, len(video.audio_mask), video.feature_fps)
        return replace(video, audio=to_float16(rows, "davenet"), audio_mask=mask, logmel=None, logmel_start=sound.start)

    def frames(self, path: Path, rows: slice) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Those of the rows that have a frame (n,), and their frames (n, H, W, 3) RGB. MediaError."""
        self._decoder.open(path)
        numbers, pictures = [], []
        for batch in self._decoder.batches():
            for number, picture in zip(batch.rows.tolist(), batch.frames, strict=True):
                if rows.start <= number < rows.stop:
                    numbers.append(number)
                    pictures.append(picture.copy())
        if not pictures:
            raise MediaError("undecodable", f"{path}: no frame in rows {rows.start} to {rows.stop}")
        return np.array(numbers, np.int64), np.stack(pictures)

    def seen(
        self, video: VideoFeatures, rows: NDArray[np.int64], versions: list[NDArray[np.uint8]]
    ) -> list[VideoFeatures]:
        """For each version of the frames (n, H, W, 3) of these rows (n,) the video with its features in their place."""
        found = [dict(video.video) for _ in versions]
        for name, network in self.frame_networks.items():
            features = to_float16(network.features(np.concatenate(versions)), name)
            for place, part in enumerate(np.split(features, len(versions))):
                changed = np.array(video.video[name])
                changed[rows] = part
                found[place][name] = changed
        return [replace(video, video=streams) for streams in found]
