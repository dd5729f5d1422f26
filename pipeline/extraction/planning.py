"""From ids and media at hand to new plans: what is planned already stays as it is."""

from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from extractors.errors import WeightsError
from extractors.networks import STREAM_WIDTHS
from extractors.timm_networks import check_timm, is_timm
from pipeline.core.errors import InputError
from pipeline.core.ledger import latest_states, read_ledger
from pipeline.core.lists import left_out_note
from pipeline.core.remote import address_of
from pipeline.core.video_ids import REPEATED, each_video_id
from pipeline.dataset import shard_plans
from pipeline.dataset.folder import forgotten, is_forgotten, read_description
from pipeline.download.downloader import settled
from pipeline.download.media import find_media
from pipeline.download.remote_media import downloads_ledger, stated_durations
from pipeline.download.settings import DownloadSettings
from pipeline.extraction.settings import ExtractSettings


class IdSet(Container[str]):
    """Whether an id is among those given, some microseconds a question."""

    def __init__(self, groups: Iterable[Sequence[str]], but: Container[str] = ()) -> None:
        """`groups`: ids by the hundred or so, in ASCII; `but`: ids that don't count."""
        groups_of_ids = [np.array([video_id.encode() for video_id in group], "S") for group in groups if group]
        self._ids = np.unique(np.concatenate(groups_of_ids)) if groups_of_ids else np.zeros(0, "S1")
        self._but = but

    def __contains__(self, video_id: object) -> bool:
        if not isinstance(video_id, str) or not video_id.isascii():
            return False
        encoded = video_id.encode()
        index = int(self._ids.searchsorted(encoded))
        return index < len(self._ids) and self._ids[index] == encoded and video_id not in self._but


@dataclass
class Stock:
    """What there is to plan."""

    new: dict[str, float]
    """Videos with media that no plan has: id -> seconds."""
    absent: int
    """Listed videos that have neither media nor a plan."""
    unsettled: int
    """Those of them that a download may still bring."""
    first_plan: int
    """Number of the first plan to be written, by what was there before the stock was taken."""
    notes: list[str] = field(default_factory=list)
    """Remarks on odd files."""


def planned_ids(dataset: Path, ask_again: Collection[str] = ()) -> IdSet:
    """Ids that are not to be planned (again): those in plans, save those left out of closed shards for `ask_again`."""
    closed = set(shard_plans.closed_names(dataset)) if ask_again else set()
    again: set[str] = set()

    def plans() -> Iterator[tuple[str, ...]]:
        for name in shard_plans.plan_names(dataset / "plans"):
            ids = shard_plans.read_plan(dataset / "plans", name).video_ids
            # A later plan may have taken up what an earlier shard left out.
            again.difference_update(ids)
            if name in closed and (receipt := shard_plans.read_receipt(dataset, name)) is not None:
                again.update(video_id for video_id, reason in receipt.left_out.items() if reason in ask_again)
            yield ids

    return IdSet(plans(), but=again)


def check_inputs(settings: ExtractSettings) -> None:
    """InputError when list or media can't be used, or a library of networks isn't installed."""
    if any(map(is_timm, settings.streams)):
        try:
            check_timm()
        except WeightsError as error:
            raise InputError(str(error)) from None
    if not address_of(settings.media) and not settings.media.exists():
        raise InputError(f"{settings.media}: no such folder; --media expects the folder of downloaded videos")
    if settings.ids is not None:
        for _ in each_video_id(settings.ids):
            pass
    elif not shard_plans.plan_names(settings.out / "plans") and not find_media(settings.media).paths:
        where = address_of(settings.media) or settings.media
        raise InputError(f"{where}: holds no video file named by an id; see `mcn download`")


