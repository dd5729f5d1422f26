"""Everything before the first video: weights, the Identity, captions and word vectors, made once per data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.config import as_plain
from pipeline.dataset.caption_store import FILE as CAPTIONS
from pipeline.dataset.caption_store import CaptionFolder, Captions, build_caption_store
from pipeline.dataset.captions import caption_identity
from pipeline.dataset.folder import read_description, settle
from pipeline.dataset.word_vectors import check_given, freeze_words
from pipeline.extraction.prepare import prepare_networks
from pipeline.extraction.settings import ExtractSettings, identity


@dataclass(frozen=True)
class Prepared:
    """What the workers need, and what is to be announced."""

    weight_files: dict[str, Path]
    """Network -> a file that `extractors.weights.load_weights` reads."""
    description: dict[str, Any]
    """dataset.json."""
    notes: list[str]


def prepare(settings: ExtractSettings) -> Prepared:
    """Make the data set's folder ready, or check that it was made with these settings.

    InputError names each field of the Identity that differs, and both values. Not to be run by two processes at once.
    """
    notes = announcements(settings)
    made = (settings.out / "dataset.json").exists()
    captions = caption_identity(settings.captions, settings.drop_overlaps)
    there = read_description(settings.out)["identity"] if made else {"captions": captions}
    # What is given is read before weights are fetched; of other captions than the data set's, nothing is stored.
    store = _captions(settings, captions, notes) if there.get("captions") == captions else None
    networks = prepare_networks(settings, _precision(settings, there.get("streams", {})))
    description: dict[str, Any] = {"identity": identity(settings, networks.digests, networks.precision, captions)}
    if made:
        description = settle(settings.out, description)
        if settings.word_vectors is not None:
            check_given(settings.word_vectors, description["words"], settings.out)
    if not made:
        digest, announcement = freeze_words(settings.out / "words.kv", store, settings.word_vectors, settings.split)
        notes += [announcement] if announcement else []
        description |= {"words": digest, "settings": as_plain(settings), "announcements": notes}
        description = settle(settings.out, description)
    return Prepared(networks.files, description, notes)


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
    if settings.weights.startswith("random:") and "resnet152" in settings.streams:
        notes.append(f"ResNet152 has random weights ({settings.weights}): its rows prove plumbing alone")
    if settings.davenet_weights.startswith("random:"):
        notes.append(
            f"DaveNet has random weights ({settings.davenet_weights}): its rows prove plumbing alone; "
            "give --davenet-weights FILE, or train it on the stored log-mel"
        )
    return notes
