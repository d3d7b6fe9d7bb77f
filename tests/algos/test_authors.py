"""Methods against what their authors' code computes from the same weights, batches and noise.

Every file of `tests/fixtures` begins with initial weights, and then gives for each update the
batches and random numbers in the order in which the agent asks for them, the losses, and at
last the weights after the last update.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import algos
import algos.polygrad
import algos.ppo
from algos.parts.episodes import EpisodeMemory
from algos.parts.optim import adam
from algos.parts.replay import Batch
from algos.parts.rollout import RolloutSteps
from algos.parts.trajectory_denoiser import TrajectoryDenoiser
from tests.helpers.authors import (
    AuthorsNumbers,
    check_close,
    fed_by_hand,
    on_tape,
    tick,
    weights_and_biases,
)
from tests.helpers.pixels import make_stacked
from tests.helpers.updates import make, transition


def make_float32(algo: str, obs_dim: int, action_dim: int, preset: str = "", **options) -> Any:
    """A small agent of one replica in float32, with a preset if there is one."""
    cls = algos.load(algo)
    options = {"precision": "float32", **(cls.presets[preset] if preset else {}), **options}
    return make(cls, (0,), obs_dim, action_dim, **options)


@pytest.mark.parametrize(
    ("name", "preset"), [("default", ""), ("upload", "uploaded"), ("head", "released")]
)
def test_diffsr(name: str, preset: str) -> None:
    """Four updates of features, spectral critic, actor and temperature."""
    authors = AuthorsNumbers.read(f"diffsr_{name}")
    sizes = {"psi_hidden": 10, "feature_dim": 8, "zeta_hidden": 14, "hidden": 12}
    agent = make_float32("diffsr", 5, 3, preset, batch_size=16, noise_levels=50, **sizes)
    fed_by_hand(agent)
    parts = ("psi", "zeta", "critic", "target", "actor", "temperature")
    authors.under("init").load(agent, *parts)
    for k in range(4):
        update = authors.under(f"u{k}")
        expected = update.under("expected")
        for j in range(4):
            agent.replay.queue.append(update.batch(j))
            agent.rng.push("integers", update[f"level{j}"][:, None])
            agent.rng.push("normal", update[f"noise{j}"])
        if agent.config.train_critic:
            agent.rng.push("normal", update["next_action_noise"])
        agent.rng.push("normal", update["action_noise"])
        tick(agent, 25_001 + k)
        metrics = agent.learn()
        for loss in {"feature_loss", "critic_loss", "actor_loss"} & metrics.keys():
            expected.check(loss, metrics[loss])
        expected.check("alpha", agent.temperature.value())
    authors.under("final").check_weights(agent, *parts)


@pytest.mark.parametrize(("name", "preset"), [("default", ""), ("released", "released")])
def test_lvrep(name: str, preset: str) -> None:
    """Four updates of the autoencoder, the critic on its prior, actor and temperature."""
    authors = AuthorsNumbers.read(f"lvrep_{name}")
    sizes = {"feature_dim": 6, "feature_hidden": 10, "hidden": 10, "noises": 5}
    agent = fed_by_hand(make_float32("lvrep", 4, 2, preset, batch_size=12, **sizes))
    parts = (
        *("encoder", "prior", "decoder", "prior_target"),
        *("critic", "target", "actor", "temperature"),
    )
    authors.under("init").load(agent, *parts)
    losses = ("feature_loss", "state_loss", "reward_loss", "kl", "actor_loss", "critic_loss")
    for k in range(4):
        update = authors.under(f"u{k}")
        agent.replay.queue += [update.batch(j) for j in range(4)]
        noise = ("z0", "z1", "z2", "z3", "next_action_noise", "action_noise")
        agent.rng.push("normal", *(update[name] for name in noise))
        tick(agent, 25_001 + k)
        metrics = agent.learn()
        for loss in losses:
            update.under("expected").check(loss, metrics[loss])
    authors.under("final").check_weights(agent, *parts)


def test_qvpo() -> None:
    """Three updates from a true memory, then an action of exploration and one of evaluation."""
    authors = AuthorsNumbers.read("qvpo_released")
    sizes = {"diffusion_steps": 5, "train_samples": 6, "eval_samples": 5}
    agent = diffusion_policy("qvpo", authors, **sizes)
    for k in range(3):
        update = authors.under(f"u{k}")
        agent.rng.push("integers", np.concatenate([update["index1"], update["index2"]]))
        agent.rng.push("normal", *update["chain_target"], *update["chain_train"])
        agent.rng.push("uniform", update["uniform"])
        check_update_of_diffusion_policy(agent, update, 10_001 + 50_000 * k)
    check_diffusion_policy(agent, authors)


def test_dipo() -> None:
    """The same of DIPO, whose memory of actions keeps those that were taken."""
    authors = AuthorsNumbers.read("dipo_released")
    agent = diffusion_policy("dipo", authors, diffusion_steps=6)
    for k in range(3):
        update = authors.under(f"u{k}")
        agent.rng.push("integers", update["index1"])
        agent.rng.push("normal", *update["chain_target"])
        agent.rng.push("integers", update["index2"])
        check_update_of_diffusion_policy(agent, update, 10_001 + 50_000 * k)
    check_diffusion_policy(agent, authors)


DIFFUSION_POLICY = ("actor", "actor_target", "critic", "critic_target")


def diffusion_policy(algo: str, authors: AuthorsNumbers, **sizes: int) -> Any:
    """An agent with the authors' weights and 40 transitions in its memory."""
    sizes |= {"batch_size": 8, "hidden": 12, "replay_capacity": 1_000}
    agent = on_tape(make_float32(algo, 4, 2, "released", **sizes))
    authors.under("init").load(agent, *DIFFUSION_POLICY)
    memory = authors.under("memory").arrays
    fields = {"done": "terminated"}
    for i in range(40):
        step = {fields.get(name, name): values[i] for name, values in memory.items()}
        agent.observe(transition(1, 4, 2, **step))
    return agent


