"""The memory of frames against a full history; blocks of it that a checkpoint writes once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from algos.parts.blocks import Rows
from algos.parts.frames import FrameReplay
from algos.parts.types import Spaces, Transition
from runners.storage import checkpoint
from runners.storage.checkpoint import CheckpointError
from tests.helpers.pixels import CPU, stream

STACK, SIDE = 3, 4
SPACES = Spaces((3 * STACK, SIDE, SIDE), 1)
DISCOUNT = 0.9


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(Rows, "SIZE", 8)


def memory(replicas: int = 1, capacity: int = 1000, **options: Any) -> FrameReplay:
    return FrameReplay(SPACES, replicas, capacity, CPU, **({"discount": DISCOUNT} | options))


class World:
    """Episodes of random pictures; the action counts the steps, so that each can be looked up.

    Attributes:
        steps: every transition so far, `(obs, reward, next_obs, terminated, truncated)`.
        oldest_frame: for each of them the number of the oldest frame in `obs`.
        frames: frames so far, that of an episode that has not begun left out.
    """

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.steps: list[tuple[Any, ...]] = []
        self.oldest_frame: list[int] = []
        self.frames = self.first = 0
        self.obs = self.reset()

    def frame(self) -> np.ndarray:
        return self.rng.integers(0, 256, (3, SIDE, SIDE), np.uint8)

    def reset(self) -> np.ndarray:
        """As the tasks do: the first frame stands for those before it."""
        self.first = self.frames
        return np.concatenate([self.frame()] * STACK)

    def step(self, end: str = "") -> Transition:
        next_obs = np.concatenate([self.obs[3:], self.frame()])
        self.frames += 2 if self.frames == self.first else 1
        self.oldest_frame.append(max(self.first, self.frames - 1 - STACK))
        facts = (self.rng.normal(), end == "terminated", end == "truncated")
        self.steps.append((self.obs, facts[0], next_obs, *facts[1:]))
        action = np.array([[len(self.steps) - 1]], np.float32)
        arrays = (np.array([x]) for x in facts)
        reward, terminated, truncated = arrays
        found = Transition(
            self.obs[None], action, np.float32(reward), next_obs[None], terminated, truncated
        )
        self.obs = self.reset() if end else next_obs
        return found

    def random_end(self) -> str:
        return str(self.rng.choice(["", "terminated", "truncated"], p=[0.8, 0.1, 0.1]))

    def window(self, start: int, n: int, limit_ends: bool = False) -> tuple[Any, ...] | None:
        """Return, next observation and weight of what follows, by hand; None if cut short."""
        total = 0.0
        for k in range(n):
            if start + k == len(self.steps):
                return None
            _, reward, next_obs, terminated, truncated = self.steps[start + k]
            total += DISCOUNT**k * reward
            if terminated or (truncated and limit_ends):
                return total, next_obs, 0.0
            if truncated and k < n - 1:
                return None
        return total, next_obs, DISCOUNT ** (n - 1)


def fill(replay: FrameReplay, world: World, count: int) -> None:
    for _ in range(count):
        replay.add(world.step(world.random_end()))


def starts(replay: FrameReplay, replica: int = 0) -> list[int]:
    """All steps that can be drawn."""
    part = replay.parts[replica]
    return sorted(part.pick(np.arange(part.drawable)).tolist())


def check(replay: FrameReplay, world: World, numbers: list[int], n: int, **how: bool) -> None:
    """Everything that steps (by their number in `world`) give equals what was observed.

    Frames have numbers of their own, so that steps are told by their actions.
    """
    index = torch.tensor([starts(replay)])
    batch = replay.batch(index)
    assert batch.obs.dtype == batch.next_obs.dtype == torch.uint8
    assert batch.action[0, :, 0].long().tolist() == numbers
    following = replay.observations(index, 1)[0]
    single = replay.frames(index, 1)[0]
    assert torch.equal(replay.observations(index)[0], batch.obs[0])
    for k, start in enumerate(numbers):
        expected = world.window(start, n, **how)
        assert expected is not None
        obs, _, next_obs = world.steps[start][:3]
        np.testing.assert_array_equal(batch.obs[0, k], obs)
        np.testing.assert_array_equal(following[k], next_obs)
        np.testing.assert_array_equal(single[k], next_obs[-3:])
        assert float(batch.reward[0, k]) == pytest.approx(expected[0], abs=1e-5)
        assert float(batch.not_terminal[0, k]) == pytest.approx(expected[2], abs=1e-6)
        if expected[2]:
            np.testing.assert_array_equal(batch.next_obs[0, k], expected[1])


def test_returns_of_three_steps_by_hand() -> None:
    """Rewards 1, 2, 4, 8; the episode ends, is cut, or goes on."""
    for end, reached in (("terminated", 4), ("truncated", 2), ("", 2)):
        replay, obs = memory(n_step=3), np.zeros((1, *SPACES.obs_shape), np.uint8)
        for k in range(4):
            flags = (np.array([k == 3 and end == name]) for name in ("terminated", "truncated"))
            action, reward = np.float32([[k]]), np.float32([2**k])
            replay.add(Transition(obs, action, reward, obs, *flags))
        assert len(replay) == reached, end
        batch = replay.batch(torch.tensor([starts(replay)]))
        returns = [1 + 0.9 * 2 + 0.81 * 4, 2 + 0.9 * 4 + 0.81 * 8, 4 + 0.9 * 8, 8]
        follows = [0.81, 0.0 if end == "terminated" else 0.81, 0.0, 0.0]
        torch.testing.assert_close(batch.reward[0, :, 0], torch.tensor(returns[:reached]))
        torch.testing.assert_close(batch.not_terminal[0, :, 0], torch.tensor(follows[:reached]))


@pytest.mark.parametrize("limit_ends", [False, True])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_every_window_is_what_was_observed(n: int, limit_ends: bool) -> None:
    """Stacks at the start of an episode, returns, and no window across two episodes."""
    world, replay = World(), memory(n_step=n, time_limit_terminal=limit_ends)
    for _ in range(90):
        fill(replay, world, 1)
        numbers = [s for s in range(len(world.steps)) if world.window(s, n, limit_ends)]
        assert len(replay) == len(numbers)
    check(replay, world, numbers, n, limit_ends=limit_ends)
    assert any(end for *_, end, _ in world.steps)
    assert any(cut for *_, cut in world.steps)


@pytest.mark.parametrize("capacity", [17, 24, 40])
def test_the_ring_drops_the_oldest_and_nothing_else(capacity: int) -> None:
    world, replay = World(), memory(capacity=capacity, n_step=3)
    for _ in range(160):
        fill(replay, world, 1)
        rows = replay.parts[0].rows
        index = torch.tensor([starts(replay)])
        if not len(replay):
            continue
        numbers = replay.batch(index).action[0, :, 0].long().tolist()
        check(replay, world, numbers, 3)
        slots = replay.slots(index)[0].tolist()
        assert len(set(slots)) == len(slots)
        assert set(slots) <= set(range(capacity))
        # What is left out is too old: a frame of its stack is among those overwritten.
        complete = [s for s in range(len(world.steps)) if world.window(s, 3)]
        oldest = world.frames - capacity
        assert numbers == [s for s in complete if world.oldest_frame[s] >= oldest]
        assert len(rows.blocks) <= capacity // Rows.SIZE + 2
    assert 0 < len(replay) < len(complete) / 3


def test_draws_are_uniform_and_each_replica_draws_its_own() -> None:
    worlds, replay = [World(1), World(2)], memory(2, n_step=3)
    for _ in range(40):
        pair = [world.step(world.random_end()) for world in worlds]
        fields = {k: np.concatenate([vars(t)[k] for t in pair]) for k in vars(pair[0])}
        replay.add(Transition(**fields))
    assert len(replay) == min(len(starts(replay, r)) for r in range(2))
    index = replay.draw(4000, stream(3, 4))
    newest = replay.last_slot().tolist()
    for r, world in enumerate(worlds):
        values, counts = index[r].unique(return_counts=True)
        assert values.tolist() == starts(replay, r)
        expected = 4000 / len(values)
        assert float((counts - expected).abs().max()) < 4.5 * expected**0.5
        batch = replay.batch(index[:, :20])
        for k, number in enumerate(batch.action[r, :, 0].long().tolist()):
            np.testing.assert_array_equal(batch.obs[r, k], world.steps[number][0])
        part = replay.parts[r]
        assert part.action[newest[r], 0] == 39.0
        single = memory(n_step=3)
        single.parts[0] = part
        assert torch.equal(single.draw(50, stream(3 + r)), replay.draw(50, stream(3, 4))[r : r + 1])


@pytest.mark.parametrize("count", [5, 8, 23, 100])
def test_a_memory_from_a_checkpoint_goes_on_the_same(tmp_path: Path, count: int) -> None:
    """Mid-episode or between two, before and after the ring is full."""
    world, twin = World(), World()
    replay, restored = (memory(capacity=40, n_step=3) for _ in range(2))
    fill(replay, world, count)
    fill(memory(), twin, count)
    fill(restored, World(9), 60)  # to be forgotten
    checkpoint.save(tmp_path, count, replay.state_dict())
    restored.load_state_dict(checkpoint.load(tmp_path).state)
    for _ in range(3):
        fill(replay, world, 15)
        fill(restored, twin, 15)
        assert starts(replay) == starts(restored)
        for a, b in zip(*(m.sample(30, stream())[0] for m in (replay, restored)), strict=True):
            assert torch.equal(a, b)


def test_a_block_is_written_once_and_removed_when_it_is_not_needed(tmp_path: Path) -> None:
    world, replay = World(), memory(capacity=32, n_step=3)
    blocks = tmp_path / "blocks"
    fill(replay, world, 20)
    checkpoint.save(tmp_path, 20, replay.state_dict())
    first = {path.name: path.stat() for path in blocks.iterdir()}
    assert len(first) == replay.parts[0].rows.total // Rows.SIZE
    checkpoint.save(tmp_path, 21, replay.state_dict())
    fill(replay, world, 8)
    checkpoint.save(tmp_path, 28, replay.state_dict())
    second = {path.name: path.stat() for path in blocks.iterdir()}
    assert len(second) > len(first)
    for name, old in first.items():
        assert (second[name].st_ino, second[name].st_mtime_ns) == (old.st_ino, old.st_mtime_ns)
    fill(replay, world, 60)
    # Blocks that were dropped stay until no checkpoint names them.
    assert {path.name for path in blocks.iterdir()} == set(second)
    for step in (88, 89):  # two checkpoints are kept
        assert first.keys() <= {path.name for path in blocks.iterdir()}
        checkpoint.save(tmp_path, step, replay.state_dict())
    assert {path.name for path in blocks.iterdir()} == {
        block.digest for block in replay.parts[0].rows.blocks.values()
    }
    assert not first.keys() & {path.name for path in blocks.iterdir()}
    numbers = replay.batch(torch.tensor([starts(replay)])).action[0, :, 0].long().tolist()
    check(replay, world, numbers, 3)  # read from the files by now


@pytest.mark.parametrize("damage", ["changed", "short", "missing"])
def test_a_damaged_block_is_seen(tmp_path: Path, damage: str) -> None:
    replay = memory()
    fill(replay, World(), 20)
    checkpoint.save(tmp_path, 20, replay.state_dict(), blocks_on_disk=False)
    path = next((tmp_path / "blocks").iterdir())
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.unlink()
    if damage != "missing":
        path.write_bytes(content if damage == "changed" else content[:-1])
    with pytest.raises(CheckpointError, match=path.name) as failure:
        checkpoint.load(tmp_path)
    assert "\n" not in str(failure.value)
