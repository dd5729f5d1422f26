"""Which factor is told from which vectors: every question beside the input features, space by space."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.probe.clip_vectors import INPUT, ClipVectors
from pipeline.evaluation.probe.linear_probe import Asked, Draws, LinearProbe

Ask = Callable[[np.ndarray[Any, np.dtype[np.int64]]], Asked | None]
"""Takes the indices of the clips that have a modality and gives what is asked of them, rows counted among these."""


def probe_everywhere(
    factor: str, ask: Ask, clips: ClipVectors, draws: Draws, trained_on: Collection[str] = ()
) -> Iterator[dict[str, Any]]:
    """A result for each modality's input features and for its vectors in each space that holds it, as JSON values.

    All of one modality are told of the same rows by the same folds. A modality of which the question can't be asked
    has none.
    """
    for modality in clips.modalities:
        there = np.flatnonzero(clips.present[modality])
        asked = ask(there)
        if asked is None or len(np.unique(asked.question.videos)) < 2:
            continue
        probe, rows, before = LinearProbe(asked.question, draws, trained_on), there[asked.rows], None
        for space in (INPUT, *clips.spaces_of(modality)):
            scores, told = probe.scores(clips.vectors[space, modality][rows], before)
            if space == INPUT:
                before = told
            yield {
                "factor": factor,
                "space": space,
                "modality": modality,
                "videos": len(np.unique(asked.question.videos)),
                "levels": max(asked.question.levels),
                "questions": len(asked.question.levels),
                "levels left out": asked.left_out,
                **scores.as_json(),
            }


def unasked(factor: str, results: Sequence[dict[str, Any]], clips: ClipVectors) -> str:
    """A line that says of which modalities a question could not be asked; empty where it could of all."""
    told = {result["modality"] for result in results}
    lacking = [modality for modality in clips.modalities if modality not in told]
    return f"{factor}: fewer than two levels that two videos have, no probe of {', '.join(lacking)}" if lacking else ""
