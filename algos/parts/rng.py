"""Draw random numbers with a replica axis.

Every replica has a generator of its own, so that replica r of a group draws the
same numbers as the same seed trained alone. Nothing here, and nothing in any
agent, touches torch's global generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ReplicaRng:
    """R independent streams; every draw has a leading axis R.

    Args:
        seeds: one seed per replica.
        device: where the numbers are drawn.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.device = device
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def _stack(self, draws: list[Tensor]) -> Tensor:
        return draws[0].unsqueeze(0) if len(draws) == 1 else torch.stack(draws)

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers `[R, *shape]`."""
        return self._stack(
            [torch.randn(shape, generator=g, device=self.device) for g in self.generators]
        )

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers `[R, *shape]` in [low, high)."""
        draws = [torch.rand(shape, generator=g, device=self.device) for g in self.generators]
        return self._stack(draws).mul_(high - low).add_(low)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers `[R, *shape]` in 0..high-1 (int64)."""
        return self._stack(
            [torch.randint(high, shape, generator=g, device=self.device) for g in self.generators]
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Bytes of every generator, one uint8 tensor per replica."""
        return {str(r): g.get_state() for r, g in enumerate(self.generators)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue every stream exactly where `state_dict` was taken."""
        for r, generator in enumerate(self.generators):
            generator.set_state(state[str(r)])

    def renew(self, state: dict[str, Tensor]) -> None:
        """Continue where `state_dict` was taken, with other generators.

        A CUDA graph that could not be captured leaves those it drew from in capture mode,
        where they refuse to draw.
        """
        self.generators[:] = [torch.Generator(self.device) for _ in self.generators]
        self.load_state_dict(state)
