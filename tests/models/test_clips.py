from dataclasses import replace

import pytest
import torch

from models.clips import ClipInputs, Embeddings, concatenate
from models.pairing import builtin_scheme


def test_presence_follows_the_masks(clips: ClipInputs) -> None:
    present = clips.presence()
    assert present["video"].all()
    assert present["audio"].tolist() == [True] * 6 + [False, True]
    assert present["text"].tolist() == [True] * 7 + [False]


def test_a_clip_without_a_frame_has_no_audio(clips: ClipInputs) -> None:
    present = replace(clips, audio_frames=torch.tensor([0, 9, 9, 9, 9, 9, 9, 9])).presence()
    assert present["audio"].tolist() == [False] + [True] * 5 + [False, True]


def test_picking_clips_picks_from_every_tensor(clips: ClipInputs) -> None:
    part = clips[2:5]
    assert len(part) == 3
    assert part.video is not None and clips.video is not None and part.known_words is not None
    assert torch.equal(part.video, clips.video[2:5])
    assert torch.equal(part.known_words, clips.known_words[2:5])  # type: ignore[index]
    assert part.audio_frames is None
    assert torch.equal(clips[torch.tensor([4, 0])].to("cpu").video, clips.video[[4, 0]])  # type: ignore[arg-type]


def test_half_a_modality_or_uneven_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="both `video` and `video_rows`, or neither"):
        ClipInputs(video=torch.zeros(2, 1, 3))
    with pytest.raises(ValueError, match="`audio_frames` but no `audio`"):
        ClipInputs(audio_frames=torch.ones(2))
    with pytest.raises(ValueError, match="one number of clips"):
        ClipInputs(audio=torch.zeros(2, 5), has_audio=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="none at all"):
        ClipInputs()


def embeddings() -> Embeddings:
    vectors = {
        "video": torch.tensor([[3.0, 0.0], [1.0, 1.0], [5.0, 5.0]], requires_grad=True),
        "audio": torch.tensor([[0.0, 6.0], [9.0, 9.0], [7.0, 7.0]]),
        "text": torch.tensor([[0.0, 3.0], [2.0, 4.0], [torch.nan, 8.0]]),
    }
    present = {
        "video": torch.tensor([True, True, False]),
        "audio": torch.tensor([True, False, False]),
        "text": torch.tensor([True, True, False]),
    }
    return Embeddings({"shared": vectors}, present, {"shared": dict(vectors)})


def test_the_joint_feature_is_the_mean_of_what_is_present() -> None:
    joint, present = embeddings().joint(builtin_scheme("shared").spaces[0])
    assert joint.tolist() == [[1.0, 3.0], [1.5, 2.5], [0.0, 0.0]]
    assert present.tolist() == [True, True, False]
    assert not joint.requires_grad


def test_the_joint_feature_leaves_untrained_modalities_out() -> None:
    coarse = builtin_scheme("fine-and-coarse-mmv").space("coarse")
    own = embeddings()
    joint, _ = replace(own, vectors={"coarse": own.vectors["shared"]}).joint(coarse)
    assert joint[0].tolist() == [1.5, 1.5]


def test_batches_can_be_joined_and_changed() -> None:
    own = embeddings()
    both = concatenate([own, own.map_vectors(lambda v: 2 * v)])
    assert both.vectors["shared"]["video"].tolist() == [[3, 0], [1, 1], [5, 5], [6, 0], [2, 2], [10, 10]]
    assert both.targets["shared"]["audio"].tolist() == 2 * own.targets["shared"]["audio"].tolist()
    assert both.present["audio"].tolist() == [True, False, False] * 2
