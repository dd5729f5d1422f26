"""Which clips of a video are probed, what is said in them; their vectors, against pooling by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.clips.cutting import cut_clip
from pipeline.core.errors import InputError
from pipeline.evaluation.lists import read_step_lists
from pipeline.evaluation.probe.clips import INPUT, chosen_videos, embed_clips, read_windows, step_windows
from pipeline.training.checkpoint import open_trained


@pytest.mark.parametrize(("most", "starts"), [(1, [6]), (2, [2, 8]), (3, [2, 6, 10]), (99, [0, 2, 4, 6, 8, 10])])
def test_windows_are_spread_over_a_video(factors: Any, most: int, starts: list[int]) -> None:
    windows = read_windows(open_trained(factors.model), ["video000001", "video000002"], 2.0, most)
    assert [w.clip.start for w in windows if w.clip.video_id == "video000001"] == starts
    assert all(w.clip.end - w.clip.start == 2 for w in windows) and len(windows) == 2 * len(starts)
    for window in windows:
        assert window.words == (f"task{window.clip.video_id[-1]}", f"step{int(window.clip.start) // 2 % 2}")


def test_only_whole_windows_count_where_there_are_any(factors: Any) -> None:
    model = open_trained(factors.model)
    assert [w.clip.start for w in read_windows(model, ["video000001"], 5.0, 9)] == [0, 5]
    assert [(w.clip.start, w.clip.end) for w in read_windows(model, ["video000001"], 50.0, 9)] == [(0, 12)]


def test_segments_have_the_words_said_in_them(factors: Any) -> None:
    model = open_trained(factors.model)
    lists = [one for one in read_step_lists(factors.steps) if one.video_id == "video000006"]
    windows, names = step_windows(model, lists)
    assert sorted(names) == ["2:0"] * 3 + ["2:1"] * 3
    for window, name in zip(windows, names, strict=True):
        assert window.words == ("task2", f"step{name[-1]}") and window.clip.start // 2 % 2 == int(name[-1])


def test_videos_are_chosen_by_chance_and_the_same_again() -> None:
    ids = [f"v{n:03d}" for n in range(100)]
    chosen = chosen_videos(ids, 10, seed=0)
    assert chosen == sorted(chosen) == chosen_videos(ids, 10, seed=0) and len(set(chosen)) == 10
    assert chosen != chosen_videos(ids, 10, seed=1) and chosen_videos(ids, 100, seed=0) == ids


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
