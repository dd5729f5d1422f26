"""Standardisation of input features: a fixed module, saved with the model that was trained on it.

Shapes: F feature width; statistics are `(F,)`.
"""

import torch
from torch import Tensor, nn


class Standardisation(nn.Module):
    """(x - mean) / scale, per feature, with statistics that are set once and never trained."""

    mean: Tensor
    scale: Tensor
    fitted: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("fitted", torch.tensor(False))

    def set_statistics(self, mean: Tensor, scale: Tensor) -> None:
        """Set both `(F,)` statistics; a scale must be positive and both finite (ValueError)."""
        wanted = self.mean.shape
        if mean.shape != wanted or scale.shape != wanted:
            raise ValueError(f"standardisation needs statistics of shape {tuple(wanted)}, not {tuple(mean.shape)}")
        if not (mean.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
            raise ValueError("standardisation needs finite means and finite, positive scales: is a feature not finite?")
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        self.fitted.fill_(True)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., F)` -> `(..., F)`. Raises RuntimeError while there are no statistics."""
        if not self.fitted:
            raise RuntimeError("standardisation has no statistics: call fit_standardisation or load a trained model")
        return (x - self.mean) / self.scale


class MomentSums:
    """Running sums, in float64, from which mean and standard deviation come."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Count the rows of `(N, F)` in; N may be 0."""
        if len(x) == 0:
            return
        x = x.detach().double()
        mean, count = x.mean(dim=0), len(x)
        squares = (x - mean).square().sum(dim=0)
        # Merging centred sums (Chan et al., 1979) keeps precision where the mean is far larger than the deviation.
        if self.count:
            delta, total = mean - self.mean, self.count + count
            squares = self.squares + squares + delta.square() * (self.count * count / total)
            mean, count = self.mean + delta * (count / total), total
        self.mean, self.squares, self.count = mean, squares, count

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and population standard deviation, `(F,)` each; a feature that never changes gets scale 1.

        Raises ValueError when nothing was counted.
        """
        if self.count == 0:
            raise ValueError("standardisation has nothing to measure: no clip has this modality")
        deviation = (self.squares / self.count).sqrt()
        # Below this a feature's spread is rounding error, and dividing by it would make noise of it.
        constant = deviation <= 1e-6 * self.mean.abs().clamp(min=1e-30)
        return self.mean, torch.where(constant, 1.0, deviation)
