"""PolyGRAD's denoising loop against Gaussian systems and against its formulas written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from algos.parts.diffusion import Diffusion, tau_betas
from algos.parts.gaussian_policy import log_prob
from algos.parts.imagination import Imagination
from algos.parts.normaliser import BatchMoments
from algos.parts.rng import ReplicaRng
from algos.parts.types import Spaces
from tests.helpers.polygrad import CPU, PolyGRAD, filled
from tests.helpers.updates import make_small, transition

# Moments of a Gaussian system over 8,192 windows: sampling errors are about 0.015.
WINDOWS = 8192


class LinearSystem:
    """s' = 0.8 s + 0.6 a + 0.4 w, reward 0.5 s - 0.3 a; in normalised units as it stands."""

    S, A, W, HORIZON = 0.8, 0.6, 0.4, 4

    def __init__(self, start: float) -> None:
        self.start, h = start, self.HORIZON
        # States are free + by_action a + by_noise w, rewards follow from states and actions.
        by_action, by_noise = np.zeros((h, h)), np.zeros((h, h))
        for k in range(1, h):
            by_action[k] = self.S * by_action[k - 1]
            by_noise[k] = self.S * by_noise[k - 1]
            by_action[k, k - 1], by_noise[k, k - 1] = self.A, self.W
        free = start * self.S ** np.arange(h)
        zero = np.zeros((h, h))
        rows = (free, 0.5 * free, np.zeros(h))
        self.free = torch.tensor(np.stack(rows, 1).ravel(), dtype=torch.float32)
        gain = np.stack([by_action, 0.5 * by_action - 0.3 * np.eye(h), zero], 1).reshape(3 * h, h)
        self.gain = torch.tensor(gain, dtype=torch.float32)
        noise = np.stack([by_noise, 0.5 * by_noise, zero], 1).reshape(3 * h, h)
        self.cov = torch.tensor(noise @ noise.T, dtype=torch.float32)

    def predictor(self, diffusion: Diffusion) -> Any:
        """E[x_0 | x_t, actions] of the windows, what a perfect denoiser would return."""

        back = []
        for signal, noise in zip(diffusion.signal, diffusion.noise, strict=True):
            spread = signal**2 * self.cov + noise**2 * torch.eye(len(self.cov))
            back.append(signal * torch.linalg.solve(spread, self.cov))

        def predict(x: torch.Tensor, a: torch.Tensor, t: int) -> torch.Tensor:
            mean = self.free + a.flatten(1) @ self.gain.T
            return (mean + (x.flatten(1) - diffusion.signal[t] * mean) @ back[t]).view(x.shape)

        return predict


class LinearPolicy:
    """N(-0.5 s, 0.5²) with guidance lam, in the units of `moments`."""

    GAIN, STD = -0.5, 0.5

    def __init__(self, lam: float, moments: BatchMoments | None = None) -> None:
        self.moments = moments or BatchMoments(4, CPU)  # without data these change nothing
        self.spread = self.STD / self.moments.scale[-1:]
        self.pull = torch.tensor([lam / self.STD**2])

    def mean(self, states: torch.Tensor) -> torch.Tensor:
        mean = self.GAIN * self.moments.unnormalise(states)
        return (mean - self.moments.center[-1:]) / self.moments.scale[-1:]


def closed_loop_moments() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std of the states s' = 0.5 s + 0.6 e + 0.4 w of both together, from 1 on."""
    mean, variance = [1.0], [0.0]
    for _ in range(LinearSystem.HORIZON - 1):
        mean.append(0.5 * mean[-1])
        variance.append(0.25 * variance[-1] + (0.6 * LinearPolicy.STD) ** 2 + 0.4**2)
    return torch.tensor(mean), torch.tensor(variance).sqrt()


