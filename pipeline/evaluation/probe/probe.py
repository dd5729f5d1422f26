"""`mcn probe`: what each space of a trained model keeps: scene and sound, task and step, context and content."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from extractors.text import words
from pipeline.clips.cutting import ClipFeatures, cut_clip
from pipeline.core.config import as_plain
from pipeline.core.errors import InputError
from pipeline.core.figures import write_drawing
from pipeline.core.files import sha256_of_file
from pipeline.core.lists import left_out_note
from pipeline.core.records import VideoRecord
from pipeline.core.reporting import Progress, RunSummary
from pipeline.core.video_ids import read_video_list
from pipeline.download.media import MediaFinder
from pipeline.evaluation.evaluate import evaluate, read_detail
from pipeline.evaluation.lists import read_step_lists
from pipeline.evaluation.probe import context, dose_curves, factors
from pipeline.evaluation.probe.clips import (
    ClipVectors,
    Window,
    chosen_videos,
    embed_clips,
    embed_windows,
    probed_rules,
    read_windows,
)
from pipeline.evaluation.probe.factors import FACTORS, WORDS, TrueSecond, probe_everywhere, unasked
from pipeline.evaluation.probe.figures import Result, dose_drawing, probe_drawing
from pipeline.evaluation.probe.media_features import MediaFeatures
from pipeline.evaluation.probe.tables import PROBED, probes, tables
from pipeline.evaluation.settings import ProbeSettings
from pipeline.extraction.settings import settings_of
from pipeline.training.checkpoint import TrainedModel

FILE = "probe.json"
LEAST_AGREEMENT = 0.999
"""Cosine of a clip's vector as stored and as made anew from media; less means other media or another machine."""
MOST_NOTES = 3


def run(settings: ProbeSettings) -> RunSummary:
    """Run every part that what is given suffices for; what is left out is told in a line each."""
    report = RunSummary("probe", unit="part")
    return evaluate(report, settings, FILE, _inputs(settings), lambda model: _measured(settings, model, report), tables)


def _measured(settings: ProbeSettings, model: TrainedModel, report: RunSummary) -> dict[str, Any]:
    others = [read_detail(path, "probe", PROBED) for path in settings.beside]
    results = _Parts(settings, model, report).run()
    entries = probes(results)
    drawn = [(model.network.settings.scheme.name, results), *((other["scheme"], other) for other in others)]
    _draw(drawn, settings)
    return {
        **results,
        "permuted": {
            "within": sum(entry["permuted within chance"] for entry in entries),
            "of": sum(len(entry["permuted"]) for entry in entries),
        },
        "command": settings.command(),
    }


def _draw(results: Sequence[Result], settings: ProbeSettings) -> None:
    suffixes = (".svg", ".pdf", ".csv")
    for name, title, drawing, drawn in (
        ("probe", "Linear probes", probe_drawing, any(probes(detail) for _, detail in results)),
        ("probe-doses", "Dose curves", dose_drawing, any(detail["doses"] for _, detail in results)),
    ):
        # What an earlier call with more to draw has left would pass for this one's.
        for suffix in suffixes if not drawn else ():
            (settings.out / f"{name}{suffix}").unlink(missing_ok=True)
        if drawn:
            write_drawing(settings.out / name, drawing(results), title, settings.command(), suffixes)


