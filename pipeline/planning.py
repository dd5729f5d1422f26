"""From ids and media at hand to new plans: what is planned already stays as it is."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.downloader import settled
from pipeline.errors import InputError
from pipeline.extract_settings import ExtractSettings
from pipeline.ledger import latest_states
from pipeline.media_check import stated_seconds
from pipeline.media_folder import find_media
from pipeline.plans import cut_into_shards, hash_order, plan_names, read_plan, write_plans
from pipeline.receipts import closed_names, read_receipt
from pipeline.tombstones import forgotten, is_forgotten
from pipeline.video_list import read_video_ids


@dataclass
class Stock:
    """What there is to plan."""

    new: dict[str, float]
    """Videos with media that no plan has: id -> seconds."""
    planned: int
    """Videos in plans."""
    absent: int
    """Listed videos that have neither media nor a plan."""
    unsettled: int
    """Those of them that a download may still bring."""
    notes: list[str] = field(default_factory=list)
    """Remarks on odd files."""


def planned_ids(dataset: Path, ask_again: Collection[str] = ()) -> set[str]:
    """Ids that are not to be planned (again): those in plans, save those left out of closed shards for `ask_again`."""
    planned: set[str] = set()
    closed = set(closed_names(dataset)) if ask_again else set()
    for name in plan_names(dataset / "plans"):
        planned.update(read_plan(dataset / "plans", name).video_ids)
        if name in closed and (receipt := read_receipt(dataset, name)) is not None:
            planned -= {video_id for video_id, reason in receipt.left_out.items() if reason in ask_again}
    return planned


def take_stock(settings: ExtractSettings) -> Stock:
    """Compare list, media and plans. InputError when there is nothing to begin with."""
    found = find_media(settings.media)
    notes = []
    if found.misnamed:
        notes.append(
            f"{len(found.misnamed)} media files are left out, their names can't be ids (letters, digits, - and _), "
            f"e.g. {found.misnamed[0].name}"
        )
    if found.duplicates:
        twice = next(iter(found.duplicates))
        notes.append(f"{len(found.duplicates)} videos are there twice, e.g. {twice}: the first is used")
    planned = planned_ids(settings.out, settings.ask_again)
    asked = read_video_ids(settings.ids) if settings.ids is not None else list(found.paths)
    if settings.ids is None and not asked and not planned:
        raise InputError(f"{settings.media}: holds no video file named by an id; see `mcn download`")
    gone = forgotten(settings.out)
    open_ids = [video_id for video_id in asked if video_id not in planned and not is_forgotten(video_id, gone)]
    if len(gone) and (kept_out := sum(is_forgotten(video_id, gone) for video_id in asked)):
        notes.append(f"{kept_out} videos were forgotten and stay out")
    present = [video_id for video_id in open_ids if video_id in found.paths]
    absent = [video_id for video_id in open_ids if video_id not in found.paths]
    states = latest_states(settings.media / "ledger", "download", wanted=set(open_ids)) if open_ids else {}
    new = {}
    for video_id in present:
        stated = states[video_id].latest.detail.get("duration", 0.0) if video_id in states else 0.0
        new[video_id] = stated or stated_seconds(found.paths[video_id])
    attempts = 3
    unsettled = sum(not settled(states.get(video_id), attempts, 24.0, ()) for video_id in absent)
    return Stock(new, len(planned), len(absent), unsettled, notes)


def plan_videos(settings: ExtractSettings, new: Mapping[str, float], full_only: bool = False) -> list[str]:
    """Write plans for the `new` videos (id -> seconds); returns the plans' names.

    With `full_only` only as many as fill shards are planned: the others wait until more are there.
    """
    shard_seconds = settings.shard_size * 2**20 / settings.bytes_per_second()
    if full_only:
        new = _filling(new, shard_seconds)
    return write_plans(settings.out / "plans", cut_into_shards(new, shard_seconds))


def _filling(new: Mapping[str, float], shard_seconds: float) -> dict[str, float]:
    """As many of the videos, in hash order, as fill a whole number of shards."""
    chosen: dict[str, float] = {}
    full: dict[str, float] = {}
    seconds = 0.0
    for video_id in sorted(new, key=hash_order):
        chosen[video_id] = new[video_id]
        seconds += new[video_id]
        if seconds >= shard_seconds:
            full.update(chosen)
            chosen, seconds = {}, 0.0
    return full
