"""Random streams per replica, and the memory that draws with them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from algos.parts.replay import Replay
from algos.parts.rng import ReplicaRng
from algos.parts.types import Spaces
from tests.helpers.updates import transition

CPU = torch.device("cpu")
SPACES = Spaces((3,), 2)


def draws(rng: ReplicaRng) -> torch.Tensor:
    parts = [rng.normal(4), rng.uniform(4, low=-1.0, high=1.0), rng.integers(1000, 4).float()]
    return torch.cat(parts, dim=-1)


def test_a_stream_in_a_group_equals_the_same_seed_alone() -> None:
    group = draws(ReplicaRng([3, 8], CPU))
    assert torch.equal(group[0], draws(ReplicaRng([3], CPU))[0])
    assert torch.equal(group[1], draws(ReplicaRng([8], CPU))[0])
    assert not torch.equal(group[0], group[1])


def test_shapes_and_ranges() -> None:
    rng = ReplicaRng([0, 1], CPU)
    uniform = rng.uniform(5000, low=-2.0, high=0.5)
    assert uniform.shape == (2, 5000)
    assert -2.0 <= float(uniform.min()) < -1.99
    assert 0.49 < float(uniform.max()) < 0.5
    integers = rng.integers(7, 2000, 1)
    assert integers.shape == (2, 2000, 1)
    assert set(integers.unique().tolist()) == set(range(7))
    normal = rng.normal(20_000)
    assert float(normal.mean().abs()) < 0.03
    assert abs(float(normal.std()) - 1.0) < 0.03


def test_streams_of_different_seeds_are_uncorrelated() -> None:
    normal = ReplicaRng([0, 1], CPU).normal(20_000)
    assert abs(float((normal[0] * normal[1]).mean())) < 4 / 20_000**0.5


def test_rng_state_round_trip() -> None:
    rng = ReplicaRng([1, 2], CPU)
    draws(rng)
    state = copy.deepcopy(rng.state_dict())
    later = draws(rng)
    other = ReplicaRng([7, 9], CPU)
    other.load_state_dict(state)
    assert torch.equal(draws(other), later)


def test_global_generator_is_untouched() -> None:
    before = torch.random.get_rng_state()
    draws(ReplicaRng([0, 1], CPU))
    assert torch.equal(before, torch.random.get_rng_state())


def filled(count: int, capacity: int, replicas: int = 1, **options: bool) -> Replay:
    """A memory into which the rewards 0, 1, 2, ... were written (+ 1000 per replica)."""
    replay = Replay(SPACES, replicas, capacity, CPU, **options)
    for k in range(count):
        reward = k + 1000.0 * np.arange(replicas)
        replay.add(transition(replicas, seed=k, reward=reward))
    return replay


def rewards(replay: Replay, seeds: tuple[int, ...] = (0,), size: int = 400) -> torch.Tensor:
    return replay.sample(size, ReplicaRng(seeds, CPU))[0].reward[..., 0]


def test_an_unfilled_memory_returns_only_what_was_written() -> None:
    replay = filled(5, capacity=20)
    assert len(replay) == 5
    assert set(rewards(replay)[0].tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_the_ring_forgets_the_oldest() -> None:
    replay = filled(13, capacity=10)
    assert len(replay) == 10
    assert set(rewards(replay)[0].tolist()) == {float(k) for k in range(3, 13)}


def test_a_row_comes_back_as_it_went_in() -> None:
    step = transition(1, seed=5)
    replay = Replay(SPACES, 1, 4, CPU)
    replay.add(step)
    (batch,) = replay.sample(3, ReplicaRng([0], CPU))
    for name in ("obs", "action", "next_obs"):
        stored = getattr(batch, name)[0]
        np.testing.assert_array_equal(stored.numpy(), np.repeat(getattr(step, name), 3, axis=0))
    np.testing.assert_array_equal(batch.reward[0].numpy(), np.full((3, 1), step.reward[0]))


def test_sampling_is_uniform() -> None:
    counts = np.bincount(rewards(filled(20, 20), size=40_000)[0].long().numpy(), minlength=20)
    chi_square = ((counts - 2000.0) ** 2 / 2000.0).sum()
    # 19 degrees of freedom: the 99.9 % quantile is 43.8, the 0.1 % quantile 5.4.
    assert 5.4 < chi_square < 43.8


@pytest.mark.parametrize(
    ("terminated", "truncated", "time_limit_terminal", "not_terminal"),
    [
        (False, False, False, 1.0),
        (True, False, False, 0.0),
        (False, True, False, 1.0),
        (True, True, False, 0.0),
        (False, False, True, 1.0),
        (False, True, True, 0.0),
        (True, False, True, 0.0),
    ],
)
def test_what_ends_the_bootstrap(
    terminated: bool, truncated: bool, time_limit_terminal: bool, not_terminal: float
) -> None:
    replay = Replay(SPACES, 1, 4, CPU, time_limit_terminal)
    replay.add(transition(1, terminated=terminated, truncated=truncated))
    (batch,) = replay.sample(2, ReplicaRng([0], CPU))
    assert batch.not_terminal.shape == (1, 2, 1)
    assert batch.not_terminal.unique().tolist() == [not_terminal]


def test_several_batches_are_fresh() -> None:
    one, two = filled(200, 200).sample(64, ReplicaRng([0], CPU), count=2)
    assert one.reward.shape == two.reward.shape == (1, 64, 1)
    assert not torch.equal(one.reward, two.reward)


def test_replicas_draw_their_own_rows() -> None:
    both = rewards(filled(50, 50, replicas=2), seeds=(4, 9), size=64)
    assert float(both[0].max()) < 1000.0 <= float(both[1].min())
    alone = rewards(filled(50, 50), seeds=(9,), size=64)
    assert torch.equal(both[1] - 1000.0, alone[0])


@pytest.mark.parametrize("count", [6, 23])
def test_replay_state_round_trip(count: int) -> None:
    replay = filled(count, 10, replicas=2)
    state = copy.deepcopy(replay.state_dict())
    restored = Replay(SPACES, 2, 10, CPU)
    restored.load_state_dict(state)
    for k in range(3):  # the next rows land in the same places
        for memory in (replay, restored):
            memory.add(transition(2, seed=100 + k, reward=500.0 + k))
    assert len(restored) == len(replay)
    assert torch.equal(rewards(replay, (0, 1)), rewards(restored, (0, 1)))
    assert torch.equal(replay.rows[:, : len(replay)], restored.rows[:, : len(replay)])


def test_a_state_holds_only_written_rows() -> None:
    state = filled(3, 1000).state_dict()
    assert (state["open"].shape[1], state["segments"]) == (3, {})
