"""`mcn report STUDY`: a study as one HTML file that needs no network, its figures and tables as files beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.figures import Drawing, FigureFiles, Shown
from pipeline.core.files import read_json
from pipeline.core.reporting import RunSummary
from pipeline.evaluation import localization
from pipeline.evaluation.probe.figures import dose_drawing, probe_drawing
from pipeline.evaluation.probe.tables import probes
from pipeline.evaluation.probe.tables import tables as probe_tables
from pipeline.evaluation.retrieval import tables as retrieval_tables
from pipeline.evaluation.timeline import COLUMNS, spread, timeline_figure, timeline_rows
from pipeline.experiment.comparison import about_the_data, comparison_tables
from pipeline.experiment.page import write_html
from pipeline.experiment.report import score_figures, spaces, tables
from pipeline.experiment.report.clusters import cluster_contents, cluster_table
from pipeline.experiment.report.examples import ARMS, Frames, retrieval_examples
from pipeline.experiment.report.methods import ShownNames, answers, methods_paragraph, question
from pipeline.experiment.report.results import Model, Study, read_study
from pipeline.experiment.settings import ReportSettings

TIMELINES = 2
"""Videos whose steps are drawn."""
_OF_PROBES = ("not run, ", "words asked for: ")
"""How notes begin that say what a probe was and wasn't asked: its tables show that."""
_MEASURES = {"R@5": "R@5, text -> video", "recall": "localization recall"}


def run(settings: ReportSettings) -> RunSummary:
    """Write the report and say what it lacks; complete when it lacks nothing that the study's files should give."""
    summary = settings.file.with_suffix(".json")
    content = read_json(summary) if summary.exists() else {"stage": "report"}
    if not isinstance(content, dict) or content.get("stage") != "report":
        raise InputError(f"{summary}: isn't a report's, which would take its place; choose another --out")
    report = write_report(settings)
    report.publish(summary)
    return report


def write_report(settings: ReportSettings) -> RunSummary:
    """Write the HTML file, its figures and tables. Equal studies and settings give equal bytes.

    InputError when the folder holds no finished comparison, or can't be written to.
    """
    report = RunSummary("report", unit="file")
    study = read_study(settings.study)
    media = _media(settings)
    content = _Sections(study, settings, media, report).all()
    write_html(settings.file, "report.html", content)
    report.done = content["files"] + 1
    report.complete = not report.failed
    report.detail = {
        "page": str(settings.file),
        "figures": str(settings.figures),
        "command": settings.command(),
        "public": settings.public,
        "manifest": study.detail["manifest"],
    }
    return report.finish()


def _media(settings: ReportSettings) -> Path | None:
    if settings.media is not None and not settings.media.is_dir():
        raise InputError(f"{settings.media}: no such folder; give the videos' folder as --media, or leave it out")
    if settings.public:
        return None
    beside = settings.study.resolve().parent / "media"
    return settings.media or (beside if beside.is_dir() else None)