def perfect_imagination(lam: float = 0.01, **options: Any) -> tuple[Imagination, LinearSystem]:
    """The loop with a perfect denoiser and a linear policy; all windows begin at 1."""
    config = PolyGRAD.Config(horizon=LinearSystem.HORIZON, **options)
    imagination = Imagination(Diffusion(tau_betas(128, 1.0), CPU), config, 1)
    system = LinearSystem(1.0)
    imagination.denoiser = system.predictor(imagination.diffusion)
    imagination.policy = LinearPolicy(lam)  # type: ignore[assignment]
    return imagination, system


def test_loop_with_a_perfect_denoiser_draws_the_windows_of_given_actions() -> None:
    """Without guidance actions stay N(0, 1), and windows have the moments that these give."""
    imagination, system = perfect_imagination(guidance="none", action_clip=0.0, state_clip=0.0)
    start = torch.full((1, WINDOWS, 1), system.start)
    x, a = imagination.draw(start, ReplicaRng([0], CPU))
    assert x[0, :, 0, 0].unique().tolist() == [1.0]  # the first state stays
    x, a = x[0].flatten(1), a[0].flatten(1)
    assert abs(a.mean()) < 0.02
    assert float(a.std()) == pytest.approx(1.0, abs=0.02)
    torch.testing.assert_close(x.mean(0), system.free, atol=0.06, rtol=0.0)
    # Split into what the actions explain and what the system's noise adds.
    slope = torch.linalg.lstsq(a, x - x.mean(0)).solution
    torch.testing.assert_close(slope, system.gain.T, atol=0.04, rtol=0.0)
    torch.testing.assert_close((x - a @ slope).T.cov(), system.cov, atol=0.03, rtol=0.0)


def test_guidance_is_tuned_to_the_spread_of_the_policy() -> None:
    """Then windows have the moments of the closed loop of policy and system."""
    agent = make_small(PolyGRAD, guidance_scale=0.02)
    imagination, system = perfect_imagination()
    rng, policy = ReplicaRng([0], CPU), imagination.policy
    spreads = []
    for _ in range(16):
        policy.pull = agent.step_size.log_guidance.detach().exp() / LinearPolicy.STD**2
        x, a = imagination.draw(torch.full((1, 1024, 1), system.start), rng)
        state, action = x[0, :, :, 0], a[0, :, :, 0]
        gap = (action - LinearPolicy.GAIN * state) / LinearPolicy.STD
        spreads.append(float(gap[:, :-1].std()))
        agent.step_size.tune_guidance(gap[:, :-1].std()[None], 0.5)
    assert spreads[0] < 0.3  # too strong a pull at first
    assert np.mean(spreads[-6:]) == pytest.approx(1.0, abs=0.04)
    assert abs(float(gap.mean())) < 0.05
    mean, std = closed_loop_moments()
    torch.testing.assert_close(state.mean(0), mean, atol=0.07, rtol=0.0)
    torch.testing.assert_close(state.std(0), std, atol=0.09, rtol=0.0)


