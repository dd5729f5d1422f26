"""Manifests, `DATASET/manifests/NAME.json`: the videos of a study, frozen while the data set goes on growing."""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError, suggest_below, suggest_path
from pipeline.core.files import digest_of_json, read_json
from pipeline.core.video_ids import is_media_name

SCHEMA = 1
MANIFESTS = "manifests"
MANIFESTS_BELOW = (f"{MANIFESTS}/*.json", f"*/{MANIFESTS}/*.json")
"""Where the manifests of a data set, and of a run's, lie below its folder."""
TRAIN = "train"
HELD_OUT = "heldout"
"""Splits whose names begin so are never trained on."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
_RECORDED_ONLY = ("circumstances", "digest")


@dataclass(frozen=True)
class Manifest:
    """Which videos, in which shards, on which side."""

    name: str
    identity: str
    """sha256 of the Identity's canonical JSON."""
    words: str
    """Digest of the word vectors; empty for none."""
    listed: dict[str, Any] | None
    """The list of ids: its file's name (`source`), `sha256` and number of `ids`; None where none was given."""
    splits: dict[str, tuple[str, ...]]
    """Split -> ids, ascending."""
    left_out: dict[str, tuple[str, ...]]
    """Reason -> ids that are in shards, but in no split: `benchmark`, `unlisted`."""
    missing: dict[str, tuple[str, ...]]
    """Reason -> listed ids that are in no shard."""
    shards: dict[str, dict[str, Any]]
    """Shard -> `content` (its content digest) and number of `videos`."""
    rule: dict[str, Any]
    """How the splits were chosen."""
    circumstances: tuple[dict[str, Any], ...] = field(default_factory=tuple)
    """Under which the shards were made: processor, device, libraries, number of `videos`. Only recorded."""

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON of all but the provenances: stands beside every score."""
        return digest_of_json({key: value for key, value in self.as_json().items() if key not in _RECORDED_ONLY})

    @property
    def video_ids(self) -> list[str]:
        """The ids of all splits, ascending."""
        return sorted(video_id for ids in self.splits.values() for video_id in ids)

    def ids(self, split: str) -> list[str]:
        """The ids of a split; of all those whose name begins with `heldout`, for that; of every one, for `all`.

        InputError names the splits there are.
        """
        if split == "all":
            return self.video_ids
        names = [name for name in self.splits if name == split or (split == HELD_OUT and name.startswith(HELD_OUT))]
        if not names:
            raise InputError(f"manifest {self.name}: no split {split!r}; it has: {', '.join(self.splits)}")
        return sorted(video_id for name in names for video_id in self.splits[name])

    def as_json(self) -> dict[str, Any]:
        """What the file holds, its digest apart."""
        content = {"schema": SCHEMA} | asdict(self)
        return content | {"list": content.pop("listed")}


def manifest_path(dataset: Path, name: str) -> Path:
    """Where manifest `name` lies; InputError for a name that can't be one."""
    if not _NAME.fullmatch(name):
        raise InputError(f"manifest {name[:80]!a}: expected a name of 1 to 64 letters, digits, - _ .")
    return dataset / MANIFESTS / f"{name}.json"


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; InputError if it is missing, isn't one, or was changed."""
    if not path.exists():
        raise InputError(f"{path}: no such file{suggest_path(path)}; `mcn freeze DATASET NAME` makes a manifest")
    if path.is_dir():
        at_hand = suggest_below(path, ("*.json",) if path.name == MANIFESTS else MANIFESTS_BELOW)
        raise InputError(f"{path}: a folder; expected a manifest, DATASET/{MANIFESTS}/NAME.json{at_hand}")
    content = read_json(path)
    try:
        digest, schema = content.pop("digest"), content.pop("schema")
        if schema != SCHEMA:
            raise InputError(f"{path}: schema {schema}, this program reads {SCHEMA}")
        content["listed"] = content.pop("list")
        for key in ("splits", "left_out", "missing"):
            content[key] = {name: tuple(ids) for name, ids in content[key].items()}
        manifest = Manifest(**content | {"circumstances": tuple(content["circumstances"])})
        actual = manifest.digest
        named = all(
            name.isascii() and name.isdigit() and isinstance(shard["content"], str) and isinstance(shard["videos"], int)
            for name, shard in manifest.shards.items()
        )
        lists = (manifest.splits, manifest.left_out, manifest.missing)
        ids = [video_id for groups in lists for members in groups.values() for video_id in members]
        texts = (manifest.name, manifest.identity, manifest.words, *ids)
        if not (named and all(isinstance(text, str) for text in texts) and all(map(is_media_name, ids))):
            raise ValueError
        if not isinstance(manifest.rule, dict) or len(set(manifest.video_ids)) < len(manifest.video_ids):
            raise ValueError
    except (KeyError, TypeError, AttributeError, ValueError):
        raise InputError(f"{path}: not a manifest; make one with `mcn freeze DATASET NAME`") from None
    if actual != digest:
        raise InputError(
            f"{path}: its digest doesn't match: the manifest was changed; restore it or freeze another name"
        )
    return manifest


@dataclass(frozen=True)
class FreezeSettings:
    """What goes into a manifest, and on which side."""

    dataset: Path
    """Data set folder, or its address."""
    name: str
    """Name of the manifest: letters, digits, - _ ."""
    ids: Path | None = None
    """csv of the requested ids: says which are missing, and gives the tasks (column task_id). Others are left out."""
    media: Path | None = None
    """Media folder: its ledger says why a video couldn't be downloaded."""
    exclude: tuple[Path, ...] = ()
    """Lists of benchmarks' ids, separated by commas: these videos are on no side. csv, an id a line, or JSON: the
    column with most ids of the data set counts. Addresses at YouTube and ids behind v_ will do."""
    allow_empty: bool = False
    """Accept a list of --exclude of which no id is in the data set."""
    heldout_videos: float = 0.02
    """Share of the videos held out."""
    heldout_tasks: float = 0.02
    """Share of the tasks held out, with all their videos; needs --ids with a column task_id."""
    split: Path | None = None
    """csv video_id,split with the sides given (train, heldout), in place of the two shares."""
    seed: int = 0
    """Of the choice, which depends on the id or task alone: a video never changes sides as the data set grows."""

    def __post_init__(self) -> None:
        if not (0 <= self.heldout_videos < 1 and 0 <= self.heldout_tasks < 1):
            raise ValueError("`heldout_videos` and `heldout_tasks` are shares from 0 to below 1")
        manifest_path(self.dataset, self.name)
