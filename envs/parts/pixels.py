"""Images, once for all suites: the choice of a GL library, a camera, and stacks of frames.

Images cost far more than physics on a CPU: of a default MuJoCo image 88 % is shadows, most of
the rest is multisampling and reflections. Without these three (`fast`) a Meta-World image takes
4 ms instead of 70 at 64x64 (llvmpipe, one core), and is slightly darker.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib
import os
import sys
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

Frame = NDArray[np.uint8]

INSTALL = "apt-get install -y --no-install-recommends libegl1 libopengl0 libgl1-mesa-dri"


class NoRendering(RuntimeError):
    """There is no way to draw on this machine; its text is one line with the remedy."""


def choose_gl() -> None:
    """Set `MUJOCO_GL` where the user did not: egl if it can be loaded, else osmesa, else nothing.

    MuJoCo reads the variable once, when it is imported, and without it expects a window system. So
    this runs when `envs` is imported. Outside Linux MuJoCo's own choice is right.

    Mesa's software rasteriser gets one thread for each process, unless the user gave it some: more
    gain less than 5 %, and a sweep runs one process for each core.
    """
    if not sys.platform.startswith("linux"):
        return
    os.environ.setdefault("LP_NUM_THREADS", "1")
    if os.environ.get("MUJOCO_GL"):
        return
    if _loads("libEGL.so.1") and (_loads("libOpenGL.so.0") or _loads("libGL.so.1")):
        os.environ["MUJOCO_GL"] = "egl"
    elif any(_loads(f"libOSMesa.so.{version}") for version in (8, 6)):
        os.environ["MUJOCO_GL"] = "osmesa"


def gl_problem() -> str:
    """Return what keeps this process from drawing, as one line; empty if nothing is known to."""
    if not sys.platform.startswith("linux") or _chosen() in ("egl", "osmesa"):
        return ""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return ""
    if _chosen():
        return f"MUJOCO_GL={_chosen()} draws nothing here: set it to egl, or leave it unset"
    return f"no GL library: {INSTALL}"


def _chosen() -> str:
    return os.environ.get("MUJOCO_GL", "").lower().strip()


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def check_size(size: int) -> int:
    """Return the size of an image, if it is one.

    Args:
        size: height and width in pixels.

    Returns:
        `size`.

    Raises:
        ValueError: if it is not from 16 to 1024.
    """
    if not 16 <= size <= 1024:
        raise ValueError(f"size is from 16 to 1024 pixels, not {size}")
    return size


def check_frames(frames: int) -> int:
    """Return the number of frames of a stack; `ValueError` unless it is from 1 to 16."""
    if not 1 <= frames <= 16:
        raise ValueError(f"frames is from 1 to 16, not {frames}")
    return frames


class Camera:
    """Draws a MuJoCo model as one of its cameras sees it.

    The GL context is made at the first image, in the process and the thread that draw. The
    model is left as it was, so cameras of any size and quality can share it.

    Args:
        model: a `mujoco.MjModel`; of dm_control, `physics.model.ptr`.
        size: height and width in pixels, or the two as a pair.
        camera: name or index in the model; -1 is MuJoCo's free camera.
        fast: draw without shadows, reflections and multisampling.
        flip: frames have their bottom row first, as OpenGL and mujoco-py have them.

    Raises:
        ValueError: if the model has no such camera.
    """

    def __init__(
        self,
        model: Any,
        size: int | tuple[int, int],
        camera: str | int,
        *,
        fast: bool = True,
        flip: bool = False,
    ) -> None:
        self._model = model
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self._number = _camera_number(model, camera)
        self._fast = fast
        self._flip = flip
        self._context: _Context | None = None

    def frame(self, data: Any) -> Frame:
        """Return an image for an agent.

        Args:
            data: the model's `mujoco.MjData`, with derived fields up to date.

        Returns:
            A new array `[3, height, width]`; the first row is the top one, or with `flip` the
            bottom one.

        Raises:
            NoRendering: if this machine cannot draw.
        """
        rows = self._draw(data)
        return np.ascontiguousarray((rows if self._flip else rows[::-1]).transpose(2, 0, 1))

    def image(self, data: Any) -> Frame:
        """Return an image for people: upright, whatever `flip` is and however the camera is rolled.

        Args:
            data: as for `frame`.

        Returns:
            A new array `[height, width, 3]`, top row first.

        Raises:
            NoRendering: if this machine cannot draw.
        """
        rows = self._draw(data)
        # Meta-World's corner cameras hang upside down: the y axis of the image points down.
        upside_down = self._number >= 0 and data.cam_xmat[self._number].reshape(3, 3)[2, 1] < -0.01
        return np.ascontiguousarray(rows[:, ::-1] if upside_down else rows[::-1])

    def close(self) -> None:
        """Free the context; a later image makes a new one."""
        if self._context is not None:
            self._context.free()
            self._context = None

    def _draw(self, data: Any) -> Frame:
        """Return a view `[height, width, 3]` of the last image, bottom row first."""
        if self._context is None:
            self._context = _Context(self._model, self.height, self.width, self._number, self._fast)
        return self._context.draw(self._model, data)

    def __del__(self) -> None:
        # Not there if the constructor refused its arguments.
        if getattr(self, "_context", None) is not None:
            self.close()


class _Context:
    """What MuJoCo needs to draw off screen: a GL context, a scene and a camera in it.

    `mujoco.Renderer` does the same but turns every image over, has no way to draw without
    shadows, and cannot be closed after a constructor that failed.
    """

    def __init__(self, model: Any, height: int, width: int, number: int, fast: bool) -> None:
        self._gl = _gl_context(width, height)
        import mujoco

        self._mujoco = mujoco
        self._gl.make_current()
        settings = {"offheight": height, "offwidth": width}
        quality = {"offsamples": 0, "shadowsize": 0} if fast else {}
        # The buffers of a context are those that the model asks for when it is made.
        with _set(model.vis.global_, settings), _set(model.vis.quality, quality):
            self._mjr = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._mjr)
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        if fast:
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        if number < 0:
            mujoco.mjv_defaultFreeCamera(model, self._camera)
        else:
            self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED.value
            self._camera.fixedcamid = number
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)
        _quiet_exit()
        _contexts.add(self)

    def draw(self, model: Any, data: Any) -> Frame:
        mujoco = self._mujoco
        self._gl.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            model, data, self._option, None, self._camera, everything, self._scene
        )
        mujoco.mjr_render(self._rect, self._scene, self._mjr)
        mujoco.mjr_readPixels(self._pixels, None, self._rect, self._mjr)
        return self._pixels

    def free(self) -> None:
        gl, self._gl = self._gl, None
        if gl is not None:
            # In this order: MuJoCo frees its names in whichever context is current.
            gl.make_current()
            self._mjr.free()
            gl.free()

    def forget(self) -> None:
        if self._gl is not None:
            self._gl._context = None
            self._gl = None


_contexts: weakref.WeakSet[_Context] = weakref.WeakSet()


@functools.cache  # once in a process
def _quiet_exit() -> None:
    """Leave what belongs to GL to the end of the process, which frees it silently.

    MuJoCo and dm_control share one EGL display, and each ends it in an exit hook of its own; a
    context of the other that is freed after that, by a hook or by its destructor, prints an error.
    """
    egl = sys.modules.get("mujoco.egl")
    if egl is not None:
        atexit.unregister(egl.EGL.eglTerminate)

    def forget() -> None:
        for context in _contexts:
            context.forget()

    atexit.register(forget)


def _gl_context(width: int, height: int) -> Any:
    """Make a GL context of the kind that `MUJOCO_GL` names, even if set after mujoco's import."""
    problem = gl_problem()
    if problem:
        # With a window system's context MuJoCo would end the process at the second try.
        raise NoRendering(f"cannot draw: {problem}")
    chosen = _chosen()
    try:
        module = f"mujoco.{chosen}" if chosen in ("egl", "osmesa") else "mujoco.gl_context"
        kind = importlib.import_module(module).GLContext
        if not hasattr(kind, "_context"):
            kind._context = None  # its destructor asks for it, even where the constructor failed
        return kind(width, height)
    except Exception as error:  # missing libraries show in many ways
        raise NoRendering(f"cannot draw with MUJOCO_GL={chosen}: {error}; {INSTALL}") from None


