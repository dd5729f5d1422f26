"""Gated embedding units (Miech et al., 2018), as MCN uses them: no batch norm, no L2 normalisation.

Shapes: B clips, W words, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class ContextGating(nn.Module):
    """x * sigmoid(W x + b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, D)` -> `(B, D)`."""
        return functional.glu(torch.cat((x, self.fc(x)), dim=-1), dim=-1)


class GatedUnit(nn.Module):
    """A linear projection followed by context gating."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width_in, width_out)
        self.cg = ContextGating(width_out)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, width_in)` -> `(B, width_out)`."""
        gated: Tensor = self.cg(self.fc(x))
        return gated


class GateThenProject(nn.Module):
    """The audio head: a gated unit at the feature's own width, then a linear projection to the space's."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.unit = GatedUnit(width_in, width_in)
        self.project = nn.Linear(width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, width_in)` -> `(B, width_out)`."""
        projected: Tensor = self.project(self.unit(x))
        return projected


class WordPooling(nn.Module):
    """Linear, ReLU, then the maximum over a clip's words."""

    def __init__(self, word_dim: int, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(word_dim, width)

    def forward(self, words: Tensor, counted: Tensor) -> Tensor:
        """`(B, W, word_dim)` and a bool mask `(B, W)` of the words that count -> `(B, D)`, non-negative.

        A clip in which no word counts gets zeros.
        """
        # After the ReLU nothing is below zero, so a masked word can be zero: it never wins the maximum.
        x = torch.relu(self.fc(words)).masked_fill(~counted.unsqueeze(-1), 0.0)
        return x.amax(dim=1) if x.shape[1] else x.sum(dim=1)
