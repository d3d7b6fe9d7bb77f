"""Hand-computed rewards and dynamics of MBBL's four classic tasks."""

import copy
from math import cos, pi, sin

import numpy as np
import pytest
from gymnasium.envs.classic_control import AcrobotEnv, CartPoleEnv

import envs
from envs.simulators import mbbl_classic as classic

CLASSIC = ["Pendulum", "Acrobot", "CartPole", "MountainCar"]


def at(task_id, state, **options):
    """The task in a given state."""
    env = envs.make(task_id, seed=0, **options)
    env.reset()
    env.unwrapped.set_state(state)
    return env


@pytest.mark.parametrize(
    ("task_id", "state", "action", "reward"),
    [
        # Hanging: -(cos π) = 1, and u = clip(2·3, ±2) = 2 costs 0.001·4.
        ("mbbl/Pendulum", (pi, 0.0), 3.0, 0.996),
        # Upright, ω = 2, no torque: -(1 + 0.1·4).
        ("mbbl/Pendulum", (0.0, 2.0), 0.0, -1.4),
        # On either side: -(0 + 0.1·|±1| + 0.001·0.5²·4).
        ("mbbl/Pendulum", (pi / 2, 0.0), 0.5, -0.101),
        ("mbbl/Pendulum", (-pi / 2, 0.0), 0.5, -0.101),
        # Hanging: -(cos 0 + cos 0); raised: -(cos π + cos π); elbow: -(cos π/2 + cos π).
        ("mbbl/Acrobot", (0.0, 0.0, 1.0, 1.0), 1.0, -2.0),
        ("mbbl/Acrobot", (pi, 0.0, 0.0, 0.0), 1.0, 2.0),
        ("mbbl/Acrobot", (pi / 2, pi / 2, 0.0, 0.0), 0.0, 1.0),
        # cos 0 - 0.01·2²; far outside gymnasium's bounds: cos π - 0.01·10².
        ("mbbl/CartPole", (2.0, 5.0, 0.0, 5.0), 1.0, 0.96),
        ("mbbl/CartPole", (10.0, 0.0, pi, 0.0), -1.0, -2.0),
        ("mbbl/MountainCar", (-0.5, 0.03), 1.0, -0.5),
        ("mbbl/MountainCar", (0.6, 0.0), 1.0, 0.6),
    ],
)
def test_reward_by_hand(task_id, state, action, reward):
    obs, got, terminated, truncated, _ = at(task_id, state).step(np.array([action]))
    assert got == pytest.approx(reward, abs=1e-12)
    assert (terminated, truncated) == (False, False)
    assert obs.dtype == np.float64


@pytest.mark.parametrize("name", CLASSIC)
def test_an_episode_has_201_steps(name):
    env = envs.make(f"mbbl/{name}", seed=0)
    env.reset()
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(201)]
    assert ends[:200] == [(False, False)] * 200
    assert ends[200] == (False, True)


def test_pendulum_moves_before_its_speed_is_clipped():
    # ω' = 8 + (15 sin(π/2) + 3·2)·0.05 = 9.05, θ' = π/2 + 9.05·0.05, only then ω' = 8.
    env = at("mbbl/Pendulum", (pi / 2, 8.0))
    obs, reward, *_ = env.step(np.array([1.0]))
    theta = pi / 2 + 0.4525
    np.testing.assert_allclose(obs, [cos(theta), sin(theta), 8.0], atol=1e-14)
    # -(0 + 0.1·1 + 0.1·64 + 0.001·4)
    assert reward == pytest.approx(-6.504)


def test_pendulum_torque_is_clipped():
    states = [classic.pendulum_advance((1.0, 0.0), a) for a in (1.0, 7.0)]
    assert states[0] == states[1]


@pytest.mark.parametrize(("a", "choice"), [(-0.34, 0), (-0.33, 1), (0.32, 1), (0.33, 2)])
def test_acrobot_is_gymnasiums_in_float64(a, choice):
    state, theirs = (0.4, -1.1, 3.0, -5.0), AcrobotEnv()
    for _ in range(5):
        theirs.state = np.array(state)
        theirs.step(choice)
        state = classic.acrobot_advance(state, a)
        np.testing.assert_allclose(state, theirs.state, rtol=1e-12)


