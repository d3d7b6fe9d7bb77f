"""Structure of the benchmark; it asserts nothing about how fast anything is."""

import importlib.util
import itertools
import json

import pytest
import torch

import algos
import envs
import tests.helpers.agents as tiny
from algos.parts import precision
from algos.parts.config import build_config
from algos.parts.types import Spaces
from runners.bench import __main__ as command
from runners.bench import loop as bench_loop
from runners.bench import methods, peers, record, timing
from runners.bench import work as bench_work
from runners.cells.schema import PHASES
from runners.terminal.cli import run_main
from runners.training.estimate import time_learning
from tests.helpers.selection import mostly_extended

CPU = torch.device("cpu")
RATE = {"float32": 100.0, "tf32": 100.0, "bfloat16": 100.0}
COST = methods.Cost(
    algo="sac",
    precision="bfloat16",
    u_ms=1.0,
    period=2,
    update_ms=4.0,
    update_u=4.0,
    act_ms=0.1,
    act_u=0.1,
    update_gflop=0.5,
    rate_fraction=0.25,
)
HOT = methods.HotLoop("sac", "dream", "bfloat16", 2.0, 3.0, 0.5, 0.25)
SB3 = peers.AgainstSB3("sac", "gym/HalfCheetah-v5", 30.0, 20.0, 1.5, "2.9")
LOOP = bench_loop.LoopSpeed("sac", "mbbl/HalfCheetah", 10, 200.0, dict.fromkeys(PHASES, 1.25))


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(timing, "WARM_UP", 1)
    monkeypatch.setattr(timing, "BURST_SECONDS", 0.0)
    monkeypatch.setattr(peers, "SB3_WARM_UP", 8)


def test_calls_take_turns():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    seconds = timing.in_turns(calls, 3, CPU)
    assert order[-6:] == list("ababab")
    assert {name: len(samples) for name, samples in seconds.items()} == {"a": 3, "b": 3}
    assert min(seconds["a"]) >= 0.0


def test_cost_in_units_compares_samples_of_the_same_turn():
    # The machine is ten times slower in the second turn; the ratio does not change.
    assert timing.paired([4.0, 40.0, 8.0], [1.0, 10.0, 2.0]) == 4.0


def test_unit_leaves_gradients_of_one_pass():
    call = timing.unit(CPU)
    assert call() is None
    call()


def test_product_rate_is_positive():
    for dtype in (torch.float32, torch.bfloat16):
        assert timing.product_rate(dtype, CPU, (16, 32)) > 0.0


@pytest.mark.parametrize(
    ("has_bfloat16", "names"), [(True, ("float32", "bfloat16")), (False, ("float32",))]
)
def test_rates_cover_every_precision_of_the_device(monkeypatch, has_bfloat16, names):
    monkeypatch.setattr(timing, "product_rate", lambda dtype, device, sizes: 1.0)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: has_bfloat16)
    allowed = torch.backends.cuda.matmul.allow_tf32
    assert timing.rates(CPU) == dict.fromkeys(names, 1.0)
    assert torch.backends.cuda.matmul.allow_tf32 == allowed


def test_work_of_sac_is_what_its_layers_say():
    # Batch 256, multiplication and addition: critic 23-256-256 twice, actor 17-256-256-12. The
    # value's last layer is a sum, not a product.
    critic = 2 * 2 * 256 * (23 * 256 + 256 * 256)
    actor = 2 * 256 * (17 * 256 + 256 * 256 + 256 * 12)
    hidden = 2 * 2 * 256 * 256 * 256
    least = (
        actor  # action of the target
        + critic  # target
        + 2 * critic + hidden  # critic forward, weights, and inputs of its second layer
        + 3 * actor  # actor forward and backward, less the observation's gradient
        - 2 * 256 * 17 * 256
        + 2 * critic  # frozen critic: forward, and back to the action
    )  # fmt: skip
    agent = bench_work.ready_agent("sac", CPU, stored=4)
    period, gflop = bench_work.learning_period(agent)
    assert period == 1
    assert gflop * 1e9 == pytest.approx(least, rel=0.02)


class Rhythm(tiny.Tiny):
    """Learns at every `every`-th step, by one product of 256 n operations; n cycles over `work`."""

    every, work = 3, (1,)

    def build(self):
        super().build()
        self.learnings = 0

    def update(self):
        if self.counters.steps % self.every:
            return {}
        torch.ones(16, 8) @ torch.ones(8, self.work[self.learnings % len(self.work)])
        self.learnings += 1
        return {"loss": torch.zeros(1)}


def rhythm(every, work, monkeypatch):
    monkeypatch.setattr(Rhythm, "every", every)
    monkeypatch.setattr(Rhythm, "work", work)
    monkeypatch.setattr(algos, "load", lambda name: Rhythm)


