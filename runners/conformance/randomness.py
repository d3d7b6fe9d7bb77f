"""Where chance may come from: the streams of a seed, and nothing but those."""

from __future__ import annotations

import random

import numpy as np
import torch

from runners.conformance.harness import Probe, flat, require_same, several
from runners.conformance.rule import Algo, NotApplicable, require, rule


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
