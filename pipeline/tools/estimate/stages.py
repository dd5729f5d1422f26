"""The arithmetic of `mcn estimate`: what each stage of a study costs, as docs/howto100m.md goes through it.

Each function adds to figures of its own stage (`Figures.of`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.core.formatting import aligned, count
from pipeline.extraction.settings import ExtractSettings
from pipeline.extraction.speed import ExtractionRates
from pipeline.tools.rates import DownloadsSoFar, ShardsSoFar
from pipeline.training.speed import TrainingRates, TrainingShape

Origin = Literal["measured", "cited", "given", "arithmetic", "unknown"]


@dataclass(frozen=True)
class Figure:
    """One number and its origin."""

    stage: str
    name: str
    """What is counted, with its unit."""
    value: float | None
    """None where it is unknown."""
    origin: Origin
    """`measured`: by a probe here, or of this run so far. `cited`: from a source that is named. `given`: in the study
    or by a flag. `arithmetic`: from other figures, as `source` says."""
    source: str


class Figures:
    """Figures in the order they were added, each under the stage of the view through which it was added."""

    def __init__(self, stage: str = "", figures: list[Figure] | None = None) -> None:
        self.all: list[Figure] = [] if figures is None else figures
        self._stage = stage

    def of(self, stage: str) -> "Figures":
        """The same figures, to which those of `stage` are added."""
        return Figures(stage, self.all)

    def add(self, name: str, value: float | None, origin: Origin, source: str) -> Figure:
        """Add a figure; without a value its origin is `unknown`."""
        self.all.append(Figure(self._stage, name, value, origin if value is not None else "unknown", source))
        return self.all[-1]

    def sum(self, name: str, how: Callable[..., float], source: str, *of: Figure) -> Figure:
        """Add what `how` makes of the values of `of`; unknown where one of them is, naming the first such."""
        lacking = next((figure for figure in of if figure.value is None), None)
        if lacking is not None:
            return self.add(name, None, "unknown", f"needs {lacking.stage}: {lacking.name}")
        return self.add(name, how(*(figure.value for figure in of)), "arithmetic", source)

    def table(self) -> str:
        """All figures as lines of text."""
        rows = [("stage", "figure", "value", "origin", "from")]
        stage = ""
        for f in self.all:
            value = "?" if f.value is None else count(f.value)
            rows.append((f.stage if f.stage != stage else "", f.name, value, f.origin, f.source))
            stage = f.stage
        return "\n".join(aligned(rows, right=(2,)))


HOURS_A_DAY = 24
TB = 1e12

LISTED = 1_220_000
LIST_SOURCE = "HowTo100M's list (Miech et al., project page)"
SECONDS_A_VIDEO = 15 * 365.25 * 86_400 / LISTED
LENGTH_SOURCE = "HowTo100M: 15 years in 1.22 million videos (Miech et al.)"
MEDIA_BYTES = 12 * TB / LISTED
MEDIA_SOURCE = "12 TB for all: the authors' copy, short side 256, no sound (MIL-NCE_HowTo100M issue 14)"
GUEST_HOURLY = 300
GUEST_SOURCE = "a guest session's (yt-dlp wiki, Extractors)"


@dataclass(frozen=True)
class Videos:
    """What all stages stand on."""

    listed: Figure
    alive: Figure
    """Videos that still exist."""
    seconds: Figure
    """Of all that are alive."""


def count_videos(
    figures: Figures, listed: Figure, downloads: DownloadsSoFar | None, shards: ShardsSoFar | None
) -> Videos:
    """How many videos there are to work on, and how long they are."""
    if downloads is not None:
        settled = downloads.alive + downloads.gone
        share = figures.add(
            "share alive", downloads.alive / settled, "measured", f"{downloads.alive} of {settled} asked so far"
        )
        alive = figures.sum("alive", lambda n, s: n * s, "listed x share alive", listed, share)
    else:
        alive = figures.sum("alive", lambda n: n, "all that are listed: an upper bound, none asked yet", listed)
    if shards is not None:
        mean, source = shards.seconds / shards.videos, f"{shards.videos} videos in {shards.shards} shards"
        length = figures.add("seconds each", mean, "measured", source)
    elif downloads is not None and downloads.mean_seconds is not None:
        source = f"{downloads.alive} videos downloaded so far"
        length = figures.add("seconds each", downloads.mean_seconds, "measured", source)
    else:
        length = figures.add("seconds each", SECONDS_A_VIDEO, "cited", LENGTH_SOURCE)
    seconds = figures.sum("seconds in all", lambda n, s: n * s, "alive x seconds each", alive, length)
    return Videos(listed, alive, seconds)


def download_stage(
    figures: Figures, videos: Videos, sleeps: tuple[float, float], addresses: int, so_far: DownloadsSoFar | None
) -> tuple[Figure, Figure]:
    """Days and TB. `sleeps`: the settings' shortest and longest sleep before a video, s; zeros for the sample."""
    if so_far is not None and so_far.hourly is not None:
        hourly = figures.add("videos an hour", so_far.hourly, "measured", "this run so far, all its machines")
    elif not max(sleeps):
        hourly = figures.add("videos an hour", None, "unknown", "no sleeps, no limit: none fetched so far")
    else:
        guest = figures.add("videos an hour, allowed", GUEST_HOURLY, "cited", GUEST_SOURCE)
        source = f"3600 / mean sleep of {sleeps[0]:g} to {sleeps[1]:g} s in the settings"
        own = figures.add("videos an hour, asked", 3600 * 2 / sum(sleeps), "arithmetic", source)
        at_once = figures.add("internet addresses", addresses, "given", "--addresses")
        hourly = figures.sum(
            "videos an hour", lambda a, b, n: min(a, b) * n, "the slower x addresses", guest, own, at_once
        )
    days = figures.sum("days", lambda n, h: n / h / HOURS_A_DAY, "listed / videos an hour / 24", videos.listed, hourly)
    if so_far is not None and so_far.mean_bytes is not None:
        source = f"{so_far.alive} videos downloaded so far"
        size = figures.add("bytes a video", so_far.mean_bytes, "measured", source)
    else:
        size = figures.add("bytes a video", MEDIA_BYTES, "cited", MEDIA_SOURCE)
    size_tb = figures.sum("TB", lambda n, b: n * b / TB, "alive x bytes a video", videos.alive, size)
    return days, size_tb