def check_update_of_diffusion_policy(agent: Any, update: AuthorsNumbers, steps: int) -> None:
    """Learn once with the rest of the update's random numbers."""
    agent.rng.push("integers", update["t"])
    agent.rng.push("normal", update["z"])
    tick(agent, steps)
    metrics = agent.learn()
    for loss in ("critic_loss", "actor_loss"):
        update.under("expected").check(loss, metrics[loss])


def check_diffusion_policy(agent: Any, authors: AuthorsNumbers) -> None:
    """Compare weights after the last update, and actions."""
    authors.under("final").check_weights(agent, *DIFFUSION_POLICY)
    act = authors.under("act")
    for way in ("explore", "eval"):
        agent.rng.push("normal", *act[f"{way}/noise"])
        with torch.no_grad():
            action = agent.exploit(act.tensor("obs"), way == "explore", agent.rng)
        act.check(f"{way}/expected", action.clamp(-1.0, 1.0))


def test_qsm() -> None:
    """Three updates of critics and score network."""
    authors = AuthorsNumbers.read("qsm")
    agent = fed_by_hand(make_float32("qsm", 4, 2, "released", batch_size=8, hidden=10))
    authors.under("init").load(agent, "actor", "critic", "target")
    for k in range(3):
        update = authors.under(f"u{k}")
        obs, action, next_obs = map(update.tensor, ("observations", "actions", "next_observations"))
        reward, mask = update.column("rewards"), update.column("masks")
        agent.replay.queue.append(Batch(obs, action, reward, next_obs, mask))
        agent.rng.push("normal", *update["chain"][:5], update["target_noise"])
        agent.rng.push("integers", update["t"])
        agent.rng.push("normal", update["z"])
        tick(agent, 10_001 + k)
        metrics = agent.learn()
        check_close(metrics["critic_loss"], update["critic_loss"].sum(), "loss of both critics")
        update.check("actor_loss", metrics["actor_loss"])
    layers = numbered("MLP_0.", agent.actor.time) | numbered("MLP_1.", agent.actor.net)
    layers |= numbered("critic.", agent.critic.net) | numbered("target.", agent.target.net)
    weights = weights_and_biases(layers, "w", "b")
    authors.check_projections({"frequency": agent.actor.frequency, **weights})


def numbered(prefix: str, net: Any) -> dict[str, nn.Module]:
    """The layers of a network by `prefix` and their number."""
    return {f"{prefix}{i}": layer for i, layer in enumerate(net.layers)}


