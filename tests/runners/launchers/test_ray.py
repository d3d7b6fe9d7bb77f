"""Sweeps on a real Ray cluster of two nodes on this machine: nodes die, cells fail, people stop."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runners.cells.errors import UserError
from runners.cells.settings import RunSettings
from runners.launchers.remote import Needs, Origin
from runners.storage.lease import holder
from runners.storage.rundir import RunDirectory
from tests.helpers.cluster import (
    Watched,
    begun,
    cells_in,
    record_of,
    statuses,
)
from tests.helpers.runs import files_of, wait_until

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[cluster]')")
from ray.cluster_utils import Cluster  # noqa: E402

from runners.launchers import ray as launcher_module  # noqa: E402
from runners.launchers.ray import RayLauncher  # noqa: E402

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray's own 15 seconds until a silent node counts as dead are made 5.
    head = {"num_gpus": 1, "include_dashboard": False}
    head["_system_config"] = {"health_check_period_ms": 1000}
    cluster = Cluster(initialize_head=True, head_node_args=NODE | head)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(autouse=True)
def connection(signal_handlers):
    yield
    ray.shutdown()


@pytest.fixture
def experiment(tmp_path):
    return tmp_path / "e"


def launch(cluster, experiment, cells, at_refresh=lambda view: None, **how):
    launcher = RayLauncher(cluster.address, RunSettings(checkpoint_seconds=0.2, **how), Needs())
    view = Watched(cells, at_refresh)
    finished = launcher.run([(cell,) for cell in cells], experiment, view)
    return finished, view


@pytest.mark.extended
def test_a_node_is_killed_and_every_cell_ends_with_the_same_bytes(
    cluster, experiment, whole, tmp_path
):
    runs = cells_in(tmp_path)
    nodes = [cluster.add_node(**NODE)]
    pids = set()

    def kill(view):
        if nodes and all(begun(cell, experiment) for cell in runs):
            pids.update(holder(RunDirectory(c, experiment).checkpoints).pid for c in runs)
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    finished, view = launch(cluster, experiment, runs, kill)
    assert finished
    assert len(pids) == 2, "no node was killed with both cells in the middle"
    assert statuses(runs, view) == ["done", "done"]
    assert sorted(record_of(cell, experiment)["resumed"] for cell in runs) == [0, 1]
    assert [files_of(cell.path(experiment)) for cell in runs] == whole


@pytest.mark.extended
def test_a_sweep_that_is_stopped_saves_and_goes_on(cluster, experiment, whole, tmp_path):
    runs = cells_in(tmp_path)
    seen = []

    def stop(view):
        if view.row(runs[0]).status == "running" and begun(runs[0], experiment):
            seen.append(view.row(runs[0]).status)
            os.kill(os.getpid(), signal.SIGTERM)

    finished, view = launch(cluster, experiment, runs, stop)
    assert seen
    assert not finished
    assert statuses(runs, view) == ["stopped", "waiting"]
    assert holder(RunDirectory(runs[0], experiment).checkpoints) is None
    finished, view = launch(cluster, experiment, runs)
    assert finished
    assert statuses(runs, view) == ["done", "done"]
    assert [record_of(cell, experiment)["resumed"] for cell in runs] == [1, 0]
    assert [files_of(cell.path(experiment)) for cell in runs] == whole


def test_a_dead_worker_is_replaced_but_a_failed_cell_is_not_tried_again(
    cluster, experiment, tmp_path
):
    line = """
        tries = here / "tries"
        tries.open("a").write(".")
        os._exit(1) if tries.stat().st_size == 1 else 1 / 0
    """
    (cell,) = cells_in(tmp_path, line, seeds=1)
    finished, view = launch(cluster, experiment, [cell])
    assert finished
    assert view.row(cell).status == record_of(cell, experiment)["status"] == "failed"
    assert view.row(cell).reason == "ZeroDivisionError: division by zero (mine.py:15)"
    assert (tmp_path / "tries").read_text() == ".."


@pytest.mark.extended
def test_a_run_that_is_lost_each_time_is_given_up(cluster, experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher_module, "MOST_BEGINNINGS", 0)
    runs = cells_in(tmp_path)
    _, view = launch(cluster, experiment, runs)
    assert statuses(runs, view) == ["failed", "failed"]
    assert view.row(runs[0]).reason == "begun 0 times, and lost each time"


@pytest.mark.slow
def test_a_worker_without_progress_ends_itself(cluster, experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher_module, "RETRIES", 0)
    (cell,) = cells_in(tmp_path, seeds=1)
    _, view = launch(cluster, experiment, [cell], step_timeout=1.0)
    assert view.row(cell).status == "failed"
    assert "worker died unexpectedly" in view.row(cell).reason


@pytest.mark.slow
def test_a_run_gets_the_part_of_a_gpu_that_it_asks_for(cluster, experiment, tmp_path):
    """Two runs share the one GPU and a CPU: each waits until the other one is there too."""
    line = """
        device = os.environ["CUDA_VISIBLE_DEVICES"]
        (here / f"gpu-{device}-{os.getpid()}").touch()
        end = time.monotonic() + 30
        while len(list(here.glob("gpu-0-*"))) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        assert time.monotonic() < end, "the other one never came"
    """
    runs = cells_in(tmp_path, line)
    # There is no GPU: the device of the cells stays the CPU, Ray's accounting is real.
    launcher = RayLauncher(cluster.address, RunSettings("cuda"), Needs(cpus=0.5, gpus=0.5))
    launcher.settings = RunSettings("cpu")
    view = Watched(runs)
    assert launcher.run([(cell,) for cell in runs], experiment, view)
    assert statuses(runs, view) == ["done", "done"], view.rows
    assert len(list(tmp_path.glob("gpu-0-*"))) == 2


@pytest.mark.extended
def test_a_cell_that_another_sweep_has_is_waited_for(cluster, experiment, tmp_path):
    (cell,) = cells_in(tmp_path, seeds=1)
    directory = RunDirectory(cell, experiment)
    assert directory.lock()
    seen = set()

    def leave(view):
        seen.add(view.row(cell).status)
        if len(seen) == 1:
            directory.unlock()

    finished, view = launch(cluster, experiment, [cell], leave)
    assert finished
    assert "elsewhere" in seen
    assert view.row(cell).status == "done"


@pytest.mark.slow
def test_a_node_that_does_not_see_the_folder_is_named_before_anything_starts(
    cluster, experiment, tmp_path
):
    runs = cells_in(tmp_path)
    hidden = f"mount -t tmpfs none {experiment} && exec "
    start = f"{Path(sys.executable).parent}/ray start --address={cluster.address} --block "
    start += "--num-cpus=1 --object-store-memory=80000000 --disable-usage-stats"
    unshare = ["unshare", "--mount", "sh", "-c"]
    if subprocess.run(
        [*unshare, f"mount -t tmpfs none {experiment}"], capture_output=True
    ).returncode:
        pytest.skip("no mount namespaces here (needs root)")
    node = subprocess.Popen(
        [*unshare, hidden + start], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        wait_until(lambda: sum(n["Alive"] for n in ray.nodes()) == 2, what="the second node")
        ray.shutdown()
        with pytest.raises(UserError, match=r"machine \S+ does not see \S+: the experiment must"):
            launch(cluster, experiment, runs)
        assert not list(experiment.glob("mbbl"))
        assert not list(experiment.glob(".token*"))
    finally:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()


def test_what_a_node_can_lack(experiment, tmp_path):
    runs = cells_in(tmp_path, seeds=1)
    origin = Origin.here([tuple(runs)])
    token = experiment / "token"
    assert "does not see" in launcher_module._ask(token, origin)
    token.write_text("another")
    assert "sees another" in launcher_module._ask(token, origin)
    token.write_text("token")
    assert launcher_module._ask(token, origin) is None
    (tmp_path / "mine.py").write_text("# changed")
    assert launcher_module._ask(token, origin) == f"has another {tmp_path / 'mine.py'}"
    (tmp_path / "mine.py").unlink()
    assert f"cannot read {tmp_path / 'mine.py'}" in launcher_module._ask(token, origin)
    versions = {**origin.versions, "torch": "1.0"}
    found = launcher_module._ask(token, Origin(versions, {}))
    assert found == f"has torch {torch.__version__}, the machine of the sweep has 1.0"


def test_needs_that_no_node_meets(cluster):
    with pytest.raises(
        UserError, match=r"no machine has .* \(64 CPUs, 0 GPUs, 1 GB\); there are: "
    ):
        RayLauncher(cluster.address, RunSettings(), Needs(cpus=64, memory_gb=1))


@pytest.mark.parametrize(
    ("needs", "device", "line"),
    [
        (Needs(cpus=0), "cpu", "--cpus-per-run 0: must be more than 0"),
        (Needs(gpus=-1), "cpu", "--gpus-per-run -1: must be 0 or more"),
        (Needs(gpus=0.5), "cpu", "--gpus-per-run 0.5: must be 0 with --device cpu"),
        (Needs(), "cuda", "--gpus-per-run 0: must be more than 0 with --device cuda"),
        (Needs(gpus=1), "cuda:1", "--device cuda:1: a cluster gives out its GPUs itself; say cuda"),
        (Needs(memory_gb=0), "cpu", "--memory-per-run 0: must be more than 0"),
    ],
)
def test_bad_needs_are_one_line(needs, device, line):
    with pytest.raises(UserError) as error:
        needs.check(device)
    assert str(error.value) == line


@pytest.mark.parametrize("address", ["nowhere", "host:", "host:port", "127.0.0.1:99999", ":1"])
def test_a_bad_address_is_one_line(address):
    with pytest.raises(UserError, match=rf"--address {address}: expected auto or HOST:PORT"):
        RayLauncher(address, RunSettings(), Needs())


def absent(**options):
    """What Ray does with `auto` where it finds no cluster; the one of this test is found."""
    raise ConnectionError("Could not find any running Ray instance.")


def test_no_cluster_is_one_line(monkeypatch):
    with pytest.raises(UserError, match=r"--address 127.0.0.1:1: no Ray cluster there \(.*refused"):
        RayLauncher("127.0.0.1:1", RunSettings(), Needs())
    monkeypatch.setattr(ray, "init", absent)
    with pytest.raises(UserError, match=r"--address auto: no Ray cluster on this machine; start"):
        RayLauncher("auto", RunSettings(), Needs())
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"Ray is not installed; pip install -e '.\[cluster\]'"):
        RayLauncher("auto", RunSettings(), Needs())
