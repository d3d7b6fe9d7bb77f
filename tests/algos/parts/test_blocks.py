"""Rings of rows against a full history; segments that a checkpoint writes once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from algos.parts.blocks import Ring, Segment
from algos.parts.episodes import EpisodeMemory
from runners.storage import checkpoint
from tests.helpers.pixels import CPU, stream
from tests.helpers.selection import mostly_extended

WIDTH = 3


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch):
    monkeypatch.setattr(Ring, "BYTES", 4 * 4 * WIDTH)  # four rows, or two of each of two replicas


def rows(number: int, replicas: int) -> np.ndarray:
    """Row `number` of every replica."""
    place = np.arange(replicas * WIDTH, dtype=np.float32).reshape(replicas, WIDTH)
    return 100.0 * number + place


def ring(replicas: int = 1, capacity: int = 10) -> Ring:
    return Ring(replicas, capacity, WIDTH, CPU)


def fill(memory: Ring, count: int) -> None:
    for _ in range(count):
        memory.append(rows(memory.total, len(memory.rows)))


def check(memory: Ring) -> None:
    """The newest rows are there, each in its slot."""
    for number in range(max(0, memory.total - memory.capacity), memory.total):
        found = memory.rows[:, number % memory.capacity].numpy()
        np.testing.assert_array_equal(found, rows(number, len(memory.rows)))


def through_a_file(state: dict[str, Any], folder: Path) -> Any:
    checkpoint.save(folder, 0, state)
    loaded = checkpoint.load(folder)
    assert loaded is not None
    return loaded.state


@pytest.mark.parametrize("place", ["file", "memory"])
@pytest.mark.parametrize(("replicas", "capacity"), [(1, 10), (1, 12), (2, 9), (1, 3), (2, 1)])
def test_a_ring_from_its_state_goes_on_the_same(
    tmp_path: Path, place: str, replicas: int, capacity: int
) -> None:
    """After every number of rows: with, without and in the midst of a segment, and coming round."""
    for count in range(3 * capacity + 1):
        one, other = ring(replicas, capacity), ring(replicas, capacity)
        fill(other, 5)  # to be forgotten
        fill(one, count)
        state = one.state_dict()
        if place == "file":
            state = through_a_file(state, tmp_path / str(count))
        other.load_state_dict(state)
        assert (len(one), one.total) == (len(other), other.total)
        for _ in range(2):
            check(one)
            check(other)
            # What the next checkpoint says of both is the same.
            assert facts(one) == facts(other)
            fill(one, capacity // 2 + 1)
            fill(other, capacity // 2 + 1)


def facts(memory: Ring) -> tuple[Any, ...]:
    """What a checkpoint would hold."""
    state = memory.state_dict()
    blocks = {k: (block.digest, block.shape) for k, block in state["segments"].items()}
    return blocks, state["open"].tolist(), state["total"]


def test_a_state_that_is_copied_does_not_change_with_the_ring() -> None:
    one, other = ring(), ring()
    fill(one, 8)
    state = copy.deepcopy(one.state_dict())
    fill(one, 9)  # over all that the state names
    other.load_state_dict(state)
    check(other)
    assert other.total == 8


def files(folder: Path) -> dict[str, tuple[int, int]]:
    stats = {path.name: path.stat() for path in (folder / "blocks").glob("*")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_full_segment_is_written_once(tmp_path: Path, on_disk: bool) -> None:
    memory, seen = ring(capacity=18), {}
    written = []
    for step in range(60):
        fill(memory, 1)
        checkpoint.save(tmp_path, step, memory.state_dict(), on_disk)
        found = files(tmp_path)
        for name in found.keys() & seen.keys():
            assert found[name] == seen[name]
        written += [name for name in found if name not in seen]
        seen |= found
        # Those of two checkpoints.
        assert len(found) <= 18 // 4 + 2
        loaded = checkpoint.load(tmp_path)
        assert loaded is not None
        assert len(loaded.state["open"][0]) <= 4
    # Rows 0 to 15 of the first round, 16 and 17; then the same slots twice more, and a part.
    assert len(written) == len(set(written)) == 5 + 5 + 5 + 1


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("replicas", [1, 3])
def test_segments_take_no_memory_of_their_own(tmp_path: Path, replicas: int, on_disk: bool) -> None:
    """Neither before nor after a checkpoint holds them, nor when they come from one."""
    memory, again = ring(replicas, 48), ring(replicas, 48)
    fill(memory, 45)
    blocks = list(memory.state_dict()["segments"].values())
    assert len(blocks) == 45 // memory.size
    checkpoint.save(tmp_path, 1, memory.state_dict(), on_disk)
    loaded = checkpoint.load(tmp_path, on_disk)
    assert loaded is not None
    again.load_state_dict(loaded.state)
    for block in loaded.state["segments"].values():
        assert block._array is None
        assert block._map is None
    for owner in (memory, again):
        values = owner.rows.numpy()
        assert all(isinstance(block, Segment) for block in owner.segments.values())
        assert all(np.shares_memory(block.array, values) for block in owner.segments.values())


def test_a_checksum_is_not_computed_again_after_a_load(tmp_path: Path, monkeypatch) -> None:
    one, other = ring(), ring()
    fill(one, 9)
    other.load_state_dict(through_a_file(one.state_dict(), tmp_path))
    monkeypatch.setattr("algos.parts.blocks.hashlib", None)
    checkpoint.save(tmp_path, 1, other.state_dict())
    fill(other, 3)
    with pytest.raises(AttributeError):  # of the new segment it is
        checkpoint.save(tmp_path, 2, other.state_dict())


# Episodes -----------------------------------------------------------------------------


def add(memory: EpisodeMemory, rng: np.random.Generator, count: int) -> EpisodeMemory:
    for _ in range(count):
        end = rng.choice(["", "terminated", "truncated"], p=[0.8, 0.1, 0.1])
        obs, action = rng.standard_normal((2, 1))
        memory.add(obs, action, float(rng.normal()), end == "terminated", end == "truncated")
    return memory


@pytest.mark.parametrize("capacity", mostly_extended([7, 23, 200], quick=[7]))
def test_episodes_from_a_checkpoint_go_on_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capacity: int
) -> None:
    """Windows keep their order too, since draws are numbers of windows."""
    monkeypatch.setattr(EpisodeMemory, "MAX_PATH_LENGTH", 9)
    most = 0
    for count in range(0, 90, 2):
        streams = [np.random.default_rng(0) for _ in range(2)]
        memories = [EpisodeMemory(1, 1, capacity, 2, CPU) for _ in streams]
        for memory, rng in zip(memories, streams, strict=True):
            add(memory, rng, count)
        state = through_a_file(memories[0].state_dict(), tmp_path)
        # The second takes over the state of the first, after other steps.
        add(memories[1], np.random.default_rng(1), 5).load_state_dict(state)
        for _ in range(3):
            one, other = memories
            assert (len(one), one.total, one.episode) == (len(other), other.total, other.episode)
            np.testing.assert_array_equal(one.begins, other.begins)
            if len(one):
                assert torch.equal(one.sample(40, stream()), other.sample(40, stream()))
            most = max(most, len(one))
            for memory, rng in zip(memories, streams, strict=True):
                add(memory, rng, capacity // 3)
    assert most > min(capacity // 3, 40)


def test_windows_are_told_in_little_space() -> None:
    memory = add(EpisodeMemory(1, 1, 1000, 2, CPU), np.random.default_rng(0), 900)
    parts = memory.state_dict()["windows"].values()
    assert sum(part.numel() for part in parts) < len(memory) / 1.5
