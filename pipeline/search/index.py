"""`mcn index`: an index of one modality's vectors in one space of an embeddings file.

The folder holds what FAISS needs (vectors.faiss) and what the index is (index.json, written last). Exact vectors and
the table of clips stay in the embeddings file, which must lie where it was.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import InputError, suggest, suggest_below
from pipeline.core.files import ASIDE, read_json, remove, write_json
from pipeline.core.lease import locked
from pipeline.core.provenance import recorded_path
from pipeline.core.reporting import RunSummary
from pipeline.search import vector_index
from pipeline.search.embeddings import EmbeddingsFile, VectorRows
from pipeline.search.settings import IndexSettings, memory_bytes
from pipeline.search.vector_index import Floats, Rows

FILE = "index.json"
VECTORS = "vectors.faiss"
SCHEMA = 1


@dataclass(frozen=True)
class IndexDescription:
    """What index.json holds."""

    embeddings: dict[str, str]
    """`path`, as it was, `relative` to the folder, and `digest`."""
    made_of: dict[str, Any]
    """`checkpoint` (digest), `scheme` (its name), `manifest`, `normalised`."""
    paths: dict[str, str]
    """Where `checkpoint` and `manifest` were: hints alone."""
    space: str
    modality: str
    count: int
    left_out: int
    """Clips without the modality."""
    width: int
    memory: int
    plan: dict[str, Any]
    recall: dict[str, Any]
    """recall@10 against exact search, by how many `queries` of which modality (`of`)."""
    bytes: int
    """Of vectors.faiss."""
    metric: str = "inner product"
    schema: int = SCHEMA


def run(settings: IndexSettings) -> RunSummary:
    """Complete when the index is there; InputError when the folder holds another one."""
    report = RunSummary("index", unit="vector")
    memory = memory_bytes(settings.memory)
    with EmbeddingsFile(settings.embeddings) as file:
        space = _space(settings, file)
        if (settings.out / FILE).exists():
            existing = read_description(settings.out)
            expected = (file.digest, space, settings.modality, memory)
            if (existing.embeddings["digest"], existing.space, existing.modality, existing.memory) != expected:
                raise InputError(f"{settings.out}: holds {_named(existing)}; delete it or choose another --out")
            report.skipped, report.detail = existing.count, asdict(existing)
            return _published(report)
        with locked(settings.out / "lock.json", f"indexing to {settings.out}"):
            for aside in settings.out.glob(f".*{ASIDE}"):
                remove(aside)
            room = memory - vector_index.RESERVE
            description = make_index(file, settings.out, space, settings.modality, memory, room)
    report.done, report.detail = description.count, asdict(description)
    return _published(report)


def make_index(
    file: EmbeddingsFile,
    out: Path,
    space: str,
    modality: str,
    memory: int,
    room: int,
    say: Callable[[str], None] = print,
) -> IndexDescription:
    """Build the index in `room` bytes and write its folder, index.json last. Says which kind it is."""
    rows = np.flatnonzero(file.present(modality)).astype(np.int64)
    if not len(rows):
        raise InputError(f"{file.path}: none of its {file.clips} clips has {modality}: there is nothing to search in")
    with file.vectors(space, modality) as vectors:
        plan = vector_index.plan_index(len(rows), vectors.width, room)
        say(f"index: {len(rows):,} vectors of width {vectors.width}: {plan}")
        path = out / VECTORS
        vector_index.build_index(path, vectors, rows, plan)
        queries, of = _queries(file, space, modality, vectors, rows)
        plan, recall = vector_index.tuned(path, vectors, rows, queries, plan)
        width = vectors.width
    relative = os.path.relpath(file.path.resolve(), out.resolve())
    made_of = file.made_of
    description = IndexDescription(
        embeddings={"path": str(file.path.resolve()), "relative": relative, "digest": file.digest},
        made_of={
            "checkpoint": made_of.checkpoint,
            "scheme": made_of.scheme["name"],
            "manifest": made_of.manifest,
            "normalised": made_of.normalised,
        },
        paths=_paths_now(file),
        space=space,
        modality=modality,
        count=len(rows),
        left_out=file.clips - len(rows),
        width=width,
        memory=memory,
        plan=asdict(plan),
        recall={"value": round(recall, 4), "queries": len(queries), "of": of},
        bytes=path.stat().st_size,
    )
    write_json(out / FILE, asdict(description))
    return description


def read_description(folder: Path) -> IndexDescription:
    """What an index folder says of itself; InputError when it is none, or vectors.faiss isn't the one it was."""
    if not (folder / FILE).exists():
        at_hand = suggest_below(folder, (f"*/{FILE}",), named_by_folder=True)
        made_by = f"`mcn index EMBEDDINGS.h5 --out {folder}`"
        if folder.is_file():
            raise InputError(f"{folder}: a file; expected the folder of an index, which `mcn index {folder}` makes")
        raise InputError(f"{folder}: no index (it has no {FILE}){at_hand or f'; make one with {made_by}'}")
    content = read_json(folder / FILE)
    try:
        if content["schema"] != SCHEMA:
            raise InputError(f"{folder / FILE}: schema {content['schema']}, this program reads {SCHEMA}")
        description = IndexDescription(**content)
        _check_types(description)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{folder / FILE}: no index of this program; make one with `mcn index`") from None
    vectors = folder / VECTORS
    if not vectors.is_file() or vectors.stat().st_size != description.bytes:
        raise InputError(f"{vectors}: missing or of another size than it was written; delete {folder} and index anew")
    return description


