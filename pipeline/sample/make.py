"""The whole sample: every video in a pool of processes, then the lists beside them."""

import csv
import io
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import InputError
from pipeline.core.files import ASIDE, read_json, sha256_of_file, write_json, write_text
from pipeline.core.provenance import usable_cores
from pipeline.core.records import Caption
from pipeline.core.reporting import Progress, RunSummary
from pipeline.core.signals import asked_to_stop
from pipeline.sample.film import write_film
from pipeline.sample.lists import DEAD_CLASSES, make_captions, permuted_texts, step_rows, truth_rows
from pipeline.sample.procedures import PROCEDURES, Procedure
from pipeline.sample.settings import AUDIO, TEXT, SampleSettings
from pipeline.sample.sound import make_soundtrack, white_noise_instead
from pipeline.sample.speech import check_speech
from pipeline.sample.story import VideoStory, make_stories, video_ids

FORMAT = 1
"""Raised when the same settings give other bytes."""
SUMMARY = "sample.json"
CATEGORY = "Food and Entertaining"


@dataclass(frozen=True)
class SampleSummary:
    """What `make_sample` did: videos made now and kept from before, the seconds of all of them, the files' sha256."""

    made: int
    kept: int
    seconds: float
    files: Mapping[str, str]
    stopped: bool = False
    """It was asked to stop before the last video: the lists, and with them `files`, are left to the next run."""


_Annotated = tuple[str, list[Caption], list[dict[str, str]]]
"""A video's id, its captions, and the truth of each of its seconds."""


def run(settings: SampleSettings) -> RunSummary:
    """Make the sample; its summary is printed and lies in `settings.out` as sample.json."""
    report = RunSummary("sample")
    with Progress("sample", settings.videos, "video") as shown:
        summary = make_sample(settings, lambda done, total: shown.to(done))
    report.done, report.skipped = summary.made, summary.kept
    report.stopped, report.complete = summary.stopped, not summary.stopped
    report.waiting = settings.videos - summary.made - summary.kept
    report.detail = {"out": str(settings.out), "seconds_of_video": round(summary.seconds, 3), "seed": settings.seed}
    report.notes.append(
        f"{len(DEAD_CLASSES)} further ids of HowTo100M_v1.csv are dead on purpose: a download counts them as failed"
    )
    report.finish().publish()
    return report


def make_sample(settings: SampleSettings, on_progress: Callable[[int, int], None] | None = None) -> SampleSummary:
    """Write the sample to `settings.out`; what an earlier, even a killed, run with the same settings wrote is kept.

    Raises InputError if the folder holds something else, can't be written to, or speech can't be made.
    """
    identity = _identity(settings)
    stories = make_stories(settings.seed, settings.videos, settings.seconds)
    total = sum(story.seconds for story in stories)
    known = _digests_of_earlier_run(settings.out, identity)
    changed = [name for name, digest in known.items() if not _is_whole(settings.out / name, digest)]
    if known and not changed:
        return SampleSummary(0, len(stories), total, known)
    check_speech()
    for name in changed:
        (settings.out / name).unlink(missing_ok=True)
    write_json(settings.out / SUMMARY, {"complete": False, "identity": identity})
    media = settings.out / "media"
    media.mkdir(exist_ok=True)
    for left_over in media.glob(f".*{ASIDE}"):
        left_over.unlink()
    kept = sum(_media_path(media, story).exists() for story in stories)
    captions: dict[str, list[Caption]] = {}
    truths: dict[str, list[dict[str, str]]] = {}
    for video_id, lines, rows in _results(stories, settings):
        captions[video_id], truths[video_id] = lines, rows
        if on_progress is not None:
            on_progress(len(truths), len(stories))
    if len(truths) < len(stories):
        there = sum(_media_path(media, story).exists() for story in stories)
        return SampleSummary(there - kept, kept, total, {}, stopped=True)
    captions = {story.video_id: captions[story.video_id] for story in stories}
    if settings.uninformative == TEXT:
        captions = permuted_texts(captions, settings.seed)
    truth = [row for story in stories for row in truths[story.video_id]]
    names = _write_lists(settings.out, stories, captions, truth)
    files = [settings.out / name for name in names] + [_media_path(media, story) for story in stories]
    digests = {str(path.relative_to(settings.out).as_posix()): sha256_of_file(path) for path in files}
    counts = {
        "videos": len(stories),
        "held_out_videos": sum(story.split == "heldout" for story in stories),
        "dead_ids": len(DEAD_CLASSES),
        "steps": sum(segment.kind == "step" for story in stories for segment in story.segments),
        "captions": sum(map(len, captions.values())),
    }
    summary = {"complete": True, "identity": identity, "counts": counts, "seconds": round(total, 3), "sha256": digests}
    write_json(settings.out / SUMMARY, summary)
    return SampleSummary(len(stories) - kept, kept, total, digests)


