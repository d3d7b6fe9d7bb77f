"""MBBL's Pendulum, Acrobot, CartPole and Mountain Car: plain dynamics in float64.

They follow gym 0.9.4, not gymnasium: continuous actions, MBBL's rewards, no termination, no
float32 rounding, and 201 steps because the source ends an episode at k > 200 where k starts at 0.

Source: MBBL, Wang et al. 2019 (arXiv 1907.02057), repository WilsonWangTHU/mbbl bb88a01.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from envs.parts.sketch import BLUE, DARK, GREY, ORANGE, Disc, Line, draw
from envs.simulators import mbbl_rewards as rewards
from envs.simulators.mbbl_base import MbblEnv, NoisyReward, Reward
from envs.simulators.mbbl_rewards import Vector

State = tuple[float, ...]
MAX_STEPS = 201


@dataclass(frozen=True)
class System:
    """A dynamical system with one action.

    Attributes:
        start: draws a start state.
        advance: next state for a state and an action.
        observe: observation of a state.
        reward: R(o_t, a_t).
        sketch: what a state looks like, in metres or in the system's own units.
        view: units from the middle of an image to its nearest edge.
        fps: steps per second.
        middle: what the middle of an image shows.
    """

    start: Callable[[np.random.Generator], State]
    advance: Callable[[State, float], State]
    observe: Callable[[State], State]
    reward: Reward
    sketch: Callable[[State], list[Line | Disc]]
    view: float
    fps: int
    middle: tuple[float, float] = (0.0, 0.0)


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _uniform(width: float) -> Callable[[np.random.Generator], State]:
    return lambda rng: tuple(rng.uniform(-width, width, 4).tolist())


def pendulum_start(rng: np.random.Generator) -> State:
    """θ ~ U(±π), ω ~ U(±1)."""
    return tuple(rng.uniform((-pi, -1.0), (pi, 1.0)).tolist())


def pendulum_advance(state: State, a: float) -> State:
    """One Euler step of 0.05 s; the angle moves with the speed before that is clipped to ±8."""
    theta, omega = state
    omega += (15.0 * sin(theta) + 3.0 * rewards.pendulum_torque(a)) * 0.05
    return theta + omega * 0.05, _clip(omega, -8.0, 8.0)


def pendulum_observe(state: State) -> State:
    """[cos θ, sin θ, ω]."""
    theta, omega = state
    return cos(theta), sin(theta), omega


def acrobot_slope(state: State, torque: float) -> State:
    """Time derivative in the "book" form, unit masses, lengths and inertias, centres at 0.5."""
    theta1, theta2, omega1, omega2 = state
    gravity = 9.8
    d1 = 3.5 + cos(theta2)
    d2 = 1.25 + 0.5 * cos(theta2)
    phi2 = 0.5 * gravity * sin(theta1 + theta2)
    coriolis = (0.5 * omega2**2 + omega1 * omega2) * sin(theta2)
    phi1 = 1.5 * gravity * sin(theta1) + phi2 - coriolis
    push = torque + d2 / d1 * phi1 - 0.5 * omega1**2 * sin(theta2) - phi2
    alpha2 = push / (1.25 - d2**2 / d1)
    return omega1, omega2, -(d2 * alpha2 + phi1) / d1, alpha2


def acrobot_advance(state: State, a: float) -> State:
    """One fourth-order Runge-Kutta step of 0.2 s under a torque of -1, 0 or +1 N m."""
    torque = -1.0 if a < -0.33 else 0.0 if a < 0.33 else 1.0

    def moved(slope: State, dt: float) -> State:
        return tuple(x + dt * dx for x, dx in zip(state, slope, strict=True))

    k1 = acrobot_slope(state, torque)
    k2 = acrobot_slope(moved(k1, 0.1), torque)
    k3 = acrobot_slope(moved(k2, 0.1), torque)
    k4 = acrobot_slope(moved(k3, 0.2), torque)
    mean = tuple(
        (p + 2.0 * q + 2.0 * r + s) / 6.0 for p, q, r, s in zip(k1, k2, k3, k4, strict=True)
    )
    theta1, theta2, omega1, omega2 = moved(mean, 0.2)
    return (
        _wrap(theta1),
        _wrap(theta2),
        _clip(omega1, -4.0 * pi, 4.0 * pi),
        _clip(omega2, -9.0 * pi, 9.0 * pi),
    )


def _wrap(angle: float) -> float:
    while angle > pi:
        angle -= 2.0 * pi
    while angle < -pi:
        angle += 2.0 * pi
    return angle


def acrobot_observe(state: State) -> State:
    """[cos θ1, sin θ1, cos θ2, sin θ2, ω1, ω2]."""
    theta1, theta2, omega1, omega2 = state
    return cos(theta1), sin(theta1), cos(theta2), sin(theta2), omega1, omega2


def cartpole_advance(state: State, a: float) -> State:
    """One Euler step of 0.02 s under ±10 N; cart 1 kg, pole 0.1 kg with half-length 0.5 m."""
    x, v, theta, omega = state
    force = 10.0 if a > 0.0 else -10.0
    push = (force + 0.05 * omega**2 * sin(theta)) / 1.1
    alpha = (9.8 * sin(theta) - cos(theta) * push) / (
        0.5 * (4.0 / 3.0 - 0.1 * cos(theta) ** 2 / 1.1)
    )
    acceleration = push - 0.05 * alpha * cos(theta) / 1.1
    return x + 0.02 * v, v + 0.02 * acceleration, theta + 0.02 * omega, omega + 0.02 * alpha


def mountain_car_start(rng: np.random.Generator) -> State:
    """Position ~ U(-0.6, -0.4), at rest."""
    return float(rng.uniform(-0.6, -0.4)), 0.0


def mountain_car_advance(state: State, a: float) -> State:
    """One step of the continuous mountain car; the goal is ignored, the left wall stops."""
    p, v = state
    v = _clip(v + 0.0015 * _clip(a, -1.0, 1.0) - 0.0025 * cos(3.0 * p), -0.07, 0.07)
    p = _clip(p + v, -1.2, 0.6)
    return p, 0.0 if p == -1.2 and v < 0.0 else v


def _identity(state: State) -> State:
    return state


def pendulum_sketch(state: State) -> list[Line | Disc]:
    """Return a rod that stands upright at θ = 0, as gym draws it."""
    tip = (-sin(state[0]), cos(state[0]))
    return [Line([(0.0, 0.0), tip], 0.16, ORANGE), Disc((0.0, 0.0), 0.05)]


def acrobot_sketch(state: State) -> list[Line | Disc]:
    """Two links that hang down at θ1 = θ2 = 0."""
    elbow = (sin(state[0]), -cos(state[0]))
    hand = (elbow[0] + sin(state[0] + state[1]), elbow[1] - cos(state[0] + state[1]))
    links = [Line([(0.0, 0.0), elbow], 0.14, BLUE), Line([elbow, hand], 0.14, ORANGE)]
    return [Line([(-2.2, 1.0), (2.2, 1.0)], 0.02, GREY), *links, Disc((0.0, 0.0), 0.06)]


def cartpole_sketch(state: State) -> list[Line | Disc]:
    """Return a cart on its track, and a pole of 1 m that stands upright at θ = 0."""
    x, _, theta, _ = state
    pole = Line([(x, 0.0), (x + sin(theta), cos(theta))], 0.08, ORANGE)
    track = Line([(-2.4, -0.1), (2.4, -0.1)], 0.02, GREY)
    return [track, Line([(x - 0.15, -0.05), (x + 0.15, -0.05)], 0.2, DARK), pole]


def mountain_car_sketch(state: State) -> list[Line | Disc]:
    """Return the valley sin(3 p), and the car in it."""

    def road(p: float) -> tuple[float, float]:
        return p, 0.45 * sin(3.0 * p)

    valley = Line([road(p) for p in np.linspace(-1.2, 0.6, 61).tolist()], 0.02, DARK)
    x, y = road(state[0])
    return [valley, Disc(road(0.45), 0.03, GREY), Disc((x, y + 0.06), 0.05, ORANGE)]


SYSTEMS: Mapping[str, System] = {
    "Pendulum": System(
        *(pendulum_start, pendulum_advance, pendulum_observe, rewards.pendulum),
        *(pendulum_sketch, 1.2, 20),
    ),
    "Acrobot": System(
        *(_uniform(0.1), acrobot_advance, acrobot_observe, rewards.acrobot),
        *(acrobot_sketch, 2.2, 5),
    ),
    "CartPole": System(
        *(_uniform(0.05), cartpole_advance, _identity, rewards.cartpole),
        *(cartpole_sketch, 1.5, 50),
    ),
    "MountainCar": System(
        *(mountain_car_start, mountain_car_advance, _identity, rewards.mountain_car),
        *(mountain_car_sketch, 1.0, 30),
        middle=(-0.3, 0.0),
    ),
}


class ClassicEnv(MbblEnv):
    """One of the four classic control tasks."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        physics: str,
        *,
        obs_noise: float = 0.0,
        noisy_reward_on: NoisyReward = "noisy",
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        """Build the system.

        Args:
            physics: a key of `SYSTEMS`.
            obs_noise: half-width of the observation noise.
            noisy_reward_on: see `MbblEnv`.
            render_mode: `rgb_array` or None.
            width: of an image in pixels.
            height: of an image in pixels.

        Raises:
            ValueError: if `render_mode` is neither.
        """
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is 'rgb_array' or None, not {render_mode!r}")
        self._system = SYSTEMS[physics]
        self.render_mode, self._image = render_mode, (width, height)
        self.metadata = {**self.metadata, "render_fps": self._system.fps}
        self._state: State | None = None
        self._set_task(
            reward=self._system.reward,
            fallen=None,
            max_steps=MAX_STEPS,
            obs_noise=obs_noise,
            action_noise=0.0,
            noisy_reward_on=noisy_reward_on,
        )
        obs_dim = len(self._system.observe(self._system.start(np.random.default_rng(0))))
        self.observation_space = spaces.Box(-np.inf, np.inf, (obs_dim,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def set_state(self, state: State) -> None:
        """Move to a state; the next reward is that of its clean observation."""
        self._state = tuple(float(x) for x in state)
        self._last_obs = self._observe()

    def _begin(self) -> None:
        self.set_state(self._system.start(self.np_random))

    def _advance(self, action: Vector) -> None:
        assert self._state is not None
        self._state = self._system.advance(self._state, float(action[0]))

    def _observe(self) -> Vector:
        assert self._state is not None
        return np.array(self._system.observe(self._state), dtype=np.float64)

    def render(self) -> NDArray[np.uint8] | None:
        """Return the present state as an image `[height, width, 3]`, None without `render_mode`."""
        if self.render_mode is None:
            return None
        if self._state is None:
            raise ResetNeeded("cannot call render() before reset()")
        system = self._system
        return draw(system.sketch(self._state), system.view, *self._image, system.middle)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Return the episode's state and the system's, see `envs.save_state`."""
        return super().snapshot() | {"state": np.array(self._state or (), dtype=np.float64)}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `snapshot` gave."""
        super().restore(arrays)
        self._state = tuple(arrays["state"].tolist()) or None


class NoisyPendulumEnv(ClassicEnv):
    """Pendulum with noisy observations, with a choice of the reward's sine term."""

    def __init__(
        self, *, sine_cost: Literal["absolute", "signed"] = "absolute", **options: Any
    ) -> None:
        """Build the pendulum.

        Args:
            sine_cost: `absolute` is 0.1 |sin θ| as in the clean task; `signed` leaves the absolute
                value out as the released noisy variants do, which is taken for an oversight.
            **options: as for `ClassicEnv`.

        Raises:
            ValueError: if `sine_cost` is neither.
        """
        if sine_cost not in ("absolute", "signed"):
            raise ValueError(f"sine_cost is 'absolute' or 'signed', not {sine_cost!r}")
        super().__init__("Pendulum", **options)
        if sine_cost == "signed":
            self._reward = rewards.pendulum_signed_sine