@contextlib.contextmanager
def _set(target: Any, values: Mapping[str, int]) -> Iterator[None]:
    """Attributes with other values for a while."""
    before = {name: getattr(target, name) for name in values}
    for name, value in values.items():
        setattr(target, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(target, name, value)


def _camera_number(model: Any, camera: str | int) -> int:
    names = [model.camera(number).name for number in range(model.ncam)]
    if isinstance(camera, str):
        if camera in names:
            return names.index(camera)
        raise ValueError(f"no camera {camera!r}; cameras: {', '.join(names) or 'none'}")
    if not -1 <= camera < len(names):
        raise ValueError(f"no camera {camera}; cameras: -1 to {len(names) - 1}")
    return camera


class FrameStack(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Shows the last observations together, as one; at reset the first one is repeated.

    Frames of the past cannot be drawn again, so `envs.save_state` saves them.

    Args:
        env: its observations are frames `[3, height, width]`, or vectors `[n]`.
        frames: how many to show; observations are `[3 * frames, height, width]` or
            `[n * frames]`, oldest first.

    Raises:
        ValueError: if `frames` is less than 1.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], frames: int) -> None:
        RecordConstructorArgs.__init__(self, frames=frames)
        super().__init__(env)
        if frames < 1:
            raise ValueError(f"frames is 1 or more, not {frames}")
        space = env.observation_space
        assert isinstance(space, gymnasium.spaces.Box)
        low, high = (np.concatenate([side] * frames) for side in (space.low, space.high))
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=low.dtype.type)
        self._frames = frames
        self._stack: NDArray[Any] = np.zeros_like(low)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frame, dict[str, Any]]:
        """Start an episode; the stack holds its first frame only."""
        frame, info = self.env.reset(seed=seed, options=options)
        self._stack = np.concatenate([frame] * self._frames)
        return self._stack.copy(), info

    def step(self, action: Any) -> tuple[Frame, SupportsFloat, bool, bool, dict[str, Any]]:
        """Apply one action; the oldest frame makes room for the new one."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        self._stack = np.concatenate((self._stack[len(frame) :], frame))
        return self._stack.copy(), reward, terminated, truncated, info

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Return the frames on show, see `envs.save_state`."""
        return {"stack": self._stack.copy()}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `snapshot` gave.

        Raises:
            ValueError: if the frames are of another size or number.
        """
        stack = arrays["stack"]
        if stack.shape != self._stack.shape:
            raise ValueError(
                f"this state has frames of shape {stack.shape}, not {self._stack.shape}"
            )
        self._stack = np.array(stack, self._stack.dtype)
