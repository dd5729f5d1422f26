"""The vectors that probes look at, against pooling by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.clips.cutting import cut_clip
from pipeline.core.errors import InputError
from pipeline.evaluation.probe.clips import INPUT, embed_clips
from pipeline.training.checkpoint import open_trained


def test_input_features_and_embeddings_of_clips(factors: Any) -> None:
    model = open_trained(factors.model)
    rules, spans = model.rules, [(0.0, 3.0, ["task1", "step0"]), (2.0, 4.0, []), (5.0, 6.0, ["step1"])]
    video = model.dataset.video("video000003", rules)
    clips = [cut_clip(video, start, end, said, model.vectors, rules) for start, end, said in spans]
    found = embed_clips(model, clips, rules)
    assert found.modalities == ["video", "audio", "text"] and found.spaces_of("audio") == ["shared"]
    assert found.present["text"].tolist() == [True, False, True] and found.present["video"].all()
    for place, (start, end, said) in enumerate(spans):
        rows = slice(int(start), int(end))
        shown = video.video["resnet152"][rows].astype(float).max(axis=0)
        assert found.vectors[INPUT, "video"][place] == pytest.approx(shown / np.linalg.norm(shown), abs=1e-5)
        assert found.vectors[INPUT, "audio"][place] == pytest.approx(video.audio[rows].astype(float).mean(0), abs=1e-3)
        if said:
            known = np.stack([model.vectors[word] for word in said])
            wanted = np.concatenate([known.mean(axis=0), known.max(axis=0)])
            assert found.vectors[INPUT, "text"][place] == pytest.approx(wanted, abs=1e-6)
    alone = model.embed(clips[2:], rules).vectors["shared"]["audio"][0].numpy()
    assert found.vectors["shared", "audio"][2] == pytest.approx(alone, abs=1e-5)


def test_log_mel_is_told_from_by_its_bands(factors: Any) -> None:
    model = open_trained(factors.model)
    rules = replace(model.rules, audio="logmel")
    frames = np.random.default_rng(0).uniform(-80, 0, (7, 40)).astype(np.float16)
    from pipeline.evaluation.probe.clips import _audio_feature

    clip = cut_clip(model.dataset.video("video000003", model.rules), 0, 1, [], model.vectors, model.rules)
    found = _audio_feature(replace(clip, audio=frames), rules, 1024)
    assert found == pytest.approx(np.concatenate([frames.astype(float).mean(0), frames.astype(float).std(0)]), abs=1e-3)
    assert _audio_feature(replace(clip, audio=None), rules, 1024).shape == (80,)


def test_a_broken_model_is_refused(factors: Any) -> None:
    model = open_trained(factors.model)
    with torch.no_grad():
        next(model.network.heads["shared/video"].parameters())[:] = torch.nan
    clip = cut_clip(model.dataset.video("video000003", model.rules), 0, 1, [], model.vectors, model.rules)
    with pytest.raises(InputError, match="video in space shared holds NaN or infinity; train it again"):
        embed_clips(model, [clip], model.rules)
