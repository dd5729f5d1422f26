"""ResDAVEnet, the audio network of DAVEnet, AVLnet and MCN (Harwath et al., 2018; Rouditchenko et al., 2021).

Shapes: B clips, T log-mel frames of 10 ms, 40 mel bands.

Every output step covers `STRIDE` = 16 frames (160 ms). Step k sees `RECEPTIVE_FRAMES` = 420 frames on either side of
frame 16 k: a 1x9 convolution reaches 4 of its input's steps, so the four convolutions of the stage that starts at
stride s reach 4 s + 3 x 8 s = 28 s frames, and 28 (1 + 2 + 4 + 8) = 420. No input beyond changes the output in
evaluation mode, so a long recording may go through in overlapping chunks that start at multiples of 16 frames.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.settings import AUDIO_WIDTH, MEL_BANDS, STRIDE

RECEPTIVE_FRAMES = 420

_STAGE_WIDTHS = (128, 256, 512, AUDIO_WIDTH)


def output_steps(frames: int) -> int:
    """Number of output steps for `frames` log-mel frames: ceil(frames / 16)."""
    return -(-frames // STRIDE)


class ResidualBlock(nn.Module):
    """Two 1x9 convolutions with batch norm around a shortcut; the first of a stage halves the time axis."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, (1, 9), stride=stride, padding=(0, 4), bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, (1, 9), padding=(0, 4), bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.downsample = (
            nn.Sequential(nn.Conv2d(width_in, width_out, 1, stride=stride, bias=False), nn.BatchNorm2d(width_out))
            if stride != 1
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, width_in, 1, T)` -> `(B, width_out, 1, ceil(T / stride))`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + shortcut)


class ResDavenet(nn.Module):
    """Log-mel frames to one 1024-d vector every 160 ms; parameter names are the published ones.

    `unused_batchnorm` adds `batchnorm1`, which the published class builds on the input and never calls. It changes no
    output and takes no gradient; with it the state dict has every published name and a load keeps all its values.
    """

    def __init__(self, unused_batchnorm: bool = False) -> None:
        super().__init__()
        if unused_batchnorm:
            self.batchnorm1 = nn.BatchNorm2d(1)
        width = _STAGE_WIDTHS[0]
        self.conv1 = nn.Conv2d(1, width, (MEL_BANDS, 1), bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for stage, stage_width in enumerate(_STAGE_WIDTHS, start=1):
            blocks = nn.Sequential(ResidualBlock(width, stage_width, 2), ResidualBlock(stage_width, stage_width, 1))
            self.add_module(f"layer{stage}", blocks)
            width = stage_width
        for module in self.modules():
            # To fill a tensor without values (device "meta"), PyTorch would load its compiler: a second of each start.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                height, length = module.kernel_size
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / (height * length * module.out_channels)))

    def forward(self, logmel: Tensor) -> Tensor:
        """`(B, 40, T)` log-mel in dB (0 = the recording's loudest) -> `(B, 1024, ceil(T / 16))`, non-negative.

        Raises ValueError for another shape or for T = 0.
        """
        if logmel.ndim != 3 or logmel.shape[1] != MEL_BANDS or logmel.shape[2] == 0:
            raise ValueError(f"DaveNet takes log-mel of shape (clips, {MEL_BANDS}, frames), not {tuple(logmel.shape)}")
        x = torch.relu(self.bn1(self.conv1(logmel.unsqueeze(1))))
        for stage in range(1, len(_STAGE_WIDTHS) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.squeeze(2)


@contextmanager
def running_statistics_held(module: nn.Module) -> Iterator[None]:
    """Within the block, batch norms in training mode use the batch's statistics and leave their running ones alone.

    Gradient caching embeds every chunk twice; only one of the two passes may count.
    """
    held = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats and m.training]
    for norm in held:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in held:
            norm.track_running_stats = True
