"""Rewards R(o_t, a_t) and end conditions of the MBBL tasks.

Every reward reads the observation *before* the step and the action as the agent gave it, not
clipped to the action box: velocities are those at t and are not affected by a_t. End conditions
are tested on o_{t+1}, alive bonuses on o_t, so that a terminating step still earns its bonus.

Source: MBBL, Wang et al. 2019 (arXiv 1907.02057), repository WilsonWangTHU/mbbl bb88a01,
`env/gym_env/*.py`.
"""

from __future__ import annotations

from math import cos

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

# The source weighs humanoid velocity by 0.25 / dt; gymnasium's weight is 1.25.
HUMANOID_VELOCITY_WEIGHT = 0.25 / 0.015
HUMANOID_ALIVE_BONUS = 5.0


def _square(vector: Vector) -> float:
    return float(vector @ vector)


def pendulum_torque(a: float) -> float:
    """Torque in N m for an action in [-1, 1], limited to ±2."""
    return min(max(2.0 * a, -2.0), 2.0)


def pendulum(o: Vector, a: Vector) -> float:
    """-(cos θ + 0.1 |sin θ| + 0.1 ω² + 0.001 u²): θ = 0 is upright, so hanging down pays best."""
    u = pendulum_torque(float(a[0]))
    return -float(o[0] + 0.1 * abs(o[1]) + 0.1 * o[2] ** 2 + 0.001 * u**2)


def pendulum_signed_sine(o: Vector, a: Vector) -> float:
    """`pendulum` without the absolute value on sin θ, as the released noisy variants have it."""
    return pendulum(o, a) + 0.1 * float(abs(o[1]) - o[1])


def acrobot(o: Vector, a: Vector) -> float:
    """-(cos θ1 + cos(θ1 + θ2)): height of the free end, in [-2, 2]."""
    return -float(o[0] + o[0] * o[2] - o[1] * o[3])


def cartpole(o: Vector, a: Vector) -> float:
    """Cos θ - 0.01 x²."""
    return cos(o[2]) - 0.01 * float(o[0]) ** 2


def mountain_car(o: Vector, a: Vector) -> float:
    """Return the position."""
    return float(o[0])


def inverted_pendulum(o: Vector, a: Vector) -> float:
    """-θ²."""
    return -(float(o[1]) ** 2)


def reacher(o: Vector, a: Vector) -> float:
    """-‖fingertip - target‖ - ‖a‖²."""
    return -float(_square(o[8:11]) ** 0.5) - _square(a)


def half_cheetah(o: Vector, a: Vector) -> float:
    """v_x - 0.1 ‖a‖²."""
    return float(o[8]) - 0.1 * _square(a)


def swimmer_v0(o: Vector, a: Vector) -> float:
    """v_x - 1e-4 ‖a‖²."""
    return float(o[3]) - 1e-4 * _square(a)


def swimmer(o: Vector, a: Vector) -> float:
    """v_tip - 1e-4 ‖a‖², where v_tip is already the mean over the step that led to o."""
    return float(o[8]) - 1e-4 * _square(a)


def hopper(o: Vector, a: Vector) -> float:
    """v_x - 3 (z - 1.3)² - 0.1 ‖a‖² + 1."""
    return float(o[5] - 3.0 * (o[0] - 1.3) ** 2) - 0.1 * _square(a) + 1.0


def walker(o: Vector, a: Vector) -> float:
    """v_x - 3 (z - 1.3)² - 0.1 ‖a‖² + 1."""
    return float(o[8] - 3.0 * (o[0] - 1.3) ** 2) - 0.1 * _square(a) + 1.0


def ant(o: Vector, a: Vector) -> float:
    """v_x - 3 (z - 0.57)² - 0.1 ‖a‖² + 1."""
    return float(o[13] - 3.0 * (o[0] - 0.57) ** 2) - 0.1 * _square(a) + 1.0


def slim_humanoid(o: Vector, a: Vector) -> float:
    """(0.25 / 0.015) v_x - 0.1 ‖a‖² + 5 [1 ≤ z ≤ 2]."""
    bonus = 0.0 if humanoid_fallen(o) else HUMANOID_ALIVE_BONUS
    return HUMANOID_VELOCITY_WEIGHT * float(o[22]) - 0.1 * _square(a) + bonus


def humanoid(o: Vector, a: Vector) -> float:
    """`slim_humanoid` less min(5e-7 ‖contact forces‖², 10)."""
    return slim_humanoid(o, a) - min(5e-7 * _square(o[-84:]), 10.0)


def hopper_fallen(o: Vector) -> bool:
    """Torso at or below 0.7 m, or leaning 0.2 rad or more."""
    return bool(o[0] <= 0.7 or abs(o[1]) >= 0.2)


def walker_fallen(o: Vector) -> bool:
    """Torso outside (0.8, 2.0) m, or leaning 1 rad or more."""
    return bool(o[0] >= 2.0 or o[0] <= 0.8 or abs(o[1]) >= 1.0)


def ant_fallen(o: Vector) -> bool:
    """Torso outside [0.2, 1.0] m."""
    return bool(o[0] > 1.0 or o[0] < 0.2)


def humanoid_fallen(o: Vector) -> bool:
    """Torso outside [1.0, 2.0] m."""
    return bool(o[0] < 1.0 or o[0] > 2.0)


def hopper_et(o: Vector, a: Vector) -> float:
    """`hopper`, its bonus of 1 only while not fallen."""
    return hopper(o, a) - float(hopper_fallen(o))


def walker_et(o: Vector, a: Vector) -> float:
    """`walker`, its bonus of 1 only while not fallen."""
    return walker(o, a) - float(walker_fallen(o))


def ant_et(o: Vector, a: Vector) -> float:
    """`ant`, its bonus of 1 only while not fallen."""
    return ant(o, a) - float(ant_fallen(o))