def test_acrobot_limits():
    theta1, theta2, omega1, omega2 = classic.acrobot_advance((3.0, -3.0, 40.0, -60.0), 0.0)
    assert (omega1, omega2) == (4 * pi, -9 * pi)
    assert -pi <= theta1 <= pi
    assert -pi <= theta2 <= pi


@pytest.mark.parametrize(("a", "choice"), [(0.01, 1), (0.0, 0), (-0.5, 0)])
def test_cartpole_is_gymnasiums(a, choice):
    state = (0.1, -0.4, 0.15, 0.7)
    for _ in range(5):
        theirs = CartPoleEnv()
        theirs.state = np.array(state)
        theirs.step(choice)
        state = classic.cartpole_advance(state, a)
        np.testing.assert_allclose(state, theirs.state, rtol=1e-13)


def test_mountain_car_by_hand():
    # v' = 0.01 + 0.0015·1 - 0.0025·cos(-1.5), the action is limited to 1.
    p, v = classic.mountain_car_advance((-0.5, 0.01), 4.0)
    assert v == pytest.approx(0.01 + 0.0015 - 0.0025 * 0.0707372016677029)
    assert p == pytest.approx(-0.5 + v)


def test_mountain_car_walls():
    assert classic.mountain_car_advance((-1.19, -0.06), -1.0) == (-1.2, 0.0)
    p, v = classic.mountain_car_advance((0.59, 0.07), 1.0)
    assert (p, v) == (0.6, 0.07)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("Pendulum", (-pi, -1.0), (pi, 1.0)),
        ("Acrobot", (-0.1,) * 4, (0.1,) * 4),
        ("CartPole", (-0.05,) * 4, (0.05,) * 4),
        ("MountainCar", (-0.6, 0.0), (-0.4, 0.0)),
    ],
)
def test_start_states_fill_their_box(name, low, high):
    rng = np.random.default_rng(0)
    states = np.array([classic.SYSTEMS[name].start(rng) for _ in range(500)])
    width = np.subtract(high, low)
    assert (states >= low).all()
    assert (states <= high).all()
    np.testing.assert_allclose(states.min(axis=0), low, atol=0.02 * width.max())
    np.testing.assert_allclose(states.max(axis=0), high, atol=0.02 * width.max())


@pytest.mark.parametrize(
    ("task_id", "width"),
    [
        ("mbbl/Pendulum-O01", 0.1),
        ("mbbl/Pendulum-O001", 0.01),
        ("mbbl/CartPole-O01", 0.1),
        ("mbbl/CartPole-O001", 0.01),
    ],
)
def test_observation_noise(task_id, width):
    clean = envs.make(task_id.rpartition("-")[0], seed=0)
    noisy = envs.make(task_id, seed=0)
    np.testing.assert_array_equal(clean.reset()[0], noisy.reset()[0])
    errors = np.array([noisy.step(np.ones(1))[0] - clean.step(np.ones(1))[0] for _ in range(150)])
    assert 0.9 * width < np.abs(errors).max() <= width


def test_noisy_reward_reads_the_noisy_observation():
    env = envs.make("mbbl/CartPole-O01", seed=0)
    clean = envs.make("mbbl/CartPole-O01", seed=0, noisy_reward_on="clean")
    env.reset(), clean.reset()
    obs = env.step(np.ones(1))[0]
    clean.step(np.ones(1))
    x, _, theta, _ = env.unwrapped._state
    assert env.step(np.ones(1))[1] == pytest.approx(cos(obs[2]) - 0.01 * obs[0] ** 2)
    assert clean.step(np.ones(1))[1] == pytest.approx(cos(theta) - 0.01 * x**2)


def test_released_noisy_pendulum_has_a_signed_sine():
    # -(cos + 0.1 sin) at θ = -π/2 is +0.1, with the absolute value -0.1.
    rewards = {
        cost: at("mbbl/Pendulum-O01", (-pi / 2, 0.0), sine_cost=cost).step(np.zeros(1))[1]
        for cost in ("absolute", "signed")
    }
    assert rewards == pytest.approx({"absolute": -0.1, "signed": 0.1})


def test_noise_comes_from_the_environments_own_generator():
    env = envs.make("mbbl/CartPole-O01", seed=0)
    env.reset()
    rng = copy.deepcopy(env.unwrapped.np_random)
    np.random.seed(0)  # noqa: NPY002
    obs = env.step(np.ones(1))[0]
    np.testing.assert_array_equal(obs, np.array(env.unwrapped._state) + rng.uniform(-0.1, 0.1, 4))
