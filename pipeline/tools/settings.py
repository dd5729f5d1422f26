"""Settings of `mcn status`, `inspect`, `doctor`, `estimate`, `verify` and `forget`."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.core.remote import address_of


@dataclass(frozen=True)
class DoctorSettings:
    """Settings of `mcn doctor`."""

    path: Path | None = None
    """A folder for data sets or media, such as a mounted NAS: it is checked too, and left as it was."""
    gpu: bool = False
    """Check this machine's GPUs, in place of all else on it: the network's rows and the losses of training against the
    processor's, and how fast both run; about a minute."""
    out: Path | None = None
    """File to write the findings to as JSON."""


@dataclass(frozen=True)
class EstimateSettings:
    """Settings of `mcn estimate`."""

    study: Path
    """The experiment's YAML file, as for mcn run; its lists need not be there yet."""
    probe_seconds: float = 60.0
    """About how long to measure on this machine; 0: cited figures and those of the run so far alone."""
    addresses: int = 1
    """Internet addresses that download at once."""
    workers: int = 0
    """Processes that extract at once, a core each, on all machines like this one; 0: the cores of this one."""
    gpus: int = 0
    """GPUs at work on all machines like this one; 0: those of this one."""
    ids: int = 0
    """Number of listed videos, in place of the list's."""
    out: Path | None = None
    """File to write the figures to as JSON."""

    def __post_init__(self) -> None:
        if self.probe_seconds < 0 or min(self.workers, self.gpus, self.ids) < 0:
            raise ValueError("`probe_seconds`, `workers`, `gpus` and `ids` can't be negative")
        if self.addresses < 1:
            raise ValueError("`addresses` must be at least 1")


@dataclass(frozen=True)
class ForgetSettings:
    """Which videos, and where they may be."""

    ids: tuple[str, ...] = ()
    """Ids of the videos to forget; none: finish an interrupted `mcn forget`."""
    dataset: Path | None = None
    """Data set folder; default: RUN/dataset."""
    media: Path | None = None
    """Media folder; default: RUN/media, or the one that the data set was made from."""
    run: Path | None = None
    """Folder of a run (`mcn run`), or any folder with models and reports: checkpoints, embeddings and indices are
    listed, reports removed."""
    even_if_unknown: bool = False
    """Keep out an id that nothing names, too. Without it such an id is taken for mistyped: nothing is done for it."""
    dry_run: bool = False
    """Print each file that would be removed or written anew, and change nothing."""
    yes: bool = False
    """Don't ask first. On a terminal what would go is printed and confirmed; a script is not asked."""

    def __post_init__(self) -> None:
        if self.dataset is None and self.run is None:
            raise ValueError("`dataset` or `run` is needed: where the videos are")


@dataclass(frozen=True)
class InspectSettings:
    """What is looked at, and how it is told."""

    path: str
    """A ledger (file or folder), plan, part, shard, receipt, data set, manifest, checkpoint (file or model folder),
    captions.h5, words.kv, embeddings, index, forgotten.json, lease or stage report; or a pairing scheme: a built-in
    name or YAML file."""
    json: bool = False
    """Print JSON, all ids included."""
    width: int = 0
    """Width of a scheme's spaces, for its sizes; 0: the default, or the checkpoint's own."""
    draw: Path | None = None
    """Draw the scheme (a checkpoint's too) to a file ending in .svg, .pdf or .png."""

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError("`width` can't be negative")


@dataclass(frozen=True)
class StatusSettings:
    """What is looked at, and how it is told."""

    run: Path
    """Data set folder, media folder, or the folder of `mcn run`."""
    media: Path | None = None
    """Media folder; default: the one that the data set, or the run, was made from."""
    ids: Path | None = None
    """csv of the ids asked for; default: the one that the run was given."""
    watch: bool = False
    """Look again and again until Ctrl-C."""
    every: float = 10.0
    """Seconds between looks, with --watch."""
    json: bool = False
    """Print JSON: one object, or with --watch one a line."""

    def __post_init__(self) -> None:
        if self.every <= 0:
            raise ValueError("`every` must be above 0 seconds")


@dataclass(frozen=True)
class VerifySettings:
    """What is checked, and whether it is mended."""

    dataset: Path
    """Data set folder."""
    ids: Path | None = None
    """csv of the ids asked for: how many are stored, and why the others aren't, is told."""
    sample: int = 0
    """Compute this many videos anew from --media and compare row by row: to the bit where host, processor, device and
    libraries are those that made them, else within a tolerance for the precision of the network."""
    media: Path | None = None
    """Media folder, for --sample and --repair; default: the one that the data set was made from."""
    repair: bool = False
    """Remove what is bad and compute it anew: parts, shards (sound videos in them are kept), receipts."""
    dry_run: bool = False
    """With --repair: print what would be removed, replaced and computed anew, and change nothing."""
    seed: int = 0
    """Of the choice of --sample."""
    workers: int = 0
    """Files read at a time; 0: one a core."""

    def __post_init__(self) -> None:
        if self.sample < 0 or self.workers < 0 or self.seed < 0:
            raise ValueError("`sample`, `workers` and `seed` can't be negative")
        if self.dry_run and not self.repair:
            raise ValueError("`dry_run` goes with `repair`")
        if self.repair and address_of(self.dataset):
            raise ValueError("`repair` changes a data set, which must be a local folder; upload it afterwards")