def _paths_now(file: EmbeddingsFile) -> dict[str, str]:
    """Where checkpoint and manifest of an embeddings file are, as far as its summary still says where it was itself."""
    home = str(file.path)
    with suppress(InputError, KeyError, TypeError):
        home = str(read_json(file.path.with_suffix(".json"))["detail"]["file"])
    return {name: str(recorded_path(path, home, file.path)) for name, path in file.paths.items()}


def recorded_place(folder: Path, description: IndexDescription, name: str, embeddings: Path | None = None) -> Path:
    """Where the `checkpoint` or the `manifest` of an index is: where it was, or where it has moved to together with the
    `embeddings`, by default those that lie beside the index as they did."""
    recorded = description.embeddings
    home = embeddings or folder / recorded["relative"]
    return recorded_path(description.paths.get(name, ""), recorded["path"], home)


def _check_types(description: IndexDescription) -> None:
    """ValueError or another error of Python's where a field isn't what this program writes."""
    plan = vector_index.IndexPlan(**description.plan)
    numbers = [description.count, description.left_out, description.width, description.memory, description.bytes]
    numbers += [getattr(plan, field.name) for field in fields(plan) if field.name != "kind"]
    texts = [description.space, description.modality, plan.kind, description.made_of["checkpoint"]]
    texts += [description.embeddings[name] for name in ("path", "relative", "digest")]
    texts += description.paths.values()
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError
    if not all(isinstance(text, str) and "\0" not in text for text in texts):
        raise ValueError


def _space(settings: IndexSettings, file: EmbeddingsFile) -> str:
    """The space to index; InputError names the spaces and modalities there are."""
    widths = file.made_of.widths
    if settings.modality not in file.made_of.modalities:
        raise InputError(
            f"{file.path}: no modality {settings.modality!r}; {suggest(settings.modality, file.made_of.modalities)}"
        )
    holding = [space for space, modalities in widths.items() if settings.modality in modalities]
    if settings.space:
        if settings.space not in widths:
            raise InputError(f"{file.path}: no space {settings.space!r}; {suggest(settings.space, widths)}")
        if settings.space not in holding:
            raise InputError(
                f"{file.path}: space {settings.space} holds no {settings.modality}, but {', '.join(holding)} "
                f"{'does' if len(holding) == 1 else 'do'}"
            )
        return settings.space
    # The mapping's own words: as a scheme it would bring PyTorch, and count in --memory.
    pairs = (f"text-{settings.modality}", f"{settings.modality}-text")
    contrasting = [space["name"] for space in file.made_of.scheme["spaces"] if set(pairs) & set(space["pairs"])]
    with_text = [space for space in holding if "text" in widths[space]]
    return [*contrasting, *with_text, *holding][0]


def _queries(file: EmbeddingsFile, space: str, modality: str, vectors: VectorRows, rows: Rows) -> tuple[Floats, str]:
    """Queries [Q, D] to choose lists and candidates by: captions' vectors where there are any, else clips' own."""
    generator = np.random.default_rng(0)
    if modality != "text" and "text" in file.made_of.widths[space]:
        with_text = np.flatnonzero(file.present("text"))
        if len(with_text) >= vector_index.QUERIES:
            with file.vectors(space, "text") as texts:
                return texts.read(np.sort(generator.choice(with_text, vector_index.QUERIES, replace=False))), "text"
    return vectors.read(np.sort(generator.choice(rows, min(vector_index.QUERIES, len(rows)), replace=False))), modality


def _named(index: IndexDescription) -> str:
    return f"an index of {index.embeddings['path']}, space {index.space}, {index.modality}, {index.memory >> 20} MiB"


def _published(report: RunSummary) -> RunSummary:
    detail = report.detail
    if detail["left_out"]:
        report.notes.append(f"{detail['left_out']} clips have no {detail['modality']} and can't be found")
    recall = detail["recall"]
    if detail["plan"]["kind"] != "flat":
        report.notes.append(
            f"recall@10 against exact search is {recall['value']:.3f}, by {recall['queries']} queries ({recall['of']})"
        )
        if recall["value"] < vector_index.AIM:
            report.notes.append("that is less than aimed at: more --memory makes codes longer")
    report.finish().publish()
    return report
