"""A frozen data set as training and evaluation see it: videos by id, read from few open shards, and word vectors."""

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gensim.models import KeyedVectors

from extractors.text import vectors_digest
from pipeline.clips.cutting import is_finite
from pipeline.clips.rules import ClipRules
from pipeline.core.errors import InputError
from pipeline.core.files import digest_of_json
from pipeline.core.records import VideoFeatures
from pipeline.dataset.folder import read_description, stream_of
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.shard_plans import shard_path
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.dataset.word_vectors import read_vectors

KEPT_OPEN = 128
"""Shards whose file, words and captions' times a process holds at a time: some 5 MB each where a shard is 1 GiB."""


class FeatureDataset:
    """Random access to a manifest's videos; the first `cache_bytes` read are kept in memory.

    Raises InputError when the manifest is none, or a shard is gone, broken or not the one that was frozen. It may be
    passed to other processes, which open the shards anew.
    """

    def __init__(self, manifest: Path, cache_bytes: int = 1 << 30) -> None:
        self.path = manifest
        self.manifest = read_manifest(manifest)
        self.folder = manifest.resolve().parent.parent
        self.description: dict[str, Any] = read_description(self.folder)
        self.identity: dict[str, Any] = self.description["identity"]
        if (digest_of_json(self.identity), self.description["words"]) != (self.manifest.identity, self.manifest.words):
            raise InputError(f"{manifest}: frozen of another data set than {self.folder}; put it back where it was")
        self._cure = f"see `mcn verify {self.folder} --repair`, or freeze another manifest"
        self._files: list[FeatureFile] = []
        self._number = {name: number for number, name in enumerate(self.manifest.shards)}
        self._open: OrderedDict[int, FeatureFile] = OrderedDict()
        self._location: dict[str, tuple[int, int]] = {}
        self._cache: dict[tuple[str, tuple[str, ...], str, bool], VideoFeatures] = {}
        self._cache_room = cache_bytes
        chosen = set(self.manifest.video_ids)
        for name, frozen in self.manifest.shards.items():
            path = shard_path(self.folder, name)
            if not path.exists():
                raise InputError(f"{manifest}: its shard {path} is gone; {self._cure}")
            file = FeatureFile(path, self._cure)
            if file.identity != self.identity:
                raise InputError(f"{path}: its Identity isn't that of {self.folder}; {self._cure}")
            if file.content_digest() != frozen["content"]:
                raise InputError(f"{path}: not the shard that {manifest} froze; {self._cure}")
            for index, video_id in enumerate(file.video_ids):
                if video_id in chosen:
                    self._location[video_id] = (len(self._files), index)
            self._files.append(file)
            file.close()
        absent = chosen - self._location.keys()
        if absent:
            raise InputError(f"{manifest}: {len(absent)} of its videos are in none of its shards, e.g. {min(absent)}")

    @property
    def video_ids(self) -> list[str]:
        """All ids, sorted."""
        return sorted(self._location)

    def without_captions(self) -> set[str]:
        """Ids of the videos from which no clip can be drawn; reads no rows."""
        silent = set()
        for file in self._files:
            counts = file.caption_counts()
            silent |= {
                video_id for video_id, count in zip(file.video_ids, counts, strict=True) if not count
            } & self._location.keys()
            file.close()
        return silent

    def stream_width(self, stream: str) -> int:
        """Values per row of a video stream; InputError names the streams there are."""
        return int(stream_of(self.folder, self.identity, stream)["width"])

    def by_shard(self, video_ids: Iterable[str]) -> list[list[str]]:
        """The ids, sorted, of each shard that holds one of them, in the manifest's order of shards."""
        ids_of: dict[int, list[str]] = {}
        for video_id in sorted(video_ids):
            ids_of.setdefault(self._location[video_id][0], []).append(video_id)
        return [ids_of[shard] for shard in sorted(ids_of)]

    def video(self, video_id: str, rules: ClipRules, texts: bool = False) -> VideoFeatures:
        """What `rules` need of one video: rows, DaveNet rows or log-mel or neither, captions with words.

        The captions' texts are empty without `texts`.

        InputError names the shard that is gone or broken, and the video whose rows hold NaN or infinity.
        """
        key = (video_id, rules.streams, rules.audio, texts)
        if key in self._cache:
            return self._cache[key]
        shard, index = self._location[video_id]
        file = self._opened(shard)
        try:
            video = file.video(
                index,
                rules.streams,
                audio=rules.audio == "davenet",
                logmel=rules.audio == "logmel",
                texts=texts,
            )
        except (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError, MemoryError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{file.path}: video {video_id} can't be read ({reason}); {self._cure}") from None
        arrays = {**video.video, "davenet": video.audio, "logmel": video.logmel}
        for name, rows in arrays.items():
            if rows is not None and not is_finite(rows):
                raise InputError(f"{file.path}: {name} of video {video_id} holds NaN or infinity; {self._cure}")
        size = sum(rows.nbytes for rows in arrays.values() if rows is not None)
        if 0 < size <= self._cache_room:
            self._cache_room -= size
            self._cache[key] = video
        return video

    def _opened(self, shard: int) -> FeatureFile:
        """The shard's file; of those that are open, the ones used last stay so."""
        if shard not in self._open and len(self._open) >= KEPT_OPEN:
            self._open.popitem(last=False)[1].close()
        self._open[shard] = self._files[shard]
        self._open.move_to_end(shard)
        return self._open[shard]

    def read_from(self, name: str, copy: Path) -> None:
        """Read shard `name` from a copy, which holds what will be read of it, from now on."""
        self._files[self._number[name]].close()
        self._open.pop(self._number[name], None)
        cure = f"begin again, and {self.folder / 'shards'} is copied anew"
        self._files[self._number[name]] = FeatureFile(copy, cure)

    def close(self) -> None:
        """Close all shards; what is read next opens them again. To be called before a fork."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def keep_no_more(self) -> None:
        """Keep no further videos in memory: for a process that reads each of them once."""
        self._cache_room = 0

    def word_vectors(self) -> KeyedVectors:
        """The vectors frozen with this data set; InputError if they are missing or were changed."""
        path = self.folder / "words.kv"
        if not self.description.get("words"):
            raise InputError(f"{self.folder}: no word vectors; extract with --captions, or give --word-vectors")
        vectors = read_vectors(path)
        if vectors_digest(vectors) != self.description["words"]:
            raise InputError(f"{path}: not the vectors this data set was made with; restore the file")
        return vectors