def extract_stage(
    figures: Figures,
    videos: Videos,
    settings: ExtractSettings,
    rates: ExtractionRates | str,
    machine: tuple[int, int],
    shards: ShardsSoFar | None,
) -> tuple[Figure, Figure]:
    """Days and TB. `rates`: of the probe, or why there are none; `machine`: workers and GPUs."""
    workers, gpus = machine
    if shards is not None:
        size = shards.bytes / shards.seconds
        per_second = figures.add("bytes a second of video", size, "measured", f"{shards.shards} closed shards")
    else:
        source = f"{'+'.join(settings.streams)}, sound: {settings.audio_store}; captions on top"
        per_second = figures.add("bytes a second of video", settings.bytes_per_second(), "arithmetic", source)
    size_tb = figures.sum("TB", lambda s, b: s * b / TB, "seconds in all x bytes", videos.seconds, per_second)
    if isinstance(rates, str):
        hours = figures.add("core hours", None, "unknown", rates)
        figures.add("GPU hours", None, "unknown", rates)
        return figures.sum("days", lambda h: h, "", hours), size_tb
    parts = ", ".join(f"{part} {seconds:.2g} s" for part, seconds in rates.parts.items())
    source = f"probe on {rates.device} in {rates.precision}: a second of video costs {parts}"
    pace = figures.add("s of video a core second", 1 / rates.core_s, "measured", source)
    cores = figures.add("workers", workers, "given", "--workers, or the cores of this machine")
    core_hours = figures.sum(
        "core hours", lambda s, r: s / r / 3600, "seconds in all / s of video a core second", videos.seconds, pace
    )
    if not rates.gpu_s:
        figures.add("GPU hours", None, "unknown", "the networks run on the processor here: probe where a GPU is")
        days = figures.sum(
            "days", lambda h, n: h / n / HOURS_A_DAY, "core hours / workers / 24, a core each", core_hours, cores
        )
        return days, size_tb
    faster = figures.add("s of video a GPU second", 1 / rates.gpu_s, "measured", "the same probe")
    devices = figures.add("GPUs", gpus, "given", "--gpus, or those of this machine")
    gpu_hours = figures.sum(
        "GPU hours", lambda s, r: s / r / 3600, "seconds in all / s of video a GPU second", videos.seconds, faster
    )
    days = figures.sum(
        "days",
        lambda c, n, g, d: max(c / n, g / d) / HOURS_A_DAY,
        "the slower of core hours / workers and GPU hours / GPUs, / 24",
        core_hours,
        cores,
        gpu_hours,
        devices,
    )
    return days, size_tb


