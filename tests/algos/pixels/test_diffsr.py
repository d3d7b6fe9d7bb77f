"""Diff-SR on pixels: the score and what is drawn by it, who trains whom, and pre-training."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import algos
from algos.parts.config import build_config
from algos.parts.optim import step
from algos.parts.rng import ReplicaRng
from algos.parts.spectral import LatentPsi, LatentZeta, NormSpectralCritic, ResidualMLP
from algos.parts.types import Spaces, Transition
from algos.pixels.diffsr import PixelDiffSR
from tests.helpers.updates import same, weights

ACTION_DIM, SIZE, STACK = 2, 20, 3
UPDATES = 600  # of a score that is trained alone
SMALL = {
    "precision": "float32",
    "random_steps": 4,
    "replay_capacity": 200,
    "batch_size": 8,
    "update_every": 1,
    "latent_dim": 8,
    "trunk_dim": 16,
    "hidden": 16,
    "feature_dim": 8,
    "psi_hidden": 16,
    "psi_blocks": 1,
    "zeta_hidden": 16,
    "zeta_blocks": 1,
    "noise_levels": 20,
    "noise_schedule": "vp",
    "pretrain_updates": 0,
    "vae_pretrain_updates": 0,
}


def make(**options) -> PixelDiffSR:
    config = build_config(PixelDiffSR.Config, SMALL | options)
    return PixelDiffSR(Spaces((3 * STACK, SIZE, SIZE), ACTION_DIM), config, [0])


def streams() -> ReplicaRng:
    return ReplicaRng([0], torch.device("cpu"))


class Film:
    """Frame t is all t but for one white corner pixel, and the reward is t."""

    def __init__(self) -> None:
        self.t = 0

    def stack(self) -> np.ndarray:
        frames = np.zeros((STACK, 3, SIZE, SIZE), np.uint8)
        for k in range(STACK):
            frames[k] = max(0, self.t - STACK + 1 + k)
        frames[..., 0, 0] = 255
        return frames.reshape(-1, SIZE, SIZE)

    def drive(self, agent: PixelDiffSR, steps: int) -> tuple[list[np.ndarray], list[dict]]:
        actions, metrics = [], []
        for _ in range(steps):
            obs = self.stack()
            action = agent.act(obs[None, None], explore=True)[:, 0]
            self.t += 1
            no = np.zeros(1, bool)
            reward = np.array([self.t - 1], np.float32)
            agent.observe(Transition(obs[None], action, reward, self.stack()[None], no, no))
            actions.append(action[0])
            metrics.append(agent.update())
        return actions, metrics


def ready(**options) -> PixelDiffSR:
    """An agent that has learned a little."""
    agent = make(**options)
    Film().drive(agent, 10)
    return agent


# ---------------------------------------------------------------- score and drawing


class LinearGaussian:
    """e' = M [s; a] + N(0, S) for latents e' and stacks s: scores and drawings are known.

    At level k the noisy latent is N(sqrt(abar) M [s; a], abar S + (1 - abar) I).
    """

    L = 16  # the level is embedded in half as many coordinates

    def __init__(self) -> None:
        self.g = torch.Generator().manual_seed(0)
        self.m = torch.randn(2 + ACTION_DIM, self.L, generator=self.g)
        root = 0.6 * torch.eye(self.L) + 0.05 * torch.randn(self.L, self.L, generator=self.g)
        self.s, self.root = root @ root.T, root

    def inputs(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Stacks whose coordinates are two numbers again and again, and actions."""
        z = 2.0 * torch.rand(1, size, 2 + ACTION_DIM, generator=self.g) - 1.0
        return z[..., :2].repeat(1, 1, STACK * self.L // 2), z[..., 2:]

    def mean(self, state, action) -> torch.Tensor:
        return torch.cat([state[..., :2], action], dim=-1) @ self.m

    def draw(self, state, action) -> torch.Tensor:
        noise = torch.randn(*state.shape[:2], self.L, generator=self.g)
        return self.mean(state, action) + noise @ self.root.T

    def covariance(self, signal: torch.Tensor) -> torch.Tensor:
        """Of noisy latents, `[..., L, L]`, at sqrt(abar) = `signal` `[...]`."""
        bar = signal.square()[..., None, None]
        return bar * self.s + (1.0 - bar) * torch.eye(self.L)

    def score(self, state, action, x, k, signal) -> torch.Tensor:
        """At levels k `[1, B]` of a schedule with sqrt(abar) = `signal` `[T]`."""
        gap = x - signal[k][..., None] * self.mean(state, action)
        inverse = torch.linalg.inv(self.covariance(signal))
        return -(inverse[k] @ gap[..., None])[..., 0]


def score_agent(**options) -> PixelDiffSR:
    sizes = {
        "latent_dim": 16,
        "trunk_dim": 64,
        "psi_hidden": 64,
        "psi_blocks": 0,
        "zeta_hidden": 64,
    }
    more = {"feature_dim": 32, "dropout": 0.0, "noise_levels": 50}
    return make(**(sizes | more | options))


@pytest.fixture(scope="module", params=["code", "refactored"])
def trained(request) -> tuple[PixelDiffSR, LinearGaussian]:
    """An agent whose score part has learned from a system with known scores."""
    both = {"predict": "noise", "divide_score": False}
    agent = score_agent(**(both if request.param == "refactored" else {}))
    task = LinearGaussian()
    for n in range(UPDATES):
        state, action = task.inputs(256)
        loss = agent.score_loss(state, action, task.draw(state, action))
        for group in agent.model_optimizer.param_groups:
            group["lr"] = 1e-2 * (1.0 - n / UPDATES)
        step(agent.model_optimizer, loss.sum())
    return agent, task


@pytest.mark.extended
def test_the_score_of_a_linear_gaussian_system_is_learned(trained) -> None:
    agent, task = trained
    for k in (2, 10, 25, 45):
        state, action = task.inputs(4000)
        level = torch.full((1, 4000), k)
        noise = torch.randn(1, 4000, task.L, generator=task.g)
        x = agent.diffusion.corrupt(task.draw(state, action), level, noise)
        true = task.score(state, action, x, level, agent.diffusion.signal)
        with torch.no_grad():
            learned = agent.score(agent.psi(state, action), x, level)
        error = float((learned - true).square().mean() / true.square().mean())
        assert error < (0.2 if k == 2 else 0.05), (k, error)


def check_drawings(agent: PixelDiffSR, task: LinearGaussian, tolerance: float) -> None:
    """Many drawings for each of three inputs have the known mean and covariance."""
    states, actions = task.inputs(3)
    for n in range(3):
        state = states[:, n : n + 1].expand(1, 3000, -1)
        action = actions[:, n : n + 1].expand(1, 3000, -1)
        strip = agent.denoise(state, action, 5, streams())[0]
        assert strip.shape == (3000, 5, task.L)
        assert float(strip[:, 0].mean(0).abs().max()) < 0.1  # begins at N(0, I)
        assert float((strip[:, 0].std(0) - 1.0).abs().max()) < 0.1
        drawn = strip[:, -1]
        gap = drawn.mean(0) - task.mean(state, action)[0, 0]
        assert float(gap.abs().max()) < tolerance
        wrong = torch.cov(drawn.T) - task.s
        assert float(wrong.abs().max()) < tolerance * float(task.s.diagonal().max())


@pytest.mark.extended
def test_drawings_by_the_learned_score_have_the_known_mean_and_spread(trained) -> None:
    agent, task = trained
    check_drawings(agent, task, 0.3)


def test_drawings_by_the_true_score_have_the_known_mean_and_spread() -> None:
    agent, task = score_agent(noise_levels=200), LinearGaussian()
    inputs: list = []
    agent.psi = lambda state, action: inputs.append((state, action))
    agent.score = lambda psi, x, k: task.score(*inputs[-1], x, k, agent.diffusion.signal)
    check_drawings(agent, task, 0.1)


def test_the_loss_is_least_at_the_score() -> None:
    """There it is E|eps - E[eps | x]|² = tr(I - (1 - abar) C⁻¹), averaged over the levels."""
    agent, task, size = score_agent(), LinearGaussian(), 20_000
    state, action = task.inputs(size)
    target = task.draw(state, action)
    signal, noise = agent.diffusion.signal, agent.diffusion.noise
    inverse = torch.linalg.inv(task.covariance(signal))
    trace = inverse.diagonal(dim1=-2, dim2=-1).sum(-1)
    least = float((task.L - noise.square() * trace).mean())
    start = agent.rng.state_dict()

    def loss(factor: float) -> float:
        agent.rng.load_state_dict(start)  # every factor sees the same noise
        agent.psi = lambda *args: None
        agent.score = lambda psi, x, k, rng: factor * task.score(state, action, x, k, signal)
        return float(agent.score_loss(state, action, target))

    assert loss(1.0) == pytest.approx(least, rel=0.02)
    for wrong in (0.9, 1.1, 0.0, -1.0):
        assert loss(wrong) > loss(1.0)


def test_the_score_is_the_code_s_contraction() -> None:
    """psiᵀ zeta / d with a sinusoidal level of half the latent's size, written out."""
    agent = make(latent_dim=16)
    g = torch.Generator().manual_seed(0)
    psi, x = torch.randn(1, 5, 8, generator=g), torch.randn(1, 5, 16, generator=g)
    k = torch.tensor([[0, 3, 7, 11, 19]])
    frequency = torch.tensor([10_000.0 ** (-n / 3) for n in range(4)])
    angle = k[..., None] * frequency
    h = agent.zeta.net(torch.cat([x, angle.sin(), angle.cos()], dim=-1))
    zeta = agent.zeta.out(h).view(1, 5, 16, 8)
    expected = (zeta * psi[:, :, None]).sum(-1) / 8
    torch.testing.assert_close(agent.score(psi, x, k), expected, atol=1e-5, rtol=1e-4)


def test_images_go_from_noise_to_a_frame() -> None:
    agent = ready()
    assert agent.shown_levels(6) == [20, 16, 12, 8, 4, 0]
    obs = torch.from_numpy(Film().stack())[None, None].expand(1, 3, -1, -1, -1)
    action = torch.zeros(1, 3, ACTION_DIM)
    images = agent.generate(obs, action, 6, streams())
    assert images.shape == (1, 3, 6, 3, SIZE, SIZE)
    assert images.dtype == torch.uint8
    latents = agent.denoise(agent.vae.states(obs), action, 6, streams())
    first = streams().normal(3, 8)
    torch.testing.assert_close(latents[:, :, 0], first)
    last = ((agent.vae.decode(latents[:, :, -1]).detach() + 0.5) * 255).clamp(0, 255)
    assert float((last - images[:, :, -1]).abs().max()) < 1.0
    more = agent.denoise(agent.vae.states(obs), action, 30, streams())  # more than levels
    assert more.shape[2] == 30
    torch.testing.assert_close(more[:, :, -1], latents[:, :, -1])


# ---------------------------------------------------------------- networks


def test_sizes_are_those_of_the_released_code() -> None:
    rng, config = streams(), PixelDiffSR.Config()

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    def affine(fan_in: int, fan_out: int) -> int:
        return fan_in * fan_out + fan_out

    block = 2 * 512 + affine(512, 2048) + affine(2048, 512)
    bottlenecks = affine(768, 512) + affine(4, 512) + 2 * 2 * 512
    psi = bottlenecks + affine(1024, 512) + 2 * block + affine(512, 2048)
    assert count(LatentPsi(rng, 768, 4, config)) == psi
    few = build_config(PixelDiffSR.Config, {"feature_dim": 2})  # 269 million weights otherwise
    zeta = affine(256 + 128, 512) + 4 * block + affine(512, 256 * 2)
    assert count(LatentZeta(rng, few)) == zeta
    head = affine(2048, 1024) + affine(1024, 1024) + affine(1024, 1)
    critic = NormSpectralCritic(rng, 2048, 1024, torch.float32)
    assert count(critic) == 2 * 2048 + 2 * head


def test_the_residual_network_is_the_code_s() -> None:
    net = ResidualMLP(streams(), 5, 6, 2, 0.5, torch.float32)
    x = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))
    h = net.first(x)
    for norm, wide, narrow in zip(net.norms, net.wide, net.narrow, strict=True):
        h = h + narrow(F.mish(wide(F.layer_norm(h, (6,)) * norm.weight + norm.bias)))
    torch.testing.assert_close(net(x), F.mish(h), atol=1e-5, rtol=1e-4)


