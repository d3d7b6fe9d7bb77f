"""Checkpoints: exact round trips, damage is seen, no moment of a kill loses the newest one."""

import contextlib
import json
import math
import os
import pickle
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from runners import checkpoint
from runners.checkpoint import CheckpointError

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]
Pair = namedtuple("Pair", "left right")


def equal(left, right):
    """Same types, values, shapes and bits."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        same = left.dtype == right.dtype and left.shape == right.shape
        if left.dtype == torch.bfloat16:
            left, right = left.view(torch.int16), right.view(torch.int16)
        return same and left.numpy().tobytes() == right.numpy().tobytes()
    if isinstance(left, np.ndarray):
        same = left.dtype == right.dtype and left.shape == right.shape
        return same and left.tobytes() == right.tobytes()
    if isinstance(left, dict):
        return list(left) == list(right) and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, float) and math.isnan(left):
        return math.isnan(right)
    return left == right


def round_trip(folder, state):
    checkpoint.save(folder, 3, state)
    return checkpoint.load(folder)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)], ids=str)
def test_tensors_of_every_dtype_come_back(tmp_path, dtype, shape):
    values = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert equal(round_trip(tmp_path, {"t": values}), {"t": values})


def test_nested_state_comes_back(tmp_path):
    state = {
        "none": None,
        "flags": [True, False],
        "ints": {0: "zero", -5: 2**62},
        "floats": [math.nan, math.inf, -math.inf, -0.0, 0.1, 5e-324, 1.7976931348623157e308],
        "tuple": (1, (2.0, "three"), []),
        ("a", 1): "tuple key",
        "text": 'line\nbreak, "quotes", é \u2028',
        "empty": {},
        "arrays": [np.arange(6.0).reshape(2, 3).T, np.array(2, np.uint8), np.array([True])],
        "special": np.array([np.nan, np.inf, -0.0], np.float32),
        "view": torch.arange(12).reshape(3, 4)[:, 1:3],
    }
    back = round_trip(tmp_path, state)
    assert equal(back, state)
    assert math.copysign(1, back["floats"][3]) == -1


def test_a_named_tuple_stays_a_tuple(tmp_path):
    assert round_trip(tmp_path, Pair(1, 2)) == (1, 2)


def test_an_optimizer_comes_back(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.arange(3.0)
    optimizer.step()
    assert equal(round_trip(tmp_path, optimizer.state_dict()), optimizer.state_dict())


def test_loaded_tensors_can_be_written(tmp_path):
    back = round_trip(tmp_path, {"t": torch.zeros(2), "a": np.zeros(2)})
    back["t"] += 1
    back["a"] += 1


def test_nothing_saved_is_none(tmp_path):
    assert checkpoint.load(tmp_path / "absent") is None


def test_only_the_newest_is_kept(tmp_path):
    for step in (1, 20, 3000):
        checkpoint.save(tmp_path, step, {"step": step})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003000"]
    assert checkpoint.load(tmp_path) == {"step": 3000}


def test_unknown_types_are_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match="holds a set"):
        checkpoint.save(tmp_path, 1, {"bad": {1, 2}})


def test_a_save_that_raises_leaves_the_previous_one(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {"x": torch.ones(2)})

    def broken(arrays, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", broken)
        with pytest.raises(OSError, match="No space"):
            checkpoint.save(tmp_path, 2, {"x": torch.zeros(2)})
    assert equal(checkpoint.load(tmp_path), {"x": torch.ones(2)})
    checkpoint.save(tmp_path, 3, {"x": torch.zeros(2)})
    assert equal(checkpoint.load(tmp_path), {"x": torch.zeros(2)})


class Kill(BaseException):
    """Stands for SIGKILL: nothing in the code under test may handle it."""


def calls_of_a_save(monkeypatch, folder, step, state, stop_at=None):
    """Number of changes to the disk that a save makes; it is killed before number `stop_at`."""
    count = 0

    def counted(original):
        def call(*arguments, **options):
            nonlocal count
            if count == stop_at:
                raise Kill
            count += 1
            return original(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, name in (
            (os, "fsync"),
            (os, "rename"),
            (Path, "rename"),
            (Path, "write_text"),
            (Path, "mkdir"),
            (shutil, "rmtree"),
            (checkpoint, "save_file"),
        ):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        with contextlib.suppress(Kill):
            checkpoint.save(folder, step, state)
    return count


@pytest.mark.parametrize("step", [10, 11], ids=["same step", "next step"])
def test_a_kill_at_any_moment_of_a_save_leaves_a_checkpoint(tmp_path, monkeypatch, step):
    checkpoint.save(tmp_path / "whole", 10, {"n": 1})
    total = calls_of_a_save(monkeypatch, tmp_path / "whole", step, {"n": 2})
    assert total >= 6
    for moment in range(total):
        folder = tmp_path / str(moment)
        checkpoint.save(folder, 10, {"n": 1})
        assert calls_of_a_save(monkeypatch, folder, step, {"n": 2}, moment) == moment
        assert checkpoint.load(folder) in ({"n": 1}, {"n": 2}), f"lost before call {moment}"
        checkpoint.save(folder, step, {"n": 3})
        assert checkpoint.load(folder) == {"n": 3}
        assert len(list(folder.iterdir())) == 1


def test_many_saves_at_one_step_keep_the_last(tmp_path):
    for n in range(5):
        checkpoint.save(tmp_path, 7, {"n": n})
        assert checkpoint.load(tmp_path) == {"n": n}
        assert len(list(tmp_path.iterdir())) == 1


def saved(folder):
    state = {"x": torch.arange(64.0), "number": 0.123, "text": "evaluations", "n": [1, 2]}
    return checkpoint.save(folder, 5, state)


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.5, 0.9])
def test_a_truncated_file_is_seen(tmp_path, name, part):
    file = saved(tmp_path) / name
    file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
    refused(tmp_path)


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
def test_a_missing_file_is_seen(tmp_path, name):
    (saved(tmp_path) / name).unlink()
    refused(tmp_path)


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
def test_a_flipped_bit_is_seen(tmp_path, name):
    """All over the file; a manifest may also read as the same values."""
    original = checkpoint.load(saved(tmp_path).parent)
    file = tmp_path / "step-000000005" / name
    good = file.read_bytes()
    for i in range(0, len(good), 2):
        bad = bytearray(good)
        bad[i] ^= 1 << (i % 7)
        file.write_bytes(bad)
        with contextlib.suppress(CheckpointError):
            assert equal(checkpoint.load(tmp_path), original), f"byte {i} went unseen"


def refused(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rewritten(folder, **changes):
    file = saved(folder) / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_another_format_is_named(tmp_path):
    rewritten(tmp_path, format=99)
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        checkpoint.load(tmp_path)


CRAFTED = [
    {"dict": 5},
    {"dict": [[{"dict": []}, 1]]},
    {"tensor": "77"},
    {"tensor": ["0"]},
    {"python": "os.system"},
    {"a": 1, "b": 2},
    {},
    {"list": 3},
]


@pytest.mark.parametrize("state", CRAFTED, ids=str)
def test_a_crafted_manifest_is_refused(tmp_path, state):
    sums = {"tensors": checkpoint._digest(saved(tmp_path) / "tensors.safetensors")}
    sums["state"] = checkpoint._text_digest(state)
    rewritten(tmp_path, state=state, sha256=sums)
    refused(tmp_path)


@pytest.mark.parametrize("text", ["[]", "null", "3", '{"format": 1}', "[" * 100_000])
def test_a_manifest_of_another_shape_is_refused(tmp_path, text):
    (saved(tmp_path) / "manifest.json").write_text(text)
    refused(tmp_path)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_no_pickle_is_loaded(tmp_path):
    bomb = Bomb()
    bomb.path = tmp_path / "exploded"
    for name in ("tensors.safetensors", "manifest.json"):
        folder = tmp_path / name
        (saved(folder) / name).write_bytes(pickle.dumps(bomb))
        refused(folder)
        torch_file = saved(folder) / name
        torch.save({"x": bomb}, torch_file)
        refused(folder)
    assert not bomb.path.exists()


def test_no_source_of_the_runner_mentions_pickle_or_torch_load():
    for file in Path(checkpoint.__file__).parent.rglob("*.py"):
        text = file.read_text()
        assert "pickle" not in text, file.name
        assert "torch.load" not in text, file.name


def test_write_atomic_keeps_the_old_text_when_it_is_cut(tmp_path, monkeypatch):
    file = tmp_path / "run.json"
    checkpoint.write_atomic(file, "old")

    def no_space(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_sync", no_space)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write_atomic(file, "new")
    assert file.read_text() == "old"
