"""A continuous bandit with three peaks: does a policy look beyond the first one that it finds?

An episode is one action in the plane: the observation never changes, and the reward is the height
of the landscape where the action lands. Any constant observation would do.

QVPO shows such a bandit, "an arbitrarily selected function with 3 peaks", as contour lines over two
action components, to show what its entropy term does (its figure 2). The function itself is not
published, so this one is our own: a broad low peak that is easy to find, a middle one, and a high
narrow one in a corner.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from envs.parts.registry import Task
from envs.parts.sketch import ORANGE, Disc, Line, draw

SOURCE = "after QVPO, Ding et al. 2024 (arXiv 2405.16173), figure 2; the peaks are our own"

PEAKS: tuple[tuple[float, float, float, float], ...] = (
    (-0.35, -0.3, 0.5, 0.35),
    (-0.5, 0.6, 0.75, 0.2),
    (0.6, 0.5, 1.0, 0.2),
)
"""Two coordinates, height and width (standard deviation) of each bump, the highest one last."""


def height(action: NDArray[np.floating[Any]]) -> float:
    """Return the highest of the Gaussian bumps at an action `[2]`, in [0, 1]."""
    x, y = (float(component) for component in action)
    return max(
        top * exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2.0 * width**2))
        for centre_x, centre_y, top, width in PEAKS
    )


class BanditEnv(gymnasium.Env[NDArray[np.float64], NDArray[np.floating[Any]]]):
    """Episodes of one step, which `terminated` ends: there is nothing to bootstrap from."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, width: int = 480, height: int = 480) -> None:
        """Build the bandit.

        Args:
            render_mode: `rgb_array` or None.
            width: of an image in pixels.
            height: of an image in pixels.

        Raises:
            ValueError: if `render_mode` is neither.
        """
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is 'rgb_array' or None, not {render_mode!r}")
        self.render_mode, self._image = render_mode, (width, height)
        self._taken: list[float] = []
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._open = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: changes nothing but the generator, which nothing draws from.
            options: ignored; there are none.

        Returns:
            The constant observation `[1]` and an empty dict.
        """
        super().reset(seed=seed)
        self._open, self._taken = True, []
        return np.ones(1), {}

    def render(self) -> NDArray[np.uint8] | None:
        """Draw the bumps, darker where higher, and the action of this episode, None without a mode.

        Returns:
            `[height, width, 3]`, or None without `render_mode`.
        """
        if self.render_mode is None:
            return None
        marks: list[Line | Disc] = []
        for x, y, top, wide in PEAKS:
            for share in (2.0, 1.5, 1.0, 0.5):  # of a standard deviation
                shade = round(235 - 200 * top * exp(-0.5 * share**2))
                marks.append(Disc((x, y), share * wide, (shade, shade, shade)))
        if self._taken:
            marks.append(Disc((self._taken[0], self._taken[1]), 0.03, ORANGE))
        return draw(marks, 1.0, *self._image)

    def step(
        self, action: NDArray[np.floating[Any]]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Pay the height of the landscape at an action and end the episode.

        Args:
            action: `[2]`, clamped to [-1, 1].

        Returns:
            The constant observation, the height, True, False and an empty dict.

        Raises:
            ResetNeeded: if no episode was started.
            ValueError: if the action has the wrong shape.
        """
        if not self._open:
            raise ResetNeeded("cannot call step() before reset()")
        taken = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        if taken.shape != self.action_space.shape:
            raise ValueError(f"action has shape {taken.shape}, not {self.action_space.shape}")
        self._open, self._taken = False, taken.tolist()
        return np.ones(1), height(taken), True, False, {}

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Whether an episode is open, and its action, see `envs.save_state`."""
        return {"open": np.array([self._open]), "taken": np.array(self._taken)}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `snapshot` gave."""
        self._open, self._taken = bool(arrays["open"][0]), arrays["taken"].tolist()


TASKS: tuple[Task, ...] = (
    Task(
        id="toy/bandit",
        obs_shape=(1,),
        action_dim=2,
        max_episode_steps=1,
        terminates=True,
        source=SOURCE,
        gymnasium_id="toy/bandit-v0",
        entry_point="envs.toy:BanditEnv",
        options=("render_mode", "width", "height"),
        facts={"peaks": PEAKS},
    ),
)
