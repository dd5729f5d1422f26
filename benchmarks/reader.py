"""How fast training reads clips: our shards beside the published layout, a file a video and modality, in one run.

python -m benchmarks.reader --videos 2000

Both give the same: batches of 128 videos with 32 clips each, video pooled over the clip, sound averaged over its first
10 s, 20 word vectors. The published layout is read as its loader does (Chen et al., 2021): whole .npz files, converted
to single precision, captions of all videos in memory, words found in their text for every clip. Features are made;
every size is HowTo100M's.
"""

import argparse
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gensim.models import KeyedVectors
from torch.utils.data import DataLoader, Dataset

from extractors.text import vectors_digest
from extractors.word_vector_file import save_vectors
from pipeline.clips.dataset import FeatureDataset
from pipeline.clips.rules import ClipRules
from pipeline.core.files import write_json
from pipeline.core.records import Caption, VideoFeatures, Words
from pipeline.dataset.freeze import run as freeze
from pipeline.dataset.manifest import FreezeSettings
from pipeline.dataset.shard_plans import hash_order, make_receipt, read_plan, write_plans
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.dataset.shard_writer import Origin, write_part, write_shard
from pipeline.training.batches import TrainingBatches

VIDEO_WIDTH, AUDIO_WIDTH, WORD_WIDTH = 2048, 1024, 300
MEAN_SECONDS = 390.0
CAPTION_EVERY_S, CAPTION_WORDS = 4.3, 8
VOCABULARY, UNKNOWN = 60_000, 6_000
"""Words, and how many of them have no vector."""
VIDEOS_A_SHARD = 400
BATCH_VIDEOS, CLIPS, MIN_SECONDS, MAX_WORDS = 128, 32, 10.0, 20
AIM = 4.0


class MadeVideos:
    """Videos by number: lengths and captions drawn, rows taken from one block of random numbers."""

    def __init__(self, count: int) -> None:
        self._generator = np.random.default_rng(0)
        self.seconds = np.clip(self._generator.gamma(3.0, MEAN_SECONDS / 3.0, count), 30, 3000).astype(int)
        block = self._generator.random((6000, VIDEO_WIDTH + AUDIO_WIDTH), np.float32)
        self._video = block[:, :VIDEO_WIDTH].astype(np.float16)
        self._audio = block[:, VIDEO_WIDTH:].astype(np.float16)
        self.words = [f"word{number:05d}" for number in range(VOCABULARY)]
        self.ids = [f"made{number:07d}" for number in range(count)]

    def vectors(self) -> KeyedVectors:
        """A vector for all words but the last."""
        vectors = KeyedVectors(WORD_WIDTH)
        known = self.words[: VOCABULARY - UNKNOWN]
        vectors.add_vectors(known, self._generator.normal(size=(len(known), WORD_WIDTH)).astype(np.float32))
        return vectors

    def video(self, number: int) -> VideoFeatures:
        """Rows and captions of one video."""
        generator = np.random.default_rng([1, number])
        seconds, first = int(self.seconds[number]), int(generator.integers(3000))
        starts = np.arange(0, seconds - 2, CAPTION_EVERY_S) + generator.random()
        # Frequent words are short numbers: the vocabulary of a video is far smaller than the language's.
        chosen = np.minimum(generator.zipf(1.3, (len(starts), CAPTION_WORDS)) - 1, VOCABULARY - 1)
        lines = [[self.words[word] for word in line] for line in chosen.tolist()]
        table = tuple(sorted({word for line in lines for word in line}))
        place = {word: index for index, word in enumerate(table)}
        ids = np.array([place[word] for line in lines for word in line], np.int32)
        return VideoFeatures(
            video_id=self.ids[number],
            duration=float(seconds),
            feature_fps=1,
            video={"resnet152": self._video[first : first + seconds]},
            video_mask=np.ones(seconds, bool),
            audio=self._audio[first : first + seconds],
            audio_mask=np.ones(seconds, bool),
            logmel=None,
            logmel_start=0.0,
            captions=tuple(
                Caption(float(start), float(start) + CAPTION_EVERY_S + 0.5, " ".join(line))
                for start, line in zip(starts, lines, strict=True)
            ),
            words=Words(table, ids, np.arange(len(lines) + 1, dtype=np.int64) * CAPTION_WORDS),
        )


