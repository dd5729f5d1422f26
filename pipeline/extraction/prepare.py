"""Everything before the first video, once per data set: networks, weights, the Identity, captions, word vectors.

PyTorch with ResNet152's weights takes most of a GiB. `prepare_networks` looks at them in a process of its own, so that
the one that plans for a million ids, and waits for workers, is spared.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from extractors.errors import WeightsError
from extractors.network import Network
from extractors.networks import (
    CLIP_VIEW,
    OWN_VIEW,
    VIDEO_NETWORKS,
    default_weights,
    described,
    find_network,
    is_video_network,
    near_names,
    own_view,
    published_weights,
)
from extractors.timeline import SHORT_SIDE, parse_frame_size
from extractors.timm_networks import INSTALL, PREFIX, is_timm, timm_names
from extractors.weight_specs import stream_weights, weight_items
from pipeline.core.child import Child, ChildError
from pipeline.core.config import as_plain, flag_of, typed
from pipeline.core.errors import InputError, ToolError, suggest
from pipeline.core.reporting import RunSummary
from pipeline.dataset.caption_store import FILE as CAPTIONS
from pipeline.dataset.caption_store import CaptionFolder, Captions, build_caption_store
from pipeline.dataset.captions import caption_identity
from pipeline.dataset.folder import read_description, settle
from pipeline.dataset.word_vectors import check_given, freeze_words
from pipeline.extraction.settings import (
    ExtractSettings,
    FetchWeightsSettings,
    ListWeightsSettings,
    identity,
)


@dataclass(frozen=True)
class Networks:
    """What the networks are on this machine."""

    files: dict[str, Path]
    """Network -> a file that `extractors.weights.load_weights` reads."""
    digests: dict[str, str]
    """Network -> sha256 of its weights."""
    precision: str
    """`bf16` or `fp32`."""


@dataclass(frozen=True)
class Described:
    """A network that only its library knows."""

    identity: dict[str, Any]
    """As `extractors.networks.described`."""
    remarks: tuple[str, ...]
    """Its publisher's on its weights."""


def prepare_weights(settings: ExtractSettings) -> dict[str, Path]:
    """Fetch, make or find each network's weights; InputError says which can't be provided."""
    try:
        return _weight_files(weight_specs(settings), settings.out / "weights")
    except (WeightsError, ValueError) as error:
        raise InputError(str(error)) from None


def prepare_networks(settings: ExtractSettings, precision: str) -> Networks:
    """Weights and their digests, and what `precision` (bf16, fp32 or auto) is here; all of it by another process.

    InputError says what can't be provided.
    """
    # What holds a weights file goes back to the system with it; glibc would keep 100 MB to 200 MB for the next.
    variables = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    with Child("pipeline.extraction.prepare:read_networks", variables=variables) as child:
        try:
            networks: Networks = child.call(
                weight_specs(settings), settings.out / "weights", precision, settings.device
            )
        except ChildError as error:
            raise InputError(
                f"the networks' weights: the process that looked at them {error}; "
                "if that doesn't say why, see whether this machine has 2 GB of memory to spare"
            ) from None
    return networks


def read_networks(specs: Mapping[str, str], folder: Path, precision: str, device: str) -> Networks:
    """As `prepare_networks`, in this process."""
    from extractors.precision import resolve_device, resolve_precision
    from extractors.weights import load_weights

    try:
        files = _weight_files(specs, folder)
        digests = {network: load_weights(network, path).digest for network, path in files.items()}
        return Networks(files, digests, resolve_precision(precision, resolve_device(device)))
    except (WeightsError, ValueError) as error:
        raise InputError(str(error)) from None


def describe_networks(streams: Sequence[str]) -> dict[str, Described]:
    """What networks that stand in no table are, told by the library that has them, in another process.

    InputError where it isn't installed or has no such network.
    """
    if not streams:
        return {}
    with Child("pipeline.extraction.prepare:read_descriptions") as child:
        try:
            descriptions: dict[str, Described] = child.call(tuple(streams))
        except ChildError as error:
            raise InputError(f"{', '.join(streams)}: the process that looked at them {error}") from None
    return descriptions


