import math
from copy import deepcopy

import pytest
import torch

from models.davenet import RECEPTIVE_FRAMES, ResDavenet, output_steps, running_statistics_held
from models.settings import STRIDE


@pytest.mark.parametrize(("frames", "steps"), [(1, 1), (16, 1), (17, 2), (100, 7), (800, 50), (1000, 63)])
def test_there_is_one_output_step_for_16_frames(davenet: ResDavenet, frames: int, steps: int) -> None:
    with torch.no_grad():
        assert davenet(torch.zeros(1, 40, frames)).shape == (1, 1024, steps)
    assert output_steps(frames) == steps


def test_a_step_sees_420_frames_on_either_side_and_no_more(davenet: ResDavenet) -> None:
    step, frames = 31, 1000
    logmel = torch.randn(1, 40, frames, generator=torch.Generator().manual_seed(1)).requires_grad_()
    davenet(logmel)[0, :, step].sum().backward()
    assert logmel.grad is not None
    seen = logmel.grad[0].abs().sum(dim=0).nonzero().squeeze(1)
    assert seen[0] == STRIDE * step - RECEPTIVE_FRAMES
    assert seen[-1] == STRIDE * step + RECEPTIVE_FRAMES


def test_convolutions_start_with_the_published_spread(davenet: ResDavenet) -> None:
    for name, height, length, out in [("conv1", 40, 1, 128), ("layer4.1.conv2", 1, 9, 1024)]:
        weight = davenet.get_parameter(f"{name}.weight")
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (height * length * out)), rel=0.05)


def test_the_unused_batch_norm_only_adds_names(davenet: ResDavenet) -> None:
    extra = set(ResDavenet(unused_batchnorm=True).state_dict()) - set(davenet.state_dict())
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert extra == {f"batchnorm1.{leaf}" for leaf in leaves}


@pytest.mark.parametrize("shape", [(40, 100), (1, 64, 100), (1, 40, 0)])
def test_another_shape_is_refused(davenet: ResDavenet, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"log-mel of shape \(clips, 40, frames\)"):
        davenet(torch.zeros(shape))


def test_held_statistics_stay_while_the_output_is_that_of_training() -> None:
    torch.manual_seed(0)
    held = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 1), torch.nn.BatchNorm2d(3)).train()
    usual = deepcopy(held)
    x = torch.randn(4, 1, 1, 6)
    before = deepcopy(held.state_dict())
    with running_statistics_held(held):
        output = held(x)
    assert torch.equal(output, usual(x))
    assert all(torch.equal(tensor, before[name]) for name, tensor in held.state_dict().items())
    held(x)
    assert all(torch.equal(tensor, usual.state_dict()[name]) for name, tensor in held.state_dict().items())
