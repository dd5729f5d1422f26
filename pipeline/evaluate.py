"""`mcn evaluate retrieval`: find the held-out clip that a text describes, among all held-out clips."""

import csv
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from extractors.text import words
from pipeline.checkpoint import FILE as CHECKPOINT
from pipeline.checkpoint import VIDEOS, load_checkpoint, model_from
from pipeline.circumstance import circumstance
from pipeline.clip_rules import ClipRules
from pipeline.config import as_plain
from pipeline.dataset import FeatureDataset, collate, cut_clip
from pipeline.errors import InputError
from pipeline.files import digest_of_json, read_json, sha256_of_file
from pipeline.records import Clip
from pipeline.report import StageReport
from pipeline.retrieval import CUTOFFS, retrieval_metrics, text_to_video_scores
from pipeline.train_settings import settings_of

FILE = "retrieval.json"


@dataclass(frozen=True)
class RetrievalSettings:
    """What `mcn evaluate retrieval` can be told."""

    checkpoint: Path
    """Trained model: a checkpoint file or the folder it lies in."""
    clips: Path
    """csv video_id,start,end,text: each line is a query (its text) and a candidate (its clip)."""
    out: Path
    """Folder for retrieval.json."""
    manifest: Path | None = None
    """Manifest of `mcn freeze`; default: the one the model was trained on."""
    split: str = "heldout"
    """Clips of which videos: a split of the manifest, heldout (every split whose name begins so), or all."""
    bootstrap: int = 2000
    """Draws of the 95 % interval over videos."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if self.bootstrap < 1 or self.seed < 0:
            raise ValueError("bootstrap must be at least 1, seed at least 0")


@dataclass(frozen=True)
class Query:
    """A text and the clip it describes."""

    text: str
    clip: Clip


def read_queries(path: Path) -> list[Query]:
    """Read a csv with columns video_id,start,end,text; InputError names the file and line of what is wrong."""
    queries = []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if not {"video_id", "start", "end", "text"} <= set(reader.fieldnames or ()):
                raise InputError(f"{path} line 1: columns video_id,start,end,text are wanted")
            for row in reader:
                try:
                    start, end = float(row["start"]), float(row["end"])
                except (TypeError, ValueError):
                    start = end = math.nan
                if not (0 <= start < end < math.inf and row["text"]):
                    raise InputError(f"{path} line {reader.line_num}: wanted 0 <= start < end in seconds, and a text")
                queries.append(Query(row["text"], Clip(row["video_id"], start, end)))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a csv video_id,start,end,text is wanted") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: can't be read as csv: {error}") from None
    return queries


def run(settings: RetrievalSettings) -> StageReport:
    """Text -> video, video alone, in the space that contrasts text with video: the same for every scheme."""
    report = StageReport("evaluate retrieval", unit="clip")
    content = load_checkpoint(settings.checkpoint)
    trained = settings_of(content)
    dataset = FeatureDataset(settings.manifest or trained.manifest)
    if content["identity"] != dataset.identity or content["words"] != dataset.description["words"]:
        raise InputError(f"{dataset.folder}: the model was trained on another data set; give the right --manifest")
    inputs = _inputs(settings, dataset)
    before = read_json(settings.out / FILE) if (settings.out / FILE).exists() else {}
    if before.get("detail", {}).get("inputs") == inputs:
        report.detail, report.notes = before["detail"], before["notes"]
        report.failed.update(before["failed"])
        report.skipped = report.detail["metrics"]["queries"]
        report.finish().publish()
        print(table(report.detail))
        return report
    model, vectors = model_from(content), dataset.word_vectors()
    asked = read_queries(settings.clips)
    chosen, frozen = set(dataset.manifest.ids(settings.split)), set(dataset.video_ids)
    queries = [query for query in asked if query.clip.video_id in chosen]
    lacking = sum(query.clip.video_id not in frozen for query in asked)
    if lacking:
        report.failed["video not in the manifest"] = lacking
        report.notes.append(f"{lacking} clips are of videos that the manifest lacks: left out on both sides")
    if not queries:
        raise InputError(
            f"{settings.clips}: no clip of a video in split {settings.split} of {dataset.path}; "
            "check --split and --clips"
        )
    seen = {query.clip.video_id for query in queries} & _trained_on(settings.checkpoint)
    if seen:
        report.notes.append(
            f"the model was trained on {len(seen)} of these videos, e.g. {min(seen)}: no held-out score"
        )
    timed = ClipRules(streams=(), audio="none")
    late = [query for query in queries if query.clip.start >= dataset.video(query.clip.video_id, timed).duration]
    if late:
        report.notes.append(
            f"{len(late)} clips start past their video's end and count as misses, "
            f"e.g. {late[0].clip.video_id} at {late[0].clip.start} s"
        )
    space = model.settings.scheme.contrasting("text", "video")
    if not space:
        raise InputError(f"{settings.checkpoint}: scheme {model.settings.scheme.name} never contrasts text with video")
    # What is scored is video alone: sound needs not be read.
    rules = dataclasses.replace(trained.clip_rules(model.settings.scheme), audio="none")
    clips = collate(
        [
            cut_clip(
                dataset.video(query.clip.video_id, rules),
                query.clip.start,
                query.clip.end,
                words(query.text),
                vectors,
                rules,
            )
            for query in queries
        ],
        rules,
    )
    with torch.inference_mode():
        embeddings = model(clips)
    scores = text_to_video_scores([embeddings], space[0].name)
    present = {modality: mask.numpy() for modality, mask in embeddings.present.items()}
    metrics = retrieval_metrics(scores, [query.clip.video_id for query in queries], settings.bootstrap, settings.seed)
    report.done = len(queries)
    report.detail = {
        "direction": "text -> video",
        "space": space[0].name,
        "scheme": model.settings.scheme.name,
        "metrics": metrics.as_json(),
        "missing": {"text": int((~present["text"]).sum()), "video": int((~present["video"]).sum())},
        "clips digest": digest_of_json([[q.clip.video_id, q.clip.start, q.clip.end, q.text] for q in queries]),
        "trained on": content["manifest"] | {"videos": content["videos"]},
        "manifest": {"name": dataset.manifest.name, "digest": dataset.manifest.digest},
        "inputs": inputs,
        "circumstance": circumstance("cpu"),
        "settings": as_plain(settings),
        "examples": _examples(queries, scores),
    }
    report.finish().publish(settings.out / FILE)
    print(table(report.detail))
    return report


def _trained_on(checkpoint: Path) -> set[str]:
    """The training ids that `mcn train` wrote beside a checkpoint; none where only the checkpoint was kept."""
    path = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / VIDEOS
    return set(path.read_text(encoding="utf-8").split()) if path.is_file() else set()


def _inputs(settings: RetrievalSettings, dataset: FeatureDataset) -> dict[str, str]:
    """What the scores follow from, as digests: equal inputs need no second evaluation."""
    checkpoint = settings.checkpoint / CHECKPOINT if settings.checkpoint.is_dir() else settings.checkpoint
    files = {"checkpoint": checkpoint, "clips": settings.clips}
    return {
        **{name: sha256_of_file(path) for name, path in files.items() if path is not None and path.is_file()},
        "manifest": dataset.manifest.digest,
        "split": settings.split,
        "bootstrap": f"{settings.bootstrap} draws, seed {settings.seed}",
    }


def _examples(
    queries: list[Query], scores: np.ndarray[Any, np.dtype[np.float64]], shown: int = 5
) -> list[dict[str, Any]]:
    """For each query its best clips, best first: what a page shows."""

    def place(index: int) -> dict[str, Any]:
        clip = queries[index].clip
        return {"video_id": clip.video_id, "start": clip.start, "end": clip.end, "text": queries[index].text}

    best = np.argsort(-scores, axis=1, kind="stable")[:, :shown]
    return [
        place(index) | {"found": [place(i) | {"right": i == index} for i in order.tolist()]}
        for index, order in enumerate(best)
    ]


def table(detail: dict[str, Any]) -> str:
    """The scores as lines of text, beside chance, with what they stand on."""
    metrics, trained = detail["metrics"], detail["trained on"]
    head = f"text -> video, {metrics['queries']} clips of {metrics['videos']} videos"
    lines = [f"{head:<44}{'score':>8}{'95 % interval':>18}{'chance':>9}"]

    def line(name: str, score: dict[str, float], chance: float, scale: float, unit: str) -> str:
        value, low, high = (scale * score[key] for key in ("value", "low", "high"))
        return f"  {name:<42}{value:>8.1f}{f'{low:.1f} - {high:.1f}':>18}{scale * chance:>9.1f}{unit}"

    for k in CUTOFFS:
        lines.append(line(f"R@{k}", metrics["recall"][f"R@{k}"], metrics["chance"][f"R@{k}"], 100.0, " %"))
    lines.append(line("median rank", metrics["median_rank"], metrics["chance_median_rank"], 1.0, ""))
    on = f"  trained on {trained['videos']} videos of manifest {trained['name']}, digest {trained['digest'][:12]}"
    return "\n".join([*lines, on])
