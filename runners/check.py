"""Conformance rules that any agent must meet, and the command that applies them.

    python -m runners.check --algo sac

One rule is one function; its docstring is what it demands and its failure says what to
do. The tests apply the same rules to every registered agent.
"""

from __future__ import annotations

import copy
import dataclasses
import random
import re
import sys
import time
from itertools import product
from typing import Any

import numpy as np
import torch

import algos
import envs
from algos.base.agent import Agent
from algos.parts.config import AgentConfig, build_config
from algos.parts.types import Array
from runners.cells.errors import EXIT_FAILED, EXIT_OK, UserError
from runners.cells.grid import split
from runners.conformance.harness import (
    ACTION_DIM,
    KINDS,
    RULES,
    SMALL,
    UPDATES,
    Algo,
    Broken,
    NotApplicable,
    Outcome,
    Probe,
    build,
    difference,
    flat,
    judge,
    narrow,
    observation,
    require,
    require_same,
    round_trip,
    rule,
    several,
    shifted,
)
from runners.terminal.cli import Parser, run_main
from runners.training.process import setup_process


@rule
def actions_are_valid(algo: Algo) -> None:
    """Actions are finite float32 `[R, N, A]` in [-1, 1], for extreme observations too."""
    for seeds in [(0,), (0, 1)] if several(algo) else [(0,)]:
        probe = Probe(algo, seeds)
        _check_actions(probe)
        probe.train(2)
        _check_actions(probe)


def _check_actions(probe: Probe) -> None:
    for explore, count, offset in product((True, False), (1, 3), (0.0, 1e3, -1e3)):
        _check_action(probe.agent, shifted(probe.see(count), offset), explore)


def _check_action(agent: Agent, obs: Array, explore: bool) -> None:
    call = f"act(obs {list(obs.shape)}, explore={explore}) at mean observation {obs.mean():.0f}"
    action = agent.act(obs, explore)
    require(isinstance(action, np.ndarray), f"{call} gave {type(action)}: return a numpy array")
    require(action.dtype == np.float32, f"{call} gave {action.dtype}: return float32")
    expected = (*obs.shape[:2], ACTION_DIM)
    require(
        action.shape == expected,
        f"{call} gave shape {list(action.shape)}: return [R, N, action_dim], {list(expected)}",
    )
    require(bool(np.isfinite(action).all()), f"{call} gave NaN or infinity: bound what can grow")
    largest = float(np.abs(action).max())
    require(largest <= 1.0, f"{call} gave {largest:.3g}: clamp actions to [-1, 1]")


@rule
def same_seed_same_run(algo: Algo) -> None:
    """The same seed gives bitwise the same run, another seed gives another one."""
    one, again = Probe(algo).train(), Probe(algo).train()
    require_same(
        one,
        again,
        "the same seed gave two different runs: draw every random number from self.rng (and "
        "self.eval_rng), and depend on no clock, hash, address or global state",
    )
    other = Probe(algo, seeds=(1,)).train()
    alike = all(a.action.tobytes() == b.action.tobytes() for a, b in zip(one, other, strict=False))
    require(not alike, "seeds 0 and 1 chose the same actions: draw exploration from self.rng")
    learned = [[v.tobytes() for s in run for v in s.metrics.values()] for run in (one, other)]
    require(
        learned[0] != learned[1],
        "seeds 0 and 1 learned the same: draw weights and batches from self.rng",
    )


@rule
def save_load_continues(algo: Algo) -> None:
    """A fresh agent that loads a state continues bitwise like the one that saved it."""
    saved = Probe(algo)
    saved.train()
    # Built with another seed: what is missing in the state then cannot be right by chance.
    loaded = Probe(algo, seeds=(99,))
    loaded.agent.load_state_dict(round_trip(saved.agent.state_dict()))
    loaded.t = saved.t
    require_same(
        saved.train(10),
        loaded.train(10),
        "a fresh agent that loaded the state went on differently: every network, optimiser, "
        "memory and counter that changes the future has to be an attribute with state_dict and "
        "load_state_dict, since components() finds no other",
    )
    obs = saved.see(4)
    require(
        np.array_equal(saved.agent.act(obs, False), loaded.agent.act(obs, False)),
        "after save and load the evaluation actions differ: what act reads has to be an attribute "
        "with state_dict and load_state_dict, since components() finds no other",
    )


