import ctypes
import os
import subprocess
import sys

import gymnasium
import mujoco
import numpy as np
import pytest

import envs
from envs.parts import pixels
from envs.parts.pixels import Camera, FrameStack

needs_gl = pytest.mark.skipif(bool(pixels.gl_problem()), reason=pixels.gl_problem())

# A red box above a blue one on a shiny floor, and cameras that look along y at both.
SCENE = """
<mujoco>
  <visual><global offwidth="20" offheight="30"/><quality shadowsize="512" offsamples="4"/></visual>
  <asset><material name="shiny" reflectance="0.6"/></asset>
  <worldbody>
    <light pos="1 -2 4" dir="-0.25 0.5 -1"/>
    <geom type="plane" size="3 3 .1" pos="0 0 -1.2" material="shiny"/>
    <geom type="box" size=".7 .2 .5" pos="0 0 .6" rgba="1 0 0 1"/>
    <geom type="box" size=".7 .2 .5" pos="0 0 -.6" rgba="0 0 1 1"/>
    <camera name="front" pos="0 -4 0" xyaxes="1 0 0 0 0 1"/>
    <camera name="hanging" pos="0 -4 0" xyaxes="-1 0 0 0 0 -1"/>
  </worldbody>
</mujoco>
"""


@pytest.fixture(scope="module")
def scene():
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


# The choice of a library ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("present", "before", "chosen"),
    [
        (("libEGL.so.1", "libOpenGL.so.0"), "", "egl"),
        (("libEGL.so.1", "libGL.so.1", "libOSMesa.so.8"), "", "egl"),
        (("libEGL.so.1", "libOSMesa.so.8"), "", "osmesa"),
        (("libOpenGL.so.0", "libOSMesa.so.6"), "", "osmesa"),
        (("libEGL.so.1",), "", ""),
        (("libEGL.so.1", "libOpenGL.so.0"), "glfw", "glfw"),
    ],
)
def test_choice_of_a_library(monkeypatch, present, before, chosen):
    def load(name):
        if name not in present:
            raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("MUJOCO_GL", before)
    monkeypatch.delenv("LP_NUM_THREADS", raising=False)
    pixels.choose_gl()
    assert (os.environ["MUJOCO_GL"], os.environ["LP_NUM_THREADS"]) == (chosen, "1")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delenv("MUJOCO_GL")
    pixels.choose_gl()
    assert "MUJOCO_GL" not in os.environ


DRAW = f"""
from envs.parts.pixels import Camera, NoRendering
import mujoco
model = mujoco.MjModel.from_xml_string('''{SCENE}''')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
camera = Camera(model, 32, "front")
for _ in range(2):
    try:
        print("drawn", camera.frame(data).std() > 10)
    except NoRendering as error:
        print(error)
"""

NO_LIBRARIES = """
import ctypes
class Missing(ctypes.CDLL):
    def __init__(self, name, *rest, **options):
        if any(word in str(name) for word in ("libEGL", "libGL.", "libOpenGL", "libOSMesa")):
            raise OSError(name)
        super().__init__(name, *rest, **options)
ctypes.CDLL = Missing
import envs
"""