class _Parts:
    """The parts of one call; what several need is read once."""

    def __init__(self, settings: ProbeSettings, model: TrainedModel, report: RunSummary) -> None:
        self._settings, self._model, self._report = settings, model, report
        self._videos = chosen_videos(model.dataset.manifest.ids(settings.split), settings.videos, settings.seed)
        if not self._videos:
            raise InputError(f"{model.dataset.path}: split {settings.split} has no video; choose another --split")
        seen = model.seen(self._videos)
        if seen:
            report.notes.append(f"{seen}; what is scored as unseen leaves them out")
        self._records: dict[str, VideoRecord] = {}
        if settings.ids is not None:
            left_out = Counter[str]()
            self._records = {record.video_id: record for record in read_video_list(settings.ids, left_out)}
            report.notes += left_out_note(settings.ids, left_out)

    def run(self) -> dict[str, Any]:
        """Results by part; empty where a part was not run."""
        settings = self._settings
        windows = read_windows(self._model, self._videos, settings.window_seconds, settings.windows_per_video)
        clips = embed_windows(self._model, windows)
        parts: dict[str, tuple[bool, str, Callable[[], list[dict[str, Any]]]]] = {
            "factors": (settings.truth is not None, "planted factors: needs --truth", self._factors),
            "ladder": (
                settings.ids is not None or settings.steps is not None,
                "ladder from category to step: needs --ids, and --steps for its last rung",
                lambda: self._ladder(windows, clips),
            ),
            "context": (True, "", lambda: self._context(windows, clips)),
            "doses": (settings.media is not None, "dose curves: need --media", lambda: self._doses(windows, clips)),
            "sounds": (settings.sounds is not None, "environmental sounds: need --sounds", self._sounds),
        }
        results: dict[str, Any] = {"windows": len(windows), "videos": len(self._videos)}
        with Progress("probe", len(parts), "part") as progress:
            for number, (name, (given, lacking, make)) in enumerate(parts.items()):
                results[name] = make() if given else []
                self._report.done += given
                self._report.notes += [] if given else [f"not run, {lacking}"]
                progress.to(number + 1)
        return results | {"carried by": factors.carried_by()}

    def _factors(self) -> list[dict[str, Any]]:
        assert self._settings.truth is not None
        model, rules = self._model, probed_rules(self._model)
        seconds = factors.read_truth(self._settings.truth, self._videos)
        late = [s for s in seconds if s.second >= model.dataset.video(s.video_id, rules).duration]
        if late:
            raise InputError(
                f"{self._settings.truth}: second {late[0].second} of {late[0].video_id} lies past its video's end: "
                "the truth of another sample"
            )

        def cut(second: TrueSecond) -> ClipFeatures:
            video = model.dataset.video(second.video_id, rules)
            lines = words(" ".join(second.words))
            return cut_clip(video, second.second, second.second + 1, lines, model.vectors, rules)

        clips = embed_clips(model, map(cut, seconds), rules)
        frequent = factors.frequent_words(seconds)
        self._report.notes.append(f"words asked for: {', '.join(frequent) or 'none is frequent enough'}")

        asks = {factor.name: partial(factors.ask_factor, factor, seconds) for factor in FACTORS}
        asks[WORDS] = partial(factors.ask_words, frequent, seconds)
        results = []
        for name, ask in asks.items():
            of_factor = list(probe_everywhere(name, ask, clips, self._settings.draws, model.training_videos))
            self._note([unasked(name, of_factor, clips)])
            results += of_factor
        return results

    def _ladder(self, windows: Sequence[Window], clips: ClipVectors) -> list[dict[str, Any]]:
        settings = self._settings
        results: list[dict[str, Any]] = []
        if settings.ids is not None:
            results, notes = factors.climb(windows, clips, self._records, settings.draws, self._model.training_videos)
            self._note(notes)
        if settings.steps is not None:
            chosen = set(self._videos)
            lists = [one for one in read_step_lists(settings.steps, report=self._report) if one.video_id in chosen]
            steps, notes = factors.climb_steps(self._model, lists, settings.draws)
            self._note(notes)
            results += steps
        else:
            self._report.notes.append("not run, the ladder's last rung: needs --steps")
        return results

    def _context(self, windows: Sequence[Window], clips: ClipVectors) -> list[dict[str, Any]]:
        tasks = [getattr(self._records.get(window.clip.video_id), "task_id", "") for window in windows]
        if not any(tasks):
            self._report.notes.append("not run, same task against same video: needs --ids with a task_id")
        among = context.neighbourhood([window.clip for window in windows], tasks, self._settings.neighbour_seconds)
        scores = list(context.context_scores(clips, among, self._settings.draws))
        if not any("same video" in entry for entry in scores):
            self._report.notes.append(
                "same video: no two clips of one are --neighbour-seconds apart; choose shorter --window-seconds"
            )
        return scores

    def _doses(self, windows: Sequence[Window], clips: ClipVectors) -> list[dict[str, Any]]:
        settings, model = self._settings, self._model
        assert settings.media is not None
        finder = MediaFinder(settings.media)
        found_paths = {video_id: finder.find(video_id) for video_id in self._videos}
        paths = {video_id: path for video_id, path in found_paths.items() if path is not None}
        chosen = dose_curves.dose_windows(windows, clips, paths, settings.dose_clips, settings.seed)
        if len(chosen) < 2:
            self._report.notes.append(
                f"dose curves are left out: {settings.media} holds fewer than two videos that have all modalities"
            )
            return []
        row_of = {window: row for row, window in enumerate(windows)}
        curves = []
        with MediaFeatures(model, self._extraction()) as media:
            for dose, modality in ((dose_curves.dose_sound, "audio"), (dose_curves.dose_surround, "video")):
                if modality not in clips.modalities:
                    continue
                dosed, used, notes = dose(model, media, chosen, paths)
                self._note(notes)
                if dosed is None:
                    continue
                rows = np.array([row_of[window] for window in used])
                least = dose_curves.agreement(dosed, clips, rows)
                if least < LEAST_AGREEMENT:
                    self._report.notes.append(
                        f"{modality} made anew from {settings.media} differs from the data set's, least cosine "
                        f"{least:.4f}: other media, or another machine"
                    )
                curves += [curve | {"agreement": least} for curve in dose_curves.curves(dosed, settings.draws)]
        return curves

    def _sounds(self) -> list[dict[str, Any]]:
        assert self._settings.sounds is not None
        if not self._model.network.settings.scheme.holding("audio"):
            self._report.notes.append("environmental sounds: no space of this scheme holds audio")
            return []
        with MediaFeatures(self._model, self._extraction()) as media:
            results, notes = factors.probe_sounds(
                self._model, media, factors.read_sounds(self._settings.sounds), self._settings.draws
            )
        self._note(notes)
        return results

    def _extraction(self) -> Any:
        """The settings that the data set was made with, on this machine's device."""
        settings = replace(settings_of(self._model.dataset.folder, self._settings.media), device="auto")
        given = self._settings.davenet_weights
        return replace(settings, davenet_weights=given) if given else settings

    def _note(self, notes: Sequence[str]) -> None:
        """The first few of many lines of a kind, and how many more there are."""
        lines = [note for note in notes if note]
        self._report.notes += lines[:MOST_NOTES]
        if len(lines) > MOST_NOTES:
            self._report.notes.append(f"and {len(lines) - MOST_NOTES} more of these")


def _inputs(settings: ProbeSettings) -> dict[str, Any]:
    """What the figures follow from: equal inputs need no second call. Media are known by the data set made of them."""
    listed = {
        "truth": settings.truth,
        "ids": settings.ids,
        "steps": settings.steps,
        "sounds": None if settings.sounds is None else settings.sounds / factors.SOUND_LIST,
    }
    left_out = {"checkpoint", "out", "manifest", "beside", *listed}
    return {
        **{name: "" if path is None else _digest(path) for name, path in listed.items()},
        "beside": [_digest(path) for path in settings.beside],
        **{name: value for name, value in as_plain(settings).items() if name not in left_out},
    }


def _digest(path: Path) -> str:
    # What is missing must not equal what was not given: it is an error that reading it tells.
    return sha256_of_file(path) if path.is_file() else "missing"
