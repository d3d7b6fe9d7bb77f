"""Numbers of the authors' code, from `tests/fixtures`, and what hands them to an agent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algos.parts.replay import Batch
from algos.parts.rng import ReplicaRng

FOLDER = Path(__file__).parents[1] / "fixtures"

# Float32 in another order of operations.
RTOL, ATOL = 2e-4, 2e-6


class TapeRng:
    """In place of `agent.rng`: hands out queued numbers, and refuses another kind or shape.

    Args:
        real: the streams of the agent, of one replica.
    """

    def __init__(self, real: ReplicaRng) -> None:
        self.real, self.device, self.generators = real, real.device, real.generators
        self.queue: list[tuple[str, np.ndarray]] = []

    def push(self, kind: str, *draws: np.ndarray) -> None:
        """Queue one array for each of the next draws by the method `kind`."""
        self.queue += [(kind, np.asarray(draw)) for draw in draws]

    def _pop(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        queued, draw = self.queue.pop(0)
        assert (queued, draw.shape) == (kind, shape)
        return torch.from_numpy(draw.astype(np.int64 if kind == "integers" else draw.dtype))[None]

    def normal(self, *shape: int) -> Tensor:
        return self._pop("normal", shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        return self._pop("integers", shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return self._pop("uniform", shape) * (high - low) + low

    def state_dict(self) -> dict[str, Tensor]:
        return self.real.state_dict()


class StubReplay:
    """In place of `agent.replay`: hands out queued batches."""

    def __init__(self) -> None:
        self.queue: list[Batch] = []

    def __len__(self) -> int:
        return 1_000

    def sample(self, batch_size: int, rng: TapeRng, count: int = 1) -> list[Batch]:
        taken, self.queue = self.queue[:count], self.queue[count:]
        return taken


class AuthorsNumbers:
    """Arrays of one file by key; `README.md` beside the files says what each key is.

    Args:
        arrays: the arrays.
        name: where they are from, for messages.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str) -> None:
        self.arrays, self.name = arrays, name

    @classmethod
    def read(cls, name: str) -> AuthorsNumbers:
        """Read `tests/fixtures/<name>.npz`."""
        with np.load(FOLDER / f"{name}.npz") as file:
            return cls(dict(file), name)

    def under(self, folder: str) -> AuthorsNumbers:
        """Return the arrays whose keys begin with `<folder>/`, without that beginning."""
        start = f"{folder}/"
        inside = {k.removeprefix(start): v for k, v in self.arrays.items() if k.startswith(start)}
        return AuthorsNumbers(inside, f"{self.name}/{folder}")

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def tensor(self, key: str) -> Tensor:
        """Return an array with a replica axis, `[1, *shape]`."""
        return torch.from_numpy(self[key])[None]

    def column(self, key: str) -> Tensor:
        """Return a vector as a column with a replica axis, `[1, B, 1]`."""
        return self.tensor(key).unsqueeze(-1)

    def batch(self, number: int | str = "") -> Batch:
        """Return the batch whose keys end in `number`."""
        obs, action, reward, next_obs, done = (
            self.tensor(f"{name}{number}")
            for name in ("obs", "action", "reward", "next_obs", "done")
        )
        return Batch(obs, action, reward, next_obs, 1.0 - done)

    def load(self, agent: Any, *parts: str) -> None:
        """Load weights `<part>/<key>` into the parts of `agent`: every parameter of each."""
        for part in parts:
            module = getattr(agent, part)
            state = {k: torch.from_numpy(v) for k, v in self.under(part).arrays.items()}
            missing, unexpected = module.load_state_dict(state, strict=False)
            assert not unexpected
            assert not {*missing} & {name for name, _ in module.named_parameters()}

    def check(self, key: str, value: Any, rtol: float = RTOL, atol: float = ATOL) -> None:
        """Assert that `value`, of any shape with as many numbers, is the authors' `key`."""
        check_close(value, self[key], f"{self.name}/{key}", rtol, atol)

    def check_weights(
        self, agent: Any, *parts: str, rtol: float = RTOL, atol: float = ATOL
    ) -> None:
        """Assert that the weights of the parts of `agent` are the authors' `<part>/<key>`."""
        for part in parts:
            for key, value in getattr(agent, part).state_dict().items():
                if f"{part}/{key}" in self:
                    self.check(f"{part}/{key}", value, rtol, atol)

    def check_projections(self, layers: Mapping[str, Tensor]) -> None:
        """Assert sum, norm and a random product of each weight: what is kept of large networks."""
        rng = np.random.RandomState(11)
        for name, weight in layers.items():
            x = weight.detach().numpy().astype(np.float64).ravel()
            direction = rng.standard_normal(x.size)
            values = [x.sum(), np.sqrt(np.square(x).sum()), x @ direction]
            self.check(f"final/{name}", values, rtol=1e-4, atol=1e-4)


def check_close(
    value: Any, expected: Any, name: str, rtol: float = RTOL, atol: float = ATOL
) -> None:
    """Assert that two arrays hold the same numbers in the same order, whatever their shapes."""
    got, want = (np.ravel(torch.as_tensor(x).detach()) for x in (value, expected))
    assert got.size == want.size
    np.testing.assert_allclose(
        got.astype(np.float64), want.astype(np.float64), rtol, atol, err_msg=name
    )


def on_tape(agent: Any) -> Any:
    """Return `agent` with a tape for its random numbers."""
    agent.rng = TapeRng(agent.rng)
    return agent


def fed_by_hand(agent: Any) -> Any:
    """Return `agent` with tapes for its random numbers and its batches."""
    agent.replay = StubReplay()
    return on_tape(agent)


def tick(agent: Any, steps: int) -> None:
    """Count one more update, after `steps` environment steps, as `agent.update` does."""
    agent.counters.updates += 1
    agent.counters.steps = steps
    agent.anneal()


def weights_and_biases(layers: Mapping[str, Any], weight: str, bias: str) -> dict[str, Tensor]:
    """Return the two tensors of every layer by names such as `<layer>.<weight>`."""
    suffixes = {"weight": weight, "bias": bias}
    return {
        f"{name}.{suffix}": getattr(layer, attribute)
        for name, layer in layers.items()
        for attribute, suffix in suffixes.items()
    }
