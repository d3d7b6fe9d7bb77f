"""The trajectory denoiser: schedule, sizes and loss of PolyGRAD's released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from algos.parts.diffusion import Diffusion, tau_betas
from algos.parts.trajectory_denoiser import TrajectoryDenoiser
from tests.helpers.polygrad import CPU, filled


@pytest.mark.parametrize(
    ("tau", "bar", "std"),
    [
        (1.0, [0.9998, 0.8448, 0.4877, 0.1379, 0.0074, 0.0002, 0.0], [0.051, 0.155, 0.999]),
        (0.1, [1.0, 0.9833, 0.9307, 0.8202, 0.6117, 0.4144, 0.0004], [0.016, 0.049, 0.765]),
    ],
)
def test_schedule_of_the_released_code(tau: float, bar: list[float], std: list[float]) -> None:
    betas = tau_betas(128, tau)
    steps = [0, 32, 64, 96, 120, 126, 127]
    np.testing.assert_allclose(np.cumprod(1.0 - betas)[steps], bar, atol=6e-5)
    diffusion = Diffusion(betas, CPU)
    np.testing.assert_allclose([diffusion.std[t] for t in (10, 64, 127)], std, atol=6e-4)


@pytest.mark.parametrize(
    ("obs_dim", "action_dim", "millions"),
    [(3, 1, 6.52), (11, 3, 6.66), (17, 6, 6.89), (376, 17, 45.5)],
    ids=["Pendulum", "Hopper", "HalfCheetah", "Humanoid"],
)
def test_parameters_of_the_released_denoiser(
    obs_dim: int, action_dim: int, millions: float
) -> None:
    class Sizes:  # weights that are never filled
        generators = (None,)
        device = torch.device("meta")

        def uniform(self, *shape: int, low: float, high: float) -> torch.Tensor:
            return torch.empty(1, *shape, device="meta")

        def normal(self, *shape: int) -> torch.Tensor:
            return torch.empty(1, *shape, device="meta")

    net = TrajectoryDenoiser(Sizes(), 10, obs_dim, action_dim, 1024, 6, torch.float32)  # type: ignore[arg-type]
    count = sum(p.numel() for p in net.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=2e-3)


def test_denoising_loss_is_the_error_on_clean_windows() -> None:
    agent = filled()
    windows = agent.memory.moments.normalise(agent.memory.sample(8, agent.rng))
    streams = agent.rng.state_dict()
    loss = agent.denoiser.loss(windows, agent.diffusion, agent.rng)
    agent.rng.load_state_dict(streams)
    t, eps = agent.rng.integers(4, 8), agent.rng.normal(8, 3, 5)
    bar = torch.cumprod(torch.tensor(1.0 - tau_betas(4, 1.0)), 0).float()[t][..., None, None]
    x0, a = windows[..., :5], windows[..., 5:]
    x = bar.sqrt() * x0 + (1.0 - bar).sqrt() * eps
    x[:, :, 0, :3] = x0[:, :, 0, :3]
    clean = agent.denoiser(torch.cat([x, bar.sqrt() * a], dim=-1), t)
    clean[:, :, 0, :3] = x0[:, :, 0, :3]
    expected = (clean - x0).square().sum() / (8 * 3 * 5)
    torch.testing.assert_close(loss, expected[None], rtol=1e-4, atol=1e-6)
