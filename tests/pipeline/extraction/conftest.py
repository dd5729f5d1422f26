"""Extraction in one process, in milliseconds: a decoder and networks that say what to do by a file's own words."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors import decoder_pool
from extractors.audio_track import AudioTrack
from extractors.decode import DecodeSettings, DecodeSummary, FrameBatch, MediaInfo
from extractors.errors import MediaError
from extractors.network import ClipShape
from extractors.timeline import frame_size
from models.settings import AUDIO_WIDTH
from pipeline.core.ledger import read_ledger
from pipeline.dataset import shard_check
from pipeline.dataset.folder import settle
from pipeline.dataset.freeze import reasons_of
from pipeline.dataset.shard_plans import receipts, write_plans
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.extraction import cleanup, features, made_clip, worker
from pipeline.extraction.settings import ExtractSettings

GOOD, BAD = ("good-video-1", "good-video-2"), "spoilt-video"
WIDTH = 8


class WordDecoder:
    """Decodes files that hold `video SECONDS WIDTH HEIGHT`."""

    def __init__(self, settings: DecodeSettings) -> None:
        self.settings = settings
        self._rows = 0
        self._size = (0, 0)

    def open(self, path: str | Path) -> MediaInfo:
        words = Path(path).read_text().split()
        if words[0] != "video":
            raise MediaError("undecodable", f"{path}: no video")
        self._rows, *size = map(int, words[1:])
        self._size = frame_size(*size)
        return MediaInfo(float(self._rows), *self._size, self._rows, True)

    def batches(self) -> Iterator[FrameBatch]:
        width, height = self._size
        for number in range(self._rows * self.settings.frames_per_row):
            yield FrameBatch(np.array([number]), np.full((1, height, width, 3), number + 1, np.uint8))

    @property
    def summary(self) -> DecodeSummary:
        return DecodeSummary(np.ones(self._rows, bool), "decord", ())

    def __enter__(self) -> "WordDecoder":
        return self

    def __exit__(self, *exception: object) -> None: ...

    def interrupt(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


def sound(path: str | Path, scratch: str | Path, decoder: object) -> AudioTrack:
    seconds = int(Path(path).read_text().split()[1])
    return AudioTrack(np.arange(16_000 * seconds, dtype=np.int16), 0.0, ())


class TinyFrames:
    """In place of the video network."""

    width, frames_at_once, clip = WIDTH, 2, None

    def __init__(self, *given: object) -> None: ...

    def compute_on(self, threads: int) -> None: ...

    def features(self, frames: np.ndarray) -> np.ndarray:
        return np.repeat(frames.mean((1, 2, 3))[:, None], WIDTH, 1).astype(np.float32)


class TinyClips:
    """In place of a network of clips: each frame of a clip's first half, as a number."""

    width, frames_at_once, clip = WIDTH, 2, ClipShape(WIDTH, 2, (8,), 8)

    def compute_on(self, threads: int) -> None: ...

    def features(self, clips: np.ndarray) -> np.ndarray:
        return clips[:, :, 0, 0, 0].astype(np.float32)