def write_ours(made: MadeVideos, vectors: KeyedVectors, folder: Path) -> Path:
    """A data set by the product's own writers; returns its manifest."""
    identity: dict[str, Any] = {
        "schema": 1,
        "feature_fps": 1,
        "frame_size": "short-256",
        "streams": {"resnet152": {"network": "made", "weights": "0" * 64, "view": "full", "width": VIDEO_WIDTH}},
        "audio": {"sample_rate": 16000, "rate": "rows", "store": "davenet", "weights": "0" * 64},
        "captions": {"source": "made", "rule": "published"},
    }
    folder.mkdir()
    save_vectors(vectors, folder / "words.kv")
    words = vectors_digest(vectors)
    write_json(folder / "dataset.json", {"identity": identity, "words": words, "settings": {}, "announcements": []})
    number_of = {video_id: number for number, video_id in enumerate(made.ids)}
    order = sorted(made.ids, key=hash_order)
    cuts = [order[first : first + VIDEOS_A_SHARD] for first in range(0, len(order), VIDEOS_A_SHARD)]
    for name in write_plans(folder / "plans", cuts):
        plan = read_plan(folder / "plans", name)
        parts = [folder / "parts" / name / f"{video_id}.h5" for video_id in plan.video_ids]
        for part in parts:
            write_part(part, made.video(number_of[part.stem]), Origin(name, identity, {}))
        write_shard(folder / "shards" / f"{name}.h5", parts, Origin(name, identity, {}, plan.digest))
        for part in parts:
            part.unlink()
        make_receipt(folder, name, {})
    freeze(FreezeSettings(folder, "all", heldout_videos=0, heldout_tasks=0))
    return folder / "manifests" / "all.json"


def write_published(made: MadeVideos, folder: Path) -> dict[str, dict[str, list[Any]]]:
    """ID_2d.npz and ID_audio.npz, float16 under `features`; returns the captions as caption.pickle has them."""
    folder.mkdir()
    captions: dict[str, dict[str, list[Any]]] = {}
    for number, video_id in enumerate(made.ids):
        video = made.video(number)
        np.savez(folder / f"{video_id}_2d.npz", features=video.video["resnet152"])
        assert video.audio is not None
        np.savez(folder / f"{video_id}_audio.npz", features=video.audio)
        captions[video_id] = {
            "start": [caption.start for caption in video.captions],
            "end": [caption.end for caption in video.captions],
            "text": [caption.text for caption in video.captions],
        }
    return captions


class Link:
    """A link of so many bytes a second, shared by processes: who has read waits until his bytes would have come."""

    def __init__(self, bytes_a_second: float) -> None:
        self._rate = bytes_a_second
        self._free = multiprocessing.get_context("fork").Value("d", 0.0)

    def passed(self, size: int) -> None:
        """Wait for `size` bytes."""
        with self._free.get_lock():
            now = time.monotonic()
            self._free.value = ready = max(self._free.value, now) + size / self._rate
        time.sleep(max(0.0, ready - now))


