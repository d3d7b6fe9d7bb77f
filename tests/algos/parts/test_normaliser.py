"""Normalisers against numpy, Gymnasium and the two-pass formula."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.wrappers.utils import RunningMeanStd

from algos.parts.normaliser import DriftingMoments, StepMoments

CPU = torch.device("cpu")


def test_running_statistics_against_numpy_and_gymnasium() -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(500, 2, 3))
    moments, theirs = StepMoments(2, 3), [RunningMeanStd(shape=(3,)) for _ in range(2)]
    for row in x:
        moments.add(row)
        for r in range(2):
            theirs[r].update(row[r : r + 1])
    for r in range(2):
        np.testing.assert_allclose(moments.mean[r], theirs[r].mean, rtol=1e-12)
        np.testing.assert_allclose(moments.var[r], theirs[r].var, rtol=1e-12)
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.scale[:, 0], x.std(0), rtol=1e-5)


def test_the_normaliser_is_an_exponential_average_without_a_bias_to_its_start() -> None:
    moments = DriftingMoments(2, 0.25, CPU)
    assert torch.equal(moments.scale, torch.ones(2))  # before any data
    moments.add(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    torch.testing.assert_close(moments.center, torch.tensor([2.0, 5.0]))
    # A coordinate that never varies is not stretched to unit size.
    torch.testing.assert_close(moments.scale, torch.tensor([1.0, 0.1]))
    moments.add(torch.tensor([[6.0, 5.0], [6.0, 5.0]]))
    # Weights 0.75 * 0.25 and 0.25; squares (1 + 9) / 2 and 36.
    share = 0.25 / (0.75 * 0.25 + 0.25)
    mean, square = 2.0 + share * 4.0, 5.0 + share * 31.0
    torch.testing.assert_close(moments.center[0], torch.tensor(mean))
    torch.testing.assert_close(moments.scale[0], torch.tensor((square - mean**2) ** 0.5))
