"""Meta-World from pixels, on Meta-World's own v3 classes.

The protocol is that of the MWM code (envs.py, commit 8394788), as all methods of the Diff-SR figure
used it: corner camera, actions repeated twice with rewards summed, 500 simulator steps, no early
end, and a new layout at each reset.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.error import ResetNeeded
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from numpy.typing import NDArray

from envs.metaworld import CAMERA, EPISODE_ENV_STEPS, REWARD
from envs.parts.pixels import Camera, Frame, FrameStack


def make_env(task: str, frames: int, **arguments: Any) -> FrameStack:
    """Return a Meta-World task whose observations are the last images, `[3 * frames, size, size]`.

    Args:
        task: Meta-World's name without the version, for example `hammer`.
        frames: how many images.
        **arguments: for `MetaworldEnv`.
    """
    return FrameStack(MetaworldEnv(task, **arguments), frames)


class MetaworldEnv(gymnasium.Env[Frame, NDArray[np.floating[Any]]]):
    """A Meta-World task that shows one image at a time.

    Observations are uint8 `[3, size, size]` with the bottom row first, as mujoco-py drew them and
    all published runs saw them: the camera hangs upside down, so robots stand on their feet in
    them, mirrored. The action has four components in [-1, 1]: the hand's motion and the grip.

    Meta-World leaves three things to its user, which are mended here. Its resets ignore `seed` and
    draw from numpy's global generator; here they draw from the environment's own. A reset draws the
    layout twice and its first image shows parts of both; here once. And goal markers that a
    task moves by hand go back to where the model file has them before they can be drawn; here they
    are put in place for every image, as Meta-World v2 did.

    Args:
        task: Meta-World's name without the version.
        size: height and width of an observation in pixels.
        action_repeat: simulator control steps of 12.5 ms for each action; divides 500.
        shadows: draw shadows and reflections, and smooth edges.
        render_mode: `rgb_array` or None.
        width: of `render`'s images, in pixels.
        height: of `render`'s images, in pixels.
        camera_name: of `render`'s images.

    Raises:
        ValueError: if `render_mode` or `camera_name` is unknown.
    """

    def __init__(
        self,
        task: str,
        size: int,
        action_repeat: int,
        shadows: bool,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera_name: str = CAMERA,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is 'rgb_array' or None, not {render_mode!r}")
        self._sawyer = _sawyer(task)
        self._repeat = action_repeat
        self._eye = Camera(self.model, size, CAMERA, fast=not shadows, flip=True)
        self._film = Camera(self.model, (height, width), camera_name, fast=not shadows)
        self._state: NDArray[np.float64] = np.zeros(0)
        self.render_mode = render_mode
        fps = round(1.0 / (self._sawyer.dt * action_repeat))
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps}
        self.observation_space = gymnasium.spaces.Box(0, 255, (3, size, size), np.uint8)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)

    @property
    def model(self) -> Any:
        """The simulator's `mujoco.MjModel`."""
        return self._sawyer.model

    @property
    def data(self) -> Any:
        """The simulator's `mujoco.MjData`."""
        return self._sawyer.data

    @property
    def state(self) -> NDArray[np.float64]:
        """Meta-World's full state `[39]`, which the agent does not see; for scripted experts."""
        return self._state.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frame, dict[str, Any]]:
        """Start an episode with a layout of its own.

        Args:
            seed: restarts the generator if given.
            options: ignored; there are none.

        Returns:
            The first image, and an empty dict.
        """
        super().reset(seed=seed)
        sawyer = self._sawyer
        sawyer._np_random = self.np_random
        # Meta-World's reset runs reset_model twice. So the layout is drawn before it, by
        # reset_model itself, which rejects layouts that are too close, and is then held.
        sawyer._freeze_rand_vec = False
        sawyer.reset_model()
        sawyer._freeze_rand_vec = True
        self._state, _ = sawyer.reset()
        # Reset moves bodies of the model; without this the data still has them elsewhere.
        mujoco.mj_forward(self.model, self.data)
        return self._look(), {}

    def step(
        self, action: NDArray[np.floating[Any]]
    ) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """Apply one action, `action_repeat` times.

        Args:
            action: `[4]`; the simulator clamps it.

        Returns:
            The image `[3, size, size]`, the sum of the rewards (0 to 10 each), False, whether
            500 simulator steps are over, and a dict with `success` (at any of the repeats) and
            `success_now` (at the last one), each 0.0 or 1.0.

        Raises:
            ResetNeeded: if no episode was started, or this one is over.
            ValueError: if the action has the wrong shape.
        """
        if not self._state.size or self._sawyer.curr_path_length >= EPISODE_ENV_STEPS:
            raise ResetNeeded("cannot call step() before reset()")
        taken = np.asarray(action)
        if taken.shape != (4,):
            raise ValueError(f"action has shape {taken.shape}, not (4,)")
        total, successes = 0.0, []
        for _ in range(self._repeat):
            self._state, reward, _, truncated, info = self._sawyer.step(taken)
            total += float(reward)
            successes.append(float(info["success"]))
        now = {"success": max(successes), "success_now": successes[-1]}
        return self._look(), total, False, truncated, now

    def render(self) -> Frame | None:
        """Return an upright image `[height, width, 3]` for people; None without a `render_mode`."""
        if self.render_mode is None:
            return None
        self._place_markers()
        return self._film.image(self.data)

    def close(self) -> None:
        """Free what the images took."""
        self._eye.close()
        self._film.close()

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Return the state beside physics and generators, see `envs.save_state`."""
        saved = {
            name: _plain(value, self.data)
            for name, value in vars(self._sawyer).items()
            if isinstance(value, _SAVED)
        }
        return {
            "state": self._state.copy(),
            "sawyer": np.frombuffer(json.dumps(saved).encode(), np.uint8).copy(),
            "body_pos": self.model.body_pos.copy(),
            "site_pos": self.model.site_pos.copy(),
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `snapshot` gave."""
        self._state = np.array(arrays["state"])
        self.model.body_pos[:] = arrays["body_pos"]
        self.model.site_pos[:] = arrays["site_pos"]
        saved = json.loads(np.asarray(arrays["sawyer"], np.uint8).tobytes())
        own = {name: _value(plain, self.data) for name, plain in saved.items()}
        vars(self._sawyer).update(own)

    def _look(self) -> Frame:
        self._place_markers()
        return self._eye.frame(self.data)

    def _place_markers(self) -> None:
        # Nothing reads these positions before the simulator computes them anew.
        for name, position in self._sawyer._target_site_config:
            self._sawyer._set_pos_site(name, position)


