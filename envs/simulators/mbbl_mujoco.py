"""MBBL's MuJoCo tasks on gymnasium's bundled models.

The source ran on gym 0.9.4 with MuJoCo 1.31. Gymnasium's models are the same mechanisms, except
where `Robot.adjust` puts a number back. Velocities in observations are not clipped.

Source: MBBL, Wang et al. 2019 (arXiv 1907.02057), repository WilsonWangTHU/mbbl bb88a01.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import cos, radians
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco.mujoco_env import DEFAULT_SIZE, MujocoEnv

from envs.simulators import mbbl_rewards as rewards
from envs.simulators.mbbl_base import Fallen, MbblEnv, NoisyReward, Reward
from envs.simulators.mbbl_rewards import Vector

SWIMMER_HEAD = 1.5  # metres from the root joints to the head tip


def _without_root(skipped: int) -> Callable[[mujoco.MjData], Vector]:
    """Observation [qpos[skipped:], qvel]: the root's place in the world is left out."""

    def observe(data: mujoco.MjData) -> Vector:
        return np.concatenate((data.qpos[skipped:], data.qvel))

    return observe


def _observe_reacher(data: mujoco.MjData) -> Vector:
    arm, target = data.qpos[:2], data.qpos[2:]
    reach = data.body("fingertip").xpos - data.body("target").xpos
    return np.concatenate((np.cos(arm), np.sin(arm), target, data.qvel[:2], reach))


def _observe_humanoid(data: mujoco.MjData) -> Vector:
    """376 components; the world body's zero rows are included, unlike in gymnasium v5."""
    return np.concatenate(
        (
            data.qpos[2:],
            data.qvel,
            data.cinert.ravel(),
            data.cvel.ravel(),
            data.qfrc_actuator,
            data.cfrc_ext.ravel(),
        )
    )


def _free_motor(model: mujoco.MjModel) -> None:
    """Gym 0.9.4 does not clamp the InvertedPendulum's motor."""
    model.actuator_ctrllimited[:] = 0


def _wider_left_hip(model: mujoco.MjModel) -> None:
    """Gym 0.9.4 lets the Humanoid's left hip bend to -120 degrees, gymnasium to -110."""
    model.joint("left_hip_y").range[:] = radians(-120.0), radians(20.0)


@dataclass(frozen=True)
class Robot:
    """A MuJoCo model, what is observed of it and how it starts.

    Attributes:
        xml: name of gymnasium's bundled model file.
        frame_skip: simulator steps for each control step.
        observe: observation of the simulator's data.
        qpos_noise: half-width of the uniform noise on start positions.
        qvel_noise: half-width, or deviation if `normal_qvel`, of the noise on start velocities.
        normal_qvel: whether velocity noise is normal instead of uniform.
        centred: number of leading positions set to 0 at the start, noise included.
        contact_forces: whether the observation reads contact forces, which cost an extra pass.
        adjust: puts back numbers in which gymnasium's model differs from gym 0.9.4.
        camera: default camera for images.
    """

    xml: str
    frame_skip: int
    observe: Callable[[mujoco.MjData], Vector]
    qpos_noise: float
    qvel_noise: float
    normal_qvel: bool = False
    centred: int = 0
    contact_forces: bool = False
    adjust: Callable[[mujoco.MjModel], None] | None = None
    camera: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskPhysics:
    """A task on a robot: its reward, its end condition and its time limit in control steps."""

    robot: Robot
    reward: Reward
    fallen: Fallen | None = None
    max_steps: int = 1000