@rule
def policy_state_acts(algo: Algo) -> None:
    """An agent that takes over nothing but a policy acts like the one that learned it."""
    trained, fresh = Probe(algo), build(algo, (99,))
    trained.train()
    fresh.load_policy(round_trip(trained.agent.policy_state()))
    fresh.eval_rng.load_state_dict(trained.agent.eval_rng.state_dict())
    obs = trained.see(4)
    require(
        np.array_equal(trained.agent.act(obs, False), fresh.act(obs, False)),
        "after load_policy() the evaluation actions differ: what act reads has to be an attribute "
        "with state_dict and load_state_dict, and not named like one of the memories of "
        "algos.base.agent.MEMORIES",
    )


@rule
def replica_equals_alone(algo: Algo) -> None:
    """Replica r of a group learns what the same seed learns alone, to float tolerance."""
    if not several(algo):
        raise NotApplicable("declares max_replicas = 1")
    seeds, keys = (3, 8), (1, 2)
    group = Probe(algo, seeds, keys, precision="float32").train(6)
    for r in range(len(seeds)):
        alone = Probe(algo, seeds[r : r + 1], keys[r : r + 1], precision="float32").train(6)
        for (name, together), (_, single) in zip(flat(group), flat(alone), strict=False):
            require(
                together.shape[:1] == (len(seeds),)
                and np.allclose(together[r], single[0], rtol=1e-2, atol=2e-3),
                f"replica {r} of a group of 2 differs from the same seed alone, first in {name} "
                f"({together} and {single}): nothing may mix replicas, and each draws from its "
                f"own stream of self.rng",
            )


@rule
def arrays_are_not_kept(algo: Algo) -> None:
    """`act` and `observe` neither change the arrays that they are given nor keep them."""
    probe = Probe(algo)
    obs = probe.see()
    transition = probe.transition(obs[:, 0], probe.agent.act(obs.copy(), True)[:, 0])
    kept = obs.copy(), copy.deepcopy(transition)
    probe.agent.act(obs, True)
    probe.agent.act(obs, False)
    require(np.array_equal(obs, kept[0]), "act() wrote into obs: work on a copy")
    probe.agent.observe(transition)
    for name, array in vars(transition).items():
        same = np.array_equal(array, getattr(kept[1], name))
        require(same, f"observe() wrote into transition.{name}: work on a copy")
    require_same(
        Probe(algo).train(),
        Probe(algo).train(spoil=True),
        "overwriting the arrays after act() and observe() changed what was learned: the agent "
        "keeps a reference (torch.from_numpy shares memory); store copies",
    )


@rule
def terminated_is_not_truncated(algo: Algo) -> None:
    """The end of a task changes what is learned; a time limit does not, unless asked to."""
    runs = {
        ending: Probe(algo, ending=ending, time_limit_terminal=False).train()
        for ending in ("terminated", "truncated", "neither")
    }
    require(
        bool(difference(runs["terminated"], runs["truncated"])),
        "terminated and truncated steps taught the same: values bootstrap after a time limit, "
        "never after the end of the task",
    )
    # Of pixels, the first frames of an episode make different stacks.
    if not algo.on_policy and "pixels" not in algo.observation_kinds:
        require_same(
            runs["truncated"],
            runs["neither"],
            "a time limit changed what was learned off-policy: its step is one like any other",
        )
    if "time_limit_terminal" in {field.name for field in dataclasses.fields(algo.Config)}:
        require_same(
            runs["terminated"],
            Probe(algo, ending="truncated", time_limit_terminal=True).train(),
            "time_limit_terminal=True does not treat a time limit as the end of the task",
        )