def read_descriptions(streams: Sequence[str]) -> dict[str, Described]:
    """As `describe_networks`, in this process."""
    try:
        return {stream: Described(described(stream), find_network(stream).remarks) for stream in streams}
    except WeightsError as error:
        raise InputError(str(error)) from None


def weight_specs(settings: ExtractSettings) -> dict[str, str]:
    """Network -> which weights."""
    return stream_weights(settings.weights, settings.streams) | {"davenet": settings.davenet_weights}


def _weight_files(specs: Mapping[str, str], folder: Path) -> dict[str, Path]:
    from extractors.weights import materialise

    return {network: materialise(network, spec, folder).resolve() for network, spec in specs.items()}


@dataclass(frozen=True)
class Prepared:
    """What the workers need, and what is to be announced."""

    weight_files: dict[str, Path]
    """Network -> a file that `extractors.weights.load_weights` reads; empty where the settings' names
    show that the weights are those of the data set."""
    description: dict[str, Any]
    """dataset.json."""
    notes: list[str]


def prepare(settings: ExtractSettings) -> Prepared:
    """Make the data set's folder ready, or check that it was made with these settings.

    InputError names each field of the Identity that differs, and both values. Not to be run by two processes at once.
    """
    notes = announcements(settings)
    exists = (settings.out / "dataset.json").exists()
    stored = read_description(settings.out) if exists else {}
    if exists:
        _refuse_other_settings(settings, stored)
    captions = caption_identity(settings.captions, settings.drop_overlaps)
    frozen = stored.get("identity", {"captions": captions})
    is_same = _same_networks(settings, stored.get("settings", {}))
    of_libraries = [stream for stream in settings.streams if is_timm(stream)]
    if is_same:
        descriptions = {stream: _described_in(frozen["streams"][stream]) for stream in of_libraries}
    else:
        answers = describe_networks(of_libraries)
        descriptions = {stream: answer.identity for stream, answer in answers.items()}
        notes += _remarks(settings, answers)
    # The inputs are read before weights are fetched; of other captions than the data set's, nothing is stored.
    store = _captions(settings, captions, notes) if frozen.get("captions") == captions else None
    precision = _precision(settings, frozen.get("streams", {}))
    if is_same:
        digests = {stream: frozen["streams"][stream]["weights"] for stream in settings.streams}
        networks = Networks({}, digests | {"davenet": frozen["audio"]["weights"]}, precision)
    else:
        networks = prepare_networks(settings, precision)
    description: dict[str, Any] = {
        "identity": identity(settings, networks.digests, networks.precision, captions, descriptions)
    }
    if not exists:
        digest, announcement = freeze_words(settings.out / "words.kv", store, settings.word_vectors, settings.split)
        notes += [announcement] if announcement else []
        description |= {"words": digest, "settings": as_plain(settings), "announcements": notes}
    description = settle(settings.out, description)
    if exists and settings.word_vectors is not None:
        check_given(settings.word_vectors, description["words"], settings.out)
    return Prepared(networks.files, description, notes)


def _described_in(stream: Mapping[str, Any]) -> dict[str, Any]:
    """What `extractors.networks.described` said of a stream of an Identity."""
    return {name: value for name, value in stream.items() if name not in ("network", "weights", "view", "precision")}


def _remarks(settings: ExtractSettings, networks: Mapping[str, Described]) -> Iterator[str]:
    """What is to be announced of networks that only their libraries know."""
    size, specs = parse_frame_size(settings.frame_size), stream_weights(settings.weights, settings.streams)
    short_side = min(size) if size else SHORT_SIDE
    for stream, network in networks.items():
        if specs[stream] in published_weights(stream):
            yield from (f"{stream}: {remark}" for remark in network.remarks)
        if (wanted := min(network.identity["resize"])) > short_side:
            yield f"{stream} sees frames of short side {short_side} enlarged to {wanted}: see --frame-size"