@pytest.mark.parametrize("double", [False, True], ids=["single", "released"])
def test_dpmd(double: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three updates; the authors' code takes the weights between its two critic steps."""
    authors = AuthorsNumbers.read("dpmd_released" if double else "dpmd_single")
    monkeypatch.setattr("algos.parts.denoiser.Denoiser.TIME_DIM", 16)
    sizes = {"batch_size": 8, "hidden": 10, "particles": 5, "diffusion_steps": 6}
    rhythm = {"alpha_every": 2, "double_critic_step": double}
    agent = make_float32("dpmd", 4, 2, "released", **sizes, **rhythm)
    for net in (agent.actor, agent.actor_target):  # their embedding of time, of other layers
        net.sinusoid = torch.from_numpy(authors["time_table"])
        net.time = type(net.time)(agent.rng, 1, [16, 32, 16], "mish")
    agent.actor_optimizer = adam(agent.actor.parameters(), agent.config.learning_rate)
    fed_by_hand(agent)
    parts = ("actor", "actor_target", "critic", "critic_target", "temperature")
    authors.under("init").load(agent, *parts)
    for k in range(3):
        update = authors.under(f"u{k}")
        obs, action, next_obs = map(update.tensor, ("obs", "action", "next_obs"))
        reward, done = update.column("reward"), update.column("done")
        agent.replay.queue.append(Batch(obs, action, reward, next_obs, 1.0 - done))
        tick(agent, 30_001 + k)
        chain = update["chain"].transpose(1, 2, 0, 3)[:6]  # their last step adds no noise
        agent.rng.push("normal", *chain, update["last"])
        if agent.phase()[0]:
            agent.rng.push("integers", update["t"])
            agent.rng.push("normal", update["z"])
        metrics = agent.learn()
        update.check("critic_loss", metrics["critic_loss"])
        update.check("weight", metrics["weight"], rtol=1e-5, atol=1e-6)
        update.under("expected").check("mean", agent.statistics.mean)
        update.under("expected").check("std", agent.statistics.std)
    tolerance = {} if double else {"atol": 2e-5}
    authors.under("final").check_weights(agent, *parts, **tolerance)


def test_td3() -> None:
    """Six updates of the critics, three of actor and targets."""
    authors = AuthorsNumbers.read("td3")
    agent = fed_by_hand(make_float32("td3", 5, 3, "released", batch_size=10, hidden=14))
    parts = ("actor", "actor_target", "critic", "critic_target")
    authors.under("init").load(agent, *parts)
    for k in range(6):
        update = authors.under(f"u{k}")
        agent.replay.queue.append(update.batch())
        agent.rng.push("normal", update["noise"])
        tick(agent, 25_001 + k)
        update.under("expected").check("critic_loss", agent.learn()["critic_loss"])
    authors.under("final").check_weights(agent, *parts)


def test_drqv2() -> None:
    """Two updates from pictures, shifts and clipped noise included."""
    authors = AuthorsNumbers.read("drqv2")
    sizes = {"batch_size": 6, "hidden": 16, "trunk_dim": 8, "replay_capacity": 2_000}
    cls = algos.load("drqv2")
    agent = fed_by_hand(make_stacked(cls, (9, 24, 24), 2, **cls.presets["released"], **sizes))
    draw_weights(agent)
    for k in range(2):
        update = authors.under(f"u{k}")
        obs, action, reward, next_obs = map(update.tensor, ("obs", "action", "reward", "next_obs"))
        discount = update.tensor("discount") / np.float32(agent.config.discount)
        agent.replay.queue.append(Batch(obs, action, reward, next_obs, discount))
        agent.rng.push("integers", update["shift"], update["next_shift"])
        agent.rng.push("normal", update["next_noise"], update["noise"])
        tick(agent, int(update["step"]))
        metrics = agent.learn()
        for loss in ("critic_loss", "actor_loss"):
            update.under("expected").check(loss, metrics[loss])
    trunk = agent.actor.trunk
    layers = numbered("conv", agent.vision)
    layers |= {"actor.trunk": trunk.linear, "actor.norm": trunk.norm}
    layers |= numbered("actor", agent.actor.net)
    for name in ("critic", "target"):
        critic = getattr(agent, name)
        layers |= {f"{name}.trunk": critic.trunk.linear, f"{name}.norm": critic.trunk.norm}
        layers |= numbered(name, critic.heads.net)
    authors.check_projections(weights_and_biases(layers, "weight", "bias"))


@torch.no_grad()
def draw_weights(agent: Any) -> None:
    """Draw the weights that the authors' code began with here: they are not in the file."""
    rng = np.random.RandomState(7)
    for part in ("vision", "actor", "critic"):
        for name, weight in getattr(agent, part).named_parameters():
            x = rng.standard_normal(tuple(weight.shape)).astype(np.float32)
            scale, center = 0.02, 0.0
            if name.endswith("norm.weight"):
                center = 1.0
            elif name.endswith("weight"):
                convolution = part == "vision" and weight.dim() == 5
                inputs = weight.shape[2:] if convolution else weight.shape[-2:-1]
                scale = 1.0 / np.sqrt(np.prod(inputs))
            weight.copy_(torch.from_numpy(x * np.float32(scale)) + center)
    agent.target.load_state_dict(agent.critic.state_dict())


@pytest.mark.parametrize(("name", "preset", "hidden"), [("ppo", "cleanrl", 12), ("spo", "spo", 6)])
def test_ppo(name: str, preset: str, hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Advantages of a rollout, then four minibatches of a policy that has moved since."""
    authors = AuthorsNumbers.read(name)
    monkeypatch.setattr(algos.ppo, "DEEP", (12, 12, 8, 8, 6, 6))
    sizes = {"batch_size": 12, "rollout_steps": 48, "hidden": hidden}
    agent = make_float32("ppo", 4, 2, preset, **sizes)
    authors.under("init").load(agent, "actor", "critic")
    obs, action, reward = map(authors.tensor, ("obs", "action", "reward"))
    goes_on = 1.0 - authors.tensor("ends")
    rows = agent.prepare(RolloutSteps(obs[:, :-1], action, obs[:, 1:], reward, goes_on, goes_on))
    authors.check("advantage", rows[..., -2])
    authors.check("returns", rows[..., -1])
    with torch.no_grad():  # so that ratios leave 1
        agent.actor.log_std.add_(0.15)
        agent.actor.net.layers[0].weight.add_(0.02)
        agent.actor.net.layers[0].bias.add_(0.02)
    for k in range(4):
        update = authors.under(f"u{k}")
        drawn = rows[:, torch.from_numpy(update["index"].astype(np.int64))]
        metrics = agent.learn(algos.ppo.Minibatch(*drawn.split((4, 2, 1, 1, 1, 1), -1)))
        for loss in ("policy_loss", "value_loss"):
            update.under("expected").check(loss, metrics[loss])
    authors.under("final").check_weights(agent, "actor", "critic")


def test_polygrad(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six updates of the denoiser, then three of actor and critic on imagined windows."""
    authors = AuthorsNumbers.read("polygrad")
    sizes = {
        **{"horizon": 4, "diffusion_steps": 12, "denoiser_hidden": 16, "denoiser_layers": 2},
        **{"batch_size": 8, "imagined_batch": 6, "hidden": 10, "ema_start": 3},
        **{"denoiser_updates": 3},
    }
    monkeypatch.setattr(EpisodeMemory, "MAX_PATH_LENGTH", 30)
    monkeypatch.setattr(TrajectoryDenoiser, "MIN_EMBED", 8)
    monkeypatch.setattr(algos.polygrad, "EMA_EVERY", 2)
    agent = on_tape(make_float32("polygrad", 3, 2, "released", **sizes))
    for e in range(5):
        observe_episode(agent, authors.under(f"episode{e}"))
    authors.under("init").load(agent, "denoiser", "averaged")
    for k in range(2):
        update = authors.under(f"d{k}")
        agent.rng.push("integers", update["windows"])
        for t, noise in zip(update["t"], update["noise"], strict=True):
            agent.rng.push("integers", t)
            agent.rng.push("normal", noise)
        update.check("expected/loss", agent.update_denoiser())
        agent.counters.updates += 1
    authors.under("denoised").check_weights(agent, "denoiser", "averaged")

    authors.under("ac0").load(agent, "actor", "critic", "target", "step_size")
    metrics_of = (
        *("actor_loss", "critic_loss", "first_change", "policy_change"),
        *("action_spread", "guidance", "trials"),
    )
    for k in range(3):
        if k == 1:  # a higher cap, so that the line search has somewhere to go
            set_rate_cap(agent, 3e-3)
        update = authors.under(f"a{k}")
        agent.rng.push("integers", update["windows"])
        agent.rng.push("normal", update["noise"])
        windows = agent.imagine(agent.memory.start_states(6, agent.rng))
        for name, value in windows._asdict().items():
            update.under("expected").check(name, value, rtol=1e-4, atol=2e-5)
        metrics = agent.update_actor_critic(windows)
        for name in metrics_of:
            update.under("expected").check(name, metrics[name], rtol=2e-3, atol=2e-5)
    authors.under("ac3").check_weights(agent, "actor", "critic", "target")


def observe_episode(agent: Any, episode: AuthorsNumbers) -> None:
    """Let the agent observe an episode whose actions are samples before clipping."""
    names = ("observations", "actions", "rewards", "terminals")
    steps = list(zip(*(episode[name] for name in names), strict=True))
    for i, (obs, action, reward, terminated) in enumerate(steps, start=1):
        agent.drawn.keep(torch.from_numpy(action[None, None]))
        agent.observe(
            transition(
                *(1, 3, 2),
                obs=obs,
                action=action.clip(-1.0, 1.0),
                reward=reward,
                next_obs=obs,
                terminated=terminated,
                truncated=i == len(steps) and not terminated,
            )
        )


@torch.no_grad()
def set_rate_cap(agent: Any, rate: float) -> None:
    """Let the actor's rate start at, and go up to, `rate`."""
    agent.line_search.cap = rate
    agent.step_size.log_rate.fill_(np.log(rate))
