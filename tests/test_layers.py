"""Imports run one way: from the stages to what they build on, in `pipeline/` from room to room, never in a circle."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = "core sample download dataset extraction clips metrics training evaluation search experiment tools".split()
"""Of `pipeline/`, in the order of the data: a module imports from its own room or from one before it."""
ABOVE = {"beam_jobs": ROOMS.index("extraction") + 0.5}
STARTED_BY_PROCESS = {("pipeline.experiment.training_process", "pipeline.cli")}
"""The program that trains one model of a study runs the command line in a process of its own."""


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the four packages; a package stands for its `__init__`."""
    paths = [path for top in ("pipeline", "extractors", "models", "beam_jobs") for path in (ROOT / top).rglob("*.py")]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imports(source: str, known: set[str]) -> Iterator[str]:
    """The modules of `known` that a source imports anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            children = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from children & known or {node.module}


def rank(module: str) -> float:
    """How high a module stands: `models` lowest, then `extractors`, the rooms, the command line."""
    top, *rest = module.split(".")
    if top in ABOVE:
        return ABOVE[top]
    if module == "pipeline.commands":
        return 0  # names alone: it imports nothing
    if top != "pipeline":
        return {"models": -2, "extractors": -1}[top]
    return ROOMS.index(rest[0]) if rest and rest[0] in ROOMS else len(ROOMS)


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports against the direction."""
    edges = [(module, other) for module in sorted(graph) for other in sorted(graph[module])]
    return [f"{a} imports {b}" for a, b in edges if rank(b) > rank(a) and (a, b) not in STARTED_BY_PROCESS]


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imports(path.read_text(encoding="utf-8"), set(known))) for name, path in known.items()}


def test_imports_run_one_way() -> None:
    assert upward(graph()) == []


def test_extractors_know_of_the_models_davenet_alone() -> None:
    others = {name: {to for to in found if to.startswith("models.")} for name, found in graph().items()}
    assert {to for name, found in others.items() if name.startswith("extractors") for to in found} <= {
        "models.davenet",
        "models.settings",
    }


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges = {a: {b for b in found if (a, b) not in STARTED_BY_PROCESS} for a, found in graph().items()}
    TopologicalSorter(edges).prepare()  # raises CycleError, which names the circle
    assert edges


def test_an_import_turned_round_is_seen() -> None:
    known = {"pipeline.core.files", "pipeline.tools.rates", "models.losses", "pipeline.cli", "beam_jobs.extract"}
    for lower, higher in (("pipeline.core.files", "pipeline.tools.rates"), ("models.losses", "pipeline.cli")):
        source = f"def late():\n    from {higher} import name\n"
        assert upward({lower: set(imports(source, known))}) == [f"{lower} imports {higher}"]
        assert upward({higher: {lower}}) == []
