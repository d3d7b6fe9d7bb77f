"""Environments of the DeepMind Control Suite: a thin layer over dm_control's physics and tasks.

It steps the two itself and leaves dm_control's own loop out, for three reasons: a repeated action
needs the observation of its last step only, images need none, and an episode must be resumable.

Source: `dm_control/rl/control.py` of dm_control 1.0.28, whose order of calls is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import gymnasium
import mujoco
import numpy as np
from dm_control import suite
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from envs.dmc import EPISODE_ENV_STEPS
from envs.parts.pixels import Camera, FrameStack
from envs.parts.state import restore_simulator, simulator_arrays


def make_env(
    domain: str,
    task: str,
    pixels: bool,
    size: int,
    frames: int,
    shadows: bool,
    **arguments: Any,
) -> gymnasium.Env[NDArray[Any], NDArray[np.float64]]:
    """Return a task of the suite, observed by its state or by the last images.

    Args:
        domain: dm_control's name of the domain.
        task: dm_control's name of the task.
        pixels: observe images and not the state.
        size: height and width of an image in pixels.
        frames: images in an observation.
        shadows: draw shadows and reflections, and smooth edges.
        **arguments: for `DmcEnv`.

    Returns:
        An environment with observations `[n]`, float64, or `[3 * frames, size, size]`, uint8.
    """
    if pixels:
        return FrameStack(DmcPixelsEnv(size, shadows, domain, task, **arguments), frames)
    return DmcEnv(domain, task, **arguments)


def _undrawn(physics: Any) -> Any:
    """`physics` without dm_control's own renderer, which is not used here.

    The quadruped's terrain would otherwise be uploaded to it at every reset, and that needs a GL
    library even if nothing is ever drawn.
    """
    kind = type(physics)
    physics.__class__ = type(kind.__name__, (kind,), {"contexts": None})
    return physics


class DmcEnv(gymnasium.Env[NDArray[Any], NDArray[np.float64]]):
    """A task observed by its state: the task's arrays, by the order of their names, as one vector.

    Rewards are summed over a repeated action. After 1000 control steps an episode is truncated;
    only the LQR tasks terminate, where the system has come to rest.

    Everything that an episode draws comes from one seed, which `np_random` gives at reset. So a
    saved episode is that seed, the number of steps and the simulator's state: beginning the same
    episode again puts back what a task writes into the model (targets, gains, terrain).

    The springs and dampers of an LQR are drawn when its model is built. They are the same ones in
    every environment here, so that the task is one linear system.

    Args:
        domain: dm_control's name of the domain.
        task: dm_control's name of the task.
        action_repeat: simulator control steps for each action; divides 1000.
        camera: number of the task's camera.
        render_mode: `rgb_array` or None.
        width: of `render`'s images, in pixels.
        height: of `render`'s images, in pixels.
        camera_id: of `render`'s images, None for the task's camera.

    Raises:
        ValueError: if `render_mode` or `camera_id` is unknown.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        domain: str,
        task: str,
        action_repeat: int,
        camera: int,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera_id: int | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is 'rgb_array' or None, not {render_mode!r}")
        self.render_mode = render_mode
        loaded = suite.load(domain, task, task_kwargs={"random": 0})
        self._physics, self._task = _undrawn(loaded.physics), loaded.task
        self._repeat = action_repeat
        self._simulator_steps = round(loaded.control_timestep() / self._physics.timestep())
        self._episode_seed: int | None = None
        self._elapsed = 0  # in control steps
        # dm_control's own images leave the rays of the quadruped's rangefinders out.
        self._model.vis.rgba.rangefinder[3] = 0.0
        chosen = camera if camera_id is None else camera_id
        self._film = Camera(self._model, (height, width), chosen, fast=False)
        self._cameras = [self._film]

        limits = loaded.action_spec()
        self.action_space = spaces.Box(limits.minimum, limits.maximum, dtype=np.float64)
        parts = loaded.observation_spec().values()
        shape = (sum(prod(part.shape) for part in parts),)
        self.observation_space: spaces.Box = spaces.Box(-np.inf, np.inf, shape, np.float64)
        steps_per_second = 1.0 / (loaded.control_timestep() * action_repeat)
        self.metadata = type(self).metadata | {"render_fps": max(1, round(steps_per_second))}

    @property
    def _model(self) -> mujoco.MjModel:
        return self._physics.model.ptr

    @property
    def _data(self) -> mujoco.MjData:
        return self._physics.data.ptr

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode from the task's start distribution.

        Args:
            seed: restarts the generator if given.
            options: ignored; there are none.

        Returns:
            The observation and an empty dict.
        """
        super().reset(seed=seed)
        self._begin(int(self.np_random.integers(2**32)))
        return self._observe(), {}

    def step(
        self, action: NDArray[np.floating[Any]]
    ) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Apply one action `action_repeat` times, or until the episode ends.

        Args:
            action: `[action_dim]`, in the box of `action_space`.

        Returns:
            Observation, sum of rewards, terminated, truncated and an empty dict.

        Raises:
            ResetNeeded: if no episode was started.
            ValueError: if the action has the wrong shape.
        """
        if self._episode_seed is None:
            raise ResetNeeded("cannot call step() before reset()")
        taken = np.asarray(action, dtype=np.float64)
        if taken.shape != self.action_space.shape:
            raise ValueError(f"action has shape {taken.shape}, not {self.action_space.shape}")
        total = 0.0
        for _ in range(self._repeat):
            reward, terminated, truncated = self._advance(taken)
            total += reward
            if terminated or truncated:
                break
        return self._observe(), total, terminated, truncated, {}

    def render(self) -> NDArray[np.uint8] | None:
        """Return an image `[height, width, 3]`, or None without `render_mode="rgb_array"`.

        Raises:
            NoRendering: if this machine cannot draw.
        """
        return None if self.render_mode is None else self._film.image(self._data)

    def close(self) -> None:
        """Free what draws."""
        for camera in self._cameras:
            camera.close()

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Return the episode and the simulator's state, see `envs.save_state`."""
        seed = [] if self._episode_seed is None else [self._episode_seed]
        return {
            "episode_seed": np.array(seed, dtype=np.uint32),
            "elapsed": np.array([self._elapsed]),
            **simulator_arrays(self._model, self._data),
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `snapshot` gave."""
        if not arrays["episode_seed"].size:
            self._episode_seed = None
            return
        self._begin(int(arrays["episode_seed"][0]))
        self._elapsed = int(arrays["elapsed"][0])
        restore_simulator(self._model, self._data, arrays)
        # dm_control ends a step with the first half of MuJoCo's next one.
        mujoco.mj_step1(self._model, self._data)

    def _begin(self, episode_seed: int) -> None:
        self._episode_seed, self._elapsed = episode_seed, 0
        # The property `random` has no setter.
        self._task._random = np.random.RandomState(episode_seed)
        with self._physics.reset_context():
            self._task.initialize_episode(self._physics)
        if self._model.nhfield:
            # A camera keeps the terrain that it first saw.
            self.close()

    def _advance(self, action: NDArray[np.float64]) -> tuple[float, bool, bool]:
        """Reward, terminated and truncated of one control step."""
        self._task.before_step(action, self._physics)
        self._physics.step(self._simulator_steps)
        self._task.after_step(self._physics)
        self._elapsed += 1
        reward = float(self._task.get_reward(self._physics))
        # dm_control does not ask for a termination at the time limit either.
        truncated = self._elapsed >= EPISODE_ENV_STEPS
        # What it asks for is the discount of the state reached, None if the episode goes on.
        terminated = not truncated and self._task.get_termination(self._physics) == 0.0
        return reward, terminated, truncated

    def _observe(self) -> NDArray[Any]:
        parts = self._task.get_observation(self._physics)
        return np.concatenate([np.ravel(parts[name]) for name in sorted(parts)], dtype=np.float64)


class DmcPixelsEnv(DmcEnv):
    """A task observed by one image `[3, size, size]`, uint8, top row first.

    Args:
        size: height and width of an image in pixels.
        shadows: draw shadows and reflections, and smooth edges.
        domain: dm_control's name of the domain.
        task: dm_control's name of the task.
        action_repeat: as for `DmcEnv`.
        camera: number of the camera that the agent sees through.
        **options: as for `DmcEnv`.
    """

    def __init__(
        self,
        size: int,
        shadows: bool,
        domain: str,
        task: str,
        action_repeat: int,
        camera: int,
        **options: Any,
    ) -> None:
        super().__init__(domain, task, action_repeat, camera, **options)
        self._eye = Camera(self._model, size, camera, fast=not shadows)
        self._cameras.append(self._eye)
        self.observation_space = spaces.Box(0, 255, (3, size, size), np.uint8)

    def _observe(self) -> NDArray[np.uint8]:
        return self._eye.frame(self._data)