@pytest.mark.parametrize(
    ("every", "work", "period"),
    [
        (1, (1,), 1),
        (1, (1, 3), 2),  # more at every second update
        (3, (1,), 3),  # nothing in between
        (7, (1, 1, 4), 21),
        (1, (1, 1, 1, 2), 4),
    ],
)
def test_work_is_counted_over_whole_periods(every, work, period, monkeypatch):
    rhythm(every, work, monkeypatch)
    found, gflop = bench_work.learning_period(bench_work.ready_agent("x", CPU, stored=5))
    assert found == period
    assert gflop * 1e9 == pytest.approx(256 * sum(work) / period)


def test_work_without_a_period_is_averaged(monkeypatch):
    rhythm(2, tuple(range(1, 200)), monkeypatch)
    monkeypatch.setattr(bench_work, "MOST_LEARNINGS", 8)
    found, gflop = bench_work.learning_period(bench_work.ready_agent("x", CPU, stored=0))
    assert found == 2 * 8
    assert gflop * 1e9 == pytest.approx(256 * sum(range(1, 9)) / 16)


@pytest.mark.parametrize(
    ("work", "period"),
    [
        ([2, 2], 1),
        ([0, 0, 5, 0, 0, 5, 0], 3),
        ([1, 2, 1, 3], 0),
        ([1], 0),
        ([0, 1000, 0, 1040], 2),  # nearly the same work
        ([0, 1000, 0, 1100], 0),
    ],
)
def test_shortest_period(work, period):
    assert bench_work.shortest_period(work) == period


@pytest.fixture
def clock(monkeypatch):
    """A clock that counts learnings of `Rhythm`: 100 ms each, anything else next to nothing."""
    learned, calls, update = [], itertools.count(), Rhythm.update
    monkeypatch.setattr(Rhythm, "update", lambda self: learned.append(m := update(self)) or m)
    now = lambda: 0.1 * sum(map(bool, learned)) + 1e-9 * next(calls)  # noqa: E731
    monkeypatch.setattr(timing.time, "perf_counter", now)


def test_a_learning_is_shared_by_the_steps_that_it_is_for(monkeypatch, clock):
    rhythm(50, (1,), monkeypatch)
    cost = methods.measure("x", 3, CPU, RATE, stored=13)
    assert cost.period == 50
    assert cost.update_ms == pytest.approx(100.0 / 50, rel=1e-3)
    assert cost.update_gflop * 1e9 == pytest.approx(256 / 50)
    assert cost.rate_fraction == pytest.approx(cost.update_gflop / 2e-3 / 100.0, rel=1e-3)


def test_an_estimate_shares_a_learning_among_its_steps_too(monkeypatch, clock):
    rhythm(50, (1,), monkeypatch)
    agent = bench_work.ready_agent("x", CPU, stored=13)
    seconds, stored = time_learning(agent, 0.5)
    assert seconds == pytest.approx(0.1 / 50, rel=1e-3)
    assert stored == agent.counters.steps - 13
    assert agent.learnings >= 2 + 5


def test_an_estimate_of_an_agent_that_never_learns_ends(monkeypatch):
    rhythm(10**9, (1,), monkeypatch)
    agent = bench_work.ready_agent("x", CPU, stored=0)
    seconds, stored = time_learning(agent, 0.01)
    assert seconds > 0.0
    assert stored == agent.counters.steps


def test_ppo_learns_once_per_rollout():
    ppo = algos.load("ppo")
    config = build_config(ppo.Config, {"rollout_steps": 8, "batch_size": 4, "hidden": 4})
    agent = ppo(Spaces((3,), 2), config, [0])
    period, gflop = bench_work.learning_period(agent)
    assert period == 8
    assert gflop > 0.0


def test_inner_loops(monkeypatch):
    rhythm(1, (1,), monkeypatch)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    assert methods.measure_hot_loops("x", 1, CPU, RATE, stored=2) == []
    a = torch.ones(100, 100)
    monkeypatch.setattr(Rhythm, "hot_loops", lambda self: {"one": lambda: a @ a})
    (cost,) = methods.measure_hot_loops("x", 1, CPU, RATE, stored=2)
    assert (cost.algo, cost.loop, cost.precision) == ("x", "one", "bfloat16")
    assert cost.gflop == pytest.approx(2e-9 * 100**3)
    assert cost.rate_fraction == pytest.approx(cost.gflop / (1e-3 * cost.ms) / 100.0)


@pytest.mark.parametrize(
    "algo", mostly_extended(record.chosen("all", "state"), quick=["sac", "td3"])
)
def test_the_work_of_every_agent_can_be_counted(algo):
    preset = "quick" if "quick" in algos.load(algo).presets else ""
    period, gflop = bench_work.learning_period(
        bench_work.ready_agent(algo, CPU, 600, preset=preset)
    )
    assert period >= 1
    assert gflop > 0.0


@pytest.mark.parametrize("algo", ["sac", "diffsr"])
def test_measure(algo):
    cost = methods.measure(algo, 1, CPU, RATE, stored=8)
    assert cost.algo == algo
    assert cost.period == 1
    assert cost.precision == precision.arithmetic(algos.load(algo).Config().precision, CPU)
    assert cost.update_ms > cost.act_ms > 0.0
    assert cost.update_u == pytest.approx(cost.update_ms / cost.u_ms)
    assert cost.rate_fraction == pytest.approx(10.0 * cost.update_gflop / cost.update_ms)


