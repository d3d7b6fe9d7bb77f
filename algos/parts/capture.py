"""Capture work of a GPU once as a CUDA graph and replay it: thousands of launches become one.

Networks this small are bound by launches, not by arithmetic. A replay repeats the launches
of the captured call with the same arguments: it reads and writes the same tensors, and what
was a number of Python stays what it was. So whatever changes between calls has to be in a
tensor that is written in place, or in the `phase` of an update.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Generic, TypeVar

import torch
from torch import Tensor

from algos.parts.rng import ReplicaRng

T = TypeVar("T")
Metrics = dict[str, Tensor]


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all captures on a device, and of the calls before them."""
    return torch.cuda.Stream(device)


def run_aside(function: Callable[[], T], device: torch.device) -> T:
    """Call `function` on the side stream, in step with the current one.

    Libraries take their workspaces, and optimisers make their state, in such calls before a
    capture; within it they could not.
    """
    side, current = _side_stream(device), torch.cuda.current_stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        result = function()
    current.wait_stream(side)
    return result


class Graph(Generic[T]):
    """One call of a function, captured: nothing has run until `replay`.

    Args:
        function: what to capture; it never waits for the host.
        device: where it runs.
        generators: sources of all random numbers that it draws. A replay draws those that
            the call itself would have drawn: torch hands each generator's seed and offset
            to the graph and then moves the offset on by what the graph takes.

    Raises:
        RuntimeError: the function does something that cannot be captured. Nothing has run,
            but the generators cannot be used any more (see `ReplicaRng.renew`).
    """

    def __init__(
        self,
        function: Callable[[], T],
        device: torch.device,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self._graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)
        # After a capture that fails torch stays on the stream of the capture; the outer
        # context brings the present one back.
        with (
            torch.cuda.stream(torch.cuda.current_stream(device)),
            torch.cuda.graph(self._graph, stream=_side_stream(device)),
        ):
            self._result = function()

    def replay(self) -> T:
        """Do what the call did; its result is in the same tensors each time."""
        self._graph.replay()
        return self._result


def reason_of(error: BaseException) -> str:
    """First line of what ended a capture: its cause, not that the capture broke off."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).split("\n", 1)[0] or type(error).__name__


class CapturedUpdate:
    """An update on a GPU that is captured once for each of its phases.

    The first `WARM_UP` updates of a phase run as they are, as real training; the next is
    captured. If that fails, all updates from then on run as they are.

    Args:
        rng: source of all random numbers of the updates, on their device.

    Attributes:
        graphs: by phase.
        notice: why updates are not captured; None while nothing is wrong.
    """

    WARM_UP = 3

    def __init__(self, rng: ReplicaRng) -> None:
        self.rng = rng
        self.notice: str | None = None
        self.forget()

    def forget(self) -> None:
        """Drop all graphs, because tensors that they read have been replaced."""
        self.graphs: dict[Hashable, Graph[Metrics]] = {}
        self._warm: Counter[Hashable] = Counter()

    def __call__(self, update: Callable[[], Metrics], phase: Hashable) -> Metrics:
        """Do one update.

        Args:
            update: does it and returns its metrics; the same function each time.
            phase: what decides which operations the update does; None if it cannot be
                captured.

        Returns:
            Metrics that the next update of the phase overwrites.
        """
        if phase is None or self.notice is not None:
            return update()
        if phase not in self.graphs:
            if self._warm[phase] < self.WARM_UP:
                self._warm[phase] += 1
                return run_aside(update, self.rng.device)
            if not self._capture(update, phase):
                return update()
        return self.graphs[phase].replay()

    def _capture(self, update: Callable[[], Metrics], phase: Hashable) -> bool:
        streams = self.rng.state_dict()
        try:
            graph = Graph(update, self.rng.device, self.rng.generators)
        except RuntimeError as error:
            self.forget()
            self.rng.renew(streams)
            self.notice = f"updates run without a CUDA graph: {reason_of(error)}"
            return False
        self.graphs[phase] = graph
        return True


class CapturedFunction:
    """A function of tensors captured as a CUDA graph, for one shape of its inputs at a time.

    Without a graph (none could be captured) it runs the function as it is, and says so once.

    Args:
        function: from tensors to two tensors; it draws no random numbers.
        work: what it does, for the warning.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, Tensor]], work: str) -> None:
        self.function, self.work = function, work
        self.inputs: list[Tensor] = []
        self.graph: Graph[tuple[Tensor, Tensor]] | None = None

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the function's result for these inputs."""
        if [v.shape for v in self.inputs] != [v.shape for v in inputs]:
            self._capture(inputs)
        if self.graph is None:
            return self.function(*inputs)
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        x, a = self.graph.replay()
        return x.clone(), a.clone()

    def _capture(self, inputs: Sequence[Tensor]) -> None:
        self.inputs, self.graph = [value.clone() for value in inputs], None

        def run() -> tuple[Tensor, Tensor]:
            return self.function(*self.inputs)

        device = inputs[0].device
        try:
            run_aside(run, device)
            self.graph = Graph(run, device)
        except RuntimeError as error:
            warnings.warn(f"{self.work} without a CUDA graph: {reason_of(error)}", stacklevel=2)
