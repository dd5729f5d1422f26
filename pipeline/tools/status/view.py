"""What `mcn status` sees: the folders of a run, read alone; what is read may grow, be torn or be missing meanwhile."""

import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.core.config import load_yaml
from pipeline.core.errors import InputError
from pipeline.core.files import read_json
from pipeline.core.ledger_scan import VideoNumbers
from pipeline.core.provenance import recorded_path, recorded_places
from pipeline.core.records import Outcome
from pipeline.dataset.folder import FORGETTING
from pipeline.download.budget import FULL, SCRATCH
from pipeline.download.settings import DownloadSettings
from pipeline.tools.rates import hours_left
from pipeline.tools.status.dataset import DatasetScan, Shards
from pipeline.tools.status.downloads import Downloads, DownloadScan
from pipeline.tools.status.workers import ModelState, Worker, dataset_leases, media_leases, model_states, workers


@dataclass(frozen=True)
class Disk:
    """The file system that a folder is on, in bytes."""

    folder: str
    total: int
    free: int


@dataclass(frozen=True)
class Status:
    """Where everything stands; what doesn't apply is None or empty."""

    path: str
    kind: Literal["data set", "media", "run"]
    time: float
    """Seconds since 1970."""
    downloads: Downloads | None
    shards: Shards | None
    unplanned: int | None
    """Videos alive that are in no plan yet."""
    to_extract: int | None
    """Videos known now whose features are still to come."""
    hours_left: float | None
    """Until all is extracted, those included that the download may still find alive; None where it isn't known."""
    models: list[ModelState]
    workers: list[Worker]
    disks: list[Disk]
    last_error: Outcome | None
    notes: list[str] = field(default_factory=list)


class StatusView:
    """The folders of one RUN, looked at again and again."""

    def __init__(self, run: Path, media: Path | None = None, ids: Path | None = None) -> None:
        """InputError when `run` is no folder of these kinds, or `media` or `ids` can't be read."""
        self.path = run
        self.kind = _kind(run)
        self._notes: list[str] = []
        stages, self._home = _stages(run) if self.kind == "run" else ({}, "")
        self.dataset = self._folder(stages, "extract", "out", "dataset", "data set")
        self.media = media or self._folder(stages, "download", "out", "media", "media")
        if media is not None and not media.is_dir():
            raise InputError(f"{media}: no such folder; expected the folder of downloaded videos for --media")
        settings = _made_with(self.dataset) if self.dataset is not None else {}
        if self.media is None and isinstance(settings.get("media"), str) and self.dataset is not None:
            recorded = recorded_path(settings["media"], str(settings.get("out", "")), self.dataset)
            self.media = recorded if recorded.is_dir() else None
        self._numbers: VideoNumbers = {}
        self._downloads: DownloadScan | None = None
        if self.media is not None:
            attempts = _attempts(self.media, stages)
            try:
                self._downloads = DownloadScan(self.media, self._numbers, ids or self._list(stages, settings), attempts)
            except InputError as error:
                if ids is not None:
                    raise
                self._notes.append(f"ids that no ledger knows are not counted: {error}")
                self._downloads = DownloadScan(self.media, self._numbers, None, attempts)
        elif ids is not None:
            raise InputError(f"{ids}: --ids goes with a media folder; give --media")
        self._shards = DatasetScan(self.dataset, self._numbers) if self.dataset is not None else None

    def _folder(
        self, stages: dict[str, dict[str, Any]], stage: str, key: str, name: str, kind: Literal["data set", "media"]
    ) -> Path | None:
        """The data set or the media of a run; the folder itself where it is one."""
        if self.kind != "run":
            return self.path if self.kind == kind else None
        named = stages.get(stage, {}).get(key)
        candidates = recorded_places(named, self._home, self.path) if isinstance(named, str) else []
        return next((candidate for candidate in (*candidates, self.path / name) if candidate.is_dir()), None)

    @staticmethod
    def _list(stages: dict[str, dict[str, Any]], settings: dict[str, Any]) -> Path | None:
        named = (stages.get("download", {}).get("ids"), stages.get("extract", {}).get("ids"), settings.get("ids"))
        return next((Path(ids) for ids in named if isinstance(ids, str) and ids), None)

    def look(self, now: float) -> Status:
        """All of it as it is now. `now`: seconds since 1970."""
        if self._downloads is not None:
            self._downloads.update(now)
        if self._shards is not None:
            self._shards.update()
        downloads = self._downloads.look(now) if self._downloads is not None else None
        shards, unplanned = None, None
        if self._shards is not None:
            shards, in_no_plan = self._shards.look(now)
            if self._downloads is not None:
                unplanned = int((self._downloads.alive() & in_no_plan).sum())
        to_extract = None if shards is None else shards.waiting + (unplanned or 0)
        folders = [folder for folder in (self.dataset, self.media) if folder is not None] or [self.path]
        leases = dataset_leases(self.dataset) if self.dataset is not None else {}
        leases |= media_leases(self.media) if self.media is not None else {}
        scans = (self._downloads, self._shards)
        errors = [error for scan in scans if scan is not None and (error := scan.ledger.last_error()) is not None]
        return Status(
            path=str(self.path),
            kind=self.kind,
            time=now,
            downloads=downloads,
            shards=shards,
            unplanned=unplanned,
            to_extract=to_extract,
            hours_left=_extraction_left(downloads, shards, to_extract),
            models=model_states(self.path / "models", now) if self.kind == "run" else [],
            workers=workers(leases, now),
            disks=_disks(folders),
            last_error=max(errors, key=lambda error: error.time, default=None),
            notes=self._remarks(downloads, shards),
        )

    def _remarks(self, downloads: Downloads | None, shards: Shards | None) -> list[str]:
        notes = list(self._notes)
        if downloads is not None and downloads.lost:
            notes.append(f"{downloads.lost} downloaded videos have no file now; the next `mcn download` fetches them")
        if self.media is not None and (self.media / SCRATCH / FULL).exists():
            notes.append("the download waits: the media have reached --media-budget")
        if shards is not None:
            notes += shards.notes
            if shards.lost:
                notes.append(f"{shards.lost} shards are gone; `mcn verify {shards.folder} --repair` makes them anew")
        if self.dataset is not None and (self.dataset / FORGETTING).exists():
            notes.append(f"a `mcn forget` is at work, or was interrupted: mcn forget --dataset {self.dataset}")
        torn = sum(side.torn_lines for side in (downloads, shards) if side is not None)
        if torn:
            notes.append(f"{torn} ledger lines were torn by a crash, or are being written: they count as not written")
        return notes


