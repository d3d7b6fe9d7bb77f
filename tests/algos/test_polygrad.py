"""PolyGRAD: its memory, its sampler against Gaussian systems, and its actor-critic steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import algos
from algos.parts.diffusion import Diffusion
from algos.parts.episodes import EpisodeMemory, Moments
from algos.parts.imagination import Denoiser, GaussianPolicy, Imagination, log_prob, tau_betas
from algos.parts.rng import ReplicaRng
from algos.polygrad import MAX_TRIALS, Windows, lambda_advantages, standardise
from tests.helpers.updates import Drift, drive, make_small, same, snapshot, transition, weights

PolyGRAD = algos.load("polygrad")
CPU = torch.device("cpu")
# Moments of a Gaussian system over 8,192 windows: sampling errors are about 0.015.
WINDOWS = 8192


# ---------------------------------------------------------------- schedule and sizes


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

    net = Denoiser(Sizes(), 10, obs_dim, action_dim, 1024, 6, 128, torch.float32)  # type: ignore[arg-type]
    count = sum(p.numel() for p in net.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=2e-3)


def test_defaults_and_presets() -> None:
    c = PolyGRAD.Config()
    assert (c.horizon, c.diffusion_steps, c.denoiser_hidden, c.denoiser_layers) == (
        10,
        128,
        1024,
        6,
    )
    assert (c.batch_size, c.imagined_batch, c.update_every, c.denoiser_updates) == (256, 1024, 4, 4)
    assert (c.actor_learning_rate, c.critic_learning_rate, c.denoiser_learning_rate) == (
        3e-5, 3e-4, 3e-4,
    )  # fmt: skip
    assert (c.guidance_scale, c.guidance_learning_rate, c.action_clip) == (0.005, 3e-3, 3.0)
    assert {o["schedule_tau"] for o in PolyGRAD.task_overrides.values()} == {0.1}
    assert set(PolyGRAD.task_overrides) == {"mbbl/Hopper", "mbbl/Hopper-ET", "gym/Hopper-v5"}
    assert PolyGRAD.presets["released"] == {
        "truncated_padding": "zeros", "overshoot": True, "line_search": "released",
        "log_prob_floor": 0.0,
    }  # fmt: skip


# ---------------------------------------------------------------- memory


def episode(memory: EpisodeMemory, length: int, terminated: bool, first: float = 1.0) -> np.ndarray:
    """Add an episode whose numbers tell the step: rows `[length, 4]` as they were stored."""
    rows = []
    for k in range(length):
        value, last = first + k, k == length - 1
        end, cut = last and terminated, last and not terminated
        memory.add(np.array([value]), np.array([-value]), 10.0 * value, end, cut)
        rows.append([value, 10.0 * value, float(end), -value])
    return np.array(rows)


def windows_of(memory: EpisodeMemory) -> dict[float, np.ndarray]:
    """Every window that can be drawn, by the observation it begins with."""
    drawn = memory.sample(40 * max(1, len(memory)), ReplicaRng([0], CPU))[0].numpy()
    return {float(w[0, 0]): w for w in drawn}


def test_windows_of_a_terminated_episode_repeat_its_last_row() -> None:
    memory = EpisodeMemory(1, 1, 100, 4, CPU)
    rows = episode(memory, 6, terminated=True)
    found = windows_of(memory)
    assert sorted(found) == [1.0, 2.0, 3.0, 4.0, 5.0]  # starts 0 .. L - 2
    np.testing.assert_array_equal(found[2.0], rows[1:5])
    padding = [[6.0, 0.0, 1.0, -6.0]] * 2  # last observation and action, no reward, terminal
    np.testing.assert_array_equal(found[5.0], [*rows[4:6], *padding])


@pytest.mark.parametrize(
    ("zeros", "starts"), [(False, [1.0, 2.0]), (True, [1.0, 2.0, 3.0, 4.0, 5.0])]
)
def test_windows_of_a_truncated_episode(zeros: bool, starts: list[float]) -> None:
    memory = EpisodeMemory(1, 1, 100, 4, CPU, zero_padding=zeros)
    rows = episode(memory, 6, terminated=False)
    found = windows_of(memory)
    assert sorted(found) == starts
    np.testing.assert_array_equal(found[2.0], rows[1:5])
    if zeros:
        np.testing.assert_array_equal(found[5.0], [*rows[4:6], [0.0] * 4, [0.0] * 4])


@pytest.mark.parametrize("terminated", [True, False])
def test_no_window_starts_within_h_steps_of_the_longest_path(terminated: bool) -> None:
    memory = EpisodeMemory(1, 1, 100, 4, CPU, zero_padding=True, max_path_length=7)
    episode(memory, 7, terminated)
    assert sorted(windows_of(memory)) == [1.0, 2.0, 3.0]  # min(L - 1, P - H) = 3 starts


def test_a_running_episode_is_not_drawn_from() -> None:
    memory = EpisodeMemory(1, 1, 100, 3, CPU)
    episode(memory, 5, terminated=True)
    for k in range(8):
        memory.add(np.array([100.0 + k]), np.zeros(1), 0.0, False, False)
    assert max(windows_of(memory)) < 100.0
    assert memory.moments.count == 5
    memory.add(np.array([108.0]), np.zeros(1), 0.0, True, False)
    assert max(windows_of(memory)) == 107.0


def test_all_windows_of_all_episodes_are_equally_likely() -> None:
    memory = EpisodeMemory(1, 1, 100, 3, CPU)
    episode(memory, 4, terminated=True)
    episode(memory, 11, terminated=True, first=50.0)
    rng = ReplicaRng([0], CPU)
    first, starts = (
        memory.sample(13_000, rng)[0, :, 0, 0],
        memory.start_states(13_000, rng)[0, :, 0],
    )
    for drawn in (first, starts):
        values, counts = np.unique(drawn.numpy(), return_counts=True)
        assert values.tolist() == [1.0, 2.0, 3.0, *range(50, 60)]
        assert abs(counts - 1000).max() < 5 * math.sqrt(1000)


def test_the_ring_forgets_its_oldest_windows_and_keeps_the_others_whole() -> None:
    memory = EpisodeMemory(1, 1, 20, 3, CPU)
    stored = np.concatenate(
        [episode(memory, 7, terminated=True, first=100.0 * k) for k in range(1, 8)]
    )
    live = stored[-20:]
    found = windows_of(memory)
    # The oldest episode lost its first step; of every other all starts 0 .. L - 2 are there.
    assert sorted(found) == [v for v in live[:, 0] if v % 100 != 6]
    for start, window in found.items():
        k = int(np.flatnonzero(stored[:, 0] == start)[0])
        real = 2 if start % 100 == 5.0 else 3
        np.testing.assert_array_equal(window[:real], stored[k : k + real])
        if real == 2:
            np.testing.assert_array_equal(window[2], stored[k + 1] * [1.0, 0.0, 1.0, 1.0])
    assert memory.moments.count == 49
    np.testing.assert_allclose(memory.moments.mean, stored.mean(0))


def test_moments_equal_those_of_all_steps_after_each_episode() -> None:
    rng = np.random.default_rng(0)
    memory, seen = EpisodeMemory(2, 1, 500, 4, CPU), []
    for length in (5, 40, 1, 80):
        for k in range(length):
            obs = np.array([1e3 + rng.normal(), rng.normal() * 1e-2])
            action, last = rng.normal(size=1), k == length - 1
            memory.add(obs, action, 3.0, last and length == 40, last and length != 40)
            row = [*obs, 3.0, float(last and length == 40), *action]
            seen.append(np.float32(row).astype(np.float64))
        mean, std = np.mean(seen, 0), np.std(seen, 0)
        np.testing.assert_allclose(memory.moments.center, mean, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(memory.moments.scale, std + 1e-6, rtol=1e-5)
    rows = torch.tensor(np.array(seen), dtype=torch.float32)
    back = memory.moments.unnormalise(memory.moments.normalise(rows))
    torch.testing.assert_close(back, rows, rtol=1e-6, atol=1e-6)
    assert not memory.moments.normalise(rows)[:, 2].any()  # a constant field becomes 0


def test_a_restored_memory_draws_the_same_windows() -> None:
    memory = EpisodeMemory(1, 1, 20, 3, CPU)
    for k in range(1, 6):
        episode(memory, 6, terminated=bool(k % 2), first=100.0 * k)
    memory.add(np.array([7.0]), np.zeros(1), 0.0, False, False)  # an episode under way
    twin = EpisodeMemory(1, 1, 20, 3, CPU)
    twin.load_state_dict(snapshot(memory))
    for part in (memory, twin):
        episode(part, 5, terminated=True, first=900.0)
    draws = [m.sample(50, ReplicaRng([3], CPU)) for m in (memory, twin)]
    assert torch.equal(*draws)
    assert torch.equal(memory.moments.scale, twin.moments.scale)


# ---------------------------------------------------------------- the sampler


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

    def __init__(self, lam: float, moments: Moments | None = None) -> None:
        self.moments = moments or Moments(4, CPU)  # without data these change nothing
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
    agent = make_small(PolyGRAD, guidance_scale=0.02, guidance_learning_rate=0.5)
    imagination, system = perfect_imagination()
    rng, policy = ReplicaRng([0], CPU), imagination.policy
    spreads = []
    for _ in range(16):
        policy.pull = agent.step_size.log_guidance.detach().exp() / LinearPolicy.STD**2
        x, a = imagination.draw(torch.full((1, 1024, 1), system.start), rng)
        state, action = x[0, :, :, 0], a[0, :, :, 0]
        gap = (action - LinearPolicy.GAIN * state) / LinearPolicy.STD
        spreads.append(float(gap[:, :-1].std()))
        agent.tune_guidance(gap[:, :-1].std()[None])
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
        guidance_learning_rate=0.5,
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
        agent.tune_guidance(gap[:, :-1].std()[None])
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
    moments, d, c = agent.memory.moments, agent.diffusion, agent.config
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
            b = b + c.action_noise * d.std[1] * noise[1, ..., 5:] if t == 1 else b
            mean[:, 0, :3] = start
            y = mean
    torch.testing.assert_close(x, y, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def filled(steps: int = 60, **options: Any) -> Any:
    """A small agent past its random steps, with episodes of its own in memory."""
    agent = make_small(PolyGRAD, random_steps=steps, replay_capacity=1000, **options)
    task = Drift((0,), 3, 2)
    for _ in range(steps):
        action = agent.act(task.obs[:, None], explore=True)[:, 0]
        agent.observe(task.step(action))
    return agent


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
        algos.base.agent.Spaces((3,), 2),
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


# ---------------------------------------------------------------- learning the world model


def test_denoising_loss_is_the_error_on_clean_windows() -> None:
    agent = filled()
    windows = agent.memory.moments.normalise(agent.memory.sample(8, agent.rng))
    streams = agent.rng.state_dict()
    loss = agent.denoising_loss(windows)
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


def test_the_average_is_a_copy_at_first_and_moves_at_every_tenth_update() -> None:
    agent = filled(denoiser_updates=4, ema_every=10, ema_start=20, ema_rate=0.25)
    after = []
    for _ in range(6):  # updates 0 .. 23
        agent.update_denoiser()
        agent.counters.updates += 1
        after.append((weights(agent.averaged), weights(agent.denoiser)))
    moved = [not same(after[k][0], after[k + 1][0]) for k in range(5)]
    assert moved == [False, True, False, False, True]  # at updates 10 (of 8-11) and 20
    assert not same(*after[2])  # a copy, but of update 10
    gap = [(new - old).abs().max() for new, old in zip(after[5][0], after[3][0], strict=True)]
    far = [(new - old).abs().max() for new, old in zip(after[5][1], after[3][0], strict=True)]
    assert 0.0 < float(torch.stack(gap).max()) < 0.5 * float(torch.stack(far).max())


# ---------------------------------------------------------------- actor-critic


def test_advantages_and_weights_of_a_window_with_a_terminal() -> None:
    """Computed by hand with gamma 0.5 and lambda 0.8; step 1 ends the task."""
    reward = torch.tensor([[[1.0, 2.0, 4.0, 100.0]]])
    terminal = torch.tensor([[[0.0, 1.0, 0.0, 0.0]]])
    value = torch.tensor([[[3.0, 5.0, 7.0, 2.0]]])
    # delta = 1 + 0.5*5 - 3 = 0.5;  2 - 5 = -3;  4 + 0.5*2 - 7 = -2
    # A_2 = -2, A_1 = -3 (nothing follows), A_0 = 0.5 + 0.4 * -3 = -0.7
    advantage = lambda_advantages(reward, terminal, value, 0.5, 0.8)
    torch.testing.assert_close(advantage, torch.tensor([[[-0.7, -3.0, -2.0]]]))
    assert make_small(PolyGRAD).weights(terminal).tolist() == [[[1.0, 0.0, 0.0]]]
    at_end = make_small(PolyGRAD, learn_at_end=True)
    assert at_end.weights(terminal).tolist() == [[[1.0, 1.0, 0.0]]]


def test_standardise_leaves_out_what_is_not_kept() -> None:
    values, keep = torch.tensor([[1.0, 2.0, 6.0, 1e6]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    found = standardise(values, keep)
    torch.testing.assert_close(found[:, :3], (values[:, :3] - 3.0) / values[0, :3].std())


def some_windows(agent: Any, size: int = 24, horizon: int = 3) -> Windows:
    """Windows whose actions the policy drew, some of which end."""
    g = torch.Generator().manual_seed(0)
    obs = torch.randn(1, size, horizon, 3, generator=g)
    with torch.no_grad():
        mean = agent.actor(obs.flatten(1, 2)).view(1, size, horizon, 2)
        action = mean + agent.actor.std() * torch.randn(mean.shape, generator=g)
    terminal = (torch.rand(1, size, horizon, generator=g) < 0.2).float()
    return Windows(obs, action, torch.randn(1, size, horizon, generator=g), terminal)


def test_losses_of_actor_and_critic() -> None:
    agent = make_small(PolyGRAD, discount=0.9, entropy_weight=0.1, tau=0.5)
    with torch.no_grad():
        for p in agent.critic.parameters():  # the target takes half of this before its use
            p.add_(0.3)
    windows = some_windows(agent)
    windows.action[0, 0, 0] = 30.0  # far beyond the floor of the log density
    with torch.no_grad():
        halfway = [0.5 * (p + q) for p, q in zip(
            agent.critic.parameters(), agent.target.parameters(), strict=True)]  # fmt: skip
        for p, q in zip(agent.target.parameters(), halfway, strict=True):
            p.copy_(q)
        value = agent.target(windows.obs.view(1, 72, 3)).view(1, 24, 3)
        a = lambda_advantages(windows.reward, windows.terminal, value, 0.9, 0.9)
        alive = (1.0 - windows.terminal[..., :2]).cumprod(-1)
        keep = torch.ones_like(a, dtype=torch.bool)
        keep[0, 0, 0] = False
        scaled = (a - a[keep].mean()) / a[keep].std()
        mean = agent.actor(windows.obs[:, :, :2].flatten(1, 2)).view(1, 24, 2, 2)
        normal = torch.distributions.Normal(mean, agent.actor.std()[:, None])
        log_p, entropy = normal.log_prob(windows.action[:, :, :2]).sum(-1), normal.entropy().sum(-1)
        actor = (alive * (-log_p * scaled * keep - 0.1 * entropy)).mean()
        v = agent.critic(windows.obs[:, :, :2].flatten(1, 2)).view(1, 24, 2)
        critic = (alive * keep * 0.5 * (v - a - value[..., :2]).square()).mean()
    agent.target.load_state_dict(make_small(PolyGRAD).target.state_dict())
    metrics = agent.update_actor_critic(windows)
    torch.testing.assert_close(metrics["actor_loss"], actor[None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["critic_loss"], critic[None], rtol=1e-4, atol=1e-5)
    assert metrics["kept"].item() == pytest.approx(47 / 48)
    for p, q in zip(agent.target.parameters(), halfway, strict=True):
        torch.testing.assert_close(p, q)


def actor_step(agent: Any, **fields: torch.Tensor) -> dict[str, torch.Tensor]:
    """One actor update on `some_windows` with random advantages."""
    windows = some_windows(agent)
    obs, action = (part[:, :, :-1].flatten(1, 2) for part in windows[:2])
    g = torch.Generator().manual_seed(1)
    advantage = torch.randn(1, 48, generator=g)
    return agent.update_actor(obs, action, advantage, torch.ones(1, 48))


def test_line_search_ends_within_the_tolerance() -> None:
    agent = make_small(PolyGRAD, actor_learning_rate=0.05)
    before = weights(agent.actor)
    metrics = actor_step(agent)
    assert metrics["first_change"].item() > 0.1
    assert metrics["policy_change"].item() == pytest.approx(0.01, rel=0.2)
    # The accepted step is AdamW's, as long as 0.8^k of the rate says.
    shorter = 0.8 ** (metrics["trials"].item() - 1.0)
    twin = make_small(PolyGRAD, actor_learning_rate=0.05 * shorter, policy_change_tolerance=1.0)
    actor_step(twin)
    for p, q in zip(agent.actor.parameters(), twin.actor.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-4)
    assert not same(before, weights(agent.actor))


def test_line_search_never_exceeds_the_cap() -> None:
    agent = make_small(PolyGRAD, actor_learning_rate=1e-6)
    metrics = actor_step(agent)
    assert metrics["policy_change"].item() < 0.008  # too small, and it stays so
    assert metrics["trials"].item() == 1
    assert metrics["rate"].item() == pytest.approx(1e-6)


def test_released_line_search_steps_std_and_moments_once_per_trial() -> None:
    counts = {}
    for kind in ("same_step", "released"):
        agent = make_small(PolyGRAD, actor_learning_rate=0.02, line_search=kind)
        std = agent.actor.raw_std.detach().clone()
        trials = int(actor_step(agent)["trials"])
        assert 1 < trials <= MAX_TRIALS + 1
        steps = agent.actor_optimizer.state[agent.actor.raw_std]["step"]
        moved = float((agent.actor.raw_std.detach() - std).abs().min())
        counts[kind] = (trials, int(steps), moved)
    trials, steps, moved = counts["same_step"]
    assert steps == 1
    assert moved == pytest.approx(0.02 * 0.8 ** (trials - 1), rel=0.02)  # Adam's first step
    trials, steps, moved = counts["released"]
    assert steps == trials
    whole = 0.02 * sum(0.8**k for k in range(trials))
    assert moved == pytest.approx(whole, rel=0.05)


def test_the_rate_follows_the_first_change_up_to_its_cap() -> None:
    agent = make_small(PolyGRAD, rate_learning_rate=0.1)
    cap = math.log(3e-5)
    agent.adapt_rate(0.05)  # too far: lower
    low = agent.step_size.log_rate.item()
    assert low < cap - 0.05
    for _ in range(40):
        agent.adapt_rate(0.0)
    assert agent.step_size.log_rate.item() == pytest.approx(cap)


def test_gradients_of_mean_and_critic_are_clipped_and_those_of_std_are_not() -> None:
    agent = make_small(PolyGRAD, max_grad_norm=1e-4)
    agent.update_actor_critic(some_windows(agent))
    for module in (agent.actor.net, agent.critic):
        norm = torch.cat([p.grad.flatten() for p in module.parameters()]).norm()
        assert float(norm) == pytest.approx(1e-4, rel=0.02)
    assert float(agent.actor.raw_std.grad.norm()) > 1e-3


# ---------------------------------------------------------------- the agent


def test_policy_is_a_plain_gaussian_of_the_given_std() -> None:
    rng = ReplicaRng([0], CPU)
    policy = GaussianPolicy(rng, [3, 8, 8, 2], 1.0, 0.1)
    torch.testing.assert_close(policy.std(), torch.ones(1, 1, 2))
    with torch.no_grad():
        policy.raw_std.fill_(-50.0)
    torch.testing.assert_close(policy.std(), torch.full((1, 1, 2), 0.1))
    normal = torch.distributions.Normal(torch.zeros(2), policy.std()[0, 0])
    torch.testing.assert_close(policy.entropy()[0], normal.entropy().sum())


@pytest.mark.parametrize("unclipped", [True, False])
def test_actions_are_stored_as_drawn_unless_someone_else_chose_them(unclipped: bool) -> None:
    agent = make_small(PolyGRAD, random_steps=0, store_unclipped=unclipped, initial_std=3.0)
    drawn = []
    for k in range(20):
        action = agent.act(np.zeros((1, 1, 3), np.float32), explore=True)[:, 0]
        drawn.append(agent.drawn[0].copy())
        agent.observe(transition(seed=k, action=action))
    other = np.full((1, 2), 0.25, np.float32)
    agent.observe(transition(seed=20, action=other))
    stored = agent.memory.rows[:21, 5:].numpy()
    expected = np.stack(drawn) if unclipped else np.clip(drawn, -1.0, 1.0)
    assert np.abs(drawn).max() > 1.0
    np.testing.assert_array_equal(stored[:20], expected)
    np.testing.assert_array_equal(stored[20], other[0])


def test_rhythm_of_updates() -> None:
    """Every 4th step after the random ones: 2 denoiser updates, and later the actor-critic."""
    agent = make_small(
        PolyGRAD, random_steps=10, agent_start=16, update_every=4, denoiser_updates=2
    )
    task, when = Drift((0,), 3, 2), {"denoiser": [], "actor": [], "reported": []}
    denoise, imagine = agent.denoising_loss, agent.imagine
    agent.denoising_loss = lambda w: when["denoiser"].append(agent.counters.steps) or denoise(w)
    agent.imagine = lambda obs: when["actor"].append(agent.counters.steps) or imagine(obs)
    for _ in range(34):
        _, (metrics,) = drive(agent, task, 1)
        if metrics:
            when["reported"].append(agent.counters.steps)
    assert when["denoiser"] == [14, 14, 18, 18, 22, 22, 26, 26, 30, 30, 34, 34]
    assert when["actor"] == [26, 30, 34]
    assert when["reported"] == when["actor"]


def test_terminated_and_truncated_windows_teach_different_things() -> None:
    """A time limit is no terminal anywhere in memory; the end of a task is one."""
    for ends in ("terminated", "truncated"):
        agent = make_small(PolyGRAD, random_steps=0)
        for k in range(40):
            agent.observe(transition(seed=k, **{ends: k % 8 == 7}))
        terminal = agent.memory.sample(200, agent.rng)[..., 4]
        assert bool(terminal.any()) == (ends == "terminated")
    agent.update()
    assert agent.imagine(agent.memory.start_states(20, agent.rng)).terminal.sum() == 0


def test_hot_loop_is_one_imagined_batch() -> None:
    agent = filled(imagined_batch=12)
    windows = agent.hot_loops()["imagine"]()
    assert windows.obs.shape == (1, 12, 3, 3)


def test_random_steps_are_uniform_and_not_the_policy() -> None:
    agent = make_small(PolyGRAD, random_steps=1)
    obs = np.zeros((1, 2000, 3), np.float32)
    for inside, uniform in ((True, True), (False, False)):
        action = agent.act(obs, explore=True)
        assert (np.abs(action).max() < 1.0) == inside  # a Gaussian of std 1 is clamped
        assert (abs(np.square(action).mean() - 1.0 / 3.0) < 0.03) == uniform
        agent.observe(transition())