_SIDE_VIEW = {"trackbodyid": 1, "distance": 4.0, "elevation": -20.0}
INVERTED_PENDULUM = Robot(
    "inverted_pendulum.xml", 2, _without_root(0), 0.01, 0.01,
    adjust=_free_motor, camera={"trackbodyid": 0, "distance": 2.04},
)  # fmt: skip
REACHER = Robot("reacher.xml", 2, _observe_reacher, 0.1, 0.005, camera={"trackbodyid": 0})
HALF_CHEETAH = Robot(
    "half_cheetah.xml", 5, _without_root(1), 0.1, 0.1,
    normal_qvel=True, centred=1, camera=_SIDE_VIEW,
)  # fmt: skip
SWIMMER_V0 = Robot("swimmer.xml", 4, _without_root(2), 0.1, 0.1, centred=2)
SWIMMER = Robot("swimmer.xml", 4, _without_root(2), 0.1, 0.1)
HOPPER = Robot("hopper.xml", 4, _without_root(1), 0.005, 0.005, centred=1, camera=_SIDE_VIEW)
# walker2d.xml and not walker2d_v5.xml, whose right foot has the friction of the left.
WALKER = Robot("walker2d.xml", 4, _without_root(1), 0.005, 0.005, centred=1, camera=_SIDE_VIEW)
ANT = Robot(
    "ant.xml", 5, _without_root(2), 0.1, 0.1, normal_qvel=True, centred=2, camera=_SIDE_VIEW
)
HUMANOID = Robot(
    "humanoid.xml", 5, _observe_humanoid, 0.01, 0.01,
    contact_forces=True, adjust=_wider_left_hip, camera=_SIDE_VIEW,
)  # fmt: skip
SLIM_HUMANOID = Robot(
    "humanoid.xml", 5, _without_root(2), 0.01, 0.01, adjust=_wider_left_hip, camera=_SIDE_VIEW
)

PHYSICS: Mapping[str, TaskPhysics] = {
    # 101 and not 100: the source ends this task at k > 100 where k starts at 0.
    "InvertedPendulum": TaskPhysics(INVERTED_PENDULUM, rewards.inverted_pendulum, max_steps=101),
    "Reacher": TaskPhysics(REACHER, rewards.reacher, max_steps=50),
    "HalfCheetah": TaskPhysics(HALF_CHEETAH, rewards.half_cheetah),
    "SwimmerV0": TaskPhysics(SWIMMER_V0, rewards.swimmer_v0),
    "Swimmer": TaskPhysics(SWIMMER, rewards.swimmer),
    "Hopper": TaskPhysics(HOPPER, rewards.hopper),
    "Hopper-ET": TaskPhysics(HOPPER, rewards.hopper_et, rewards.hopper_fallen),
    "Walker2D": TaskPhysics(WALKER, rewards.walker),
    "Walker2D-ET": TaskPhysics(WALKER, rewards.walker_et, rewards.walker_fallen),
    "Ant": TaskPhysics(ANT, rewards.ant),
    "Ant-ET": TaskPhysics(ANT, rewards.ant_et, rewards.ant_fallen),
    "SlimHumanoid": TaskPhysics(SLIM_HUMANOID, rewards.slim_humanoid),
    "SlimHumanoid-ET": TaskPhysics(SLIM_HUMANOID, rewards.slim_humanoid, rewards.humanoid_fallen),
    "Humanoid-ET": TaskPhysics(HUMANOID, rewards.humanoid, rewards.humanoid_fallen),
}


