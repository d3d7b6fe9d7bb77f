"""Files that somebody else wrote: nothing runs, nothing outside is read, nothing large is made."""

import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import struct
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from algos.parts.blocks import Block
from runners.cells.errors import UserError
from runners.storage import checkpoint, manifest
from runners.storage.checkpoint import CheckpointError
from runners.storage.rundir import RunDirectory
from runners.training.loop import make_agent
from runners.training.trained import load_policy
from tests.helpers.runs import cell_of

BLOCK = Block(np.arange(32, dtype=np.float32))
FILES = ("manifest.json", "tensors.safetensors", f"../blocks/{BLOCK.digest}")
ROOM = 64 << 20  # bytes of address space that a load may take


@contextmanager
def little_memory():
    """An allocation of more than `ROOM` fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def saved(folder):
    state = {"x": torch.arange(64.0), "n": [1, 2.5, "text"], "block": BLOCK}
    return checkpoint.save(folder, 5, state, blocks_on_disk=False)


def refused(folder, words=None):
    with little_memory(), pytest.raises(CheckpointError, match=words) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 1_000


def sign(path, tree=None):
    """Make checksums right again, of a checkpoint with another state if one is given."""
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["state"] = manifest["state"] if tree is None else tree
    tensors = hashlib.sha256((path / "tensors.safetensors").read_bytes()).hexdigest()
    state = hashlib.sha256(json.dumps(manifest["state"]).encode()).hexdigest()
    file.write_text(json.dumps(manifest | {"sha256": {"tensors": tensors, "state": state}}))


def test_signing_is_what_a_save_does(tmp_path):
    path = saved(tmp_path)
    text = (path / "manifest.json").read_text()
    sign(path)
    assert (path / "manifest.json").read_text() == text


# Code ---------------------------------------------------------------------------------


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def torch_bytes(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("dump", [pickle.dumps, torch_bytes])
def test_no_pickle_is_loaded(tmp_path, name, dump):
    path, exploded = saved(tmp_path), tmp_path / "exploded"
    (path / name).write_bytes(dump({"x": Bomb(exploded)}))
    if name == "tensors.safetensors":
        sign(path)
    refused(tmp_path)
    assert not exploded.exists()


def test_a_pickle_that_poses_as_a_block_is_numbers(tmp_path):
    content = pickle.dumps(Bomb(tmp_path / "exploded"))
    path, sha256 = saved(tmp_path), hashlib.sha256(content).hexdigest()
    (tmp_path / "blocks" / sha256).write_bytes(content)
    sign(path, {"block": {"sha256": sha256, "shape": [len(content)], "dtype": "uint8"}})
    assert checkpoint.load(tmp_path).state.array.tobytes() == content
    assert not (tmp_path / "exploded").exists()
    sign(path, {"block": {"sha256": sha256, "shape": [1], "dtype": f"V{len(content)}"}})
    assert checkpoint.load(tmp_path).state.array.tobytes() == content


@pytest.mark.parametrize("dtype", ["object", "O", "int77", 5, None, ["f4"], {"f4": 1}, ""])
def test_a_block_of_a_bad_type_is_refused(tmp_path, dtype):
    sign(saved(tmp_path), {"block": {"sha256": BLOCK.digest, "shape": [16], "dtype": dtype}})
    refused(tmp_path)


# Paths --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "..", "", "a" * 63, "A" * 64, "a" * 64 + "\n", 5, None]
)
def test_a_block_is_named_by_its_checksum_only(tmp_path, name):
    (tmp_path / "secret").write_bytes(b"1234")
    sign(saved(tmp_path), {"block": {"sha256": name, "shape": [1], "dtype": "float32"}})
    refused(tmp_path)


@pytest.mark.parametrize("name", [*FILES, ".", "../blocks"])
def test_no_symbolic_link_is_followed(tmp_path, name):
    """To a good copy outside of the folder, so that nothing else is wrong."""
    path = saved(tmp_path / "inside")
    place, outside = (path / name).resolve(), tmp_path / "outside"
    place.rename(outside)
    place.symlink_to(outside)
    refused(tmp_path / "inside", "symbolic link")


def test_a_loop_of_links_is_refused(tmp_path):
    file = saved(tmp_path) / "tensors.safetensors"
    file.unlink()
    file.symlink_to(file)
    refused(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_refused(tmp_path, name):
    """A pipe, on which a reader would wait, and a folder."""
    place = (saved(tmp_path) / name).resolve()
    place.unlink()
    os.mkfifo(place)
    refused(tmp_path, "is no file")
    place.unlink()
    place.mkdir()
    refused(tmp_path, "is no file")


def test_a_save_removes_nothing_but_its_own(tmp_path):
    """Though the folder of the blocks leads elsewhere."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "blocks").symlink_to(other)
    saved(tmp_path / "run")
    assert (other / "thesis.tex").read_text() == "mine"


