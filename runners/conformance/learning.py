"""What an agent learns from, and what of it a checkpoint and a policy keep."""

from __future__ import annotations

import dataclasses

import numpy as np

from runners.conformance.harness import Probe, build, difference, require_same, round_trip
from runners.conformance.rule import Algo, require, rule


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