def take_stock(settings: ExtractSettings) -> Stock:
    """Compare list, media and plans. Of a million planned videos nothing but their ids is held."""
    first_plan = shard_plans.next_number(settings.out / "plans")
    planned = planned_ids(settings.out, settings.ask_again)
    tombstones = forgotten(settings.out)
    media = find_media(settings.media, passed_over=planned)
    passed_over = Counter[str]()
    listed = media.paths if settings.ids is None else each_video_id(settings.ids, passed_over)
    open_ids: dict[str, None] = {}
    for video_id in listed:
        if video_id not in planned:
            passed_over[REPEATED] += video_id in open_ids
            open_ids[video_id] = None
    kept_out = [video_id for video_id in open_ids if is_forgotten(video_id, tombstones)]
    for video_id in kept_out:
        del open_ids[video_id]
    absent = {video_id for video_id in open_ids if video_id not in media.paths}
    with downloads_ledger(settings.media) as downloads:
        measured = _durations(downloads, open_ids.keys() - absent)
        states = latest_states(downloads, "download", wanted=absent) if absent else {}
    at_hand = [video_id for video_id in open_ids if video_id not in absent]
    stated = stated_durations(settings.media, {i: media.paths[i] for i in at_hand if not measured.get(i)})
    new = {video_id: measured.get(video_id) or stated[video_id] for video_id in at_hand}
    # By the defaults of `mcn download`: how the one that fills the folder was started isn't known here.
    attempts, recheck_h = DownloadSettings.attempts, DownloadSettings.recheck_h
    unsettled = sum(not settled(states.get(video_id), attempts, recheck_h, ()) for video_id in absent)
    notes = left_out_note(settings.ids, passed_over) if settings.ids is not None else []
    if media.misnamed:
        notes.append(
            f"{len(media.misnamed)} media files are left out, their names can't be ids (letters, digits, - and _), "
            f"e.g. {media.misnamed[0].name}"
        )
    if media.irregular:
        notes.append(
            f"{len(media.irregular)} media files are left out, they are links to nothing or no regular files, "
            f"e.g. {media.irregular[0].name}"
        )
    if media.duplicates:
        example = next(iter(media.duplicates))
        notes.append(f"{len(media.duplicates)} videos have several media files, e.g. {example}: the first is used")
    if kept_out:
        notes.append(f"{len(kept_out)} videos were forgotten and stay out")
    return Stock(new, len(absent), unsettled, first_plan, notes)


def _durations(ledger: Path, video_ids: Collection[str]) -> dict[str, float]:
    """Seconds of video that downloads have measured."""
    if not video_ids:
        return {}
    outcomes = read_ledger(ledger, "download", wanted=video_ids)
    # An attempt that failed has measured nothing, and takes nothing from one that didn't.
    return {o.video_id: float(seconds) for o in outcomes if (seconds := o.detail.get("duration"))}


def plan_videos(
    settings: ExtractSettings, new: Mapping[str, float], full_only: bool = False, first: int | None = None
) -> list[str]:
    """Write plans for the `new` videos (id -> seconds); returns the plans' names.

    With `full_only` only as many as fill shards are planned: the others wait until more are there. `first`: the stock's
    `first_plan`; InputError where another process has planned since.
    """
    shard_seconds = settings.shard_size * 2**20 / settings.bytes_per_second(_widths(settings))
    if full_only:
        new = _filling(new, shard_seconds)
    return shard_plans.write_plans(settings.out / "plans", shard_plans.cut_into_shards(new, shard_seconds), first)


def _widths(settings: ExtractSettings) -> Mapping[str, int]:
    """Stream -> width of its rows: of networks that stand in no table, the data set says it."""
    if STREAM_WIDTHS.keys() >= set(settings.streams):
        return STREAM_WIDTHS
    streams = read_description(settings.out)["identity"]["streams"]
    return {stream: streams[stream]["width"] for stream in settings.streams}


def _filling(new: Mapping[str, float], shard_seconds: float) -> dict[str, float]:
    """As many of the videos, in hash order, as fill a whole number of shards."""
    chosen: dict[str, float] = {}
    full: dict[str, float] = {}
    seconds = 0.0
    for video_id in sorted(new, key=shard_plans.hash_order):
        chosen[video_id] = new[video_id]
        seconds += new[video_id]
        if seconds >= shard_seconds:
            full.update(chosen)
            chosen, seconds = {}, 0.0
    return full
