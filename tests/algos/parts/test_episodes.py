"""Memory of episodes: which windows can be drawn, how they end, and what is normalised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from algos.parts.episodes import EpisodeMemory
from algos.parts.rng import ReplicaRng
from tests.helpers.updates import snapshot

CPU = torch.device("cpu")


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
def test_no_window_starts_within_h_steps_of_the_longest_path(
    terminated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EpisodeMemory, "MAX_PATH_LENGTH", 7)
    memory = EpisodeMemory(1, 1, 100, 4, CPU, zero_padding=True)
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
