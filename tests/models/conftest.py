import pytest
import torch

from models.clips import ClipInputs
from models.davenet import ResDavenet


@pytest.fixture(scope="session")
def davenet() -> ResDavenet:
    """A full-width network with random weights; tests leave it as they find it."""
    torch.manual_seed(3)
    return ResDavenet().eval()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def clips(generator: torch.Generator) -> ClipInputs:
    """Eight clips of two video streams (6 and 4 wide), audio rows of 5 and words of 3; the last two lack something."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    rows = torch.arange(4) < torch.tensor([4, 1, 2, 3, 4, 4, 2, 1]).unsqueeze(1)
    known = torch.arange(5) < torch.tensor([5, 1, 2, 3, 4, 5, 2, 0]).unsqueeze(1)
    return ClipInputs(
        video=normal(8, 4, 10).abs(),
        video_rows=rows,
        audio=normal(8, 5).abs(),
        has_audio=torch.tensor([True] * 6 + [False, True]),
        words=normal(8, 5, 3),
        known_words=known,
    )