def _refuse_other_settings(settings: ExtractSettings, stored: dict[str, Any]) -> None:
    """InputError names the settings that differ from the data set's, before captions or weights are looked at.

    Weights are compared by name: a file may hold the same tensors as another, which is seen once they are read.
    """
    identity, before = stored["identity"], stored.get("settings", {})
    streams, audio, captions = (identity.get(name, {}) for name in ("streams", "audio", "captions"))
    views = {view for stream in streams.values() if (view := stream.get("view")) not in (CLIP_VIEW, OWN_VIEW)}
    first: dict[str, Any] = next(iter(streams.values()), {})
    made: dict[str, Any] = {
        "feature_fps": identity.get("feature_fps"),
        "frame_size": identity.get("frame_size"),
        "streams": ",".join(sorted(streams)),
        "view": next(iter(views), None),
        "precision": first.get("precision"),
        "audio_rate": audio.get("rate"),
        "audio_store": audio.get("store"),
        "drop_overlaps": captions.get("overlaps", "kept") == "dropped",
        "davenet_weights": before.get("davenet_weights"),
    }
    asked = as_plain(settings) | {"streams": ",".join(sorted(settings.streams))}
    left_out = {name for name, value in made.items() if value is None}
    left_out |= {"precision"} if settings.precision == "auto" else set()
    left_out |= {"view"} if all(map(own_view, settings.streams)) else set()
    both = made["davenet_weights"] or "", settings.davenet_weights
    left_out |= {"davenet_weights"} if not all(_is_named("davenet", spec) for spec in both) else set()
    # Which weights a file holds, and what is asked of a stream that isn't there, isn't told by their names.
    then, now = _recorded_weights(before), stream_weights(settings.weights, settings.streams)
    known = [n for n in now if n in then and _is_named(n, then[n]) and _is_named(n, now[n])]
    made["weights"], asked["weights"] = (
        ",".join(f"{name}={specs[name]}" for name in known if then[name] != now[name]) for specs in (then, now)
    )
    differing = [name for name, value in made.items() if name not in left_out and value != asked[name]]
    if differing:
        flags = [f"{flag_of(name)} was {typed(made[name])}, now {typed(asked[name])}" for name in differing]
        raise InputError(f"{settings.out}: made with other settings: {'; '.join(flags)}; give those, or another --out")


def _is_named(network: str, spec: str) -> bool:
    """Whether a name or a seed says which weights, and not a file's content."""
    return spec.startswith("random:") or spec in published_weights(network)


def _recorded_weights(recorded: Mapping[str, Any]) -> dict[str, str]:
    """Stream -> weights, by the recorded settings of a data set; empty where they say nothing of them."""
    try:
        return stream_weights(str(recorded["weights"]), tuple(recorded["streams"]))
    except (KeyError, ValueError):
        return {}


def _same_networks(settings: ExtractSettings, recorded: dict[str, Any]) -> bool:
    """Whether the `recorded` settings of a data set name the same networks, so that nobody need look at the weights.

    A published name or a seed stands for the same weights always, a file for what it holds today.
    """
    asked, specs = as_plain(settings), weight_specs(settings)
    same = all(recorded.get(name) == asked[name] for name in ("streams", "davenet_weights", "device"))
    same = same and _recorded_weights(recorded) | {"davenet": settings.davenet_weights} == specs
    return same and not any(Path(spec).exists() for spec in specs.values())


def _precision(settings: ExtractSettings, streams: dict[str, Any]) -> str:
    # `auto` is measured, and resolved once: a busy minute later must not turn away the same command.
    frozen: str = next((stream["precision"] for stream in streams.values()), "")
    return frozen if frozen and settings.precision == "auto" else settings.precision


def _captions(settings: ExtractSettings, identity: dict[str, str], notes: list[str]) -> Captions | None:
    if settings.captions is None:
        return None
    if settings.captions.is_dir():
        return CaptionFolder(settings.captions, settings.drop_overlaps)
    store = build_caption_store(settings.captions, settings.out / CAPTIONS, settings.drop_overlaps, identity)
    notes += [f"captions left out, {reason}: {number}" for reason, number in sorted(store.left_out.items())]
    return store


