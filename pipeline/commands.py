"""The stages of the `mcn` command: where each one's settings and work are, and what `--help` says.

Names alone, so that everything may look a stage up: what they name is imported when it is needed.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """One stage: where its settings and its `run` are, and what `--help` says. Imported only when needed."""

    module: str
    """Its function `run`, or the one named after a colon, does the work."""
    settings: str
    """Module and name of its settings, which are imported without the libraries of the work."""
    summary: str
    example: str
    beam: bool = False
    """Whether further flags are Apache Beam's."""
    stops_on_signals: bool = False
    """Whether SIGTERM and SIGUSR1 let it save and end with status 75."""
    experiment: bool = False
    """Whether it takes an experiment's YAML file, which `--set` overrides, in place of a flag for each setting."""
    may_be_missing: tuple[str, ...] = ()
    """Settings that name what may be gone: the stage goes on without it."""
    positional: tuple[str, ...] = ()
    """Settings given without a flag, in this order; one of type tuple takes all words that are left."""
    written: tuple[str, ...] = ()
    """Settings that name what is changed, or shown as it is now, beside `OUTPUTS`: they take no address."""
    at_addresses: tuple[str, ...] = ()
    """Settings whose addresses the stage reads itself; of others it is given local copies."""
    phrase: bool = False
    """Whether the last of these takes all words that are left as one text."""

    def settings_class(self) -> Any:
        """The dataclass of its settings."""
        module, _, name = self.settings.rpartition(".")
        return getattr(importlib.import_module(module), name)

    def function(self) -> Callable[..., Any]:
        """What does its work: of its module the function named, or `run`."""
        module, _, name = self.module.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name or "run")
        return function

    def run(self, settings: Any, beam_arguments: Sequence[str] = ()) -> Any:
        """Do the work; returns the stage's RunSummary. What settings name at addresses is fetched before."""
        if ":/" in repr(settings):
            addresses = importlib.import_module("pipeline.dataset.addresses")
            name = next(name for name, command in COMMANDS.items() if command is self)
            settings = addresses.with_copies(settings, name, (*OUTPUTS, *self.written), self.at_addresses)
        work = self.function()
        return work(settings, beam_arguments) if self.beam else work(settings)


FLAG_GROUPS = {
    "data": "manifest ids media captions clips annotations steps classes truth sounds checkpoint dataset embeddings "
    "split exclude sample weights davenet_weights word_vectors permute_captions heldout_clips".split(),
    "model": "model scheme network initial_weights share_initial_weights".split(),
    "loss": ["loss"],
    "clusters": ["clustering", "restart_clusters"],
    "hardware": (
        "device devices nodes gpus precision workers processes part memory stage_to stage_budget cache cache_size"
    ).split(),
    "output": "out draw thumbnails json public save_every log_every".split(),
}
"""Titles in `--help`, and the settings, or nested classes of settings, below each; others stand below the stage's."""

PLACEHOLDERS = {
    "ask_again": "REASON,...",
    "checkpoint": "MODEL",
    "class_column": "COLUMN",
    "davenet_weights": "FILE|random:SEED",
    "device": "cpu|cuda|auto",
    "format": "SELECTOR",
    "format_sort": "FIELD,...",
    "frame_size": "WxH",
    "like": "VIDEO@SECONDS",
    "manifest": "MANIFEST.json",
    "memory": "SIZE",
    "modality": "video|audio|text",
    "part": "I/N",
    "proxy": "ADDRESS",
    "scheme": "NAME|FILE.yaml",
    "site_url": "ADDRESS",
    "space": "NAME",
    "stage_to": "FOLDER",
    "streams": "NAME,...",
    "to": "FOLDER",
    "uninformative": "text|audio",
    "weights": "[STREAM=]NAME|FILE|random:SEED,...",
}
"""What stands in `--help` for the value of a setting whose type says too little."""

OUTPUTS = ("out", "draw", "thumbnails", "stage_to", "to", "cache")
"""Settings that name what is written: every other path must exist before a stage begins."""