# Size ---------------------------------------------------------------------------------


def zip_bomb():
    """A quarter of a gigabyte of zeros in a quarter of a megabyte."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as file,
    ):
        for _ in range(256):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def bomb():
    return zip_bomb()


@pytest.mark.parametrize("name", FILES)
def test_a_zip_bomb_is_not_unpacked(tmp_path, bomb, name):
    path = saved(tmp_path)
    (path / name).write_bytes(bomb)
    if name == "tensors.safetensors":
        sign(path)
    refused(tmp_path)


def test_a_manifest_of_absurd_size_is_not_read(tmp_path):
    file = saved(tmp_path) / "manifest.json"
    os.truncate(file, 1 << 40)
    refused(tmp_path, "has more than 67,108,864 bytes")
    checkpoint.save(tmp_path, 6, {"n": 1})  # nor by the next save
    assert checkpoint.load(tmp_path).state == {"n": 1}


def test_a_state_too_large_to_be_loaded_is_not_saved(tmp_path, monkeypatch):
    saved(tmp_path)
    monkeypatch.setattr(checkpoint, "MANIFEST_BYTES", 4096)
    with pytest.raises(ValueError, match=r"5,\d+ bytes of numbers and texts, too many"):
        checkpoint.save(tmp_path, 6, {"text": "x" * 5_000})
    assert checkpoint.load(tmp_path).path.name == "step-000000005"


@pytest.mark.parametrize(
    "shape",
    [
        *([1 << 40], [1 << 62, 4], [1 << 32, 1 << 32, 1 << 32], [10**400]),
        *([-1, 32], [-32], [0], [32.0], [True] * 5, ["32"], "32", 32, None, [[32]]),
    ],
    ids=repr,
)
def test_a_block_of_a_bad_shape_is_refused(tmp_path, shape):
    sign(saved(tmp_path), {"block": {"sha256": BLOCK.digest, "shape": shape, "dtype": "float32"}})
    refused(tmp_path)


def tensors_file(header, data=bytes(16), size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def tensor(shape, begin, end, dtype="F32"):
    return {"0": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


TENSORS = {
    "giant shape": tensors_file(tensor([1 << 40], 0, 1 << 42)),
    "giant shape, little data": tensors_file(tensor([1 << 40], 0, 16)),
    "overflow": tensors_file(tensor([1 << 32, 1 << 32, 1 << 32], 0, 16)),
    "offsets outside": tensors_file(tensor([4], 1 << 30, (1 << 30) + 16)),
    "negative": tensors_file(tensor([-4], 0, 16)),
    "giant header": tensors_file({}, size=1 << 62),
    "no header": b"",
    "deep header": tensors_file(b"[" * 100_000),
    "unknown type": tensors_file(tensor([4], 0, 16, "PICKLE")),
}


@pytest.mark.parametrize("content", TENSORS.values(), ids=TENSORS)
def test_a_crafted_tensor_file_is_refused(tmp_path, content):
    path = saved(tmp_path)
    (path / "tensors.safetensors").write_bytes(content)
    sign(path, {"tensor": "0"})
    refused(tmp_path)


# Structure ----------------------------------------------------------------------------


TREES = [
    {"dict": 5},
    {"dict": [[{"dict": []}, 1]]},
    {"dict": [[1, 2, 3]]},
    {"tensor": "77"},
    {"tensor": ["0"]},
    {"array": None},
    {"bfloat16": "text"},
    {"block": 5},
    {"block": {"sha256": BLOCK.digest}},
    {"block": {"sha256": BLOCK.digest, "shape": [32], "dtype": "float32", "path": "/etc"}},
    {"python": "os.system"},
    {"a": 1, "b": 2},
    {},
    {"list": 3},
]


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_a_crafted_tree_is_refused(tmp_path, tree):
    sign(saved(tmp_path), tree)
    refused(tmp_path)


def nested(depth, opening, closing):
    return opening * depth + closing * depth


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "null", "3", "NaN", '{"format": 2}', "[" * 100_000, "\x00\xff"),
        nested(100_000, "[", "]"),
        '{"format": 2, "sha256": {}, "state": ' + nested(100_000, '{"list": [', "]}") + "}",
        '{"format": ' + "9" * 100_000 + "}",
        '{"format": [2]}',
    ],
    ids=lambda text: text[:30],
)
def test_a_manifest_of_another_shape_is_refused(tmp_path, text):
    (saved(tmp_path) / "manifest.json").write_text(text)
    refused(tmp_path)


@pytest.mark.parametrize("depth", [900, 3_000])
def test_a_deep_tree_with_the_right_checksum_is_refused(tmp_path, depth):
    """Deeper than Python's readers go, though its text may still be parsed."""
    path = saved(tmp_path)
    tree = nested(depth, '{"list": [', "]}")
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["sha256"]["state"] = hashlib.sha256(tree.encode()).hexdigest()
    text = json.dumps(manifest | {"state": "HERE"}).replace('"HERE"', tree)
    file.write_text(text)
    refused(tmp_path)


