"""The printed Random row of MBBL, reproduced: the check that all 18 definitions are right."""

import numpy as np
import pytest

import envs

# Mean and spread of MBBL's Random row; 40,000 steps, actions U(-1, 1), not scaled to the box.
RANDOM_ROW = {
    "Pendulum": (-202.6, 249.3),
    "InvertedPendulum": (-205.1, 13.6),
    "Acrobot": (-374.5, 17.1),
    "CartPole": (38.4, 32.5),
    "MountainCar": (-105.1, 1.8),
    "Reacher": (-45.7, 4.8),
    "HalfCheetah": (-288.3, 65.8),
    "SwimmerV0": (1.2, 11.2),
    "Swimmer": (-9.5, 11.6),
    "Ant": (473.8, 40.8),
    "Ant-ET": (124.6, 145.0),
    "Walker2D": (-2456.9, 345.3),
    "Walker2D-ET": (-2.8, 4.3),
    "Hopper": (-2572.7, 631.3),
    "Hopper-ET": (12.7, 7.8),
    "SlimHumanoid": (-1172.9, 757.0),
    "SlimHumanoid-ET": (41.8, 47.3),
    "Humanoid-ET": (50.5, 57.1),
}


def random_returns(task_id, steps=40_000, seed=0):
    """Returns of the finished episodes of a random policy."""
    env, rng = envs.make(task_id, seed=seed), np.random.default_rng(seed + 1)
    actions = rng.uniform(-1.0, 1.0, (steps, envs.task(task_id).action_dim))
    returns, total = [], 0.0
    env.reset()
    for action in actions:
        _, reward, terminated, truncated, _ = env.step(action)
        total += reward
        if terminated or truncated:
            returns.append(total)
            total = 0.0
            env.reset()
    return np.array(returns)


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM_ROW)
def test_random_policy_matches_the_printed_row(name):
    returns = random_returns(f"mbbl/{name}")
    mean, spread = RANDOM_ROW[name]
    assert abs(returns.mean() - mean) <= spread, f"{returns.mean():.1f} ± {returns.std():.1f}"