def test_agents_are_measured_with_their_default_options():
    agent = bench_work.ready_agent("sac", CPU, stored=2)
    assert agent.config == type(agent.config)(random_steps=0)
    assert agent.update()


def test_loop_steps_stay_in_bounds():
    assert bench_loop.loop_steps(1e-3) == 1_000
    assert bench_loop.loop_steps(100.0) == 60
    assert bench_loop.loop_steps(1e6) == 20
    assert bench_loop.loop_steps(0.25, period=2048) == 2048
    assert bench_loop.loop_steps(100.0, period=7) == 63


def test_loop_is_split_by_phase():
    loop = bench_loop.measure_loop("sac", 10, "cpu", task="mbbl/Pendulum", episodes=1)
    assert tuple(loop.phase_ms) == PHASES
    assert min(loop.phase_ms.values()) >= 0.0
    assert loop.steps_per_second == pytest.approx(1e3 / sum(loop.phase_ms.values()))


def test_the_loop_is_timed_from_the_first_step_that_learns(monkeypatch):
    """Random steps, an episode of them, are over and not counted."""
    started = []
    learn = algos.load("sac").learn

    def watched(self):
        started.append(self.counters.steps)
        return learn(self)

    monkeypatch.setattr(algos.load("sac"), "learn", watched)
    bench_loop.measure_loop("sac", 5, "cpu", task="mbbl/Pendulum", episodes=1)
    episode = envs.task("mbbl/Pendulum").max_episode_steps
    assert started == list(range(episode + 1, episode + 7))


@pytest.mark.skipif(
    importlib.util.find_spec("stable_baselines3") is None, reason="extra `bench` not installed"
)
@pytest.mark.parametrize("algo", peers.SB3_ALGOS)
def test_against_sb3(algo):
    result = peers.against_sb3(algo, 1, "cpu", task="mbbl/Pendulum", steps=4)
    assert result.algo == algo
    assert result.ratio == pytest.approx(result.ours / result.theirs)
    assert f"ratio {result.ratio:.2f}" in peers.describe(result)


def test_columns_are_aligned():
    lines = record.table("agent|ms", [["a", "1.00"], ["longer", "100.00"]]).splitlines()
    assert lines == ["agent       ms", "a         1.00", "longer  100.00"]


def test_command_prints_and_writes(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(record, "rates", lambda device: RATE)
    monkeypatch.setattr(command, "measure", lambda *_: COST)
    monkeypatch.setattr(command, "measure_hot_loops", lambda *_: [HOT])
    monkeypatch.setattr(command, "measure_loop", lambda *_: LOOP)
    monkeypatch.setattr(command, "against_sb3", lambda *_: SB3)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    file = tmp_path / "bench.json"
    assert command.main(["--algos", "sac", "--repeats", "2", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "1 u = 1.000 ms" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["sac", "bfloat16", "2", "4.00", "4.0", "0.100", "0.10", "0.500", "25%"] in rows
    assert ["sac", "dream", "bfloat16", "2.00", "3.0", "0.500", "25%"] in rows
    assert out.count("ratio 1.50") == len(peers.SB3_ALGOS)
    result = json.loads(file.read_text())
    assert list(result) == ["machine", "costs", "hot_loops", "loops", "sb3"]
    assert result["costs"][0]["update_u"] == 4.0
    assert result["loops"][0]["phase_ms"]["eval"] == 1.25
    assert result["hot_loops"][0]["loop"] == "dream"
    assert [row["ratio"] for row in result["sb3"]] == [1.5, 1.5]
    assert result["machine"]["gflops"] == RATE


def test_without_sb3_one_line_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(record, "rates", lambda device: RATE)
    monkeypatch.setattr(command, "measure", lambda *_: COST)
    monkeypatch.setattr(command, "measure_hot_loops", lambda *_: [])
    monkeypatch.setattr(command, "measure_loop", lambda *_: LOOP)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    file = tmp_path / "bench.json"
    assert command.main(["--algos", "sac", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith("not installed (extra `bench`)")
    assert "Inner loops" not in out
    assert json.loads(file.read_text())["sb3"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--algos", "sacc"], "did you mean sac?"),
        (["--algos", ","], "--algos: name some of"),
        (["--repeats", "0"], "--repeats 0: must be at least 1"),
        (["--repeats", "x"], "invalid int value"),
        (["--device", "gpu"], "--device gpu: valid devices are cpu"),
        (["--json", "/no/such/folder/bench.json"], "its folder does not exist"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as left:
        run_main(lambda: command.main(arguments))
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_missing_cuda_is_one_line(capsys):
    with pytest.raises(SystemExit) as left:
        run_main(lambda: command.main(["--device", "cuda"]))
    assert left.value.code == 2
    assert "torch sees no CUDA device here" in capsys.readouterr().err