def _kind(path: Path) -> Literal["data set", "media", "run"]:
    """What kind of folder it is; InputError when it is none of them."""
    if not path.is_dir():
        raise InputError(f"{path}: not a folder")
    if (path / "run.yaml").exists():
        return "run"
    if _is_dataset(path):
        return "data set"
    if _is_media(path):
        return "media"
    if _is_dataset(path / "dataset") or _is_media(path / "media"):
        return "run"
    if any((model / file).exists() for model in path.glob("models/*") for file in ("checkpoint.pt", "settings.json")):
        return "run"
    raise InputError(
        f"{path}: neither a data set, nor a media folder, nor the folder of a run; expected what "
        "`mcn download`, `mcn extract` or `mcn run` has as its out"
    )


def _is_dataset(path: Path) -> bool:
    return any((path / name).exists() for name in ("dataset.json", "plans", "shards", "leases"))


def _is_media(path: Path) -> bool:
    return (path / SCRATCH).is_dir() or any((path / "ledger").glob("download-*.jsonl"))


def _stages(run: Path) -> tuple[dict[str, dict[str, Any]], str]:
    """Stage -> settings of a run, as far as its file tells; and where it lay."""
    try:
        content = load_yaml(run / "run.yaml")
    except InputError:
        return {}, ""
    stages = content.get("stages", {})
    known = {k: v for k, v in stages.items() if isinstance(v, dict)} if isinstance(stages, dict) else {}
    return known, str(content.get("out", ""))


def _made_with(dataset: Path) -> dict[str, Any]:
    """The settings with which a data set was extracted to last, or first."""
    for file, keys in (("extract.json", ("detail", "settings")), ("dataset.json", ("settings",))):
        with suppress(InputError, KeyError, TypeError):
            values = read_json(dataset / file)
            for key in keys:
                values = values[key]
            if isinstance(values, dict):
                return values
    return {}


def _attempts(media: Path, stages: dict[str, dict[str, Any]]) -> int:
    """How often a video is tried, as the last download was told."""
    given = stages.get("download", {}).get("attempts")
    with suppress(InputError, KeyError, TypeError):
        given = read_json(media / "download.json")["detail"]["settings"]["attempts"]
    return given if isinstance(given, int) and given > 0 else DownloadSettings.attempts


def _extraction_left(downloads: Downloads | None, shards: Shards | None, to_extract: int | None) -> float | None:
    """Hours to the end of the extraction, which can't be before that of the download."""
    if shards is None or to_extract is None:
        return None
    if downloads is None:
        return hours_left(to_extract, shards.extracted)
    waiting, settled = sum(downloads.waiting.values()), downloads.alive + sum(downloads.gone.values())
    settled += sum(downloads.given_up.values())
    coming = waiting * downloads.alive / settled if settled else waiting
    own = hours_left(to_extract + coming, shards.extracted)
    return None if own is None or downloads.hours_left is None else max(own, downloads.hours_left)


def _disks(folders: list[Path]) -> list[Disk]:
    disks: dict[int, Disk] = {}
    for folder in folders:
        with suppress(OSError):
            usage = shutil.disk_usage(folder)
            disks.setdefault(folder.stat().st_dev, Disk(str(folder), usage.total, usage.free))
    return list(disks.values())
