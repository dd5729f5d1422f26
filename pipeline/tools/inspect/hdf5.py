"""What a shard, a part, a caption store or a file of embeddings holds."""

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.child import Child, ChildError
from pipeline.core.errors import InputError
from pipeline.core.hdf5 import LayoutError, read_attributes
from pipeline.dataset.caption_store import ATTRIBUTES as CAPTIONS_ATTRIBUTES
from pipeline.dataset.caption_store import CaptionStore
from pipeline.dataset.schema import ATTRIBUTES, fields
from pipeline.dataset.shard_check import MEMORY_BYTES
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.search.embeddings import ATTRIBUTES as EMBEDDINGS_ATTRIBUTES
from pipeline.search.embeddings import EmbeddingsFile

_LONGEST_S = 300.0


def inspect_hdf5(path: Path) -> tuple[str, dict[str, Any]]:
    """Kind (`shard`, `part`, `captions`, `embeddings`) and facts of a file. InputError for any other, or damage."""
    try:
        with Child("pipeline.tools.inspect.hdf5:describe", MEMORY_BYTES) as child:
            description: tuple[str, dict[str, Any]] = child.call(path, limit_s=_LONGEST_S)
    except ChildError as error:
        if error.reason == "start":
            raise InputError(f"{path}: the process that reads it {error}; rerun") from None
        raise InputError(f"{path}: damaged: reading it crashes or stops the HDF5 library; see `mcn verify`") from None
    return description


def describe(path: Path) -> tuple[str, dict[str, Any]]:
    """As `inspect_hdf5`, in this process: HDF5 may crash on a damaged file, and take it along."""
    try:
        attributes = set(read_attributes(path))
        if attributes == CAPTIONS_ATTRIBUTES:
            return "captions", _captions(path)
        if attributes == set(ATTRIBUTES):
            return _features(path)
        if attributes == EMBEDDINGS_ATTRIBUTES:
            return "embeddings", _embeddings(path)
    except InputError:
        raise
    except LayoutError as error:
        raise InputError(f"{path}: {error}; see `mcn verify`") from None
    except Exception as error:  # a damaged file makes HDF5 raise whatever it likes
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise InputError(f"{path}: damaged ({reason}); see `mcn verify`") from None
    raise InputError(f"{path}: an HDF5 file, but no shard, part, captions or embeddings of this program")


def _captions(path: Path) -> dict[str, Any]:
    with closing(CaptionStore(path)) as store:
        return {
            "source": store.identity,
            "videos": len(store),
            "captions": store.lengths["captions/text_bytes"],
            "bytes of text": store.lengths["captions/text"],
            "left out": store.left_out,
        }


def _embeddings(path: Path) -> dict[str, Any]:
    with EmbeddingsFile(path) as file:
        modalities = file.made_of.modalities
        return {
            "digest": file.digest,
            "videos": len(file.video_ids),
            "clips": file.clips,
            "clips without": {m: file.clips - int(file.present(m).sum()) for m in modalities},
            "made of": asdict(file.made_of),
            "paths": file.paths,
            "datasets": {n: f"{(d := file.dataset(n)).dtype.str} {list(d.shape)}" for n in sorted(file.digests)},
            "video ids": file.video_ids,
        }


def _features(path: Path) -> tuple[str, dict[str, Any]]:
    with FeatureFile(path) as file:
        opened, kind, identity = file.hdf5, file.kind, file.identity
        if kind not in ("shard", "part"):
            raise InputError(f"{path}: neither a shard nor a part, but {ascii(kind[:40])}")
        if not file.is_sealed():
            raise InputError(f"{path}: its attributes don't match their sha256: it was changed; see `mcn verify`")
        datasets = {field.name: opened[field.name] for field in fields(identity)}
        durations, ids = file.durations(), file.video_ids
        decoders = [name.decode() for name in opened["videos/decoder"][:]]
        facts: dict[str, Any] = {
            "name": file.name,
            "plan": file.plan,
            "content": file.content_digest(),
            "videos": len(ids),
            "seconds": round(sum(durations), 3),
            "captions": int(sum(file.caption_counts())),
            "words": len(file.table()),
            "seconds without picture": int((opened["rows/video_mask"][:] == 0).sum()) / identity["feature_fps"],
            "videos without sound": int((np.diff(opened["logmel/offsets"][:]) == 0).sum()),
            "decoders": {name: decoders.count(name) for name in sorted(set(decoders))},
            "identity": identity,
            "circumstance": file.provenance,
            "datasets": {name: f"{data.dtype.str} {list(data.shape)}" for name, data in sorted(datasets.items())},
            "video ids": ids,
        }
        if identity["audio"]["store"] == "davenet":
            # Without the log-mel, silence shows in the mask of DaveNet's rows alone.
            mask, offsets = opened["audio/mask"][:], opened["audio/offsets"][:]
            heard = [bool(mask[a:b].any()) for a, b in zip(offsets, offsets[1:], strict=False)]
            facts["videos without sound"] = heard.count(False)
    return kind, facts
