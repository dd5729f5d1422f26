"""What a shard, a part, a caption store or a file of embeddings holds.

Run as a program it describes one file: HDF5 may crash on a damaged one, and takes that process alone with it.
"""

import json
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.core.errors import InputError
from pipeline.dataset.caption_store import CaptionStore
from pipeline.dataset.schema import ATTRIBUTES, fields
from pipeline.dataset.shard_check import MEMORY_BYTES, environment
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.search.embeddings import ATTRIBUTES as EMBEDDINGS_ATTRIBUTES
from pipeline.search.embeddings import EmbeddingsFile

_LONGEST_S = 300.0


def inspect_hdf5(path: Path) -> tuple[str, dict[str, Any]]:
    """Kind (`shard`, `part`, `captions`, `embeddings`) and facts of a file. InputError for any other, or damage."""
    command = [sys.executable, "-m", "pipeline.tools.inspect.hdf5", str(path)]
    try:
        child = subprocess.run(command, capture_output=True, env=environment(), timeout=_LONGEST_S, check=False)
        answer = json.loads(child.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        raise InputError(f"{path}: damaged: reading it crashes or stops the HDF5 library; see `mcn verify`") from None
    if "problem" in answer:
        raise InputError(answer["problem"])
    return answer["kind"], answer["facts"]


def _described(path: Path) -> dict[str, Any]:
    try:
        with h5py.File(path, "r", locking=False) as file:
            names, attributes = set(file), set(file.attrs)
        if {"videos", "captions"} <= names and "left_out" in attributes:
            return {"kind": "captions", "facts": _captions(path)}
        if attributes == set(ATTRIBUTES):
            return _features(path)
        if attributes == EMBEDDINGS_ATTRIBUTES:
            return {"kind": "embeddings", "facts": _embeddings(path)}
    except InputError as error:
        return {"problem": str(error)}
    except Exception as error:  # a damaged file makes HDF5 raise whatever it likes
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        return {"problem": f"{path}: damaged ({reason}); see `mcn verify`"}
    return {"problem": f"{path}: an HDF5 file, but no shard, part, captions or embeddings of this program"}


def _captions(path: Path) -> dict[str, Any]:
    store = CaptionStore(path)
    with h5py.File(path, "r", locking=False) as file:
        captions, text = len(file["captions/text_bytes"]), len(file["captions/text"])
    facts = {
        "source": store.identity,
        "videos": len(store),
        "captions": captions,
        "bytes of text": text,
        "left out": store.left_out,
    }
    store.close()
    return facts


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


def _features(path: Path) -> dict[str, Any]:
    with FeatureFile(path) as file:
        opened, kind, identity = file.hdf5, file.kind, file.identity
        if kind not in ("shard", "part"):
            return {"problem": f"{path}: neither a shard nor a part, but {ascii(kind[:40])}"}
        if not file.is_sealed():
            return {"problem": f"{path}: its attributes don't match their sha256: it was changed; see `mcn verify`"}
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
    return {"kind": kind, "facts": facts}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    print(json.dumps(_described(Path(sys.argv[1]))), flush=True)