class _Sections:
    """Makes what the page shows, section by section."""

    def __init__(self, study: Study, settings: ReportSettings, media: Path | None, report: RunSummary) -> None:
        self._study, self._settings, self._report = study, settings, report
        self._names, self._frames = ShownNames(settings.public), Frames(media)
        self._files = FigureFiles(settings.figures, settings.command())
        self._manifest = tables.manifest_of(study)

    def all(self) -> dict[str, Any]:
        """All that the template needs."""
        study = self._study
        content: dict[str, Any] = {
            "about": about_the_data(study.detail),
            "made": study.detail["data"]["made"],
            "question": question(study),
            "answers": answers(study),
            "public": self._settings.public,
            "command": self._settings.command(),
            "reference": study.detail["reference"],
            "comparison": [self._files.table(table.title, table) for table in comparison_tables(study.detail)],
            "scores": self._scores(),
            "data": self._files.table("data", tables.data_table(study, self._manifest)),
            "arms": self._files.table("arms", tables.arms_table(study)),
            "settings": self._files.table("settings", tables.settings_table(study)),
            "costs": self._files.table("time and memory", tables.cost_table(study)),
            "circumstance": self._files.table("circumstance", tables.circumstance_table(study, self._settings.public)),
            "methods": methods_paragraph(study, self._manifest),
            "curves": [(arm, self._curves(arm)) for arm in study.arms],
            # Before the clusters' frames: what is found matters more.
            "examples": [] if self._settings.public else retrieval_examples(study.examples(), self._frames),
            "timelines": self._timelines(),
            "directions": [(model.arm, self._directions(model)) for model in study.examples()],
            "probe": self._probe(),
            "drawn": spaces.MOST_DRAWN,
            "folder": self._settings.figures.name,
        }
        content |= self._spaces()
        content |= {"frames": self._frames, "notes": self._notes(), "files": self._files.count}
        self._files.remove_others()
        return content

    def _scores(self) -> list[Shown]:
        figures = []
        for equal, arms in self._study.detail["tables"].items():
            for measure, title in _MEASURES.items():
                if not score_figures.has_scores(self._study, equal, measure):
                    continue
                drawing = score_figures.score_figure(self._study, equal, measure, title)
                figures.append(
                    self._files.figure(f"scores {measure} equal {equal}", f"{title}, equal {equal}", drawing)
                )
                if any(measure in arm["differences"] for arm in arms.values()):
                    drawing = score_figures.difference_figure(self._study, equal, measure, title)
                    name = f"differences {measure} equal {equal}"
                    figures.append(self._files.figure(name, f"{title}: differences, equal {equal}", drawing))
        return figures

    def _curves(self, arm: str) -> list[Shown]:
        paths = [model.folder / "metrics.csv" for model in self._study.of_arm(arm)]
        lacking = [path for path in paths if not path.exists()]
        if lacking:
            self._lacks(f"learning curves of {arm}", f"{lacking[0]} is gone")
            return []
        curves = score_figures.read_curves(paths)
        return [
            self._files.figure(
                f"learning curve {arm} {kind}",
                f"{arm}: {kind}",
                score_figures.learning_curve_figure(curves, {score_figures.KINDS[kind]: terms}),
            )
            for kind, terms in score_figures.kinds_of(curves).items()
        ]

    def _timelines(self) -> list[tuple[str, list[tuple[str, Shown]]]]:
        localized = [model for model in self._study.examples() if model.localization is not None][:ARMS]
        lists = [spread(model.localization["detail"]["videos"], TIMELINES) for model in localized if model.localization]
        timelines: list[tuple[str, list[tuple[str, Shown]]]] = []
        for videos in zip(*lists, strict=True):
            drawn = []
            for model, video in zip(localized, videos, strict=True):
                shown = self._names.localized(video)
                name, title = f"steps {len(timelines) + 1} {model.arm}", f"{model.arm}: video {shown['video_id']}"
                drawing = Drawing(timeline_figure(shown), COLUMNS, timeline_rows(shown))
                drawn.append((model.arm, self._files.figure(name, title, drawing)))
            timelines.append((self._names.localized(videos[0])["video_id"], drawn))
        return timelines

    def _directions(self, model: Model) -> list[Shown]:
        shown = retrieval_tables(model.retrieval["detail"])
        if model.localization is not None:
            shown += localization.tables(model.localization["detail"])
        return [self._files.table(f"all scores {model.arm}", table) for table in shown]

    def _spaces(self) -> dict[str, Any]:
        maps, clusters = [], []
        gaps: list[spaces.Gap] = []
        for model in self._study.examples():
            try:
                clips = spaces.embed_evaluated(model, self._settings.seed)
            except InputError as error:
                self._lacks(f"spaces of {model.arm}", str(error))
                continue
            maps.append((model, clips, self._maps(model.arm, clips)))
            gaps += spaces.modality_gaps(model.arm, clips)
            clusters.append((model.arm, self._clusters(model.arm, clips)))
        sections: dict[str, Any] = {"maps": maps, "clusters": clusters, "gap": [], "gap_table": None}
        if gaps:
            sections["gap"] = [self._files.figure("modality gap", "Modality gap", spaces.gap_figure(gaps))]
            sections["gap_table"] = self._files.table("modality gap table", spaces.gap_table(gaps))
        return sections

    def _maps(self, arm: str, clips: spaces.EmbeddedClips) -> list[Shown]:
        maps = []
        # Numbers go by the names' first places.
        classes = [self._names.step_class(name) for name in clips.drawn_classes()]
        for space in clips.spaces:
            projection = spaces.space_map(space, clips.present, self._settings.seed)
            if projection is None:
                self._report.notes.append(f"{arm}, space {space.name}: too few vectors that differ for a map")
                continue
            for by, names in (("modality", None), ("step", classes)):
                title = f"{arm}, space {space.name}: clips by {by}"
                drawing = spaces.map_figure(projection, clips, names)
                maps.append(self._files.figure(f"map {arm} {space.name} {by}", title, drawing))
        return maps

    def _clusters(self, arm: str, clips: spaces.EmbeddedClips) -> list[dict[str, Any]]:
        clusters: list[dict[str, Any]] = []
        for number, space in enumerate(clips.spaces):
            contents = cluster_contents(space, clips)
            if contents is None:
                clusters.append({"space": space.name, "table": None, "frames": []})
                continue
            table = cluster_table(arm, contents, self._names)
            frames = []
            # In its first space an arm's largest clusters are shown; frames are few.
            for cluster in contents.largest[:4] if number == 0 and self._frames.any else ():
                nearest = [asdict(clip.clip) for clip in cluster.nearest]
                pictured = [clip | {"picture": self._frames.of(clip)} for clip in nearest]
                frames.append((cluster.number, [clip for clip in pictured if clip["picture"]]))
            shown = self._files.table(f"clusters {arm} {space.name}", table)
            clusters.append({"space": space.name, "table": shown, "frames": frames})
        return clusters

    def _probe(self) -> dict[str, Any]:
        probed = self._study.probed()
        results = [(model.arm, model.probe["detail"]) for model in probed if model.probe is not None]
        section: dict[str, Any] = {
            "lacking": [arm for arm in self._study.arms if arm not in {model.arm for model in probed}],
            "figures": [],
            "tables": [],
        }
        if any(probes(detail) for _, detail in results):
            section["figures"].append(self._files.figure("probes", "Linear probes", probe_drawing(results)))
        if any(detail["doses"] for _, detail in results):
            section["figures"].append(self._files.figure("dose curves", "Dose curves", dose_drawing(results)))
        for model, (_, detail) in zip(probed, results, strict=True):
            shown = [self._files.table(f"probe {model.name}", table) for table in probe_tables(detail)]
            section["tables"].append((model.name, shown))
        return section

    def _lacks(self, what: str, why: str) -> None:
        self._report.failed[f"{what}: left out"] += 1
        self._report.notes.append(self._names.note(f"{what} are left out: {why}", self._ids))

    def _notes(self) -> list[str]:
        """What a reader must not miss: of this report, of the comparison and of every model's stages."""
        notes: list[str] = list(self._report.notes)
        if len(self._study.detail["seeds"]) == 1:
            notes.append("one seed: the intervals know nothing of how much another seed would differ")
        arms_of: dict[str, dict[str, None]] = {}
        for model in self._study.models:
            reports: Sequence[Mapping[str, Any] | None] = (model.training, model.retrieval, model.localization)
            for stage in (*reports, model.probe):
                for note in () if stage is None else stage["notes"]:
                    if not note.startswith(_OF_PROBES):
                        arms_of.setdefault(self._names.note(note, self._ids), {})[model.arm] = None
        own = dict.fromkeys(self._names.note(note, self._ids) for note in notes)
        return [*own, *(f"{', '.join(arms)}: {note}" for note, arms in arms_of.items())]

    @cached_property
    def _ids(self) -> frozenset[str]:
        """All videos that a note may name."""
        named: set[str] = set()
        if self._manifest is not None:
            groups = (self._manifest.splits, self._manifest.left_out, self._manifest.missing)
            named.update(video_id for group in groups for ids in group.values() for video_id in ids)
        for model in self._study.models:
            named.update(model.retrieval["detail"]["videos"])
            if model.localization is not None:
                named.update(video["video_id"] for video in model.localization["detail"]["videos"])
        return frozenset(named)
