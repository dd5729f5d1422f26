"""`mcn status RUN`: where the whole stands. It only reads."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

from pipeline.core.formatting import count, duration, plain, size
from pipeline.core.reporting import RunSummary
from pipeline.core.terminal import raw_stream
from pipeline.tools.rates import Rate
from pipeline.tools.settings import StatusSettings
from pipeline.tools.status.dataset import Shards
from pipeline.tools.status.downloads import Downloads
from pipeline.tools.status.view import Status, StatusView
from pipeline.tools.status.workers import ModelState

_WORKERS_SHOWN = 20
_REASONS_SHOWN = 8
_LABEL = 12
_CLEAR = "\x1b[H\x1b[J"


def lines(status: Status) -> list[str]:
    """The lines, each with its subject in front."""
    shown = [f"{status.kind} {plain(status.path)}, {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(status.time))}"]
    before = ""
    for label, text in _labelled(status):
        shown.append(f"{label if label != before else '':<{_LABEL}}{text}".rstrip())
        before = label
    return shown


def _labelled(status: Status) -> Iterator[tuple[str, str]]:
    downloads, shards = status.downloads, status.shards
    if downloads is not None:
        yield from (("ids", text) for text in _ids(downloads))
    if shards is not None:
        yield from (("videos", text) for text in _videos(shards, status.unplanned))
        in_work = sum(worker.alive and worker.what.startswith("shard ") for worker in status.workers)
        yield "shards", f"{count(shards.closed)} closed, {count(shards.open)} open, {count(in_work)} in work"
    yield from (("at work", text) for text in _workers(status))
    if downloads is not None and (downloads.settled or downloads.waiting):
        fetched = f", {_rate(downloads.fetched, 'videos')}" if downloads.fetched else ""
        yield "rates", f"downloads: {_rate(downloads.settled, 'ids settled')}{fetched}"
    if shards is not None and (shards.extracted or status.to_extract):
        yield "rates", f"extraction: {_rate(shards.extracted, 'videos')}"
    yield from (("to the end", text) for text in _ends(status))
    yield from (("disk", text) for text in _disk(status))
    yield from (("model", _model(model)) for model in status.models)
    if status.last_error is not None:
        error = status.last_error
        ago = duration(max(0.0, status.time - error.time))
        message = f": {plain(error.message)}" if error.message else ""
        yield "last error", f"{ago} ago, {plain(error.stage)} {plain(error.video_id)}: {plain(error.reason)}{message}"
    yield from (("note", plain(note)) for note in status.notes)


def _ids(downloads: Downloads) -> Iterator[str]:
    gone, given_up, waiting = (sum(group.values()) for group in (downloads.gone, downloads.given_up, downloads.waiting))
    listed = f"{count(downloads.listed)} listed: " if downloads.listed is not None else "without a list: "
    further = f", {count(downloads.forgotten)} forgotten" if downloads.forgotten else ""
    given = f", {count(given_up)} given up" if given_up else ""
    yield f"{listed}{count(downloads.alive)} alive, {count(gone)} gone{given}, {count(waiting)} waiting{further}"
    for name, group in (("gone", downloads.gone), ("given up", downloads.given_up), ("waiting", downloads.waiting)):
        if group:
            yield f"{name}: {_reasons(group)}"
    if downloads.unlisted:
        yield f"{count(downloads.unlisted)} further videos aren't on the list"
    deleted = f", {count(downloads.deleted)} deleted after extraction" if downloads.deleted else ""
    aside = ""
    if downloads.aside:
        aside = f", {count(downloads.aside)} without features in .undecodable, {size(downloads.aside_bytes)}"
    yield f"{count(downloads.files)} media files, {size(downloads.bytes)}{deleted}{aside}"


def _videos(shards: Shards, unplanned: int | None) -> Iterator[str]:
    failed = sum(shards.failed.values())
    further = f", {count(unplanned)} alive in no plan yet" if unplanned else ""
    where = f"{count(shards.in_closed_shards)} in closed shards, {count(shards.in_parts)} in parts"
    waiting = f"{count(shards.waiting)} planned and waiting{further}"
    yield f"{count(shards.videos)} extracted ({where}), {count(failed)} failed, {waiting}"
    if failed:
        yield f"failed: {_reasons(shards.failed)}"
    if shards.seconds:
        yield f"{count(shards.seconds / 3600)} hours of video in closed shards"


def _reasons(group: Mapping[str, int]) -> str:
    shown = [f"{plain(reason, 60)} {count(number)}" for reason, number in list(group.items())[:_REASONS_SHOWN]]
    rest = list(group.values())[_REASONS_SHOWN:]
    return ", ".join(shown + ([f"{len(rest)} other reasons {count(sum(rest))}"] if rest else []))


def _workers(status: Status) -> Iterator[str]:
    for worker in status.workers[:_WORKERS_SHOWN]:
        seen = {
            "at work": "",
            "silent": f", silent for {duration(worker.seconds)}",
            "ended": ", has ended: the next process takes over",
        }[worker.state]
        yield f"{plain(worker.what, 80)}: {plain(worker.host, 80)}, process {worker.process}{seen}"
    if len(status.workers) > _WORKERS_SHOWN:
        yield f"{len(status.workers) - _WORKERS_SHOWN} more"


def _rate(rate: Rate | None, what: str) -> str:
    if rate is None:
        return "nothing lately"
    return f"{count(rate.hourly)} {what} an hour over the last {duration(3600 * rate.hours)}"


def _ends(status: Status) -> Iterator[str]:
    downloading = status.downloads is not None and bool(status.downloads.waiting)
    if status.downloads is not None and downloading:
        yield f"download: {_left(status.downloads.hours_left)}"
    if status.to_extract or (status.shards is not None and downloading):
        yield f"extraction: {_left(status.hours_left)}"


def _left(hours: float | None) -> str:
    return "unknown, nothing was done lately" if hours is None else duration(3600 * hours)


def _disk(status: Status) -> Iterator[str]:
    if status.shards is not None:
        yield f"data set {size(status.shards.bytes)}"
    for disk in status.disks:
        yield f"{size(disk.free)} of {size(disk.total)} free at {plain(disk.folder)}"


def _model(model: ModelState) -> str:
    of = f" of {model.epochs}" if model.epochs is not None else ""
    loss = f", loss {model.losses['total']:.4g}" if "total" in model.losses else ""
    at_work = ""
    if model.worker is not None and model.worker.alive:
        at_work = f", trained by {plain(model.worker.host, 80)}, process {model.worker.process}"
    elif not model.finished:
        at_work = ", nobody trains it"
    return f"{plain(model.name, 80)}: epoch {model.epoch}{of}{loss}{at_work}"


def run(settings: StatusSettings) -> RunSummary:
    """Print where things stand, once or with `watch` until Ctrl-C. InputError when `run` is no such folder."""
    report = RunSummary("status", unit="look")
    view = StatusView(settings.run, settings.media, settings.ids)
    with suppress(KeyboardInterrupt):
        while True:
            status = view.look(time.time())
            report.detail = as_json(status)
            if settings.json:
                print(json.dumps(report.detail, indent=None if settings.watch else 2), flush=True)
            else:
                if settings.watch and sys.stdout.isatty():
                    raw_stream(sys.stdout).write(_CLEAR)
                print("\n".join(lines(status)), flush=True)
            report.done += 1
            if not settings.watch:
                break
            time.sleep(settings.every)
    return report.finish()


def as_json(value: Any) -> Any:
    """Dataclasses as JSON objects, their properties `hourly`, `finished` and `videos` among the fields."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = {one.name: as_json(getattr(value, one.name)) for one in fields(value)}
        more = {name: getattr(value, name) for name in ("hourly", "finished", "videos") if hasattr(value, name)}
        return shown | more
    if isinstance(value, dict):
        return {str(key): as_json(one) for key, one in value.items()}
    return [as_json(one) for one in value] if isinstance(value, list | tuple) else value