def test_the_one_before_serves_where_the_newest_is_crafted(tmp_path):
    good = checkpoint.save(tmp_path, 4, {"n": 4})
    shutil.copy("/bin/true", saved(tmp_path) / "tensors.safetensors")
    loaded = checkpoint.load(tmp_path)
    assert (loaded.state, loaded.path) == ({"n": 4}, good)
    assert "step-000000005 is damaged" in loaded.notice


# Policies -----------------------------------------------------------------------------


SETS = ["sac.hidden=8"]


@pytest.fixture
def run(tmp_path):
    """The run directory of a run that ended at once."""
    cell = cell_of("sac", sets=SETS)
    directory = RunDirectory(cell, tmp_path)
    directory.path.mkdir(parents=True)
    directory.write_manifest(manifest.build(cell, "cpu") | {"status": "done"})
    checkpoint.save(directory.policy, 5, make_agent((cell,), "cpu").policy_state())
    load_policy(directory.path)
    return directory.path


def policy_refused(run, words):
    with pytest.raises(UserError, match=words) as caught:
        load_policy(run)
    assert "\n" not in str(caught.value)
    assert str(run) in str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "tensors.safetensors"])
@pytest.mark.parametrize("dump", [pickle.dumps, torch_bytes])
def test_no_pickle_is_loaded_as_a_policy(run, tmp_path, name, dump):
    exploded, path = tmp_path / "exploded", run / "policy" / "step-000000005"
    (path / name).write_bytes(dump(Bomb(exploded)))
    policy_refused(run, "is damaged")
    assert not exploded.exists()


def test_a_policy_behind_a_link_is_refused(run, tmp_path):
    path = run / "policy" / "step-000000005"
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    policy_refused(run, "symbolic link")


@pytest.mark.parametrize("state", [5, "text", None, [], {}, {"actor": 5}], ids=repr)
def test_a_policy_that_does_not_fit_is_one_line(run, state):
    checkpoint.save(run / "policy", 6, state)
    policy_refused(run, "step-000000006: does not fit sac")


def test_a_policy_of_another_size_is_one_line(run):
    other = make_agent((cell_of("sac", sets=["sac.hidden=9"]),), "cpu")
    checkpoint.save(run / "policy", 6, other.policy_state())
    policy_refused(run, "does not fit sac")


def test_a_policy_from_the_checkpoint_before_says_so(run, capsys):
    shutil.rmtree(run / "policy")
    agent = make_agent((cell_of("sac", sets=SETS),), "cpu")
    for step in (5, 6):
        path = checkpoint.save(
            run / "checkpoint", step, {"agent": agent.state_dict(), "replicas": [{}]}
        )
    (path / "manifest.json").unlink()
    load_policy(run)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "step-000000006 is damaged" in error
    assert "going on from step-000000005" in error