def test_a_learned_denoiser_imagines_a_known_system_under_a_known_policy() -> None:
    """It saw actions N(0, 1) only; asked for N(-0.5 s, 0.5²), it gives the closed loop's moments.

    The tolerance is what a network of this size reaches in a few seconds: with a perfect
    denoiser (above) the error is a third of it.
    """
    agent = make_small(
        PolyGRAD,
        obs_dim=1,
        action_dim=1,
        horizon=LinearSystem.HORIZON,
        diffusion_steps=32,
        denoiser_hidden=64,
        denoiser_layers=2,
        batch_size=512,
        guidance_scale=0.02,
        replay_capacity=10_000,
    )
    for draws in np.random.default_rng(0).normal(size=(100, 51, 2)):
        s = 1.2 * draws[0, 0]
        for k, (a, w) in enumerate(draws[1:]):
            agent.memory.add(np.array([s]), np.array([a]), 0.5 * s - 0.3 * a, False, k == 49)
            s = LinearSystem.S * s + LinearSystem.A * a + LinearSystem.W * w
    for k in range(1000):
        agent.denoiser_optimizer.param_groups[0]["lr"] = 3e-3 * (1.0 - k / 1000)
        agent.update_denoiser()
        agent.counters.updates += 1
    moments = agent.memory.moments
    agent.imagination.denoiser.load(agent.averaged, agent.diffusion)
    agent.imagination.policy = policy = LinearPolicy(0.02, moments)
    start, spreads = moments.normalise(torch.ones(1, 1024, 1)), []
    for _ in range(14):
        policy.pull = agent.step_size.log_guidance.detach().exp() / LinearPolicy.STD**2
        drawn = torch.cat(agent.imagination.draw(start, agent.rng), dim=-1)
        state, reward, _, action = moments.unnormalise(drawn)[0].unbind(-1)
        gap = (action - LinearPolicy.GAIN * state) / LinearPolicy.STD
        spreads.append(float(gap[:, :-1].std()))
        agent.step_size.tune_guidance(gap[:, :-1].std()[None], 0.5)
    assert np.mean(spreads[-5:]) == pytest.approx(1.0, abs=0.05)
    mean, std = closed_loop_moments()
    torch.testing.assert_close(state.mean(0), mean, atol=0.15, rtol=0.0)
    torch.testing.assert_close(state.std(0), std, atol=0.12, rtol=0.0)
    assert float((reward - 0.5 * state + 0.3 * action).std()) < 0.05  # of 0.4


def test_actions_stay_within_the_clip_and_guidance_never_overshoots() -> None:
    """With a pull of 3 the code throws actions past the mean and against the clip."""
    spread = {}
    for overshoot in (False, True):
        imagination, _ = perfect_imagination(3.0 * LinearPolicy.STD**2, overshoot=overshoot)
        a = torch.randn(1000, 4, 1, generator=torch.Generator().manual_seed(0))
        moved, _ = imagination._move(5.0 * a, torch.zeros(1000, 4, 1), 60)
        spread[overshoot] = float(moved.abs().max())
    assert spread[False] == 0.0
    assert spread[True] == pytest.approx(2.0 * 3.0 * LinearPolicy.STD)
    last, noise = imagination._move(5.0 * a, torch.zeros(1000, 4, 1), 0)
    assert noise * imagination.diffusion.std[0] < 1e-9
    assert float(last.abs().max()) == pytest.approx(3.0 * LinearPolicy.STD)


def test_one_step_of_the_loop_is_the_formula_of_the_paper() -> None:
    """Steps t = 1 and 0 written out in the units of the task, against the folded ones."""
    agent = filled(hidden=32, diffusion_steps=2, horizon=4, state_clip=0.1)
    with torch.no_grad():
        agent.actor.net.layers[-1].weight.mul_(20.0)  # means far from 0
    moments, d = agent.memory.moments, agent.diffusion
    lam = agent.step_size.log_guidance.detach().exp()
    agent.imagination.load(agent.averaged, agent.actor, moments, lam)
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 6, 4, 7, generator=g)
    start = moments.normalise(agent.memory.start_states(6, agent.rng))[0]
    x, a = agent.imagination.chain(start, noise[..., :5], noise[..., 5:])

    y, b = noise[0, ..., :5].clone(), noise[0, ..., 5:]
    y[:, 0, :3] = start
    with torch.no_grad():
        for t in (1, 0):
            window = torch.cat([y, d.signal[t] * b], dim=-1)[None]
            clean = agent.averaged(window, torch.full((1, 6), t))[0]
            clean[:, 0, :3] = start
            mean = d.mean_x0[t] * clean + d.mean_x[t] * y
            mean = y + (mean - y).clamp(-0.1, 0.1)
            states = clean[..., :3] * moments.scale[:3] + moments.center[:3]
            mu, sigma = (
                agent.actor(states.flatten(0, 1)[None])[0].view(6, 4, 2),
                agent.actor.std()[0],
            )
            raw = b * moments.scale[5:] + moments.center[5:]
            raw = torch.clamp(raw, mu - 3.0 * sigma, mu + 3.0 * sigma)
            if t == 1:
                raw = raw + lam * (mu - raw) / sigma.square()
                mean = mean + d.std[1] * noise[1, ..., :5]
            b = (raw - moments.center[5:]) / moments.scale[5:]
            b = b + d.std[1] * noise[1, ..., 5:] if t == 1 else b
            mean[:, 0, :3] = start
            y = mean
    torch.testing.assert_close(x, y, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"guidance": "sample"}, {"guidance": "none"},
    {"guidance_states": "posterior_mean"}, {"update_states": True}])  # fmt: skip
