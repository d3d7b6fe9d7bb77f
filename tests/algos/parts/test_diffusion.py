"""Noise schedules and the reverse process against numbers and formulas of the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import beta

from algos.parts.diffusion import (
    SCHEDULES,
    Diffusion,
    beta_cdf_alpha_bar,
    cosine_betas,
    linear_betas,
    vp_betas,
)

CPU = torch.device("cpu")

# Read from the released code of QVPO (wadx2019/qvpo 40a1974) and of QSM
# (Alescontrela/score_matching_rl 2e77893), to the digits shown.
COSINE_20 = [
    0.00799, 0.02007, 0.03225, 0.04468, 0.05752, 0.07096, 0.08521, 0.10055, 0.11730, 0.13592,
    0.15700, 0.18136, 0.21021, 0.24537, 0.28973, 0.34814, 0.42943, 0.55102, 0.74848, 0.999,
]  # fmt: skip
VP_5 = [0.1959, 0.4588, 0.6358, 0.7549, 0.8350]


def test_cosine_schedule_of_twenty_steps() -> None:
    betas = cosine_betas(20)
    np.testing.assert_allclose(betas, COSINE_20, atol=1e-5)
    bar = np.cumprod(1.0 - betas)
    np.testing.assert_allclose(bar[-2:], [6.06e-3, 6.06e-6], rtol=2e-3)


def test_variance_preserving_schedule_of_five_steps() -> None:
    betas = vp_betas(5)
    np.testing.assert_allclose(betas, VP_5, atol=1e-4)
    assert np.prod(1.0 - betas) == pytest.approx(0.0064, abs=5e-5)


def test_linear_schedule() -> None:
    betas = linear_betas(1000)
    assert (betas[0], betas[-1], len(betas)) == (1e-4, 2e-2, 1000)
    np.testing.assert_allclose(np.diff(betas), (2e-2 - 1e-4) / 999)


def test_beta_cdf_levels_are_those_of_the_released_code() -> None:
    levels = beta_cdf_alpha_bar(1000)
    assert levels.shape == (1000,)
    facts = [levels.min(), levels.max(), np.median(levels), levels.mean()]
    np.testing.assert_allclose(facts, [0.391, 0.967, 0.758, 0.750], atol=5e-4)
    noise = 0.449 * np.sqrt(1.0 - levels)
    np.testing.assert_allclose([noise.min(), noise.max()], [0.081, 0.351], atol=1e-3)


def test_beta_cdf_moves_only_its_two_ends() -> None:
    levels = beta_cdf_alpha_bar(200)
    raw = 1.0 - beta(0.3, 0.1).cdf(np.arange(200) / 199)
    np.testing.assert_allclose(levels[1:-1], raw[1:-1], atol=1e-12)
    assert (levels[0], levels[-1]) == (levels[1], levels[-2])
    assert np.all(np.diff(levels) <= 0.0)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_posterior_equals_gaussian_conditioning(name: str) -> None:
    """q(x_{t-1} | x_t, x_0) by precision-weighting its two Gaussian factors."""
    betas = SCHEDULES[name](20)
    process = Diffusion(betas, CPU)
    bar = np.cumprod(1.0 - betas)
    for t in range(1, 20):
        prior_variance, alpha = 1.0 - bar[t - 1], 1.0 - betas[t]
        precision = 1.0 / prior_variance + alpha / betas[t]
        mean_x0 = np.sqrt(bar[t - 1]) / prior_variance / precision
        mean_x = np.sqrt(alpha) / betas[t] / precision
        assert process.mean_x0[t] == pytest.approx(mean_x0, rel=1e-9)
        assert process.mean_x[t] == pytest.approx(mean_x, rel=1e-9)
        assert process.std[t] == pytest.approx(precision**-0.5, rel=1e-9)


def test_corruption_has_the_stated_mean_and_variance() -> None:
    process = Diffusion(cosine_betas(20), CPU)
    x0 = torch.tensor([[0.3, -0.8]])
    t = torch.tensor([7])
    bar = float(np.cumprod(1.0 - cosine_betas(20))[7])
    clean = process.corrupt(x0, t, torch.zeros(1, 2))
    torch.testing.assert_close(clean, bar**0.5 * x0)
    noisy = process.corrupt(x0, t, torch.ones(1, 2))
    torch.testing.assert_close(noisy - clean, torch.full((1, 2), (1.0 - bar) ** 0.5))


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("noisy", [False, True])
def test_the_reverse_chain_with_the_exact_noise_recovers_x0(name: str, noisy: bool) -> None:
    process = Diffusion(SCHEDULES[name](20), CPU)
    g = torch.Generator().manual_seed(0)
    x0 = 2.0 * torch.rand(3, 5, 2, generator=g) - 1.0
    x = torch.randn(3, 5, 2, generator=g)
    for t in reversed(range(20)):
        exact = (x - process.signal[t] * x0) / process.noise[t]
        noise = torch.randn(3, 5, 2, generator=g) if noisy else None
        x = process.reverse_step(x, exact, t, noise)
    torch.testing.assert_close(x, x0, atol=1e-5, rtol=0.0)


def test_the_clean_estimate_is_clamped_and_the_last_step_has_no_noise() -> None:
    process = Diffusion(cosine_betas(20), CPU)
    x = torch.full((1, 1), 5.0)
    # At t = 0 the posterior mean is the clean estimate itself, here far above 1.
    assert process.reverse_step(x, torch.zeros(1, 1), 0, torch.ones(1, 1)).item() == pytest.approx(
        1
    )
    quiet = process.reverse_step(x, torch.zeros(1, 1), 5, None)
    loud = process.reverse_step(x, torch.zeros(1, 1), 5, torch.ones(1, 1))
    assert (loud - quiet).item() == pytest.approx(process.std[5], rel=1e-5)
    assert quiet.item() == pytest.approx(process.mean_x0[5] + 5.0 * process.mean_x[5], rel=1e-5)


def test_reverse_step_leaves_its_inputs_alone() -> None:
    process = Diffusion(cosine_betas(20), CPU)
    x, epsilon = torch.full((2, 2), 0.5), torch.full((2, 2), 0.1)
    process.reverse_step(x, epsilon, 4, torch.ones(2, 2))
    assert torch.equal(x, torch.full((2, 2), 0.5))
    assert torch.equal(epsilon, torch.full((2, 2), 0.1))
