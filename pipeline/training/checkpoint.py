"""Checkpoints, whole or absent, and trained models with the data they are asked about: manifest, word vectors, rules.

A checkpoint holds tensors and plain values alone, so that loading one runs no code of its author's.
"""

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from gensim.models import KeyedVectors

from extractors.state_dict_file import form_of
from extractors.text import words
from models.clips import ClipInputs, Embeddings, concatenate
from models.mcn import MCN
from models.pairing import SchemeError, scheme_from_dict
from models.settings import ModelSettings
from pipeline.clips.cutting import ClipFeatures, collate, known_words
from pipeline.clips.dataset import FeatureDataset
from pipeline.clips.rules import ClipRules
from pipeline.core.errors import InputError, suggest_below, suggest_path
from pipeline.core.files import ASIDE, remove, sha256_of_file, write_aside
from pipeline.core.provenance import recorded_places
from pipeline.dataset.manifest import read_manifest
from pipeline.training.settings import TrainSettings, settings_of

FILE = "checkpoint.pt"
MODELS_BELOW = (f"*/{FILE}", f"models/*/{FILE}", f"runs/*/{FILE}")
"""Where models lie below the folder of a run or a study."""
NOT_FINITE = "not-finite.pt"
"""Beside it: the state of a run that was stopped by a figure that is no longer finite."""
VIDEOS = "videos.txt"
"""Beside it: the ids it was trained on, one a line."""
SCHEMA = 2
KEYS = frozenset(
    (
        "model optimizer queues generator epoch step sums history precision settings model_settings scheme identity "
        "words manifest videos"
    ).split()
)


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Write `folder/checkpoint.pt` aside, read it back, rename it over the last good one."""
    save_tensors(folder / FILE, content | {"schema": SCHEMA})


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values so that `path` is whole or unchanged; InputError when there is no room."""
    with write_aside(path) as aside:
        try:
            # By a path, PyTorch would write the file's passing name into it: equal models, unequal bytes.
            with open(aside, "wb") as file:
                torch.save(content, file)
        except RuntimeError as error:  # how PyTorch's writer tells of a full disk
            raise OSError(errno.ENOSPC, f"no room on the disk ({str(error)[:60]})") from None
        torch.load(aside, map_location="cpu", weights_only=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what kills have left half written; for who alone writes there."""
    for path in folder.glob(f".*.pt.*{ASIDE}"):
        remove(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file, or the one in a folder. InputError when it is missing, cut short or no checkpoint."""
    path = path / FILE if path.is_dir() else path
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        near = suggest_below(path.parent, MODELS_BELOW, named_by_folder=True) or suggest_path(path)
        raise InputError(f"{path}: no such file; train a model first with `mcn train`{near}") from None
    except Exception:  # torch raises a dozen kinds for a damaged file, some without a word
        raise InputError(f"{path}: not a whole checkpoint: {form_of(path)}; `mcn train` writes {FILE}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not content.keys() >= KEYS:
        raise InputError(f"{path}: not a checkpoint of this program")
    return content


def model_from(content: dict[str, Any]) -> MCN:
    """The model of a checkpoint, with its weights, in evaluation mode."""
    try:
        settings = dict(content["model_settings"])
        settings["video_streams"] = tuple(settings["video_streams"])
        model = MCN(ModelSettings(scheme=scheme_from_dict(content["scheme"]), **settings))
        model.load_state_dict(content["model"])
    except (KeyError, TypeError, ValueError, RuntimeError, SchemeError) as error:
        raise InputError(f"checkpoint doesn't fit its own settings: {str(error).splitlines()[0]}") from None
    return model.eval()


BATCH_CLIPS = 512
"""Clips embedded at a time."""


@dataclass(frozen=True)
class TrainedModel:
    """An MCN in evaluation mode on the processor, and a frozen data set of the very features it was trained on."""

    checkpoint: Path
    """The checkpoint's file."""
    network: MCN
    dataset: FeatureDataset
    rules: ClipRules
    """How clips were cut in training."""
    trained_on: dict[str, Any]
    """`name`, `digest` and number of `videos` of the training manifest."""
    normalised: bool
    """Whether training compared directions alone (cosines) and not raw dot products."""

    @cached_property
    def vectors(self) -> KeyedVectors:
        """The data set's word vectors; InputError when they are missing or were changed."""
        return self.dataset.word_vectors()

    @cached_property
    def digest(self) -> str:
        """sha256 of the checkpoint's file."""
        return sha256_of_file(self.checkpoint)

    @cached_property
    def training_videos(self) -> frozenset[str]:
        """The ids that `mcn train` wrote beside the checkpoint; none where only the checkpoint was kept."""
        path = self.checkpoint.parent / VIDEOS
        return frozenset(path.read_text(encoding="utf-8").split()) if path.is_file() else frozenset()

    def seen(self, video_ids: Iterable[str]) -> str:
        """An announcement when some of these videos were trained on, else the empty text."""
        seen = self.training_videos.intersection(video_ids)
        if not seen:
            return ""
        return f"the model was trained on {len(seen)} of these videos, e.g. {min(seen)}: no held-out score"

    def provenance(self) -> dict[str, Any]:
        """What stands beside every score: scheme, training manifest, this manifest."""
        manifest = self.dataset.manifest
        return {
            "scheme": self.network.settings.scheme.name,
            "trained on": self.trained_on,
            "manifest": {"name": manifest.name, "digest": manifest.digest},
        }

    def embed(self, clips: Iterable[ClipFeatures], rules: ClipRules | None = None) -> Embeddings:
        """The clips' embeddings in their order, without targets; `rules` as they were cut (default: the model's).

        A modality that `rules` leave out has no vectors. ValueError without any clip.
        """
        rules = self.rules if rules is None else rules
        left, parts = iter(clips), []
        while batch := list(islice(left, BATCH_CLIPS)):
            parts.append(self._forward(collate(batch, rules, self.vectors)))
        if not parts:
            raise ValueError("no clips to embed")
        return concatenate(parts)

    def embed_texts(self, texts: Sequence[str], max_words: int | None = None) -> Embeddings:
        """Embeddings of texts alone: their first `max_words` words with a vector (default: as trained).

        A text without a known word is absent.
        """
        known = [known_words(words(text), self.vectors)[: max_words or self.rules.max_words] for text in texts]
        longest = max(1, *map(len, known)) if known else 1
        # Padded as in training where padding takes part in the maximum over words.
        length = longest if self.network.settings.mask_padding_words else (max_words or self.rules.max_words)
        tensor = torch.zeros(len(texts), length, self.vectors.vector_size)
        mask = torch.zeros(len(texts), length, dtype=torch.bool)
        for row, rows in enumerate(known):
            tensor[row, : len(rows)] = torch.from_numpy(self.vectors.vectors[rows])
            mask[row, : len(rows)] = True
        return self._forward(ClipInputs(words=tensor, known_words=mask))

    def _forward(self, batch: ClipInputs) -> Embeddings:
        present = batch.presence()
        with torch.inference_mode():
            embedded = self.network(batch)
        # A network trained on zeros in place of what is missing calls all present; nothing is still nothing here.
        embedded = replace(embedded, present=present, targets={space: {} for space in embedded.targets})
        if not self.normalised:
            return embedded
        return embedded.map_vectors(lambda vectors: torch.nn.functional.normalize(vectors, dim=1))


def _manifest_of(checkpoint: Path, content: dict[str, Any], trained: TrainSettings) -> Path:
    """The manifest that the model was trained on, where it was or where it has moved to together with the model.

    InputError where it is gone. One with another digest is taken only where it was: `mcn forget` writes it anew.
    """
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    paths = content.get("paths")
    # Checkpoints of version 0.1.0 have the settings alone.
    paths = paths if isinstance(paths, dict) else {"manifest": str(trained.manifest), "folder": str(trained.out)}
    then, home = str(paths.get("manifest", "")), str(paths.get("folder", ""))
    places = list(dict.fromkeys(place.resolve() for place in recorded_places(then, home, folder)))
    there = [place for place in places if place.is_file()]
    frozen = content["manifest"]["digest"]
    for place in there:
        if read_manifest(place).digest == frozen:
            return place
    if there and (Path(then).is_absolute() or len(places) == 1) and there[0] == Path(then).resolve():
        return there[0]
    looked = " or ".join(map(str, places))
    what = "another manifest lies" if there else "its manifest isn't"
    raise InputError(f"{checkpoint}: {what} at {looked}; give the one it was trained on with --manifest")


def open_trained(checkpoint: Path, manifest: Path | None = None) -> TrainedModel:
    """The model of a checkpoint (its file or folder) and a manifest's data; default: what it was trained on.

    InputError when either can't be read, or the data set isn't the one the model was trained on.
    """
    content = load_checkpoint(checkpoint)
    trained = settings_of(content)
    dataset = FeatureDataset(manifest or _manifest_of(checkpoint, content, trained))
    if content["identity"] != dataset.identity or content["words"] != dataset.description["words"]:
        raise InputError(f"{dataset.folder}: the model was trained on another data set; give the right --manifest")
    network = model_from(content)
    return TrainedModel(
        checkpoint=checkpoint / FILE if checkpoint.is_dir() else checkpoint,
        network=network,
        dataset=dataset,
        rules=trained.clip_rules(network.settings.scheme),
        trained_on=content["manifest"] | {"videos": content["videos"]},
        normalised=trained.loss.normalise,
    )
