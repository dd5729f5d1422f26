"""How many parameters a model has, and at which width it has as many as another."""

from dataclasses import replace

import torch

from models import MCN
from pipeline.clips.dataset import FeatureDataset
from pipeline.core.errors import InputError
from pipeline.training.settings import TrainSettings, find_scheme

_WIDEST = 1 << 20


def parameters(settings: TrainSettings, dataset: FeatureDataset, word_width: int, width: int | None = None) -> int:
    """Number of a model's parameters, at `width` or that of its settings; no memory is taken for them."""
    streams = tuple(dataset.stream_width(stream) for stream in settings.streams)
    given = settings.model_settings(find_scheme(settings.scheme), streams, word_width)
    with torch.device("meta"):
        model = MCN(given if width is None else replace(given, width=width))
    return sum(parameter.numel() for parameter in model.parameters())


def width_for(wanted: int, settings: TrainSettings, dataset: FeatureDataset, word_width: int) -> int:
    """The width at which the model's number of parameters is nearest to `wanted`; the smaller of two as near.

    InputError where no width gives as many: a scheme of one's own may state the width of every space.
    """
    if parameters(settings, dataset, word_width, 1) == parameters(settings, dataset, word_width, 2):
        if parameters(settings, dataset, word_width) == wanted:
            return settings.width
        raise _none(wanted, settings)
    low, high = 1, 2
    while parameters(settings, dataset, word_width, high) < wanted:
        low, high = high, 2 * high
        if high > _WIDEST:
            raise _none(wanted, settings)
    while high - low > 1:
        middle = (low + high) // 2
        if parameters(settings, dataset, word_width, middle) < wanted:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda width: abs(parameters(settings, dataset, word_width, width) - wanted))


def _none(wanted: int, settings: TrainSettings) -> InputError:
    return InputError(
        f"scheme {settings.scheme}: no width gives it {wanted:,} parameters: its spaces state their own; leave "
        "`parameters` out of compare: equal"
    )