def announcements(settings: ExtractSettings) -> list[str]:
    """What must not be missed about the weights."""
    notes = []
    for stream, spec in stream_weights(settings.weights, settings.streams).items():
        if spec.startswith("random:"):
            title = "ResNet152" if stream == "resnet152" else stream
            notes.append(f"{title} has random weights ({spec}): its rows prove plumbing alone")
    if settings.streams == ("efficientnet-lite0",) and any(not name for name, _ in weight_items(settings.weights)):
        notes.append(
            f"--weights {settings.weights} is resnet152's, which isn't among the streams: nothing was done with it; "
            f"for efficientnet-lite0 give --weights efficientnet-lite0={settings.weights}"
        )
    if settings.davenet_weights.startswith("random:"):
        notes.append(
            f"DaveNet has random weights ({settings.davenet_weights}): its rows prove plumbing alone; "
            "give --davenet-weights FILE, or train it on the stored log-mel"
        )
    return notes


def list_weights(settings: ListWeightsSettings) -> RunSummary:
    """Print each video network: the width of its rows, what it takes, its published weights, the default first.

    InputError where no name matches the pattern, or it asks for timm's and timm isn't installed.
    """
    try:
        if settings.names.startswith(PREFIX):
            names = timm_names(settings.names)
        else:
            names = [name for name in VIDEO_NETWORKS if not settings.names or fnmatchcase(name, settings.names)]
    except WeightsError as error:
        raise InputError(str(error)) from None
    if not names:
        raise InputError(f"mcn weights list: no network has a name like {settings.names}; without it all are listed")
    report = RunSummary("weights list", unit="network")
    width = max(map(len, names))
    for name in names:
        try:
            network = find_network(name)
        except WeightsError as error:
            print(error, file=sys.stderr, flush=True)
            report.failed["unusable"] += 1
            continue
        report.done += 1
        print(f"{name:<{width}}  {network.width:>4}  {_takes(network):<18}  {_published(network)}", flush=True)
    if not settings.names:
        print(f"with timm ({INSTALL}) its networks too: mcn weights list '{PREFIX}*clip*'", file=sys.stderr)
    return report.finish()


def _takes(network: Network) -> str:
    if network.clip is not None:
        return f"{network.clip.frames} frames at {network.clip.fps:g}/s"
    if network.picture is not None:
        height, width = network.picture.cut
        return f"{width}x{height} pictures"
    return f"{network.side}x{network.side} pictures" if network.side else "pictures"


def _published(network: Network) -> str:
    names = " ".join(network.published)
    return f"{names} ({network.source(names).terms})" if is_timm(network.name) else names


def fetch_weights(settings: FetchWeightsSettings) -> RunSummary:
    """Fetch published weights and print what they are. InputError for unknown names, ToolError where they can't be had.

    What was fetched before is looked at again.
    """
    name, _, weights = settings.name.partition(":")
    if not is_video_network(name):
        raise InputError(f"mcn weights fetch: {name or 'a name of no letters'} is no video network; {near_names(name)}")
    weights = weights or default_weights(name)
    if weights not in (known := published_weights(name)):
        raise InputError(f"mcn weights fetch: {name} has no weights {weights!r}; {suggest(weights, known)}")
    try:
        find_network(name)
    except WeightsError as error:
        raise InputError(str(error)) from None
    from extractors.published_weights import fetch

    try:
        fetched = fetch(name, weights, settings.to)
    except WeightsError as error:
        raise ToolError(str(error)) from None
    print(f"file     {fetched.path}")
    print(f"size     {fetched.bytes} bytes")
    print(f"sha256   {fetched.sha256}")
    print(f"tensors  {fetched.digest}  (as in dataset.json)")
    print(f"source   {fetched.source.address}")
    print(f"terms    {fetched.source.terms}")
    for remark in fetched.remarks:
        print(f"remark   {remark}")
    print(f"use it   mcn extract --streams {name} --weights {name}={fetched.path} ...")
    return RunSummary("weights fetch", unit="file", done=1).finish()
