from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.clips import ClipInputs
from models.davenet import ResDavenet
from models.mcn import MCN
from models.pairing import builtin_scheme, scheme_from_dict
from models.settings import ModelSettings

SMALL = ModelSettings(width=8, video_streams=(6, 4), audio_dim=5, word_dim=3, reconstruction_hidden=7)


def made(settings: ModelSettings = SMALL) -> MCN:
    torch.manual_seed(0)
    return MCN(settings).double()


def doubled(clips: ClipInputs) -> ClipInputs:
    assert clips.video is not None and clips.audio is not None and clips.words is not None
    return replace(clips, video=clips.video.double(), audio=clips.audio.double(), words=clips.words.double())


@pytest.fixture
def batch(clips: ClipInputs) -> ClipInputs:
    return doubled(clips)


def numbers(model: MCN) -> Callable[[str], np.ndarray]:
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return lambda name: state[name]


def gated(w: Callable[[str], np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    y = w(f"{name}.fc.weight") @ x + w(f"{name}.fc.bias")
    return y / (1 + np.exp(-(w(f"{name}.cg.fc.weight") @ y + w(f"{name}.cg.fc.bias"))))


def slow_features(clips: ClipInputs, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert clips.video is not None and clips.audio is not None and clips.words is not None
    assert clips.video_rows is not None and clips.known_words is not None
    video = clips.video[i][clips.video_rows[i]].numpy().max(axis=0)
    video = np.concatenate([part / np.linalg.norm(part) for part in (video[:6], video[6:])])
    return video, clips.audio[i].numpy(), clips.words[i][clips.known_words[i]].numpy()


@pytest.mark.parametrize("standardise", [False, True])
def test_every_clip_has_the_vectors_of_the_slow_formula(batch: ClipInputs, standardise: bool) -> None:
    model = made(replace(SMALL, standardise=standardise))
    model.fit_standardisation([batch[:3], batch[3:]])
    embeddings = model(batch)
    errors = model.reconstruction_errors(embeddings)["shared"]
    w = numbers(model)

    def standard(modality: str, x: np.ndarray) -> np.ndarray:
        return (
            (x - w(f"standardisation.{modality}.mean")) / w(f"standardisation.{modality}.scale") if standardise else x
        )

    for i in range(6):
        video, audio, words = slow_features(batch, i)
        rows = standard("text", words) @ w("word_pooling.shared/text.fc.weight").T + w(
            "word_pooling.shared/text.fc.bias"
        )
        pooled = np.maximum(rows, 0).max(axis=0)
        sound = gated(w, "heads.shared/audio.unit", standard("audio", audio))
        expected = {
            "video": gated(w, "heads.shared/video", standard("video", video)),
            "audio": w("heads.shared/audio.project.weight") @ sound + w("heads.shared/audio.project.bias"),
            "text": gated(w, "heads.shared/text", pooled),
        }
        targets = {"video": video, "audio": audio, "text": pooled}
        for m, vector in expected.items():
            np.testing.assert_allclose(embeddings.vectors["shared"][m][i].detach(), vector, rtol=1e-10, atol=1e-12)
            name = f"decoders.shared/{m}"
            hidden = np.maximum(w(f"{name}.0.weight") @ vector + w(f"{name}.0.bias"), 0)
            output = np.maximum(w(f"{name}.2.weight") @ hidden + w(f"{name}.2.bias"), 0)
            assert errors[m][i].item() == pytest.approx(np.mean((output - targets[m]) ** 2), rel=1e-10)


def test_statistics_are_those_of_the_present_features_alone(batch: ClipInputs) -> None:
    model = made(replace(SMALL, standardise=True))
    model.fit_standardisation([batch[:5], batch[5:]])
    features = [slow_features(batch, i) for i in range(8) if i != 7]
    words = np.concatenate([words for _, _, words in features])
    audio = np.stack([audio for i, (_, audio, _) in enumerate(features) if i != 6] + [batch.audio[7].numpy()])  # type: ignore[index]
    for modality, rows in {"text": words, "audio": audio}.items():
        np.testing.assert_allclose(numbers(model)(f"standardisation.{modality}.mean"), rows.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(numbers(model)(f"standardisation.{modality}.scale"), rows.std(axis=0), rtol=1e-6)


def test_standardisation_is_saved_with_the_model(batch: ClipInputs) -> None:
    model, other = made(replace(SMALL, standardise=True)), MCN(replace(SMALL, standardise=True)).double()
    with pytest.raises(RuntimeError, match="no statistics"):
        model(batch)
    model.fit_standardisation([batch])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(batch).vectors["shared"]["text"], model(batch).vectors["shared"]["text"])


def test_a_modality_that_no_clip_has_cannot_be_standardised(batch: ClipInputs) -> None:
    silent = replace(batch, has_audio=torch.zeros(8, dtype=torch.bool))
    with pytest.raises(ValueError, match="audio: .*no clip has this modality"):
        made(replace(SMALL, standardise=True)).fit_standardisation([silent])


def test_padding_changes_nothing(batch: ClipInputs) -> None:
    model = made()
    assert batch.video is not None and batch.words is not None
    assert batch.video_rows is not None and batch.known_words is not None
    noisy = replace(
        batch,
        video=torch.where(batch.video_rows.unsqueeze(2), batch.video, 1e6),
        words=torch.where(batch.known_words.unsqueeze(2), batch.words, torch.nan),
    )
    for modality in ("video", "text"):
        assert torch.equal(model(noisy).vectors["shared"][modality], model(batch).vectors["shared"][modality])


@pytest.mark.parametrize("masked", [True, False])
def test_padding_words_count_as_the_bias_only_as_published(batch: ClipInputs, masked: bool) -> None:
    model = made(replace(SMALL, mask_padding_words=masked))
    w = numbers(model)
    weight, bias = w("word_pooling.shared/text.fc.weight"), w("word_pooling.shared/text.fc.bias")
    pooled = model(batch).targets["shared"]["text"].numpy()
    lifted = 0
    for i, known in enumerate([5, 1, 2, 3, 4, 5, 2, 0]):
        words = [np.maximum(weight @ word + bias, 0) for word in batch.words[i, :known].numpy()]  # type: ignore[index]
        padding = [np.maximum(bias, 0)] * (5 - known)
        expected = np.max([*words, *([] if masked else padding), np.zeros(8)], axis=0)
        np.testing.assert_allclose(pooled[i], expected, rtol=1e-12)
        lifted += bool(words and padding and (np.max(words, axis=0) < padding[0]).any())
    assert lifted >= 3  # the two rules differ on this batch


def test_nan_in_an_absent_modality_stays_out_of_values_and_gradients(batch: ClipInputs) -> None:
    model = made()
    assert batch.audio is not None and batch.video is not None
    audio, video = batch.audio.clone(), batch.video.clone()
    audio[6], video[0] = torch.nan, torch.nan
    rows = batch.video_rows.clone()  # type: ignore[union-attr]
    rows[0] = False
    embeddings = model(replace(batch, audio=audio, video=video, video_rows=rows))
    assert embeddings.present["video"].tolist() == [False] + [True] * 7
    for m, vectors in embeddings.vectors["shared"].items():
        assert vectors.isfinite().all()
        vectors[embeddings.present[m]].sum().backward(retain_graph=True)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_without_any_row_or_word_is_a_batch_of_absent_clips(batch: ClipInputs) -> None:
    empty = replace(
        batch,
        video=torch.zeros(8, 0, 10, dtype=torch.float64),
        video_rows=torch.zeros(8, 0, dtype=torch.bool),
        words=torch.zeros(8, 0, 3, dtype=torch.float64),
        known_words=torch.zeros(8, 0, dtype=torch.bool),
    )
    embeddings = made()(empty)
    for modality in ("video", "text"):
        assert not embeddings.present[modality].any()
        assert not embeddings.targets["shared"][modality].any()
        assert embeddings.vectors["shared"][modality].isfinite().all()


@pytest.mark.parametrize("zeros", [True, False])
def test_a_missing_modality_is_a_trained_zero_only_as_published(batch: ClipInputs, zeros: bool) -> None:
    assert batch.audio is not None and batch.video is not None and batch.video_rows is not None
    audio, rows = batch.audio.clone(), batch.video_rows.clone()
    audio[6] = torch.nan
    rows[0] = False
    lacking = {"video": 0, "audio": 6, "text": 7}
    model = made(replace(SMALL, zeros_for_missing=zeros, mask_padding_words=False))
    embeddings = model(replace(batch, audio=audio, video_rows=rows))
    for modality, clip in lacking.items():
        assert embeddings.present[modality].tolist() == [zeros or i != clip for i in range(8)]
    if not zeros:
        return
    w = numbers(model)
    sound = gated(w, "heads.shared/audio.unit", np.zeros(5))
    pooled = np.maximum(w("word_pooling.shared/text.fc.bias"), 0)
    expected = {
        "video": gated(w, "heads.shared/video", np.zeros(10)),
        "audio": w("heads.shared/audio.project.weight") @ sound + w("heads.shared/audio.project.bias"),
        "text": gated(w, "heads.shared/text", pooled),
    }
    for modality, clip in lacking.items():
        vector = embeddings.vectors["shared"][modality][clip].detach()
        np.testing.assert_allclose(vector, expected[modality], rtol=1e-12)
    for modality, target in {"video": np.zeros(10), "audio": np.zeros(5), "text": pooled}.items():
        np.testing.assert_allclose(embeddings.targets["shared"][modality][lacking[modality]], target, rtol=1e-12)


def test_text_alone_is_embedded_as_in_a_whole_batch(batch: ClipInputs) -> None:
    model = made(replace(SMALL, scheme=builtin_scheme("fine-and-coarse")))
    query = model(ClipInputs(words=batch.words, known_words=batch.known_words))
    assert query.vectors["fine"] == {}
    assert torch.equal(query.vectors["coarse"]["text"], model(batch).vectors["coarse"]["text"])


def test_a_modality_outside_the_scheme_is_left_alone(batch: ClipInputs) -> None:
    spaces = [{"name": "s", "modalities": {"video": "feature", "text": "feature"}, "pairs": ["video-text"]}]
    model = made(replace(SMALL, scheme=scheme_from_dict({"name": "silent", "spaces": spaces}), audio_from="davenet"))
    assert set(model(batch).vectors["s"]) == {"video", "text"}
    assert not any("audio" in name for name in model.state_dict())


def test_disjoint_gives_video_a_head_and_a_decoder_in_each_space(batch: ClipInputs) -> None:
    model = made(replace(SMALL, scheme=builtin_scheme("disjoint")))
    vectors = model(batch).vectors
    assert {space: set(by_modality) for space, by_modality in vectors.items()} == {
        "video-text": {"video", "text"},
        "video-audio": {"video", "audio"},
    }
    vectors["video-text"]["video"].sum().backward()
    assert model.get_parameter("heads.video-text/video.fc.weight").grad is not None
    assert model.get_parameter("heads.video-audio/video.fc.weight").grad is None


def test_the_coarse_space_is_made_from_the_fine_one_and_its_gradient_flows_back(batch: ClipInputs) -> None:
    model = made(replace(SMALL, scheme=builtin_scheme("fine-and-coarse")))
    embeddings = model(batch)
    w = numbers(model)
    for modality in ("video", "audio"):
        fine = embeddings.vectors["fine"][modality][1].detach().numpy()
        expected = gated(w, f"heads.coarse/{modality}", fine)
        np.testing.assert_allclose(embeddings.vectors["coarse"][modality][1].detach(), expected, rtol=1e-10)
        assert torch.equal(embeddings.targets["coarse"][modality], embeddings.targets["fine"][modality])
    embeddings.vectors["coarse"]["video"].sum().backward()
    assert model.get_parameter("heads.fine/video.fc.weight").grad is not None


def test_mmv_sends_audio_through_the_videos_head_and_reconstructs_it_in_the_fine_space_only(batch: ClipInputs) -> None:
    model = made(replace(SMALL, scheme=builtin_scheme("fine-and-coarse-mmv")))
    embeddings = model(batch)
    fine = embeddings.vectors["fine"]["audio"][2].detach().numpy()
    expected = gated(numbers(model), "heads.coarse/video", fine)
    np.testing.assert_allclose(embeddings.vectors["coarse"]["audio"][2].detach(), expected, rtol=1e-10)
    errors = model.reconstruction_errors(embeddings)
    assert {space: set(by_modality) for space, by_modality in errors.items()} == {
        "fine": {"video", "audio"},
        "coarse": {"video", "text"},
    }
    assert not any("coarse/audio" in name for name in model.state_dict())


def test_spaces_may_have_widths_of_their_own(batch: ClipInputs) -> None:
    data = {
        "name": "two-widths",
        "spaces": [
            {"name": "a", "width": 11, "modalities": {"video": "feature", "text": "feature"}, "pairs": ["video-text"]},
            {"name": "b", "modalities": {"video": "a", "text": "a"}, "pairs": ["video-text"]},
        ],
    }
    model = made(replace(SMALL, scheme=scheme_from_dict(data)))
    embeddings = model(batch)
    assert embeddings.vectors["a"]["text"].shape == (8, 11)
    assert embeddings.vectors["b"]["video"].shape == (8, 8)
    assert embeddings.targets["b"]["text"].shape == (8, 11)
    assert model.reconstruction_errors(embeddings)["b"]["text"].shape == (8,)


@pytest.mark.parametrize("detached", [True, False])
def test_reconstruction_moves_its_own_target_only_as_published(batch: ClipInputs, detached: bool) -> None:
    """The gradient of the text's error for a weight under its target, by differences, with the target fixed or not."""
    model = made(replace(SMALL, detach_targets=detached))
    weight = model.get_parameter("word_pooling.shared/text.fc.weight")
    first = model(batch)

    def error(fixed: torch.Tensor | None) -> torch.Tensor:
        embeddings = model(batch)
        if fixed is not None:
            embeddings = replace(embeddings, targets={"shared": dict(embeddings.targets["shared"], text=fixed)})
        return model.reconstruction_errors(embeddings)["shared"]["text"].sum()

    error(None).backward()
    assert weight.grad is not None
    target = first.targets["shared"]["text"].detach()
    moving = {}
    for place in ((0, 0), (3, 1), (7, 2)):
        for fixed in (None, target):
            ends = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    weight[place] += step
                    ends.append(error(fixed).item())
                    weight[place] -= step
            moving[place, fixed is None] = (ends[0] - ends[1]) / 2e-6
        assert weight.grad[place].item() == pytest.approx(moving[place, not detached], rel=1e-5, abs=1e-9)
        assert moving[place, True] != pytest.approx(moving[place, False], rel=1e-2)


def test_half_precision_shard_rows_are_taken_as_they_come(batch: ClipInputs) -> None:
    model = made().float()
    halves = replace(batch, video=batch.video.half(), audio=batch.audio.half(), words=batch.words.half())  # type: ignore[union-attr]
    vectors = model(halves).vectors["shared"]
    for modality, exact in made()(batch).vectors["shared"].items():
        assert vectors[modality].dtype == torch.float32
        torch.testing.assert_close(vectors[modality].double(), exact, atol=2e-3, rtol=2e-2)


@pytest.fixture(scope="module")
def listening(davenet: ResDavenet) -> MCN:
    model = MCN(replace(SMALL, audio_dim=1024, audio_from="logmel", standardise=True))
    model.davenet = davenet
    return model.eval()


@pytest.fixture
def recordings() -> ClipInputs:
    generator = torch.Generator().manual_seed(5)
    return ClipInputs(
        audio=torch.randn(4, 40, 100, generator=generator) * 20 - 40,
        has_audio=torch.tensor([True, True, False, True]),
        audio_frames=torch.tensor([100, 37, 80, 3]),
    )


def test_log_mel_is_averaged_over_a_clips_own_frames(listening: MCN, recordings: ClipInputs) -> None:
    with torch.no_grad():
        pooled = listening(recordings).targets["shared"]["audio"]
        steps = listening.davenet(recordings.audio)
    for clip, own in {0: 6, 1: 2, 3: 1}.items():
        torch.testing.assert_close(pooled[clip], steps[clip, :, :own].mean(dim=1), rtol=1e-4, atol=1e-5)
    assert not pooled[2].any()
    assert "audio" not in listening.standardisation


def test_training_averages_padding_too_only_as_published(listening: MCN, recordings: ClipInputs) -> None:
    model = MCN(replace(SMALL, audio_dim=1024, audio_from="logmel", own_frames_in_training=False))
    model.davenet = listening.davenet
    model.train()
    model.davenet.eval()
    with torch.no_grad():
        whole = model(recordings).targets["shared"]["audio"]
        steps = model.davenet(recordings.audio[:1])
        own = model.eval()(recordings).targets["shared"]["audio"]
    torch.testing.assert_close(whole[0], steps[0].mean(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own[0], steps[0, :, :6].mean(dim=1), rtol=1e-4, atol=1e-5)


def test_clips_without_audio_stay_out_of_davenets_batch_statistics(listening: MCN, recordings: ClipInputs) -> None:
    loud = replace(recordings, audio=recordings.audio.clone())  # type: ignore[union-attr]
    loud.audio[2] = torch.nan  # type: ignore[index]
    saved = {name: tensor.clone() for name, tensor in listening.davenet.state_dict().items()}
    listening.davenet.train()
    with torch.no_grad():
        first = listening(recordings).vectors["shared"]["audio"]
        second = listening(loud).vectors["shared"]["audio"]
        silent = listening(replace(recordings, has_audio=torch.zeros(4, dtype=torch.bool)))
    listening.davenet.eval()
    listening.davenet.load_state_dict(saved)
    assert torch.equal(first, second)
    assert not silent.targets["shared"]["audio"].any()


def test_missing_sound_is_a_log_mel_of_zeros_only_as_published(recordings: ClipInputs) -> None:
    torch.manual_seed(3)
    model = MCN(replace(SMALL, audio_dim=1024, audio_from="logmel", zeros_for_missing=True)).eval()
    assert model.davenet is not None
    torch.nn.init.uniform_(model.davenet.bn1.bias)  # as it starts, DaveNet makes zeros of zeros
    assert recordings.audio is not None and recordings.has_audio is not None
    audio = recordings.audio.masked_fill(~recordings.has_audio.view(4, 1, 1), torch.nan)
    with torch.no_grad():
        loud = model(replace(recordings, audio=audio))
        silence = model.davenet(torch.zeros(1, 40, 100))[0]
    assert loud.present["audio"].all()
    torch.testing.assert_close(loud.targets["shared"]["audio"][2], silence[:, 0], rtol=1e-4, atol=1e-5)
    assert silence.any()


def test_the_unused_batch_norm_changes_no_output_and_takes_no_gradient(recordings: ClipInputs) -> None:
    models = {}
    for unused in (True, False):
        torch.manual_seed(4)
        models[unused] = MCN(replace(SMALL, audio_dim=1024, audio_from="logmel", unused_batchnorm=unused)).train()
        models[unused](recordings).vectors["shared"]["audio"].square().sum().backward()
    published, mended = (dict(models[unused].davenet.named_parameters()) for unused in (True, False))
    assert published.keys() - mended.keys() == {"batchnorm1.weight", "batchnorm1.bias"}
    assert published["batchnorm1.weight"].grad is None and published["batchnorm1.bias"].grad is None
    for name, parameter in mended.items():
        assert parameter.grad is not None and torch.equal(parameter.grad, published[name].grad)


def test_log_mel_needs_to_know_each_clips_frames(listening: MCN, recordings: ClipInputs) -> None:
    with pytest.raises(ValueError, match="audio_frames"):
        listening(replace(recordings, audio_frames=None))


def test_fitting_leaves_davenet_out(listening: MCN, recordings: ClipInputs, clips: ClipInputs) -> None:
    both = replace(clips[:4], **{name: getattr(recordings, name) for name in ("audio", "has_audio", "audio_frames")})
    listening.fit_standardisation([both])
    assert listening(both).vectors["shared"]["video"].isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 0}, "`width` is 0"),
        ({"video_streams": ()}, r"`video_streams` is \(\)"),
        ({"video_streams": (4, 0)}, r"`video_streams` is \(4, 0\)"),
        ({"audio_from": "mp3"}, "`audio_from` is 'mp3'"),
        ({"audio_from": "logmel", "audio_dim": 512}, "`audio_dim` is 512: with `audio_from` logmel it must be 1024"),
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["video", "audio", "words"])
def test_a_feature_of_another_width_is_refused(batch: ClipInputs, name: str) -> None:
    with pytest.raises(ValueError, match=f"the model takes {name} .* width"):
        made()(replace(batch, **{name: getattr(batch, name)[..., :2]}))


def test_the_default_sizes_are_the_owners() -> None:
    settings = ModelSettings()
    assert (settings.width, settings.video_dim, settings.audio_dim, settings.word_dim) == (4096, 2048, 1024, 300)
    assert settings.scheme == builtin_scheme("shared")
