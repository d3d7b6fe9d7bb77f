"""Images of the tasks that no simulator draws."""

from math import pi

import numpy as np
import pytest

import envs
from envs.parts.sketch import DARK, GROUND, ORANGE, Disc, Line, draw

TASKS = ["mbbl/Pendulum", "mbbl/Acrobot", "mbbl/CartPole", "mbbl/MountainCar", "toy/bandit"]


def centre_of(image, color):
    """Mean column and row of the pixels of a colour, from -1 to 1, y upwards."""
    rows, columns = np.nonzero((image == color).all(-1))
    height, width = image.shape[:2]
    return 2 * (columns.mean() + 0.5) / width - 1, 1 - 2 * (rows.mean() + 0.5) / height


def image_of(task, state):
    env = envs.make(task, seed=0, render_mode="rgb_array", width=240, height=240)
    env.reset()
    env.unwrapped.set_state(state)
    return env.render()


@pytest.mark.parametrize("task", TASKS)
def test_every_task_without_a_simulator_has_images(task):
    env = envs.make(task, seed=0, render_mode="rgb_array", width=120, height=80)
    env.reset()
    first = env.render()
    for _ in range(envs.task(task).max_episode_steps // 10 + 1):  # a bandit's episode is one step
        env.step(env.action_space.sample())
    second = env.render()
    assert first.shape == second.shape == (80, 120, 3)
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)
    assert envs.make(task, seed=0).render() is None
    assert env.metadata["render_fps"] > 0
    with pytest.raises(ValueError, match="render_mode is 'rgb_array' or None, not 'ansi'"):
        envs.make(task, render_mode="ansi")


def test_there_is_no_image_before_reset():
    with pytest.raises(Exception, match="reset"):
        envs.make("mbbl/Pendulum", render_mode="rgb_array").render()


def test_marks_are_where_their_coordinates_say():
    marks = [Line([(-1.0, 0.5), (1.0, 0.5)], 0.1, DARK), Disc((0.5, -0.5), 0.2, ORANGE)]
    image = draw(marks, 1.0, 200, 200)
    assert centre_of(image, ORANGE) == pytest.approx((0.5, -0.5), abs=0.02)
    assert centre_of(image, DARK) == pytest.approx((0.0, 0.5), abs=0.02)
    assert tuple(image[0, 0]) == GROUND
    # A wide image shows more to the sides, not a stretched disc.
    wide = draw(marks, 1.0, 400, 200)
    assert centre_of(wide, ORANGE) == pytest.approx((0.25, -0.5), abs=0.02)
    moved = draw(marks, 1.0, 200, 200, centre=(0.5, -0.5))
    assert centre_of(moved, ORANGE) == pytest.approx((0.0, 0.0), abs=0.02)


def test_bodies_stand_where_their_states_say():
    # θ = 0 of pendulum and pole is upright, of Acrobot's links hanging down.
    assert centre_of(image_of("mbbl/Pendulum", (0.0, 0.0)), ORANGE)[1] > 0.3
    assert centre_of(image_of("mbbl/Pendulum", (pi, 0.0)), ORANGE)[1] < -0.3
    assert centre_of(image_of("mbbl/Pendulum", (pi / 2, 0.0)), ORANGE)[0] < -0.3
    leaning = centre_of(image_of("mbbl/CartPole", (0.5, 0.0, 0.3, 0.0)), ORANGE)
    assert leaning == pytest.approx(((0.5 + 0.148) / 1.5, 0.478 / 1.5), abs=0.03)
    assert centre_of(image_of("mbbl/Acrobot", (0.0, 0.0, 0.0, 0.0)), ORANGE)[1] < -0.5
    assert centre_of(image_of("mbbl/Acrobot", (pi / 2, 0.0, 0.0, 0.0)), ORANGE)[0] > 0.5
    assert centre_of(image_of("mbbl/MountainCar", (0.4, 0.0)), ORANGE)[0] > 0.6