COMMANDS = {
    "sample": Command(
        "pipeline.sample.make",
        "pipeline.sample.settings.SampleSettings",
        "make a small HowTo100M of one's own: videos, captions, truth; no network",
        "mcn sample --out runs/sample",
        stops_on_signals=True,
    ),
    "download": Command(
        "beam_jobs.download",
        "pipeline.download.settings.DownloadSettings",
        "download the videos of a list that still exist (an Apache Beam job)",
        "mcn download --ids HowTo100M_v1.csv --out media",
        beam=True,
        stops_on_signals=True,
    ),
    "extract": Command(
        "beam_jobs.extract",
        "pipeline.extraction.settings.ExtractSettings",
        "media to features in sharded HDF5 (an Apache Beam job)",
        "mcn extract --media media --captions caption.json --out dataset --weights random:0",
        may_be_missing=("split",),
        at_addresses=("media", "out"),
        beam=True,
        stops_on_signals=True,
    ),
    "weights list": Command(
        "pipeline.extraction.prepare:list_weights",
        "pipeline.extraction.settings.ListWeightsSettings",
        "the video networks that extract may use, and their published weights",
        "mcn weights list",
        positional=("names",),
    ),
    "weights fetch": Command(
        "pipeline.extraction.prepare:fetch_weights",
        "pipeline.extraction.settings.FetchWeightsSettings",
        "fetch a network's published weights into a folder, and say what they are and on which terms",
        "mcn weights fetch resnet18:IMAGENET1K_V1 --to /mnt/nas/weights",
        positional=("name",),
    ),
    "freeze": Command(
        "pipeline.dataset.freeze",
        "pipeline.dataset.manifest.FreezeSettings",
        "a manifest of what a data set holds now, with held-out videos and tasks",
        "mcn freeze runs/demo/dataset study --ids runs/demo/sample/HowTo100M_v1.csv",
        at_addresses=("dataset", "media"),
        positional=("dataset", "name"),
    ),
    "forget": Command(
        "pipeline.tools.forget.forget",
        "pipeline.tools.settings.ForgetSettings",
        "take videos out of media, shards, manifests and reports, and keep them out",
        "mcn forget abcdefghijk --run runs/demo",
        may_be_missing=("media", "run"),
        written=("dataset", "media", "run"),
        positional=("ids",),
    ),
    "verify": Command(
        "pipeline.tools.verify.verify",
        "pipeline.tools.settings.VerifySettings",
        "read everything a data set holds and check it against its digests; repair what is bad",
        "mcn verify runs/demo/dataset --ids runs/demo/sample/HowTo100M_v1.csv",
        may_be_missing=("media",),
        positional=("dataset",),
    ),
    "train": Command(
        "pipeline.training.train",
        "pipeline.training.settings.TrainSettings",
        "train a Multimodal Clustering Network on a manifest",
        "mcn train --manifest runs/demo/dataset/manifests/run.json --preset sample --out runs/model",
        stops_on_signals=True,
    ),
    "export": Command(
        "pipeline.training.weights:export",
        "pipeline.training.settings.ExportSettings",
        "write a trained model's weights under the authors' names",
        "mcn export models/shared --out weights.pth --davenet dataset/weights/davenet-random-0.pt",
        positional=("model",),
    ),
    "evaluate retrieval": Command(
        "pipeline.evaluation.retrieval",
        "pipeline.evaluation.settings.RetrievalSettings",
        "retrieval of held-out clips and videos by text, sound and picture",
        "mcn evaluate retrieval --checkpoint runs/model --clips runs/demo/sample/steps.csv --out runs/model",
    ),
    "evaluate localization": Command(
        "pipeline.evaluation.localization",
        "pipeline.evaluation.settings.LocalizationSettings",
        "the seconds in which a task's steps are done, found by their texts and order",
        "mcn evaluate localization --checkpoint runs/model --annotations runs/demo/sample/steps.csv --out runs/model",
    ),
    "evaluate classification": Command(
        "pipeline.evaluation.classification",
        "pipeline.evaluation.settings.ClassificationSettings",
        "zero-shot classification of clips by the names of their classes",
        "mcn evaluate classification --checkpoint runs/model --clips classes.csv --out runs/model",
    ),
    "probe": Command(
        "pipeline.evaluation.probe.probe",
        "pipeline.evaluation.settings.ProbeSettings",
        "what each space keeps of scene, sound and words: linear probes, context against content, dose curves",
        "mcn probe --checkpoint runs/model --ids HowTo100M_v1.csv --media media --out runs/model",
    ),
    "embed": Command(
        "pipeline.search.embed",
        "pipeline.search.settings.EmbedSettings",
        "the clips of a manifest as vectors, by a trained model",
        "mcn embed --checkpoint runs/model --out runs/clips.h5",
        stops_on_signals=True,
    ),
    "index": Command(
        "pipeline.search.index",
        "pipeline.search.settings.IndexSettings",
        "an index of embedded clips that is searched within a given memory",
        "mcn index runs/clips.h5 --out runs/clips-index --memory 1GiB",
        positional=("embeddings",),
    ),
    "search": Command(
        "pipeline.search.search",
        "pipeline.search.settings.SearchSettings",
        "the clips that fit a text, or that are like another clip",
        'mcn search runs/clips-index "fry the onion"',
        positional=("index", "query"),
        phrase=True,
    ),
    "report": Command(
        "pipeline.experiment.report.report",
        "pipeline.experiment.settings.ReportSettings",
        "a finished comparison as one HTML file, with its figures and tables as files for a paper",
        "mcn report runs/demo/study --media runs/demo/media",
        written=("study",),
        positional=("study",),
    ),
    "estimate": Command(
        "pipeline.tools.estimate.estimate",
        "pipeline.tools.settings.EstimateSettings",
        "days, TB and GPU hours of each stage of a study, from a one-minute probe and cited rates",
        "mcn estimate configs/study-howto100m.yaml --workers 32",
        positional=("study",),
    ),
    "doctor": Command(
        "pipeline.tools.doctor.doctor",
        "pipeline.tools.settings.DoctorSettings",
        "check this machine (--gpu: its GPUs alone) and, with PATH, a shared folder for all that the stages rely on",
        "mcn doctor /tmp",
        written=("path",),
        positional=("path",),
    ),
    "status": Command(
        "pipeline.tools.status.status",
        "pipeline.tools.settings.StatusSettings",
        "where a data set, a media folder or a run stands: ids, shards, rates, time left, disk; only reads",
        "mcn status runs/demo",
        written=("run",),
        positional=("run",),
    ),
    "inspect": Command(
        "pipeline.tools.inspect.inspect",
        "pipeline.tools.settings.InspectSettings",
        "what a file of a data set, a checkpoint or a pairing scheme is, holds and was made by",
        "mcn inspect shared",
        positional=("path",),
    ),
    "config list": Command(
        "pipeline.experiment.run:list_configs",
        "pipeline.experiment.settings.ConfigListSettings",
        "the YAML files of experiments that come with this package",
        "mcn config list",
    ),
    "config copy": Command(
        "pipeline.experiment.run:copy_config",
        "pipeline.experiment.settings.ConfigCopySettings",
        "a copy of one of these files, to edit and run",
        "mcn config copy study-howto100m",
        positional=("name", "out"),
    ),
    "run": Command(
        "pipeline.experiment.run",
        "pipeline.experiment.stages.RunSettings",
        "drive the whole way from a YAML file, skipping what is done",
        "mcn run configs/sample.yaml",
        beam=True,
        stops_on_signals=True,
        experiment=True,
    ),
    "compare": Command(
        "pipeline.experiment.compare",
        "pipeline.experiment.settings.StudySettings",
        "pairing schemes side by side: arms x seeds trained alike, and what their differences are worth",
        "mcn compare configs/study-sample.yaml",
        beam=True,
        stops_on_signals=True,
        experiment=True,
    ),
}