@rule
def metrics_are_tensors(algo: Algo) -> None:
    """Every metric is a finite tensor `[R]` on the agent's device, without a graph."""
    seeds = (0, 1) if several(algo) else (0,)
    probe = Probe(algo, seeds)
    for step in probe.train():
        for name, value in step.raw.items():
            _check_metric(name, value, len(seeds), probe.agent.device)


def _check_metric(name: str, value: Any, replicas: int, device: torch.device) -> None:
    require(
        isinstance(value, torch.Tensor),
        f"metric {name!r} is a {type(value).__name__}: return the tensor itself; .item() and "
        f"float() make the update wait for the device",
    )
    require(
        value.shape == (replicas,),
        f"metric {name!r} has shape {list(value.shape)}: return one number per replica, "
        f"[{replicas}]; average over the batch, never over replicas",
    )
    require(value.device.type == device.type, f"metric {name!r} is on {value.device}, not {device}")
    require(not value.requires_grad, f"metric {name!r} holds its graph in memory: detach() it")
    finite = bool(torch.isfinite(value).all())
    require(
        finite, f"metric {name!r} is {value.tolist()}: no loss may diverge in {UPDATES} updates"
    )


# An arXiv number, or a repository: by its address, or as owner/name with a commit.
SOURCE = re.compile(
    r"arxiv(\.org/\w+/)?\W*\d{4}\.\d{4,5}|git(hub|lab)\.com/|[\w.-]+/[\w.-]+`?,?\s+`?[0-9a-f]{7}",
    re.I,
)


@rule
def facts_are_true(algo: Algo) -> None:
    """Title, paper, options, presets and overrides are there and work as declared."""
    for fact in ("title", "paper"):
        text = getattr(algo, fact, "")
        require(isinstance(text, str) and bool(text.strip()), f"`{fact}` is empty: declare it")
    module = sys.modules[algo.__module__]
    require(
        bool(SOURCE.search(module.__doc__ or "")),
        "the module's docstring cites no source: give an arXiv number or a repository",
    )
    kinds = algo.observation_kinds
    require(
        isinstance(kinds, tuple) and bool(kinds) and set(kinds) <= set(KINDS),
        f"observation_kinds is {kinds!r}: a tuple out of {', '.join(KINDS)}",
    )
    for name in algo.rule_exceptions:
        require(name in RULES, f"rule_exceptions names {name!r}, which is not a rule")
    _check_options(algo)
    _check_builds(algo)


def _check_options(algo: Algo) -> None:
    good = isinstance(algo.Config, type) and issubclass(algo.Config, AgentConfig)
    require(good, "`Config` is no subclass of algos.parts.config.AgentConfig: derive it")
    for field in dataclasses.fields(algo.Config):
        said = bool(field.metadata.get("doc"))
        require(
            said, f"option {field.name!r} has no sentence: declare it with option(default, doc)"
        )
    for task in algo.task_overrides:
        try:
            envs.task(task)
        except envs.UnknownTask as error:
            raise Broken(f"task_overrides: {error}") from None


def _check_builds(algo: Algo) -> None:
    require("quick" in algo.presets, "there is no preset `quick`: add one of reduced cost")
    named = {f"preset {name!r}": values for name, values in algo.presets.items()}
    named |= {f"task_overrides[{task!r}]": v for task, v in algo.task_overrides.items()}
    for name, values in named.items():
        try:
            build_config(algo.Config, values)
            build(algo, (0,), **values)
        except Exception as error:
            raise Broken(f"{name} does not build: {type(error).__name__}: {error}") from None
    replicas = algo.max_replicas or 3
    require(replicas >= 1, f"max_replicas is {replicas}: a positive number, or None for any")
    Probe(algo, tuple(range(replicas))).train(1)


@rule
def evaluation_changes_nothing(algo: Algo) -> None:
    """However often `act` is called without exploration, training goes on the same."""
    require_same(
        Probe(algo).train(),
        Probe(algo).train(evaluations=2),
        "calls of act(explore=False) changed the training that followed: draw from the `rng` "
        "that policy() is given, and count nothing there",
    )


