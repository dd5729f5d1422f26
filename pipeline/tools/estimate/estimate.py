"""`mcn estimate STUDY.yaml`: days, TB and GPU hours of each stage, each figure with where it comes from."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from extractors.errors import WeightsError
from pipeline.commands import COMMANDS
from pipeline.core.config import as_plain, from_mapping
from pipeline.core.errors import InputError
from pipeline.core.lists import csv_lines
from pipeline.core.provenance import usable_cores
from pipeline.core.reporting import RunSummary
from pipeline.core.video_ids import read_video_ids
from pipeline.dataset.manifest import TRAIN, read_manifest
from pipeline.experiment.stages import RunSettings
from pipeline.extraction.settings import ExtractSettings
from pipeline.extraction.speed import ExtractionRates, probe_extraction
from pipeline.tools.estimate import stages
from pipeline.tools.estimate.stages import Figure, Figures
from pipeline.tools.rates import downloads_so_far, report_so_far, shards_so_far
from pipeline.tools.settings import EstimateSettings
from pipeline.training.settings import TrainSettings
from pipeline.training.speed import TrainingRates, TrainingShape, probe_failure, probe_training

_EXTRACTION_SHARE = 0.25
"""Of the probe's time; training has the rest."""
_NO_PROBE = "not probed (--probe-seconds 0)"


def run(settings: EstimateSettings) -> RunSummary:
    """Print a table of figures. Complete also where some are unknown: each says what it lacks.

    InputError for a study that `mcn run` would refuse.
    """
    report = RunSummary("estimate", unit="figure")
    figures = _Estimate(settings).figures()
    print(figures.table())
    unknown = sum(figure.value is None for figure in figures.all)
    report.done = len(figures.all) - unknown
    report.detail = {"study": str(settings.study), "figures": [asdict(figure) for figure in figures.all]}
    if unknown:
        report.notes.append(f"{unknown} figures are unknown here: each says what it lacks")
    report.finish().publish(settings.out)
    return report


