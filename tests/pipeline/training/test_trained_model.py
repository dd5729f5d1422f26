"""A trained model embeds texts and clips as its own network does, one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.clips import ClipInputs
from pipeline.clips.cutting import cut_clip
from pipeline.training import checkpoint
from pipeline.training.checkpoint import open_trained
from pipeline.training.settings import TrainSettings
from pipeline.training.train import run as train

SIZES = {"batch_videos": 4, "clips_per_video": 4, "width": 8, "clusters": 4, "queue_rows": 16, "epochs": 1}


def trained(planted: Any, out: Path, **changed: Any) -> Path:
    train(TrainSettings(planted.manifest, out, device="cpu", **SIZES | changed))
    return out


def by_the_network(model: Any, vectors: list[np.ndarray], room: int) -> torch.Tensor:
    """Text vectors `(N, D)` of given word vectors, each in a batch of its own, padded to `room` words."""
    rows = []
    for known in vectors:
        words, mask = torch.zeros(1, room, known.shape[1]), torch.zeros(1, room, dtype=torch.bool)
        words[0, : len(known)], mask[0, : len(known)] = torch.tensor(known), True
        with torch.inference_mode():
            rows.append(model.network(ClipInputs(words=words, known_words=mask)).vectors["shared"]["text"][0])
    return torch.stack(rows)


@pytest.mark.parametrize("masked", [True, False])
def test_texts_are_embedded_as_in_training(planted: Any, tmp_path: Path, masked: bool) -> None:
    model = open_trained(trained(planted, tmp_path / "model", mask_padding_words=masked))
    texts = ["action3, now!", "action1 action2 zzz again", "zzz"]
    known = [[planted.vectors[w] for w in line.split()] for line in ("action3 now", "action1 action2 again")]
    found = model.embed_texts(texts)
    assert found.present["text"].tolist() == [True, True, False]
    wanted = by_the_network(model, [np.stack(words) for words in known], 20)
    assert torch.allclose(found.vectors["shared"]["text"][:2], wanted, atol=1e-6)
    first = model.embed_texts(["action1 action2 again"], max_words=1)
    alone = by_the_network(model, [planted.vectors["action1"][None]], 1 if not masked else 20)
    assert torch.allclose(first.vectors["shared"]["text"], alone, atol=1e-6)


def test_batches_change_nothing(planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_trained(trained(planted, tmp_path / "model"))
    clips = [
        cut_clip(model.dataset.video(i, model.rules), c.start, c.end, c.text.split(), model.vectors, model.rules)
        for i, video in planted.videos.items()
        for c in video.captions
    ]
    whole = model.embed(clips)
    monkeypatch.setattr(checkpoint, "BATCH_CLIPS", 7)
    parts = model.embed(iter(clips))
    for modality, vectors in whole.vectors["shared"].items():
        assert torch.allclose(vectors, parts.vectors["shared"][modality], atol=1e-6)
    with pytest.raises(ValueError, match="no clips"):
        model.embed([])


def test_vectors_compared_by_direction_have_length_one(planted: Any, tmp_path: Path) -> None:
    plain = open_trained(trained(planted, tmp_path / "plain"))
    turned = open_trained(trained(planted, tmp_path / "turned", normalise=True, temperature=0.1))
    lengths = [m.embed_texts(["action1", "action2 now"]).vectors["shared"]["text"].norm(dim=1) for m in (plain, turned)]
    assert not torch.allclose(lengths[0], torch.ones(2)) and torch.allclose(lengths[1], torch.ones(2))


def test_what_is_missing_is_absent_also_for_a_model_trained_on_zeros(planted: Any, tmp_path: Path) -> None:
    model = open_trained(trained(planted, tmp_path / "model", zeros_for_missing=True))
    assert model.embed_texts(["zzz", "action1"]).present["text"].tolist() == [False, True]


def test_training_videos_are_told(planted: Any, tmp_path: Path) -> None:
    model = open_trained(trained(planted, tmp_path / "model"))
    assert model.seen(["heldout0000"]) == ""
    assert "trained on 2 of these videos, e.g. train000001" in model.seen(["train000003", "train000001", "heldout0000"])
