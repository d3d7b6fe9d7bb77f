"""Generalised advantages of windows by hand, and their standard form."""

from __future__ import annotations

import torch

from algos.parts.advantages import lambda_advantages, standardise_kept, survival


def test_advantages_and_weights_of_a_window_with_a_terminal() -> None:
    """Computed by hand with gamma 0.5 and lambda 0.8; step 1 ends the task."""
    reward = torch.tensor([[[1.0, 2.0, 4.0, 100.0]]])
    terminal = torch.tensor([[[0.0, 1.0, 0.0, 0.0]]])
    value = torch.tensor([[[3.0, 5.0, 7.0, 2.0]]])
    # delta = 1 + 0.5*5 - 3 = 0.5;  2 - 5 = -3;  4 + 0.5*2 - 7 = -2
    # A_2 = -2, A_1 = -3 (nothing follows), A_0 = 0.5 + 0.4 * -3 = -0.7
    advantage = lambda_advantages(reward, terminal, value, 0.5, 0.8)
    torch.testing.assert_close(advantage, torch.tensor([[[-0.7, -3.0, -2.0]]]))
    assert survival(terminal, at_end=False).tolist() == [[[1.0, 0.0, 0.0]]]
    assert survival(terminal, at_end=True).tolist() == [[[1.0, 1.0, 0.0]]]


def test_standardise_kept_leaves_out_what_is_not_kept() -> None:
    values, keep = torch.tensor([[1.0, 2.0, 6.0, 1e6]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    found = standardise_kept(values, keep)
    torch.testing.assert_close(found[:, :3], (values[:, :3] - 3.0) / values[0, :3].std())