def test_every_way_of_guidance_gives_windows_from_the_given_states(options: dict[str, Any]) -> None:
    agent, plain = filled(**options), filled()
    obs = agent.memory.start_states(9, agent.rng)
    windows = agent.imagine(obs)
    assert windows.action.shape == (1, 9, 3, 2)
    assert windows.terminal.unique().tolist() in ([0.0], [1.0], [0.0, 1.0])
    torch.testing.assert_close(windows.obs[:, :, 0], obs, atol=1e-5, rtol=1e-4)
    assert all(bool(torch.isfinite(part).all()) for part in windows)
    plain.memory.start_states(9, plain.rng)  # the same draws as above
    assert torch.equal(windows.obs, plain.imagine(obs).obs) == (not options)


def test_states_move_along_the_score_of_the_actions() -> None:
    agent = filled(update_states=True)
    agent.imagination.load(
        agent.averaged, agent.actor, agent.memory.moments, torch.full((1,), 0.01)
    )
    g = torch.Generator().manual_seed(0)
    states, a = torch.randn(5, 3, 3, generator=g), torch.randn(5, 3, 2, generator=g)
    moments = agent.memory.moments
    raw = states.clone().requires_grad_()
    mean = agent.actor((raw * moments.scale[:3] + moments.center[:3]).view(1, 15, 3)).view(5, 3, 2)
    action = a * moments.scale[5:] + moments.center[5:]
    (score,) = torch.autograd.grad(log_prob(action, mean, agent.actor.std()).sum(), raw)
    torch.testing.assert_close(
        agent.imagination._state_score(a, states), score, rtol=1e-3, atol=1e-5
    )


@pytest.mark.usefixtures("bfloat16_products")
def test_bfloat16_loop_agrees_with_float32() -> None:
    options = {"denoiser_hidden": 128, "denoiser_layers": 3, "hidden": 64, "diffusion_steps": 16}
    results = []
    for precision in ("float32", "bfloat16"):
        agent = filled(precision=precision, **options)
        windows = agent.imagine(agent.memory.start_states(64, agent.rng))
        results.append(torch.cat([windows.obs, windows.action], dim=-1))
    error = (results[0] - results[1]).square().mean().sqrt() / results[0].std()
    assert 0.0 < float(error) < 0.03


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_captured_loop_equals_the_loop() -> None:
    agent = PolyGRAD(
        Spaces((3,), 2),
        PolyGRAD.Config(random_steps=0, replay_capacity=1000),
        [0],
        "cuda",
    )
    for k in range(50):
        agent.observe(transition(seed=k, terminated=k % 10 == 9))
    for _ in range(3):  # the weights of later batches reach the graph too
        agent.update_denoiser()
        obs = agent.memory.start_states(32, agent.rng)
        streams = agent.rng.state_dict()
        graphed = agent.imagine(obs)
        assert agent.imagination.graph.graph is not None
        agent.rng.load_state_dict(streams)
        noise = agent.rng.normal(128, 32, 10, 7)[0]
        x, _ = agent.imagination.chain(
            agent.memory.moments.normalise(obs)[0], noise[..., :5], noise[..., 5:]
        )
        plain = agent.memory.moments.unnormalise(x)
        torch.testing.assert_close(graphed.obs[0], plain[..., :3], atol=1e-3, rtol=1e-3)