def output(code, **variables):
    """What a new process prints, in which nobody chose a library and there is no display."""
    surroundings = {"PATH": "", "PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=surroundings | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout.splitlines()


# dm_control's exit hooks and mujoco's end the display that both draw with.
DM_CONTROL = "\nfrom dm_control import _render; other = _render.Renderer(8, 8)\n"


@needs_gl
@pytest.mark.parametrize(
    "code",
    [
        "import envs" + DRAW,
        "import mujoco, envs" + DRAW,  # too late for mujoco's own choice
        "import envs" + DRAW + DM_CONTROL,
        "import envs" + DM_CONTROL + DRAW,
    ],
)
def test_a_new_process_draws_and_ends_silently(code):
    assert output(code) == ["drawn True"] * 2


@pytest.mark.parametrize(
    ("first", "variables", "says"),
    [
        (NO_LIBRARIES, {}, f"cannot draw: no GL library: {pixels.INSTALL}"),
        (
            "import envs",
            {"MUJOCO_GL": "off"},
            "cannot draw: MUJOCO_GL=off draws nothing here: set it",
        ),
        pytest.param(
            *("import envs", {"MUJOCO_EGL_DEVICE_ID": "99", "MUJOCO_GL": "egl"}),
            *("cannot draw with MUJOCO_GL=egl: The MUJOCO_EGL_DEVICE_ID",),
            marks=needs_gl,
        ),
    ],
)
def test_no_way_to_draw_is_one_line_each_time(first, variables, says):
    lines = output(first + DRAW, **variables)
    assert len(lines) == 2
    assert all(line.startswith(says) for line in lines)


# The camera ----------------------------------------------------------------------------


def is_red_above_blue(rows):
    """Whether `[height, width, 3]` has red in its upper half and blue in its lower one."""
    upper, lower = (rows[len(rows) * part // 4, 16].astype(int) for part in (1, 3))
    return upper[0] > 2 * upper[2] and lower[2] > 2 * lower[0]


@needs_gl
def test_orientation(scene):
    model, data = scene
    for name, flip, upright in [
        ("front", False, True),
        ("front", True, False),
        ("hanging", False, False),
        ("hanging", True, True),
    ]:
        camera = Camera(model, 32, name, flip=flip)
        frame = camera.frame(data)
        assert frame.shape == (3, 32, 32)
        assert frame.dtype == np.uint8
        assert frame.flags.c_contiguous
        assert is_red_above_blue(frame.transpose(1, 2, 0)) == upright
        assert is_red_above_blue(camera.image(data))
    raw = Camera(model, 32, "hanging", flip=True).frame(data).transpose(1, 2, 0)
    mirrored = Camera(model, 32, "hanging").image(data)[:, ::-1]
    np.testing.assert_array_equal(raw, mirrored)


@needs_gl
def test_fast_is_without_shadows_reflections_and_samples(scene):
    model, data = scene
    fast = Camera(model, (48, 64), "front").image(data)
    full = Camera(model, (48, 64), "front", fast=False).image(data)
    assert (model.vis.quality.shadowsize, model.vis.quality.offsamples) == (512, 4)
    assert (model.vis.global_.offwidth, model.vis.global_.offheight) == (20, 30)
    assert np.mean(fast != full) > 0.05
    plain = mujoco.MjModel.from_xml_string(SCENE)
    plain.vis.global_.offwidth, plain.vis.global_.offheight = 64, 48
    with mujoco.Renderer(plain, 48, 64) as renderer:
        renderer.update_scene(data, "front")
        np.testing.assert_array_equal(full, renderer.render())
    plain.vis.quality.shadowsize = plain.vis.quality.offsamples = 0
    plain.mat_reflectance[:] = 0
    with mujoco.Renderer(plain, 48, 64) as renderer:
        renderer.update_scene(data, "front")
        np.testing.assert_array_equal(fast, renderer.render())


@needs_gl
def test_cameras_do_not_disturb_each_other(scene):
    model, data = scene
    kept, other = Camera(model, 32, "front"), Camera(model, 40, 1, fast=False)
    first = kept.frame(data)
    copy = first.copy()
    other.frame(data)
    np.testing.assert_array_equal(kept.frame(data), first)
    other.close()
    del other
    np.testing.assert_array_equal(kept.frame(data), first)
    kept.close()
    first[:] = 0
    np.testing.assert_array_equal(kept.frame(data), copy)


def test_unknown_camera_is_one_line(scene):
    with pytest.raises(ValueError, match=r"^no camera 'side'; cameras: front, hanging$"):
        Camera(scene[0], 32, "side")
    with pytest.raises(ValueError, match=r"^no camera 2; cameras: -1 to 1$"):
        Camera(scene[0], 32, 2)


# Stacks of frames ----------------------------------------------------------------------


class Counting(gymnasium.Env):
    """Its frames show how many steps were taken, one more in each channel."""

    observation_space = gymnasium.spaces.Box(0, 255, (3, 2, 4), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)
    count = 0

    def frame(self):
        return (
            np.full((3, 2, 4), 10 * self.count, np.uint8)
            + np.arange(3, dtype=np.uint8)[:, None, None]
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.frame(), {"start": True}

    def step(self, action):
        self.count += 1
        return self.frame(), 1.0, False, self.count > 5, {"count": self.count}

    def snapshot(self):
        return {"count": np.array([self.count])}

    def restore(self, arrays):
        self.count = int(arrays["count"][0])


def channels(obs):
    assert (obs == obs[:, :1, :1]).all()
    return obs[:, 0, 0].tolist()


def test_stack_is_oldest_first_and_starts_with_the_first_frame():
    env = FrameStack(Counting(), 3)
    obs, info = env.reset()
    assert env.observation_space.contains(obs)
    assert channels(obs) == [0, 1, 2] * 3
    assert info == {"start": True}
    env.step(0)
    obs, *rest = env.step(0)
    assert channels(obs) == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert rest == [1.0, False, False, {"count": 2}]
    obs.fill(99)
    assert channels(env.step(0)[0]) == [10, 11, 12, 20, 21, 22, 30, 31, 32]
    assert channels(env.reset()[0]) == [0, 1, 2] * 3


def test_stack_is_saved_whole():
    env, fresh = FrameStack(Counting(), 3), FrameStack(Counting(), 3)
    env.reset()
    for _ in range(4):
        env.step(0)
    state = envs.save_state(env)
    envs.load_state(fresh, state)
    env.step(0)
    assert channels(fresh.step(0)[0]) == [30, 31, 32, 40, 41, 42, 50, 51, 52]
    with pytest.raises(ValueError, match=r"frames of shape \(9, 2, 4\), not \(6, 2, 4\)"):
        envs.load_state(FrameStack(Counting(), 2), state)


def test_a_stack_of_nothing_is_refused():
    with pytest.raises(ValueError, match="frames is 1 or more, not 0"):
        FrameStack(Counting(), 0)
