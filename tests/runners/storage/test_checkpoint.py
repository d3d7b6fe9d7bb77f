"""Checkpoints: exact round trips, damage is seen, no fault at any moment loses a whole one."""

import contextlib
import json
import math
import os
import re
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from algos.parts.blocks import Block
from runners.cells import files
from runners.cells.files import write_atomic
from runners.storage import checkpoint
from runners.storage.checkpoint import CheckpointError, Loaded
from tests.helpers.selection import mostly_extended

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
    return checkpoint.load(folder).state


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


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def state_in(folder):
    return checkpoint.load(folder).state


def test_the_newest_and_the_one_before_are_kept(tmp_path):
    for step in (1, 20, 3000):
        path = checkpoint.save(tmp_path, step, {"step": step})
    assert names(tmp_path) == ["step-000000020", "step-000003000"]
    assert checkpoint.load(tmp_path) == Loaded({"step": 3000}, path)


def test_unknown_types_are_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match="holds a set"):
        checkpoint.save(tmp_path, 1, {"bad": {1, 2}})


# What a save leaves that is cut short --------------------------------------------------


class Kill(BaseException):
    """Stands for SIGKILL: nothing in the code under test may handle it."""


CHANGES = (
    *((os, "fsync"), (os, "rename"), (Path, "rename"), (Path, "replace"), (Path, "mkdir")),
    *((Path, "unlink"), (Path, "write_bytes"), (shutil, "rmtree")),
)


