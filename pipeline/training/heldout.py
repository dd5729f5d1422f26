"""Retrieval on held-out clips while a model is trained: how well it finds videos that it is not trained on."""

import numpy as np
import torch
from gensim.models import KeyedVectors

from models.clips import ClipInputs, concatenate
from models.mcn import MCN
from pipeline.clips.cutting import ClipFeatures, collate
from pipeline.clips.dataset import FeatureDataset
from pipeline.clips.rules import ClipRules
from pipeline.dataset.manifest import HELD_OUT
from pipeline.dataset.shard_plans import hash_order
from pipeline.metrics.ranking import directions, is_headline, ranked
from pipeline.metrics.retrieval import CUTOFFS
from pipeline.training.batches import draw_clips

RECALL = "heldout/R@"
"""What the names of the scores begin with that are recalls."""
_MOST_EACH = 8
EPOCH = -1
"""Stands where training's draws have their epoch, so that these clips are the same after every epoch."""


class HeldOutClips:
    """Clips of the held-out videos, drawn once by the rules of training, at most 8 of a video, none twice."""

    def __init__(
        self, dataset: FeatureDataset, vectors: KeyedVectors, rules: ClipRules, clips: int, seed: int, silent: set[str]
    ) -> None:
        """At most `clips` of them; `silent` are the videos without captions."""
        splits = dataset.manifest.splits
        ids = {i for split, members in splits.items() if split.startswith(HELD_OUT) for i in members} - silent
        self.videos = sorted(ids, key=hash_order)[:clips]
        self._dataset, self._vectors, self._rules, self._seed = dataset, vectors, rules, seed
        self._each = max(1, min(_MOST_EACH, clips // max(1, len(self.videos))))
        self._clips: ClipInputs | None = None

    def _inputs(self) -> ClipInputs:
        if self._clips is None:
            drawn: dict[tuple[str, float, float], ClipFeatures] = {}
            for video_id in self.videos:
                video = self._dataset.video(video_id, self._rules)
                for clip in draw_clips(video, self._vectors, self._rules, self._seed, EPOCH, self._each):
                    # A clip drawn twice would compete with itself.
                    drawn.setdefault((video_id, clip.start, clip.end), clip)
            self._clips = collate(list(drawn.values()), self._rules, self._vectors)
        return self._clips

    @torch.no_grad()
    def scores(self, model: MCN, device: torch.device, normalise: bool = False, batch: int = 512) -> dict[str, float]:
        """`heldout/R@1`, `R@5`, `R@10` in [0, 1] and `heldout/median rank` of text -> video, video alone.

        By cosines with `normalise`, as such a model is trained and evaluated, else by inner products.

        Nothing where there is no held-out clip, or no space of the scheme contrasts text with video.
        """
        headline = directions(model.settings.scheme)[0]
        if not self.videos or not is_headline(headline):
            return {}
        clips, was_training = self._inputs(), model.training
        model.eval()
        try:
            parts = [model(clips[first : first + batch].to(device)) for first in range(0, len(clips), batch)]
        finally:
            model.train(was_training)
        embedded = concatenate(parts)
        if normalise:
            embedded = embedded.map_vectors(lambda vectors: torch.nn.functional.normalize(vectors.float(), dim=1))
        where = ranked(headline.queries(embedded), headline.candidates(embedded))
        recalls = {f"{RECALL}{k}": float(where.hits(k).mean()) for k in CUTOFFS}
        return recalls | {"heldout/median rank": float(np.median(where.rank))}
