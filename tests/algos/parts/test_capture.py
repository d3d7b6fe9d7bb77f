"""Updates captured as CUDA graphs: with a stand-in for the graph on the CPU, and on a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves, tree_map

import algos
from algos.base.agent import Agent
from algos.base.offpolicy import OffPolicyAgent
from algos.parts import capture
from algos.parts.optim import adam, set_rate
from algos.parts.rng import ReplicaRng
from algos.parts.types import Spaces
from algos.sac import SAC
from tests.helpers.selection import mostly_extended
from tests.helpers.updates import STATES, Drift, drive, make_small, snapshot

aten = torch.ops.aten
# A stream that is being captured cannot wait for the host, nor read from its memory.
OF_THE_HOST = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.lift_fresh)
ERROR = "CUDA error: operation not permitted when stream is capturing"

CAPTURED = [
    name
    for name in STATES
    if issubclass(algos.load(name), OffPolicyAgent)
    and algos.load(name).phase is not OffPolicyAgent.phase
]
# Fast rhythms, so that every phase of an update is captured within a few of them.
RHYTHM: dict[str, dict[str, Any]] = {
    "dpmd": {"alpha_every": 3, "decay_start": 2, "decay_steps": 20},
    "dipo": {"actor_target_every": 2},
    "qsm": {"decay_steps": 30},
    "qvpo": {"entropy_steps": 40},
}
STEPS = 34  # with 4 random ones


class Tape(TorchDispatchMode):
    """A stand-in for a CUDA graph: calls kept with their arguments, and made again in place.

    Like a graph it knows nothing of Python: numbers stay what they were, and only tensors
    that are written in place change. What the host has to know is an error.
    """

    def __init__(self, function: Callable[[], Any], device: Any, generators: Any = ()) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        with self:
            self.result = function()
        self.fresh = True  # unlike a capture, this has run the function

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in OF_THE_HOST:
            raise RuntimeError(f"{ERROR}\nmore lines of advice")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> Any:
        if not self.fresh:
            for func, args, kwargs, result in self.calls:
                for place, value in zip(
                    tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True
                ):
                    if isinstance(place, torch.Tensor) and place.data_ptr() != value.data_ptr():
                        place.copy_(value)
        self.fresh = False
        return self.result


@pytest.fixture
def tape(monkeypatch) -> None:
    """Captures on the CPU."""
    monkeypatch.setattr(capture, "Graph", Tape)
    monkeypatch.setattr(capture, "run_aside", lambda function, device: function())
    monkeypatch.setattr(OffPolicyAgent, "may_capture", property(lambda agent: agent.capture))


def build(name: str, captured: bool = True, seeds: Sequence[int] = (0, 1)) -> Any:
    """A small agent on the CPU whose memory and learning rates are those of one on a GPU."""
    agent = make_small(algos.load(name), seeds, **RHYTHM.get(name, {}))
    agent.replay.stored = torch.tensor(0)
    for part in agent.components().values():
        if isinstance(part, torch.optim.Optimizer):
            for group in part.param_groups:
                group["lr"] = torch.tensor(group["lr"])
    agent.capture = captured
    return agent


def captured_phases(name: str) -> set[Hashable]:
    """Phases that come more often than they are warmed up for in `STEPS` steps."""
    agent, seen = build(name), Counter[Hashable]()
    while agent.counters.updates < STEPS - agent.config.random_steps:
        agent.counters.updates += 1
        seen[agent.phase()] += 1
    return {phase for phase, times in seen.items() if times > capture.CapturedUpdate.WARM_UP}


def tensors(state: Any) -> dict[str, torch.Tensor]:
    """All tensors of a nested state, by path."""
    leaves, _ = tree_flatten_with_path(state)
    return {keystr(path): leaf for path, leaf in leaves if isinstance(leaf, torch.Tensor)}


def assert_same_state(one: Agent, other: Agent, **tolerance: float) -> None:
    """All numbers of both are equal: bit for bit unless a tolerance is given."""
    ours, theirs = tensors(one.state_dict()), tensors(other.state_dict())
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if tolerance and value.is_floating_point():
            torch.testing.assert_close(value, theirs[name], msg=name, **tolerance)
        else:
            assert torch.equal(value, theirs[name]), name


# ---------------------------------------------------------------- with the stand-in


def test_who_is_captured_in_how_many_phases() -> None:
    expected = dict.fromkeys(("sac", "qvpo", "qsm"), 1) | {"dpmd": 4}
    expected |= dict.fromkeys(("td3", "dipo", "diffsr", "lvrep"), 2)
    assert {name: len(captured_phases(name)) for name in expected} == expected
    assert set(expected) <= set(CAPTURED)


@pytest.mark.parametrize("name", mostly_extended(CAPTURED, quick=["sac", "td3"]))
def test_captured_updates_are_the_updates(name: str, tape: None) -> None:
    agents = build(name, captured=False), build(name)
    (actions, metrics), (others, other_metrics) = (
        drive(a, Drift((0, 1), 3, 2), STEPS) for a in agents
    )
    eager, captured = agents
    assert captured.notice is None
    assert not eager.captured.graphs
    assert captured.captured.graphs.keys() == captured_phases(name)
    assert (actions == others).all()
    assert metrics[-1].keys() == other_metrics[-1].keys()
    assert all(torch.equal(value, other_metrics[-1][key]) for key, value in metrics[-1].items())
    assert_same_state(eager, captured)


@pytest.mark.parametrize("name", mostly_extended(CAPTURED, quick=["sac"]))
def test_a_resumed_run_captures_anew_and_repeats(name: str, tape: None) -> None:
    agent = build(name)
    drive(agent, Drift((0, 1), 3, 2), STEPS)
    before = dict(agent.captured.graphs)
    resumed = build(name, seeds=(5, 6))
    drive(resumed, Drift((5, 6), 3, 2), STEPS)  # has graphs of its own by now
    resumed.load_state_dict(snapshot(agent))
    assert not resumed.captured.graphs
    for a in (agent, resumed):
        drive(a, Drift((8, 9), 3, 2), STEPS)
    assert_same_state(agent, resumed)
    assert agent.captured.graphs == before
    assert resumed.captured.graphs.keys() == before.keys()


@pytest.mark.parametrize("name", mostly_extended(CAPTURED, quick=["sac"]))
def test_a_capture_that_fails_changes_nothing(name: str, tape: None, monkeypatch) -> None:
    eager, other = build(name, captured=False), build(name)
    drive(eager, Drift((0, 1), 3, 2), STEPS)
    old = list(other.rng.generators)

    def fail(function: Any, device: Any, generators: Sequence[torch.Generator]) -> None:
        assert generators == old
        for generator in generators:
            torch.rand(3, generator=generator)
        raise RuntimeError(f"{ERROR}\nmore lines of advice")

    monkeypatch.setattr(capture, "Graph", fail)
    drive(other, Drift((0, 1), 3, 2), STEPS)
    assert other.notice == f"updates run without a CUDA graph: {ERROR}"
    assert not set(other.rng.generators) & set(old)
    assert_same_state(eager, other)


def test_only_the_device_decides_on_capture_and_pixels_never_are(tape: None, monkeypatch) -> None:
    monkeypatch.undo()
    agent = make_small(algos.load("sac"))
    assert not agent.may_capture
    agent.device = torch.device("cuda")
    assert agent.may_capture
    agent.spaces = Spaces((3, 64, 64), 2)
    assert not agent.may_capture


class Counted:
    """An update that counts its calls, and can be told to read the host."""

    def __init__(self) -> None:
        self.total, self.calls, self.reads = torch.zeros(1), 0, False

    def __call__(self) -> dict[str, torch.Tensor]:
        self.calls += 1
        self.total.add_(1.0)
        return {"total": self.total * (self.total.item() if self.reads else 1.0)}


def captured_update() -> capture.CapturedUpdate:
    return capture.CapturedUpdate(ReplicaRng([0], torch.device("cpu")))


def test_each_phase_is_warmed_up_and_captured_once(tape: None) -> None:
    update, run = Counted(), captured_update()
    phases = "aababbbaaababba"
    results = [run(update, phase) for phase in phases]
    # Three updates and one capture of each phase call the function, no replay does.
    assert update.calls == 2 * (run.WARM_UP + 1)
    assert float(update.total) == len(phases)
    assert set(run.graphs) == {"a", "b"}
    assert run.notice is None
    assert results[-1] is results[-4]  # of the same phase: static tensors
    assert results[-1] is not results[-2]
    assert float(results[-1]["total"]) == len(phases)


def test_none_is_never_captured(tape: None) -> None:
    update, run = Counted(), captured_update()
    for _ in range(10):
        run(update, None)
    assert (update.calls, run.graphs, run.notice) == (10, {}, None)


def test_after_a_failure_nothing_is_captured_any_more(tape: None) -> None:
    update, run = Counted(), captured_update()
    for _ in range(5):
        run(update, "a")
    update.reads = True
    for phase in "bbbbba":
        run(update, phase)
    assert run.notice == f"updates run without a CUDA graph: {ERROR}"
    assert not run.graphs


def test_the_reason_is_what_broke_the_capture_off() -> None:
    broken = RuntimeError("the capture broke off")
    broken.__context__ = RuntimeError("cause\nadvice")
    assert capture.reason_of(broken) == "cause"
    assert capture.reason_of(MemoryError()) == "MemoryError"


def test_the_stand_in_sees_numbers_of_python_and_waits_for_the_host() -> None:
    x, scale = torch.ones(2), [2.0]
    tape = Tape(lambda: {"y": (x * scale[0]).sum()}, None, ())
    scale[0] = 3.0
    x.fill_(5.0)
    assert float(tape.replay()["y"]) == 4.0
    assert float(tape.replay()["y"]) == 20.0
    with pytest.raises(RuntimeError, match="capturing"):
        Tape(lambda: float(x.sum()), None, ())


def test_a_captured_function_is_captured_for_each_shape(monkeypatch) -> None:
    monkeypatch.setattr(capture, "Graph", Tape)
    monkeypatch.setattr(capture, "run_aside", lambda function, device: function())
    calls = []

    def chain(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(x))
        return x + y, x * y

    graphed, results = capture.CapturedFunction(chain, "it runs"), []
    for size in (3, 3, 3, 5, 5):
        x, y = torch.rand(2, size, generator=torch.Generator().manual_seed(len(results)))
        results.append((graphed(x, y), (x + y, x * y)))
    assert calls == [3, 3, 5, 5]  # of each shape one call before the capture, and it
    assert all(torch.equal(a, b) for pair in results for a, b in zip(*pair, strict=True))


def test_a_function_that_cannot_be_captured_runs_as_it_is_and_says_so(monkeypatch) -> None:
    def fail(function: Any, device: Any) -> None:
        raise RuntimeError(f"{ERROR}\nmore lines of advice")

    monkeypatch.setattr(capture, "run_aside", lambda function, device: function())
    monkeypatch.setattr(capture, "Graph", fail)
    graphed, x = capture.CapturedFunction(lambda x: (x, 2.0 * x), "it runs"), torch.ones(2)
    with pytest.warns(UserWarning, match=f"it runs without a CUDA graph: {ERROR}$"):
        assert graphed(x)[1].tolist() == [2.0, 2.0]
    assert graphed(3.0 * x)[1].tolist() == [6.0, 6.0]


def test_rates_are_numbers_on_a_cpu_and_stay_tensors_where_they_are_tensors() -> None:
    optimizer = adam([torch.nn.Parameter(torch.zeros(2))], 0.1)
    (group,) = optimizer.param_groups
    set_rate(optimizer, 0.5)
    assert group["lr"] == 0.5
    rate = group["lr"] = torch.tensor(0.1)
    set_rate(optimizer, 0.25)
    assert group["lr"] is rate
    assert float(rate) == 0.25


def test_draws_with_the_count_on_the_device_are_uniform_over_what_is_stored() -> None:
    agent = build("sac")
    drive(agent, Drift((0, 1), 3, 2), 4)
    assert int(agent.replay.stored) == len(agent.replay) == 4
    index = agent.replay.draw(4000, agent.rng)
    counts = torch.stack([row.bincount() for row in index])
    assert counts.shape == (2, 4)
    assert 850 < int(counts.min()) <= int(counts.max()) < 1150
    fuller = build("sac")
    fuller.load_state_dict(snapshot(agent))
    assert int(fuller.replay.stored) == 4


# ---------------------------------------------------------------- on a GPU

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def on_cuda(cls: type[Agent], seeds: Sequence[int] = (0, 1), captured: bool = True) -> Any:
    small = make_small(cls, seeds, **RHYTHM.get(cls.__module__.split(".")[-1], {}))
    agent: Any = cls(small.spaces, small.config, seeds, "cuda")
    agent.capture = captured
    return agent


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("name", CAPTURED)
def test_on_cuda_captured_updates_are_the_updates(name: str) -> None:
    cls = algos.load(name)
    eager, captured = on_cuda(cls, captured=False), on_cuda(cls)
    for agent in (eager, captured):
        drive(agent, Drift((0, 1), 3, 2), STEPS)
    assert captured.notice is None
    assert captured.captured.graphs.keys() == captured_phases(name)
    assert not eager.captured.graphs
    # Rates are 1e-4 to 3e-3, so that one step more or less would show.
    assert_same_state(eager, captured, atol=5e-5, rtol=1e-3)


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("name", CAPTURED)
def test_on_cuda_a_resumed_run_repeats_bit_by_bit(name: str) -> None:
    cls = algos.load(name)
    agent, resumed = on_cuda(cls), on_cuda(cls, (5, 6))
    drive(agent, Drift((0, 1), 3, 2), STEPS)
    drive(resumed, Drift((5, 6), 3, 2), STEPS)
    # A checkpoint brings tensors of the host.
    resumed.load_state_dict(tree_map(on_host, snapshot(agent)))
    for a in (agent, resumed):
        drive(a, Drift((8, 9), 3, 2), STEPS)
    assert agent.notice is None
    assert resumed.notice is None
    assert resumed.captured.graphs.keys() == agent.captured.graphs.keys()
    assert_same_state(agent, resumed)


def on_host(value: Any) -> Any:
    return value.cpu() if isinstance(value, torch.Tensor) else value


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("name", CAPTURED)
def test_on_cuda_a_replica_in_a_group_equals_its_seed_alone(name: str) -> None:
    cls, seeds = algos.load(name), (0, 3, 5, 7)
    group, alone = on_cuda(cls, seeds), on_cuda(cls, (5,))
    drive(group, Drift(seeds, 3, 2), STEPS)
    drive(alone, Drift((5,), 3, 2), STEPS)
    assert group.captured.graphs.keys() == alone.captured.graphs.keys()
    assert alone.captured.graphs.keys() == captured_phases(name)
    parts = group.components()
    for key, part in alone.components().items():
        if isinstance(part, torch.nn.Module):
            for p, q in zip(parts[key].parameters(), part.parameters(), strict=True):
                own = p.unflatten(0, (4, -1))[2]
                # Other seeds differ by the size of the weights themselves, about 0.1.
                torch.testing.assert_close(own, q, atol=5e-3, rtol=1e-2, msg=key)


class Waits(SAC):
    """Reads a number on the host in every update, which cannot be captured."""

    def learn(self) -> dict[str, torch.Tensor]:
        metrics = super().learn()
        assert float(metrics["critic_loss"].sum()) >= 0.0
        return metrics


@pytest.mark.cuda
@needs_gpu
def test_on_cuda_a_capture_that_fails_changes_nothing() -> None:
    eager, waits, after = on_cuda(SAC, captured=False), on_cuda(Waits), on_cuda(SAC)
    stream = torch.cuda.current_stream()
    for agent in (eager, waits, after):
        drive(agent, Drift((0, 1), 3, 2), STEPS)
        assert torch.cuda.current_stream() == stream
    assert waits.notice is not None
    assert "captur" in waits.notice
    assert not waits.captured.graphs
    assert_same_state(eager, waits)
    # And the next agent of the process can be captured.
    assert after.notice is None
    assert len(after.captured.graphs) == 1