def changes_of_a_save(monkeypatch, save, stop_at=None, how=Kill):
    """Number of changes to the disk that a save makes; number `stop_at` fails half-way."""
    count = 0

    def counted(original, name):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count - 1 == stop_at:
                if name == "write_bytes":
                    original(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise how
            return original(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, name in CHANGES:
            patch.setattr(owner, name, counted(getattr(owner, name), name))
        with contextlib.suppress(Kill, OSError):
            save()
    return count


class NoSpace(OSError):
    def __init__(self):
        super().__init__(28, "No space left on device")


def state(number):
    """Of block n from number n on, and of block 0 up to number 2."""
    blocks = [Block(np.full((4, 8), n, np.float32)) for n in range(number + 1)]
    return {"n": number, "x": torch.full((16,), number), "blocks": blocks[number > 2 :]}


def plain(state):
    return {**state, "blocks": [block.array.copy() for block in state["blocks"]]}


def holds(folder, number):
    return equal(plain(state_in(folder)), plain(state(number)))


@pytest.mark.parametrize("how", [Kill, NoSpace])
@pytest.mark.parametrize(
    "step", mostly_extended([20, 30], quick=[30]), ids=["same step", "next step"]
)
def test_a_save_cut_short_anywhere_leaves_the_old_or_the_new_state(
    tmp_path, monkeypatch, step, how
):
    def prepared(name):
        folder = tmp_path / name
        for number in (1, 2):
            path = checkpoint.save(folder, 10 * number, state(number))
        return folder, path

    folder, _ = prepared("whole")
    total = changes_of_a_save(monkeypatch, lambda: checkpoint.save(folder, step, state(3)))
    assert total >= 15
    sizes = []
    for moment in range(total):
        folder, last = prepared(str(moment))
        changes_of_a_save(
            monkeypatch, lambda folder=folder: checkpoint.save(folder, step, state(3)), moment, how
        )
        newest = checkpoint.load(folder)
        assert newest.notice is None, moment
        assert holds(folder, newest.state["n"]), moment
        if newest.state["n"] == 2:  # the one before is whole too
            (last / "manifest.json").write_text("{")
            assert holds(folder, 1), moment
        checkpoint.save(folder, 40, state(4), previous=checkpoint.load(folder).path)
        checkpoint.save(folder, 50, state(5))
        assert holds(folder, 5), moment
        sizes.append((len(names(folder)), len(names(folder / "blocks"))))
    # Nothing is left over: two checkpoints, and blocks 1 to 5.
    assert set(sizes) == {(3, 5)}


def test_a_save_without_space_gives_back_what_it_took(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 10, state(1))
    before = sorted(tmp_path.rglob("*"))

    def full(path, content, write=Path.write_bytes):
        if path.name == "manifest.json":
            raise NoSpace
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            checkpoint.save(tmp_path, 20, state(2))
        assert sorted(tmp_path.rglob("*")) == before


def test_many_saves_at_one_step_keep_the_last(tmp_path):
    for n in range(5):
        checkpoint.save(tmp_path, 7, {"n": n})
        assert state_in(tmp_path) == {"n": n}
        assert len(names(tmp_path)) == min(n + 1, 2)


# Damage -------------------------------------------------------------------------------


def damage_manifest(path):
    (path / "manifest.json").write_text('{"format": 2, "step"')


def damage_tensors(path):
    file = path / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def damage_checksum(path):
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["sha256"]["state"] = "0" * 64
    file.write_text(json.dumps(manifest))


def damage_block(path):
    flip(path.parent / "blocks" / state(2)["blocks"][2].digest)


def flip(file, place=17):
    values = bytearray(file.read_bytes())
    values[place] ^= 4
    file.write_bytes(values)


DAMAGES = {
    "bad JSON": damage_manifest,
    "wrong checksum": damage_checksum,
    "truncated": damage_tensors,
    "flipped": lambda path: flip(path / "tensors.safetensors", -1),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "no tensors": lambda path: (path / "tensors.safetensors").unlink(),
    "empty": lambda path: shutil.rmtree(path) or path.mkdir(),
    "damaged block": damage_block,
    "no block": lambda path: (path.parent / "blocks" / state(2)["blocks"][2].digest).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_previous_one_serves_where_the_newest_is_damaged(tmp_path, damage):
    first = checkpoint.save(tmp_path, 10, state(1))
    second = checkpoint.save(tmp_path, 20, state(2), blocks_on_disk=False)
    damage(second)
    before = sorted(tmp_path.rglob("*"))
    loaded = checkpoint.load(tmp_path)
    assert equal(plain(loaded.state), plain(state(1)))
    assert loaded.path == first
    assert re.fullmatch(
        f"checkpoint {second} is damaged \\(.+\\); going on from {first.name}", loaded.notice
    )
    assert sorted(tmp_path.rglob("*")) == before
    # Its successor may come before or after the damaged one.
    for step in (15, 25):
        folder = tmp_path.parent / f"{tmp_path.name}-{step}"
        shutil.copytree(tmp_path, folder)
        third = checkpoint.save(folder, step, state(2), previous=folder / first.name)
        assert names(folder) == ["blocks", first.name, third.name]
        assert holds(folder, 2)  # a damaged block was written again
        assert checkpoint.load(folder).notice is None


def test_both_damaged_is_one_line_with_the_remedy(tmp_path):
    for number in (1, 2):
        damage_tensors(checkpoint.save(tmp_path, number, state(number)))
    refused(tmp_path, r"step-000000002 is damaged .*; remove .* to start the cell again")


def test_a_damaged_block_of_both_is_refused_and_not_trusted_afterwards(tmp_path):
    paths = [checkpoint.save(tmp_path, n, state(n), blocks_on_disk=False) for n in (1, 2)]
    flip(tmp_path / "blocks" / state(1)["blocks"][1].digest)
    refused(tmp_path, "another checksum")
    for path in paths:
        shutil.rmtree(path)
    assert checkpoint.load(tmp_path) is None
    checkpoint.save(tmp_path, 1, state(1))  # as a fresh run does
    assert holds(tmp_path, 1)


def test_a_shortened_block_is_written_again(tmp_path):
    checkpoint.save(tmp_path, 1, state(1), blocks_on_disk=False)
    file = tmp_path / "blocks" / state(1)["blocks"][1].digest
    file.write_bytes(file.read_bytes()[:-4])
    checkpoint.save(tmp_path, 2, state(2))
    assert holds(tmp_path, 2)


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
def test_a_flipped_bit_is_seen(tmp_path, name):
    """All over the file; a manifest may also read as the same values."""
    original = state_in(saved(tmp_path).parent)
    file = tmp_path / "step-000000005" / name
    good = file.read_bytes()
    for i in range(0, len(good), 2):
        bad = bytearray(good)
        bad[i] ^= 1 << (i % 7)
        file.write_bytes(bad)
        with contextlib.suppress(CheckpointError):
            assert equal(state_in(tmp_path), original), f"byte {i} went unseen"


def refused(folder, words="is damaged"):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_format_is_named_and_not_passed_over(tmp_path):
    checkpoint.save(tmp_path, 4, {})
    file = saved(tmp_path) / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    refused(tmp_path, "format 99, this version reads 2")


def test_no_source_of_the_runner_loads_a_pickle():
    for file in Path(checkpoint.__file__).parent.rglob("*.py"):
        found = re.search(r"import \w*pickle|pickle\.load|torch\.load", file.read_text())
        assert found is None, file.name


def test_write_atomic_keeps_the_old_text_when_it_is_cut(tmp_path, monkeypatch):
    file = tmp_path / "run.json"
    write_atomic(file, "old")

    def no_space(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomic(file, "new")
    assert file.read_text() == "old"