class _Estimate:
    """A study's stages, and the figures found of them."""

    def __init__(self, settings: EstimateSettings) -> None:
        self.settings = settings
        self.study = RunSettings.load(settings.study)
        self.plan = self.study.plan()
        planned = dict(self.plan)
        self.download = planned.get("download")
        self.extract: ExtractSettings | None = None
        if "extract" in planned:
            self.extract = _of_stage("extract", planned["extract"])
        self.freeze = planned.get("freeze")
        self.trains: list[TrainSettings] = [_of_stage(name, values) for name, values in self.plan if name == "train"]

    def figures(self) -> Figures:
        """All of them, stage by stage, and the sum."""
        figures = Figures()
        media = Path(self.download["out"]) if self.download else self.extract.media if self.extract else None
        downloads = downloads_so_far(media) if media is not None and media.is_dir() else None
        shards = shards_so_far(self.extract.out) if self.extract else None
        videos = stages.count_videos(figures.of("videos"), self._listed(figures), downloads, shards)
        days: list[Figure] = []
        sizes: list[Figure] = []
        beside: list[Figure] = []
        if self.download is not None:
            downloaded, size = stages.download_stage(
                figures.of("download"), videos, self._sleeps(), self.settings.addresses, downloads
            )
            beside.append(downloaded)
            sizes.append(size)
        if self.extract is not None:
            extracted, size = stages.extract_stage(
                figures.of("extract"), videos, self.extract, self._extraction_rates(), self._machine(), shards
            )
            beside.append(extracted)
            sizes.append(size)
        for name, spent, size in self._models(figures, videos):
            days.append(spent)
            sizes += [size] if name == "train" else []
        self._total(figures, beside, days, sizes)
        return figures

    def _listed(self, figures: Figures) -> Figure:
        if self.settings.ids:
            return figures.of("videos").add("listed", self.settings.ids, "given", "--ids")
        path = (self.download or {}).get("ids") or (self.extract.ids if self.extract else None)
        if path is not None and Path(path).is_file():
            return figures.of("videos").add("listed", len(read_video_ids(Path(path))), "given", f"ids in {path}")
        sample = dict(self.plan).get("sample")
        if sample is not None:
            return figures.of("videos").add(
                "listed", _of_stage("sample", sample).videos, "given", "the sample's settings"
            )
        missing = f"; {path} isn't here" if path is not None else ""
        return figures.of("videos").add("listed", stages.LISTED, "cited", f"{stages.LIST_SOURCE}{missing}")

    def _sleeps(self) -> tuple[float, float]:
        chosen = _of_stage("download", self.download or {})
        return (chosen.sleep_interval, chosen.max_sleep_interval) if chosen.site == "youtube" else (0.0, 0.0)

    def _machine(self) -> tuple[int, int]:
        import torch

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return self.settings.workers or usable_cores(), self.settings.gpus or gpus

    def _extraction_rates(self) -> ExtractionRates | str:
        if not self.settings.probe_seconds or self.extract is None:
            return _NO_PROBE
        extract = self.extract
        share = _EXTRACTION_SHARE if self.trains else 1.0
        return _probed(lambda: probe_extraction(extract, share * self.settings.probe_seconds))

    def _training_rates(self, shapes: dict[str, TrainingShape]) -> dict[str, TrainingRates] | str:
        """By scheme: a seed changes no time."""
        if not self.settings.probe_seconds or not shapes:
            return _NO_PROBE
        share = 1 - _EXTRACTION_SHARE if self.extract else 1.0
        return _probed(lambda: probe_training(shapes, share * self.settings.probe_seconds))

    def _models(self, figures: Figures, videos: stages.Videos) -> list[tuple[str, Figure, Figure]]:
        costs = []
        evaluations = [values for name, values in self.plan if name == "evaluate retrieval"]
        training = self._training_videos(figures, videos) if self.trains else videos.alive
        clips = self._clips(figures, Path(evaluations[0]["clips"])) if evaluations else videos.alive
        fps = self.extract.feature_fps if self.extract else 1
        shapes = {settings.scheme: TrainingShape(settings, fps) for settings in self.trains}
        rates = self._training_rates(shapes)
        for settings in self.trains:
            shape = shapes[settings.scheme]
            own = rates if isinstance(rates, str) else rates[settings.scheme]
            done = report_so_far(settings.out / "train.json")
            done = done if done and _same_cost(done["detail"].get("settings", {}), settings) else None
            model = settings.out.name
            days, size = stages.train_stage(figures.of(f"train {model}"), training, own, shape, done)
            costs.append(("train", days, size))
        schemes = {str(settings.out): settings.scheme for settings in self.trains}
        for values in evaluations:
            scheme = schemes.get(values["checkpoint"])
            own = rates if isinstance(rates, str) else rates[scheme] if scheme else _NO_PROBE
            done = report_so_far(Path(values["out"]) / "retrieval.json")
            stage = f"evaluate {Path(values['checkpoint']).name}"
            days = stages.evaluate_stage(figures.of(stage), clips, own, done)
            costs.append(("evaluate", days, days))
        return costs

    def _training_videos(self, figures: Figures, videos: stages.Videos) -> Figure:
        path = self.trains[0].manifest
        if path.is_file():
            number = len(read_manifest(path).ids(TRAIN))
            return figures.of("train").add("videos", number, "given", f"split {TRAIN} of {path}")
        if self.freeze is None or self.freeze.get("split"):
            source = "all that are alive: an upper bound, the manifest isn't there yet"
            return figures.of("train").sum("videos", lambda n: n, source, videos.alive)
        frozen = _of_stage("freeze", self.freeze)
        kept = (1 - frozen.heldout_videos) * (1 - frozen.heldout_tasks)
        source = (
            f"alive x {kept:.3g}: {frozen.heldout_videos:.0%} of videos, {frozen.heldout_tasks:.0%} of tasks held out"
        )
        return figures.of("train").sum("videos", lambda n: int(n * kept), source, videos.alive)

    @staticmethod
    def _clips(figures: Figures, path: Path) -> Figure:
        if not path.is_file():
            return figures.of("evaluate").add("clips", None, "unknown", f"{path} isn't here")
        lines = sum(1 for _ in csv_lines(path, (), free=("text",)))
        return figures.of("evaluate").add("clips", lines, "given", f"lines of {path}")

    @staticmethod
    def _total(figures: Figures, beside: list[Figure], days: list[Figure], sizes: list[Figure]) -> None:
        known = sum(figure.value for figure in days if figure.value is not None)
        total = max((figure.value for figure in beside if figure.value is not None), default=0.0) + known
        lacking = [figure.stage for figure in (*beside, *days) if figure.value is None]
        source = "the slower of download and extract (side by side by --follow), then all else in turn"
        least = f"; not counted, as unknown: {', '.join(lacking)}" if lacking else ""
        figures.of("all").add("days, at least" if lacking else "days", total, "arithmetic", source + least)
        figures.of("all").sum("TB", lambda *values: sum(values), "media, features and checkpoints", *sizes)


def _of_stage(stage: str, values: dict[str, Any]) -> Any:
    return from_mapping(COMMANDS[stage].settings_class(), values, stage)


Rates = TypeVar("Rates")


def _probed(probe: Callable[[], Rates]) -> Rates | str:
    """The probe's rates, or in a line why there are none: a machine too small for a study is not the study's fault."""
    try:
        return probe()
    except WeightsError as error:
        raise InputError(str(error)) from None
    except (ValueError, RuntimeError, MemoryError) as error:
        return probe_failure(error)


_COSTS = (
    "batch_videos",
    "clips_per_video",
    "width",
    "streams",
    "reconstruction_hidden",
    "clusters",
    "queue_rows",
    "refit_every",
    "precision",
    "device",
    "cluster_weight",
    "reconstruction_weight",
)


def _same_cost(trained: dict[str, Any], settings: TrainSettings) -> bool:
    """Whether a model was trained with settings whose steps cost the same."""
    plain = as_plain(settings)
    return all(trained.get(name) == plain[name] for name in _COSTS)