class TinySound:
    """In place of DaveNet."""

    width = AUDIO_WIDTH

    def __init__(self, *given: object) -> None: ...

    def steps(self, logmel: np.ndarray) -> np.ndarray:
        return np.ones((-(-len(logmel) // 16), AUDIO_WIDTH), np.float32)


def log_mel(samples: np.ndarray) -> np.ndarray:
    return np.zeros((1 + len(samples) // 160, 40), np.float32)


class CheckerHere:
    """Checks shards in this process."""

    def __enter__(self) -> "CheckerHere":
        return self

    def __exit__(self, *exception: object) -> None: ...

    def check(self, path: Path) -> list[str]:
        return shard_check.verify(path)


@dataclass
class Extraction:
    """A data set with one plan of two good videos and a spoilt one, and its media."""

    settings: ExtractSettings
    name: str
    content: dict[str, bytes] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> None:
        """Make both folders anew."""
        for folder in (self.settings.out, self.media):
            shutil.rmtree(folder, ignore_errors=True)
        settle(self.settings.out, self.description)
        write_plans(self.settings.out / "plans", [[GOOD[0], BAD, GOOD[1]]])
        self.media.mkdir(parents=True)
        for name, content in self.content.items():
            (self.media / name).write_bytes(content)

    @property
    def media(self) -> Path:
        return self.settings.media

    def run(self) -> dict[str, int]:
        """One worker's work on the plan."""
        with worker.ShardWorker(self.settings, {"resnet152": Path(), "davenet": Path()}) as own:
            return dict(own.extract(self.name))

    def there(self) -> dict[str, bytes]:
        """Media file -> content."""
        return {path.name: path.read_bytes() for path in self.media.rglob("*.mp4")}

    def lines(self, stage: str) -> list[tuple[str, str, str, str]]:
        """Of the ledger of `extract` or `download`: id, outcome, reason, message."""
        folder = {"extract": self.settings.out, "download": self.media}[stage] / "ledger"
        return [(o.video_id, o.outcome, o.reason, o.message) for o in read_ledger(folder, stage)]

    def stored(self) -> dict[str, str]:
        """Video -> the sound shard that it is in."""
        shards = sorted((self.settings.out / "shards").glob("*.h5"))
        assert [problem for path in shards for problem in shard_check.verify(path)] == []
        found = {}
        for path in shards:
            with FeatureFile(path) as file:
                found |= dict.fromkeys(file.video_ids, path.stem)
        return found

    def nothing_is_lost(self) -> None:
        """Whatever went wrong: media without features are whole, and the ledgers say what is so."""
        stored, there = self.stored(), self.there()
        for video_id in (*GOOD, BAD):
            name = f"{video_id}.mp4"
            assert video_id in stored or there[name] == self.content[name], f"{video_id} is lost"
        for video_id, outcome, _, message in self.lines("download"):
            assert outcome == "done" and message == f"its features are in shard {stored[video_id]}"
        for video_id, outcome, _, _ in self.lines("extract"):
            assert (outcome == "failed") == (video_id == BAD), "a good video is charged"

    def ends_right(self) -> None:
        """The next run closes the shard, deletes the media of what it holds, and keeps the others."""
        dataset = self.settings.out
        of_shards = receipts(dataset, lambda: reasons_of(dataset / "ledger", "extract"))
        assert cleanup.delete_leftovers(self.media, dataset, of_shards) == {}
        self.run()
        self.nothing_is_lost()
        assert self.stored() == dict.fromkeys(GOOD, self.name)
        assert set(self.there()) == {f"{BAD}.mp4"}


@pytest.fixture
def extraction(
    tmp_path: Path, make_identity: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Extraction:
    """See `Extraction`; with --delete-media."""
    for module in (worker, cleanup):
        monkeypatch.setattr(module, "ShardChecker", CheckerHere)
    monkeypatch.setattr(features, "verified_weights", lambda *given: None)
    monkeypatch.setattr(features, "FrameNetwork", TinyFrames)
    monkeypatch.setattr(features, "AudioNetwork", TinySound)
    for module in (decoder_pool, features):
        monkeypatch.setattr(module, "DecoderProcess", WordDecoder)
        monkeypatch.setattr(module, "log_mel", log_mel)
    for module in (decoder_pool, made_clip):
        monkeypatch.setattr(module, "extract_audio", sound)
    monkeypatch.setattr(
        made_clip, "write_made_clip", lambda path, *size: path.write_text(" ".join(map(str, ("video", *size))))
    )
    settings = ExtractSettings(tmp_path / "words" / "media", tmp_path / "words" / "dataset", delete_media=True)
    description = {"identity": make_identity({"resnet152": WIDTH}) | {"captions": {"format": ""}}}
    content = {f"{video_id}.mp4": f"video {3 + n} 96 54".encode() for n, video_id in enumerate(GOOD)}
    made = Extraction(settings, "000000", content | {f"{BAD}.mp4": b"spoilt"}, description)
    made.begin()
    return made
