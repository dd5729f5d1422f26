import numpy as np
import pytest
import torch

from models.standardisation import MomentSums, Standardisation


def test_statistics_are_those_of_all_rows_however_they_were_split() -> None:
    rows = 1e4 + np.random.default_rng(0).standard_normal((101, 6)) * [1, 2, 3, 1e-2, 50, 7]
    moments = MomentSums()
    for part in np.split(rows, [1, 1, 40, 99]):
        moments.add(torch.from_numpy(part))
    mean, scale = moments.statistics()
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scale, rows.std(axis=0), rtol=1e-6)


def test_a_feature_that_never_changes_is_only_shifted() -> None:
    moments = MomentSums()
    moments.add(torch.tensor([[0.1, 0.0, 1.0], [0.1, 0.0, 3.0], [0.1, 0.0, 2.0]]))
    module = Standardisation(3)
    module.set_statistics(*(x.float() for x in moments.statistics()))
    standardised = module(torch.tensor([[0.1, 0.0, 2.0], [0.1, 1.0, 3.0]]))
    np.testing.assert_allclose(standardised, [[0, 0, 0], [0, 1, np.sqrt(1.5)]], atol=1e-6)


def test_statistics_that_make_no_sense_are_refused() -> None:
    module = Standardisation(2)
    with pytest.raises(RuntimeError, match="no statistics"):
        module(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"shape \(2,\), not \(3,\)"):
        module.set_statistics(torch.zeros(3), torch.ones(3))
    for mean, scale in [(torch.tensor([0.0, torch.nan]), torch.ones(2)), (torch.zeros(2), torch.tensor([1.0, 0.0]))]:
        with pytest.raises(ValueError, match="finite"):
            module.set_statistics(mean, scale)
    with pytest.raises(ValueError, match="nothing to measure"):
        MomentSums().statistics()