class PublishedLayout(Dataset[tuple[torch.Tensor, ...]]):
    """An item is a video with 32 clips, as the published loader makes it."""

    def __init__(
        self, folder: Path, ids: Sequence[str], captions: dict[str, Any], vectors: KeyedVectors, link: Link | None
    ) -> None:
        self._folder, self._ids, self._captions, self._vectors, self._link = folder, ids, captions, vectors, link

    def __len__(self) -> int:
        return len(self._ids)

    def _rows(self, name: str) -> torch.Tensor:
        with np.load(self._folder / name) as file:
            rows = file["features"]
        if self._link is not None:
            self._link.passed(rows.nbytes)
        return torch.from_numpy(rows).float()

    def _text(self, text: str) -> torch.Tensor:
        known = [word for word in re.findall(r"[\w']+", text) if word in self._vectors.key_to_index][:MAX_WORDS]
        padded = torch.zeros(MAX_WORDS, WORD_WIDTH)
        if known:
            padded[: len(known)] = torch.from_numpy(self._vectors[known])
        return padded

    def __getitem__(self, item: int) -> tuple[torch.Tensor, ...]:
        video_id = self._ids[item]
        said = self._captions[video_id]
        rows, sound = self._rows(f"{video_id}_2d.npz"), self._rows(f"{video_id}_audio.npz")
        video, audio = torch.zeros(CLIPS, VIDEO_WIDTH), torch.zeros(CLIPS, AUDIO_WIDTH)
        text = torch.zeros(CLIPS, MAX_WORDS, WORD_WIDTH)
        for clip, chosen in enumerate(np.random.randint(len(said["start"]), size=CLIPS)):
            start, end, words = self._grown(said, int(chosen))
            shown = rows[int(start) : int(end) + 1]
            if len(shown):
                video[clip] = torch.nn.functional.normalize(shown.max(dim=0).values, dim=0)
            heard = sound[int(start) : int(min(end, start + 10)) + 1]
            if len(heard):
                audio[clip] = heard.mean(dim=0)
            text[clip] = self._text(words)
        return video, audio, text

    def _grown(self, said: dict[str, list[Any]], chosen: int) -> tuple[float, float, str]:
        first = last = chosen
        words = [said["text"][chosen]]
        while said["end"][last] - said["start"][first] < MIN_SECONDS:
            before = said["end"][last] - said["start"][first - 1] if first else np.inf
            after = said["end"][last + 1] - said["start"][first] if last + 1 < len(said["end"]) else np.inf
            if before == after == np.inf:
                break
            first, last = (first - 1, last) if before <= after else (first, last + 1)
            words.append(said["text"][first if before <= after else last])
        return said["start"][first], said["end"][last], " ".join(words)


def published_batches(layout: PublishedLayout, workers: int) -> Iterator[Any]:
    """Its batches, by the loader's usual means."""
    context = multiprocessing.get_context("fork") if workers else None
    return iter(
        DataLoader(
            layout, BATCH_VIDEOS, shuffle=True, num_workers=workers, drop_last=True, multiprocessing_context=context
        )
    )


def our_batches(manifest: Path, vectors: KeyedVectors, workers: int, link: Link | None) -> Iterator[Any]:
    """Batches as `mcn train` takes them; nothing is kept in memory."""
    dataset = FeatureDataset(manifest, cache_bytes=0)
    if link is not None:
        dataset._files = [_LinkedFile(file, link) for file in dataset._files]
    batches = TrainingBatches(
        dataset,
        dataset.video_ids,
        vectors,
        ClipRules(min_clip_seconds=MIN_SECONDS, max_words=MAX_WORDS),
        batch_videos=BATCH_VIDEOS,
        clips_per_video=CLIPS,
        seed=0,
        shuffle_shards=64,
    )
    return batches.load(0, 0, workers)


class _LinkedFile(FeatureFile):
    """A shard on a slow link."""

    def __init__(self, file: FeatureFile, link: Link) -> None:
        super().__init__(file.path)
        self._link = link

    def video(self, *arguments: Any, **named: Any) -> VideoFeatures:
        video = super().video(*arguments, **named)
        size = sum(rows.nbytes for rows in video.video.values())
        self._link.passed(size + (0 if video.audio is None else video.audio.nbytes))
        return video


def measure(begin: Callable[[], Iterator[Any]]) -> tuple[float, float]:
    """Clips a second over a pass, and seconds until the first batch is there."""
    started = time.perf_counter()
    batches, first = 0, 0.0
    for _ in begin():
        batches += 1
        first = first or time.perf_counter() - started
    return batches * BATCH_VIDEOS * CLIPS / (time.perf_counter() - started), first


