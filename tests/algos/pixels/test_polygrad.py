"""PolyGRAD from pixels: its memory against that for vectors, its normaliser, and a tiny world."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import algos
from algos.parts.blocks import Rows
from algos.parts.config import build_config
from algos.parts.episodes import EpisodeMemory
from algos.parts.types import Spaces, Transition
from algos.pixels.polygrad import FrameEpisodes, PixelPolyGRAD
from tests.helpers.pixels import CPU, SIDE, feed, make_small, stream
from tests.helpers.updates import same, weights

TINY = {
    "agent_start": 0,
    "horizon": 3,
    "latent_dim": 4,
    "vae_pretraining": 0,
    "vae_updates": 1,
    "vae_batch": 8,
    "diffusion_steps": 4,
    "denoiser_hidden": 16,
    "denoiser_layers": 1,
    "denoiser_updates": 1,
    "imagined_batch": 8,
}


def small(**options: Any) -> Any:
    """A tiny agent for stacks of two frames."""
    return make_small(PixelPolyGRAD, **(TINY | options))


def test_pixel_tasks_get_this_version() -> None:
    assert algos.versions(algos.load("polygrad"))["pixels"] is PixelPolyGRAD


# ---------------------------------------------------------------- memory


class Twins:
    """The memory of frames, and the one for vectors that stores the stacks as they are seen.

    A frame is one colour, which stands for it in both.
    """

    def __init__(self, **options: Any) -> None:
        options = {"horizon": 4, "replay_capacity": 40, "latent_dim": 1} | options
        config = build_config(PixelPolyGRAD.Config, options)
        self.encoded = 0
        self.frames = FrameEpisodes(Spaces((9, SIDE, SIDE), 1), config, CPU, self.colour)
        self.vectors = EpisodeMemory.of(config, 3, 1, CPU)
        self.rng = np.random.default_rng(0)

    def colour(self, frames: torch.Tensor) -> torch.Tensor:
        self.encoded += frames.shape[1]
        return frames[..., 0, 0, 0, None].float()

    def episode(self, length: int, terminated: bool) -> None:
        """`length` steps; 0 of both flags at the last one leaves the episode under way."""
        stack = np.full(3, self.rng.integers(256))
        for k in range(length):
            end = k == length - 1
            step = (self.rng.normal(size=1), float(self.rng.normal()))
            flags = (end and terminated, end and not terminated)
            pixels = np.broadcast_to(stack.repeat(3)[:, None, None], (9, SIDE, SIDE))
            self.frames.add(pixels.astype(np.uint8), *step, *flags)
            self.vectors.add(stack, *step, *flags)
            stack = np.append(stack[1:], self.rng.integers(256))


@pytest.mark.parametrize("padding", ["none", "zeros"])
def test_windows_are_those_of_the_observed_stacks(
    padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rows, "SIZE", 4)  # so that frames too old to be drawn are dropped
    twins = Twins(truncated_padding=padding)
    for k, length in enumerate([1, 9, 2, 14, 7, 3, 30, 8, 5, 11]):  # the ring is passed twice
        twins.episode(length, terminated=k % 2 == 0)
        assert len(twins.frames) == len(twins.vectors)
        if not len(twins.vectors):
            continue
        assert torch.equal(
            twins.frames.sample(300, stream(k)), twins.vectors.sample(300, stream(k))
        )
        starts = [part.start_states(50, stream(k)) for part in (twins.frames, twins.vectors)]
        assert torch.equal(*starts)
    assert len(twins.frames.frames.blocks) < 15  # 42 frames of 90 can still be read


def test_a_restored_memory_goes_on_alike() -> None:
    twins, other = Twins(), Twins()
    twins.episode(17, terminated=True)
    twins.frames.latents.add(torch.tensor([[1.0], [4.0]]))
    for k in range(3):  # an episode under way
        twins.frames.add(np.full((9, SIDE, SIDE), k, np.uint8), np.zeros(1), 0.5, False, False)
    other.frames.load_state_dict(twins.frames.state_dict())
    for part in (twins.frames, other.frames):
        part.add(np.full((9, SIDE, SIDE), 3, np.uint8), np.ones(1), 0.5, True, False)
    ours, theirs = (part.sample(200, stream(1)) for part in (twins.frames, other.frames))
    assert torch.equal(ours, theirs)
    ours, theirs = (part.moments.normalise(ours) for part in (twins.frames, other.frames))
    assert torch.equal(ours, theirs)


def test_a_frame_of_a_batch_is_encoded_once() -> None:
    twins = Twins()
    twins.episode(20, terminated=True)
    twins.frames.sample(500, stream(0))
    assert twins.encoded == 20


def test_random_frames_are_all_those_in_memory() -> None:
    twins = Twins(replay_capacity=10)
    twins.frames.add(np.full((9, SIDE, SIDE), 200, np.uint8), np.zeros(1), 0.0, False, False)
    for k in range(14):
        twins.frames.add(np.full((9, SIDE, SIDE), k, np.uint8), np.zeros(1), 0.0, False, False)
    found = twins.frames.random_frames(300, stream(0))
    assert found.shape == (1, 300, 3, SIDE, SIDE)
    assert sorted(set(found[0, :, 0, 0, 0].tolist())) == list(range(4, 14))


def test_a_stack_is_seen_in_memory_as_the_policy_sees_it() -> None:
    agent = small()
    feed(agent, 24)
    observed: list[np.ndarray] = []
    add = agent.memory.add
    agent.memory.add = lambda obs, *rest: observed.append(obs) or add(obs, *rest)
    feed(agent, 12, seed=1)
    seen = agent.see(torch.from_numpy(np.stack(observed[1:]))[None])
    torch.testing.assert_close(seen, agent.memory.states(torch.arange(25, 36)[None]))
    assert not seen.requires_grad
    assert float(seen.std(1).min()) > 1e-4  # not the same for every image


# ---------------------------------------------------------------- normaliser


def test_rows_are_normalised_by_latents_and_by_the_facts_of_all_episodes() -> None:
    twins = Twins()
    twins.episode(20, terminated=True)
    twins.frames.latents.add(torch.tensor([[10.0], [30.0]]))
    center, scale = twins.frames.moments.center, twins.frames.moments.scale
    facts = twins.vectors.moments
    torch.testing.assert_close(center, torch.cat([torch.full((3,), 20.0), facts.center[3:]]))
    torch.testing.assert_close(scale, torch.cat([torch.full((3,), 10.0), facts.scale[3:]]))


# ---------------------------------------------------------------- learning


def test_the_vae_learns_by_its_own_loss_alone_and_alone_at_first() -> None:
    agent = small(vae_pretraining=5, vae_updates=2, random_steps=0)
    counted: list[int] = []
    random_frames = agent.memory.random_frames
    agent.memory.random_frames = lambda n, rng: counted.append(n) or random_frames(n, rng)
    feed(agent, 24)
    for updates in (7, 9):
        agent.update()
        assert counted == [8] * updates
    before = weights(agent.vae)
    agent.update_denoiser()
    agent.update_actor_critic(agent.imagine(agent.memory.start_states(8, agent.rng)))
    assert same(before, weights(agent.vae))
    agent.update_vae()
    assert not any(torch.equal(p, q) for p, q in zip(before, weights(agent.vae), strict=True))


class Slider:
    """A bright stripe that an action moves by two pixels; its place is the reward.

    Args:
        side: of the image.
    """

    def __init__(self, side: int) -> None:
        self.low, self.high, self.side = 3.0, side - 4.0, side

    def image(self, place: float) -> np.ndarray:
        stripe = np.exp(-0.125 * np.square(np.arange(self.side) - place))
        image = (40.0 + 180.0 * stripe).astype(np.uint8)
        return np.broadcast_to(image, (3, self.side, self.side))

    def move(self, place: Any, action: Any) -> Any:
        return np.clip(place + 2.0 * action, self.low, self.high)

    def fill(self, agent: Any, steps: int) -> np.ndarray:
        """Random episodes of 12 steps; the place at each step, `[steps]`."""
        rng, places = np.random.default_rng(0), []
        for k in range(steps):
            if k % 12 == 0:
                place = rng.uniform(self.low, self.high)
                obs = np.concatenate([self.image(place)] * 2)
            places.append(place)
            action = rng.uniform(-1.0, 1.0, (1, 1)).astype(np.float32)
            place = float(self.move(place, action[0, 0]))
            next_obs = np.concatenate([obs[3:], self.image(place)])
            end, cut = np.zeros(1, bool), np.array([k % 12 == 11])
            reward = np.array([place], np.float32)
            agent.observe(Transition(obs[None], action, reward, next_obs[None], end, cut))
            obs = next_obs
        return np.array(places)


def correlation(one: Any, other: Any) -> float:
    return float(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1])


@pytest.mark.extended
def test_imagined_frames_move_as_the_actions_say() -> None:
    options = {
        "replay_capacity": 1000,
        "vae_pretraining": 200,
        "vae_batch": 32,
        "vae_learning_rate": 2e-3,
        "diffusion_steps": 16,
        "denoiser_hidden": 256,
        "denoiser_layers": 2,
        "denoiser_updates": 600,
        "denoiser_learning_rate": 1e-3,
        "batch_size": 64,
        "guidance_scale": 0.05,
        "precision": "float32",
        "random_steps": 0,
    }
    world = Slider(16)
    config = build_config(PixelPolyGRAD.Config, TINY | options)
    agent = PixelPolyGRAD(Spaces((6, 16, 16), 1), config, [0])
    places = world.fill(agent, 600)
    agent.update_vae()
    agent.update_denoiser()
    windows = agent.imagine(agent.memory.start_states(300, agent.rng))
    # A latent's place is that of the nearest latent of a real frame.
    moments = agent.memory.latents
    known = moments.normalise(agent.memory.states(torch.arange(600))[:, 4:])

    def place_of(latents: torch.Tensor) -> np.ndarray:
        return places[torch.cdist(moments.normalise(latents), known).argmin(-1).numpy()]

    older, newer = (place_of(part) for part in windows.obs[0].split(4, dim=-1))
    action = windows.action[0, :, :-1, 0].numpy()
    moved = newer[:, 1:] - newer[:, :-1]
    expected = world.move(newer[:, :-1], action) - newer[:, :-1]
    assert correlation(moved, expected) > 0.75
    assert abs(correlation(moved, np.roll(expected, 1, axis=0))) < 0.3  # other windows' actions
    assert correlation(older[:, 1:], newer[:, :-1]) > 0.9  # a stack remembers
    reward = windows.reward[0, :, :-1].numpy()
    assert correlation(reward, world.move(newer[:, :-1], action)) > 0.9