class MujocoTaskEnv(MbblEnv, MujocoEnv):  # type: ignore[misc]  # both define step
    """One of MBBL's MuJoCo tasks."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        physics: str,
        *,
        obs_noise: float = 0.0,
        action_noise: float = 0.0,
        noisy_reward_on: NoisyReward = "noisy",
        render_mode: str | None = None,
        width: int = DEFAULT_SIZE,
        height: int = DEFAULT_SIZE,
        camera_id: int | None = None,
        camera_name: str | None = None,
    ) -> None:
        """Load the model.

        Args:
            physics: a key of `PHYSICS`.
            obs_noise: half-width of the observation noise.
            action_noise: half-width of the action noise.
            noisy_reward_on: see `MbblEnv`.
            render_mode: `rgb_array` or None.
            width: of an image, in pixels.
            height: of an image, in pixels.
            camera_id: camera of the model to look through.
            camera_name: the same by name.

        Raises:
            ValueError: if an option has a value that is not allowed.
        """
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is 'rgb_array' or None, not {render_mode!r}")
        chosen = PHYSICS[physics]
        self._robot = chosen.robot
        self._set_task(
            reward=chosen.reward,
            fallen=chosen.fallen,
            max_steps=chosen.max_steps,
            obs_noise=obs_noise,
            action_noise=action_noise,
            noisy_reward_on=noisy_reward_on,
        )
        MujocoEnv.__init__(
            self,
            self._robot.xml,
            self._robot.frame_skip,
            observation_space=None,
            render_mode=render_mode,
            width=width,
            height=height,
            camera_id=camera_id,
            camera_name=camera_name,
            default_camera_config=dict(self._robot.camera),
        )
        # The base class checks this against one number for all robots, hence after it.
        self.metadata = type(self).metadata | {"render_fps": round(1.0 / self.dt)}
        if self._robot.adjust is not None:
            self._robot.adjust(self.model)
        obs_dim = self._observe().size
        self.observation_space = spaces.Box(-np.inf, np.inf, (obs_dim,), np.float64)

    def set_state(self, qpos: Vector, qvel: Vector) -> None:
        """Move to a state; the next reward is that of its clean observation.

        Args:
            qpos: `[nq]`, metres and radians.
            qvel: `[nv]`, per second.
        """
        MujocoEnv.set_state(self, np.asarray(qpos), np.asarray(qvel))
        self._last_obs = self._observe()

    def _begin(self) -> None:
        mujoco.mj_resetData(self.model, self.data)
        self.set_state(*self._start())

    def _start(self) -> tuple[Vector, Vector]:
        robot, rng = self._robot, self.np_random
        qpos = self.init_qpos + rng.uniform(-robot.qpos_noise, robot.qpos_noise, self.model.nq)
        if robot.normal_qvel:
            qvel = robot.qvel_noise * rng.standard_normal(self.model.nv)
        else:
            qvel = rng.uniform(-robot.qvel_noise, robot.qvel_noise, self.model.nv)
        qpos[: robot.centred] = 0.0
        return qpos, qvel + self.init_qvel

    def _advance(self, action: Vector) -> None:
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, self.frame_skip)
        if self._robot.contact_forces:
            # mj_step alone leaves cfrc_ext at 0.
            mujoco.mj_rnePostConstraint(self.model, self.data)

    def _observe(self) -> Vector:
        return self._robot.observe(self.data)


class ReacherEnv(MujocoTaskEnv):
    """Reacher: the target is drawn in a square, as in gym 0.9.4, and does not move."""

    def _start(self) -> tuple[Vector, Vector]:
        rng, robot = self.np_random, self._robot
        qpos = self.init_qpos + rng.uniform(-robot.qpos_noise, robot.qpos_noise, self.model.nq)
        qpos[2:] = rng.uniform(-0.2, 0.2, 2)
        qvel = self.init_qvel + rng.uniform(-robot.qvel_noise, robot.qvel_noise, self.model.nv)
        qvel[2:] = 0.0
        return qpos, qvel


class SwimmerEnv(MujocoTaskEnv):
    """Swimmer (`gym_fswimmer`): observes the head tip's mean speed over the step just taken.

    At reset this speed is 0. The source keeps the last value of the previous episode there, 0 in a
    fresh environment, which makes an episode depend on the one before it.
    """

    _tip_speed = 0.0

    def _tip(self) -> float:
        qpos = self.data.qpos
        return float(qpos[0]) + SWIMMER_HEAD * cos(qpos[2])

    def set_state(self, qpos: Vector, qvel: Vector) -> None:
        """Move to a state with a tip speed of 0."""
        self._tip_speed = 0.0
        super().set_state(qpos, qvel)

    def _advance(self, action: Vector) -> None:
        before = self._tip()
        super()._advance(action)
        self._tip_speed = (self._tip() - before) / self.dt

    def _observe(self) -> Vector:
        return np.append(super()._observe(), self._tip_speed)