def _identity(settings: SampleSettings) -> dict[str, Any]:
    """What makes a sample another one. A plain sample's names no control, as before there were any."""
    plain = {"format": FORMAT, "seed": settings.seed, "videos": settings.videos, "seconds": settings.seconds}
    return plain | ({"uninformative": settings.uninformative} if settings.uninformative else {})


def _media_path(media: Path, story: VideoStory) -> Path:
    return media / f"{story.video_id}.mp4"


def _is_whole(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_of_file(path) == digest


def _digests_of_earlier_run(out: Path, identity: dict[str, Any]) -> dict[str, str]:
    """Relative path -> sha256 of a complete sample with this identity; empty if none was completed."""
    summary_path = out / SUMMARY
    if not summary_path.exists():
        if out.exists() and not out.is_dir():
            raise InputError(f"{out}: is a file; --out takes a folder")
        if out.is_dir() and any(out.iterdir()):
            raise InputError(f"{out}: holds files that mcn sample did not make; choose another --out")
        return {}
    summary = read_json(summary_path)
    if not isinstance(summary, dict) or summary.get("identity") != identity:
        raise InputError(f"{out}: holds another sample (see {SUMMARY}); choose another --out or delete that folder")
    return dict(summary["sha256"]) if summary.get("complete") else {}


def _make_video(story: VideoStory, settings: SampleSettings) -> _Annotated:
    """Make one video's file if it is not there, and what is written about it."""
    # Speech is made for noise too: captions and truth take their times from it.
    soundtrack = make_soundtrack(story)
    path = _media_path(settings.out / "media", story)
    if not path.exists():
        heard = white_noise_instead(story, soundtrack) if settings.uninformative == AUDIO else soundtrack
        write_film(story, heard, path)
    said = soundtrack.utterances
    return story.video_id, make_captions(story, said), list(truth_rows(story, said))


def _results(stories: list[VideoStory], settings: SampleSettings) -> Iterator[_Annotated]:
    """All videos, each once it is there; asked to stop, those in hand alone."""
    processes = settings.processes or usable_cores()
    if processes == 1:
        for story in stories:
            if asked_to_stop():
                return
            yield _make_video(story, settings)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(stories)), mp_context=context) as pool:
        waiting = [pool.submit(_make_video, story, settings) for story in stories]
        try:
            for done in as_completed(waiting):
                if asked_to_stop():
                    return
                yield done.result()
        except BrokenProcessPool:
            raise InputError(
                "mcn sample: a drawing process was killed (is memory short?); run it again with --processes 1"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _csv(rows: Iterable[Mapping[str, str]]) -> str:
    rows, text = list(rows), io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write_lists(
    out: Path, stories: list[VideoStory], captions: Mapping[str, list[Caption]], truth: Iterable[Mapping[str, str]]
) -> list[str]:
    """Write every file but the media; their names."""
    seed = stories[0].seed
    dead = video_ids(seed, len(stories) + len(DEAD_CLASSES))[len(stories) :]
    lines = {
        video_id: {
            "start": [caption.start for caption in spoken],
            "end": [caption.end for caption in spoken],
            "text": [caption.text for caption in spoken],
        }
        for video_id, spoken in captions.items()
    }
    texts = {
        "HowTo100M_v1.csv": _csv(_list_rows(seed, stories, dead)),
        "task_ids.csv": _csv({"task_id": str(p.task_id), "task": p.name} for p in PROCEDURES),
        "truth.csv": _csv(truth),
        "steps.csv": _csv(row for story in stories for row in step_rows(story)),
        "split.csv": _csv({"video_id": s.video_id, "split": s.split} for s in stories),
        "dead.csv": _csv(
            {"video_id": video_id, "class": reason, "message": message}
            for video_id, (reason, message) in zip(dead, DEAD_CLASSES, strict=True)
        ),
    }
    for name, text in texts.items():
        write_text(out / name, text)
    write_json(out / "caption.json", lines)
    return [*texts, "caption.json"]


def _list_rows(seed: int, stories: list[VideoStory], dead: list[str]) -> Iterator[dict[str, str]]:
    """The published list's columns, living and dead ids mixed, ranked within their task as by a search."""
    listed: list[tuple[str, Procedure]] = [(story.video_id, story.procedure) for story in stories]
    procedures = sorted({story.procedure for story in stories}, key=lambda procedure: procedure.task_id)
    listed += [(video_id, procedures[index % len(procedures)]) for index, video_id in enumerate(dead)]
    ranks = dict.fromkeys(procedures, 0)
    for position in np.random.default_rng([seed, *b"list"]).permutation(len(listed)):
        video_id, procedure = listed[position]
        ranks[procedure] += 1
        yield {
            "video_id": video_id,
            "category_1": CATEGORY,
            "category_2": procedure.category,
            "rank": str(ranks[procedure]),
            "task_id": str(procedure.task_id),
        }