def warm(folder: Path) -> None:
    """Bring every file into the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                while file.read(1 << 24):
                    pass


def waiting(rate: float, first: float, step_seconds: float) -> str:
    """What a trainer that takes `step_seconds` a batch waits for: batches are made while it works."""
    batch_seconds = BATCH_VIDEOS * CLIPS / rate
    share = max(0.0, batch_seconds - step_seconds) / max(batch_seconds, step_seconds)
    bound = "the step is the bound" if share < 0.05 else "reading is the bound"
    return f"{100 * share:.0f} % of its time ({bound}; a batch takes {batch_seconds:.2f} s, the first {first:.1f} s)"


def main() -> None:
    """Write both layouts, read each with this process alone and with two workers, unthrottled and throttled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--passes", type=int, default=3, help="over each layout in turn; the fastest of each counts")
    parser.add_argument("--step-seconds", type=float, default=15.0, help="of the trainer, for 4096 clips")
    parser.add_argument("--throttle", type=float, default=200.0, help="MB/s of the slow link; 0 leaves it out")
    parser.add_argument("--folder", type=Path, help="where to write; default: the folder for temporary files")
    given = parser.parse_args()
    if given.videos < BATCH_VIDEOS or given.passes < 1:
        parser.error(f"at least {BATCH_VIDEOS} videos make a batch, and at least one pass is wanted")
    torch.set_num_threads(1)
    made = MadeVideos(given.videos)
    vectors = made.vectors()
    gigabytes = made.seconds.sum() * (VIDEO_WIDTH + AUDIO_WIDTH) * 2 / 1e9
    print(f"{given.videos} videos of {made.seconds.mean():.0f} s in the mean, {gigabytes:.1f} GB a layout")
    rates: dict[tuple[str, int, bool], float] = {}
    firsts: dict[tuple[str, int, bool], float] = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        captions = write_published(made, folder / "published")
        manifest = write_ours(made, vectors, folder / "ours")

        def begin(layout: str, workers: int, slow: bool) -> Iterator[Any]:
            link = Link(given.throttle * 1e6) if slow else None
            if layout == "ours":
                return our_batches(manifest, vectors, workers, link)
            items = PublishedLayout(folder / layout, made.ids, captions, vectors, link)
            return published_batches(items, workers)

        # In turn, since a machine that others share is not as fast from one minute to the next.
        for slow in (False, True) if given.throttle else (False,):
            for workers in (0, 2):
                for layout in ("published", "ours") * (1 if slow else given.passes):
                    warm(folder / layout)
                    rate, first = measure(partial(begin, layout, workers, slow))
                    key = (layout, workers, slow)
                    if rate > rates.get(key, 0.0):
                        rates[key], firsts[key] = rate, first
    print(f"{'':<34}{'published':>12}{'ours':>12}   clips/s")
    for slow in (False, True) if given.throttle else (False,):
        for workers in (0, 2):
            theirs, mine = rates["published", workers, slow], rates["ours", workers, slow]
            where = f"reads at {given.throttle:g} MB/s" if slow else "page cache"
            how = f"{workers} workers" if workers else "one process"
            verdict = "" if slow else f", wanted: {AIM:g}{'' if mine >= AIM * theirs else ': MISSED'}"
            print(f"{where + ', ' + how:<34}{theirs:>12.0f}{mine:>12.0f}   {mine / theirs:.1f} x{verdict}")
    for slow in (False, True) if given.throttle else (False,):
        rate, first = rates["ours", 2, slow], firsts["ours", 2, slow]
        print(
            f"a trainer of {given.step_seconds:g} s a step, {'slow link' if slow else 'page cache'}, 2 workers, waits "
            f"{waiting(rate, first, given.step_seconds)}"
        )
    if given.throttle:
        print("throttled: after each array is read, its bytes wait for one link that all processes share")


if __name__ == "__main__":
    main()