def test_dropout_draws_from_the_stream_that_is_given() -> None:
    net = ResidualMLP(streams(), 5, 400, 1, 0.1, torch.float32)
    x = torch.ones(1, 100, 400)
    dropped = net._drop(x, streams())
    assert dropped.unique().tolist() == pytest.approx([0.0, 1.0 / 0.9])
    assert float((dropped == 0.0).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert torch.equal(dropped, net._drop(x, streams()))
    assert net._drop(x, None) is x


def test_states_are_latents_of_single_frames_oldest_first() -> None:
    agent = make()
    g = torch.Generator().manual_seed(0)
    stacks = torch.randint(0, 256, (1, 4, 9, SIZE, SIZE), dtype=torch.uint8, generator=g)
    alone = [agent.vae.encode(stacks[:, :, 3 * k : 3 * k + 3])[0] for k in range(STACK)]
    torch.testing.assert_close(agent.vae.states(stacks), torch.cat(alone, dim=-1))


# ---------------------------------------------------------------- who trains whom


def test_the_next_frame_follows_on_the_step_and_is_not_shifted() -> None:
    agent = make(batch_size=64, random_steps=30)
    Film().drive(agent, 30)
    batch, next_frame = agent.draw()
    newest = batch.obs[:, :, -1, SIZE // 2, SIZE // 2]
    torch.testing.assert_close(next_frame[..., 2, 5, 5], newest + 1)
    assert (next_frame[..., 0, 0] == 255).all()
    assert not (batch.obs[..., 0, 0] == 255).all()


@pytest.mark.parametrize("counted", ["all", "next"])
def test_the_vae_learns_from_all_frames_or_the_next_ones(counted: str) -> None:
    agent = ready(reconstruct=counted)
    batch, next_frame = agent.draw()
    losses, *_ = agent.vae_losses(batch.obs, next_frame)
    mean, log_var = agent.vae.encode(next_frame)
    kl = 0.5 * (mean**2 + log_var.exp() - 1.0 - log_var).sum(-1)
    if counted == "all":
        stacks = [agent.vae.encode(batch.obs[:, :, 3 * k : 3 * k + 3]) for k in range(STACK)]
        kl = torch.cat([kl, *(0.5 * (m**2 + v.exp() - 1.0 - v).sum(-1) for m, v in stacks)], dim=1)
    torch.testing.assert_close(losses["kl"], kl.mean(-1))


@pytest.mark.parametrize("trains", [True, False])
def test_the_critic_trains_psi_and_the_vae_if_asked_to(trains: bool) -> None:
    """The joint gradient, against that of VAE and score alone on the same draws."""
    agent = ready(critic_trains_features=trains)
    data = agent.draw()
    start = agent.rng.state_dict()
    shared = [*agent.vae.encoder.parameters(), *agent.psi.parameters()]
    joint = torch.autograd.grad(agent.joint_loss(*data)[0].sum(), shared)
    agent.rng.load_state_dict(start)
    losses, state, next_latent, _ = agent.vae_losses(data[0].obs, data[1])
    loss = losses["reconstruction_loss"] + losses["kl"]
    loss = loss + agent.score_loss(state, data[0].action, next_latent)
    alone = torch.autograd.grad(loss.sum(), shared)
    for a, b in zip(joint, alone, strict=True):
        assert torch.allclose(a, b, atol=1e-6, rtol=1e-4) != trains


@pytest.mark.parametrize("detached", [True, False])
def test_the_score_trains_the_vae(detached: bool) -> None:
    agent = ready(detach_next_latent=detached)
    batch, next_frame = agent.draw()
    _, state, next_latent, _ = agent.vae_losses(batch.obs, next_frame)
    loss = agent.score_loss(state, batch.action, next_latent)
    of_state, of_next = torch.autograd.grad(loss.sum(), [state, next_latent], allow_unused=True)
    assert float(of_state.abs().sum()) > 0.0
    assert (of_next is None) == detached


def test_the_critic_s_loss_weighs_as_the_mean_of_its_heads() -> None:
    agent = ready()
    batch, next_frame = agent.draw()
    start = agent.rng.state_dict()
    loss, metrics, mean = agent.joint_loss(batch, next_frame)
    agent.rng.load_state_dict(start)
    losses, state, next_latent, _ = agent.vae_losses(batch.obs, next_frame)
    rest = losses["reconstruction_loss"] + losses["kl"]
    rest = rest + agent.score_loss(state, batch.action, next_latent)
    q = agent.values(mean, batch.action)
    y = agent.td_target(batch)
    expected = F.mse_loss(q[0], y.expand(2, -1))
    torch.testing.assert_close((loss - rest)[0], expected, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(metrics["q"][0], q.mean())


def test_targets_read_averages_without_dropout() -> None:
    agent = ready(dropout=0.5)
    batch, _ = agent.draw()
    start = agent.rng.state_dict()
    y = agent.td_target(batch)
    agent.rng.load_state_dict(start)
    state = agent.vae_target.states(batch.next_obs)
    mean = agent.actor(state)
    noise = (agent.noise_std() * agent.rng.normal(8, ACTION_DIM)).clamp(-0.3, 0.3)
    action = (mean + noise).clamp(-1 + 1e-6, 1 - 1e-6)
    q = agent.target(agent.psi_target(state, action)).amin(1)
    expected = batch.reward[..., 0] + 0.99 * batch.not_terminal[..., 0] * q
    torch.testing.assert_close(y, expected.detach())
    assert agent.config.n_step == 3
    newest = batch.obs[:, :, -1, SIZE // 2, SIZE // 2].float()
    n_step = newest + 0.99 * (newest + 1) + 0.99**2 * (newest + 2)
    torch.testing.assert_close(batch.reward[..., 0], n_step)


MODULES = ("vae", "psi", "zeta", "critic", "actor", "vae_target", "psi_target", "target")


def test_the_actor_step_changes_the_actor_alone_and_reads_averaged_features() -> None:
    agent = ready()
    agent.model_optimizer.zero_grad()
    batch, _ = agent.draw()
    state = agent.vae.states(batch.obs).detach()
    before = {name: weights(getattr(agent, name)) for name in MODULES}
    start = agent.rng.state_dict()
    step(agent.actor_optimizer, agent.actor_loss(state).sum())
    changed = {n for n in MODULES if not same(before[n], weights(getattr(agent, n)))}
    assert changed == {"actor"}
    others = [p for n in MODULES if n != "actor" for p in getattr(agent, n).parameters()]
    assert all(p.grad is None for p in others)

    def gradient() -> torch.Tensor:
        agent.rng.load_state_dict(start)
        loss = agent.actor_loss(state).sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, agent.actor.parameters())])

    first = gradient()
    assert float(first.abs().max()) > 0.0
    for name, matters in (("psi", False), ("target", False), ("psi_target", True)):
        with torch.no_grad():
            getattr(agent, name).get_parameter(
                "out.weight" if "psi" in name else "heads.first.weight"
            ).mul_(1.5)
        assert torch.equal(gradient(), first) != matters, name


def test_a_joint_step_moves_everything_and_the_averages_follow() -> None:
    agent = ready(tau=0.25)
    before = {name: copy.deepcopy(weights(getattr(agent, name))) for name in MODULES}
    agent.learn()
    assert not any(same(before[n], weights(getattr(agent, n))) for n in MODULES)
    pairs = {"vae_target": "vae", "psi_target": "psi", "target": "critic"}
    for target, online in pairs.items():
        now = zip(before[target], weights(getattr(agent, online)), strict=True)
        for moved, (old, new) in zip(weights(getattr(agent, target)), now, strict=True):
            torch.testing.assert_close(moved, 0.75 * old + 0.25 * new)


# ---------------------------------------------------------------- pre-training


def counts(agent: PixelDiffSR) -> tuple[int, ...]:
    """Optimiser steps of VAE, zeta, critic and actor so far."""
    found = []
    for module, optimizer in (
        (agent.vae, agent.model_optimizer),
        (agent.zeta, agent.model_optimizer),
        (agent.critic, agent.model_optimizer),
        (agent.actor, agent.actor_optimizer),
    ):
        state = optimizer.state.get(next(module.parameters()), {})
        found.append(int(state.get("step", 0)))
    return tuple(found)


PARTS = {
    2: [(2, 0, 0, 0), (4, 1, 0, 0), (6, 3, 0, 0), (7, 4, 0, 0), (8, 5, 1, 1), (9, 6, 2, 2)],
    7: [(7, 4, 0, 0), (8, 5, 1, 1)],
    10_000: [(7, 4, 0, 0), (8, 5, 1, 1)],
}


@pytest.mark.parametrize("part", PARTS)
def test_pretraining_comes_first_the_vae_before_the_score(part: int) -> None:
    order = {"pretrain_updates": 7, "vae_pretrain_updates": 3, "pretrain_per_update": part}
    quiet = {"noise_start": 0.0, "noise_end": 0.0}
    agent, film = make(update_every=2, **order, **quiet), Film()
    with torch.no_grad():  # a policy that always chooses the corner
        agent.actor.net.layers[-1].bias.fill_(50.0)
    pauses = len(PARTS[part]) - sum(c[2] > 0 for c in PARTS[part])
    names = set()
    for n, expected in enumerate(PARTS[part]):
        # Updates are due at steps 6, 8, ..; four random steps come before.
        actions, metrics = film.drive(agent, 6 if n == 0 else 2)
        assert counts(agent) == expected
        names.add(frozenset(metrics[-1]))
        assert not any(metrics[:-1])
        uniform = [bool((np.abs(a) < 0.999).any()) for a in actions]
        assert all(uniform) == (n < pauses)
        pairs = ((agent.psi_target, agent.psi), (agent.vae_target, agent.vae))
        assert all(same(weights(a), weights(b)) for a, b in pairs) == (n < pauses)
        critics = same(weights(agent.target), weights(agent.critic))
        assert critics == (n < pauses)
    assert len(names) == 1


def test_presets_and_the_version_for_pixels() -> None:
    assert algos.versions(algos.load("diffsr"))["pixels"] is PixelDiffSR
    config = build_config(PixelDiffSR.Config, PixelDiffSR.presets["released"])
    assert math.ceil(config.pretrain_updates / config.pretrain_per_update) == 1
    assert (config.feature_dim, config.batch_size, config.random_steps) == (2048, 256, 2000)