def _sawyer(task: str) -> Any:
    """Meta-World's environment with its goal in the state, drawing from its own generator."""
    sawyer = ALL_V3_ENVIRONMENTS[f"{task}-v3"](reward_function_version=REWARD)
    sawyer._partially_observable = False
    # Cached before the line above; `step` clips the state to it, so the goal would become zeros.
    vars(sawyer).pop("sawyer_observation_space", None)
    sawyer._set_task_called = True
    sawyer.seeded_rand_vec = True
    return sawyer


# What a Meta-World task keeps about its episode is an attribute of one of these types. Each task
# has its own; more than an episode's are saved too, which changes nothing.
_SAVED = (bool, int, float, list, np.generic, np.ndarray, type(None))

# Some attributes are not positions but views of the simulator's, and move with it.
_VIEWED = ("xpos", "site_xpos", "geom_xpos")


def _plain(value: Any, data: Any) -> Any:
    """Return a value as JSON takes it, exactly: floats keep all their bits."""
    if isinstance(value, list):
        return [_plain(item, data) for item in value]
    if isinstance(value, np.ndarray):
        for name in _VIEWED:
            field = getattr(data, name)
            if np.may_share_memory(value, field):
                start = (value.ctypes.data - field.ctypes.data) // field.itemsize
                return {"view": name, "start": start, "size": value.size}
    if isinstance(value, np.generic | np.ndarray):
        return {"dtype": value.dtype.str, "values": value.tolist()}
    return value


def _value(plain: Any, data: Any) -> Any:
    """Return what `_plain` was given."""
    if isinstance(plain, list):
        return [_value(item, data) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if "view" in plain:
        start = plain["start"]
        return getattr(data, plain["view"]).reshape(-1)[start : start + plain["size"]]
    array = np.array(plain["values"], dtype=plain["dtype"])
    return array if array.ndim else array[()]