def train_stage(
    figures: Figures,
    videos: Figure,
    rates: TrainingRates | str,
    shape: TrainingShape,
    done: Mapping[str, Any] | None,
) -> tuple[Figure, Figure]:
    """Days and TB of one model. `done`: its own report, where it has been trained on the same settings."""
    batch, epochs = shape.settings.batch_videos, shape.settings.epochs
    steps = figures.sum(
        "steps",
        lambda n: int(n / batch) * epochs,
        f"training videos / {batch} a batch, whole ones, x {epochs} epochs",
        videos,
    )
    on_gpu = False
    if done is not None and done["detail"].get("videos", 0) >= batch:
        steps_done = done["done"] * (done["detail"]["videos"] // batch)
        source = f"its own report: {done['done']} epochs of {done['detail']['videos']} videos"
        step = figures.add("seconds a step", done["seconds"] / steps_done, "measured", source)
        threads = 0
    elif isinstance(rates, str):
        step = figures.add("seconds a step", None, "unknown", rates)
        threads = 0
    else:
        whole = f"{shape.clips} clips"
        scaled = "" if rates.timed_clips == shape.clips else f", scaled from {rates.timed_clips}"
        most = f", {rates.kmeans_s:.2g} s of them k-means at most" if rates.kmeans_s else ""
        source = f"probe on {rates.device}: {whole}{scaled}{most}; reading comes on top"
        step = figures.add("seconds a step", rates.step_s, "measured", source)
        on_gpu, threads = rates.device.startswith("cuda"), rates.threads
    hours = figures.sum("hours", lambda n, s: n * s / 3600, "steps x seconds a step", steps, step)
    if on_gpu:
        figures.sum("GPU hours", lambda h: h, "hours, on one GPU", hours)
    elif threads:
        figures.sum("core hours", lambda h: h * threads, f"hours x {threads} cores", hours)
        figures.add("GPU hours", None, "unknown", "trained on the processor here: probe where a GPU is")
    days = figures.sum("days", lambda h: h / HOURS_A_DAY, "hours / 24, on one device", hours)
    parameters = shape.parameters()
    source = f"4 bytes x (3 x {parameters:,} parameters with Adam's moments, and k-means' queues)"
    size = figures.add("TB", shape.checkpoint_bytes() / TB, "arithmetic", source)
    return days, size


def evaluate_stage(
    figures: Figures, clips: Figure, rates: TrainingRates | str, done: Mapping[str, Any] | None
) -> Figure:
    """Days of one evaluation."""
    if done is not None:
        seconds = figures.add("seconds", done["seconds"], "measured", "its own report")
    elif isinstance(rates, str):
        seconds = figures.add("seconds", None, "unknown", rates)
    else:
        clip = figures.add("seconds a clip", rates.clip_s, "measured", "the probe's way forward; reading on top")
        seconds = figures.sum("seconds", lambda n, s: n * s, "clips x seconds a clip", clips, clip)
    return figures.sum("days", lambda s: s / 86_400, "seconds / 86,400", seconds)