@rule
def global_rng_is_untouched(algo: Algo) -> None:
    """Building, acting, observing and updating leave the global random generators alone."""
    before = _global_streams()
    probe = Probe(algo)
    probe.train(3)
    probe.agent.act(probe.see(2), explore=False)
    for name, state in _global_streams().items():
        require(
            state == before[name],
            f"the global generator of {name} was used: draw from self.rng or self.eval_rng, "
            f"initial weights and dropout too",
        )


def _global_streams() -> dict[str, bytes]:
    return {
        "torch": torch.random.get_rng_state().numpy().tobytes(),
        "numpy": np.random.get_state(legacy=False)["state"]["key"].tobytes()  # noqa: NPY002
        + bytes([np.random.get_state(legacy=False)["state"]["pos"] % 256]),  # noqa: NPY002
        "random": repr(random.getstate()).encode(),
    }


@rule
def acts_before_learning(algo: Algo) -> None:
    """An agent that has learned nothing acts; its random steps are spread over the box."""
    fresh = build(algo, random_steps=0)
    obs = observation([0], 0, fresh.spaces.obs_shape)[:, None]
    for explore in (True, False):
        _check_action(fresh, obs, explore)
    warming = build(algo)
    # A policy that listens to observations this large chooses the same corner every time.
    obs = obs if algo.on_policy else shifted(obs, 1e3)
    draws = np.stack([warming.act(obs, explore=True)[0, 0] for _ in range(100)])
    require(
        float(draws.std(0).min()) > 0.3 and (algo.on_policy or float(draws.max(0).min()) > 0.5),
        f"actions of the first {SMALL['random_steps']} steps hardly vary (standard deviation "
        f"{draws.std(0)}): take uniform actions over [-1, 1] for random_steps steps",
    )


def table(names: list[str], outcomes: dict[tuple[str, str], Outcome]) -> list[str]:
    """Rules as rows and agents as columns, in plain text."""
    first = max(map(len, RULES))
    lines = [" " * first + "".join(f"  {name:>6}" for name in names)]
    for rule_name in RULES:
        cells = (outcomes[rule_name, name].verdict for name in names)
        columns = (
            f"  {cell:>{max(6, len(name))}}" for name, cell in zip(names, cells, strict=True)
        )
        lines.append(f"{rule_name:<{first}}" + "".join(columns))
    return lines


def subjects(agents: dict[str, Algo]) -> dict[str, Algo]:
    """One entry for each kind of observation that an agent takes, named after the first."""
    found: dict[str, Algo] = {}
    for name, agent in agents.items():
        for kind, version in algos.versions(agent).items():
            found[f"{name}@{kind}" if name in found else name] = narrow(version, kind)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Apply all rules to the agents that were asked for; print the table and the reasons."""
    rules = "\n".join(f"  {name}: {function.__doc__}" for name, function in RULES.items())
    parser = Parser("runners.check", f"Apply the rules that any agent must meet.\n\n{rules}")
    parser.add_argument(
        "--algo", default="all", metavar="NAMES", help="comma list of names or .py files, or all"
    )
    names = split(parser.parse_args(arguments).algo)
    if names == ["all"]:
        names = algos.list_algos()
    if not names:
        raise UserError(f"--algo: name one of {', '.join(algos.list_algos())}, or all")
    agents = subjects({algos.name_of(name): algos.load(name) for name in names})
    setup_process()
    start = time.monotonic()
    outcomes = {(r, name): judge(r, agent) for name, agent in agents.items() for r in RULES}
    print("\n".join(table(list(agents), outcomes)))
    for (rule_name, name), outcome in outcomes.items():
        if outcome.reason:
            print(f"\n{outcome.verdict} {name}, {rule_name}: {outcome.reason}")
    failed = sum(outcome.verdict == "FAIL" for outcome in outcomes.values())
    print(f"\n{len(outcomes)} rules applied, {failed} broken, {time.monotonic() - start:.0f} s")
    return EXIT_FAILED if failed else EXIT_OK


if __name__ == "__main__":
    run_main(main)
