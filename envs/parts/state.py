"""Save an environment in the middle of an episode and continue it bit by bit elsewhere.

The saved state is a flat dict of arrays, without pickle. It covers every layer of wrappers, all
random generators, the step count, the simulator's integration state, and the simulator's derived
fields: after a step those describe the state *before* the last integration, so recomputing them
would change the next reward where that reads them (Ant and Humanoid of gymnasium do).

A layer with state of its own, environment or wrapper, joins in with two methods:
`snapshot() -> dict[str, ndarray]` and `restore(arrays) -> None`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
from gymnasium.wrappers import (
    OrderEnforcing,
    PassiveEnvChecker,
    TimeLimit,
    TransformAction,
    TransformObservation,
    TransformReward,
)
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

_STATELESS = (PassiveEnvChecker, TransformAction, TransformObservation, TransformReward)

# Every derived field that an observation, a reward or the renderer of a MuJoCo task reads.
_DERIVED = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos"),
    *("site_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir", "subtree_com"),
    *("cinert", "cvel", "qacc", "qfrc_actuator", "cfrc_ext", "sensordata"),
    *("ten_length", "ten_velocity"),
)


@runtime_checkable
class Restorable(Protocol):
    """A layer that saves and takes back what is its own."""

    def snapshot(self) -> Arrays:
        """Arrays that hold the layer's state; copies, not views."""
        ...

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `snapshot` gave."""
        ...


def save_state(env: gymnasium.Env[Any, Any]) -> Arrays:
    """Everything that changes what the environment does next.

    Args:
        env: an environment made by `envs.make` or `gymnasium.make`, reset or not.

    Returns:
        Arrays by name: `task`, and `<depth>.<layer>.<field>` from the outermost layer inwards.

    Raises:
        TypeError: if a wrapper may have state and has no `snapshot`.
    """
    arrays: Arrays = {"task": _text(_name(env))}
    for prefix, layer in _layers(env):
        for key, value in _layer_arrays(layer).items():
            arrays[prefix + key] = value
    return arrays


def load_state(env: gymnasium.Env[Any, Any], state: Mapping[str, NDArray[Any]]) -> None:
    """Bring an environment, fresh or used, to a saved state.

    Args:
        env: built like the one that was saved: same task, same wrappers.
        state: what `save_state` returned.

    Raises:
        ValueError: if the state is that of another task or other wrappers.
        TypeError: if a wrapper may have state and has no `restore`.
    """
    saved = _read_text(state["task"])
    if saved != _name(env):
        raise ValueError(f"this is a state of {saved}, not of {_name(env)}")
    layers = dict(_layers(env))
    strays = [key for key in state if key != "task" and not key.startswith(tuple(layers))]
    if strays:
        raise ValueError(f"this state has layers that the environment lacks: {', '.join(strays)}")
    missing = sorted(save_state(env).keys() - state.keys())
    if missing:
        raise ValueError(f"this state lacks {', '.join(missing)}")
    for prefix, layer in layers.items():
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        _restore_layer(layer, own)


def _name(env: gymnasium.Env[Any, Any]) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _layers(env: gymnasium.Env[Any, Any]) -> Iterator[tuple[str, gymnasium.Env[Any, Any]]]:
    """Key prefix and layer, outermost first."""
    depth = 0
    while True:
        yield f"{depth}.{type(env).__name__}.", env
        if not isinstance(env, gymnasium.Wrapper):
            return
        env, depth = env.env, depth + 1


def _layer_arrays(layer: gymnasium.Env[Any, Any]) -> Arrays:
    arrays: Arrays = {}
    space = _own_action_space(layer)
    if space is not None:
        arrays["action_rng"] = _rng_array(space._np_random, None)
    if isinstance(layer, Restorable):
        arrays |= layer.snapshot()
    elif isinstance(layer, TimeLimit):
        elapsed = layer._elapsed_steps
        arrays["elapsed"] = np.array([-1 if elapsed is None else elapsed])
    elif isinstance(layer, OrderEnforcing):
        arrays["has_reset"] = np.array([layer._has_reset])
    elif isinstance(layer, gymnasium.Wrapper) and not isinstance(layer, _STATELESS):
        raise TypeError(f"{type(layer).__name__} cannot be saved: give it snapshot() and restore()")
    if not isinstance(layer, gymnasium.Wrapper):
        arrays["rng"] = _rng_array(layer._np_random, layer._np_random_seed)
        base: Any = layer
        if _is_mujoco(base):
            arrays |= simulator_arrays(base.model, base.data)
    return arrays


def _restore_layer(layer: Any, own: Mapping[str, NDArray[Any]]) -> None:
    space = _own_action_space(layer)
    if space is not None:
        space._np_random, _ = _read_rng(own["action_rng"])
    if isinstance(layer, Restorable):
        layer.restore(own)
    elif isinstance(layer, TimeLimit):
        elapsed = int(own["elapsed"][0])
        # gymnasium leaves the counter without an annotation.
        layer._elapsed_steps = None if elapsed < 0 else elapsed  # type: ignore[assignment]
    elif isinstance(layer, OrderEnforcing):
        layer._has_reset = bool(own["has_reset"][0])
    elif isinstance(layer, PassiveEnvChecker):
        # Its first-call checks compare with a reset that this process may never have seen.
        layer.checked_reset = layer.checked_step = layer.checked_data_reuse = True
    if not isinstance(layer, gymnasium.Wrapper):
        _restore_base(layer, own)


def _restore_base(env: Any, own: Mapping[str, NDArray[Any]]) -> None:
    env._np_random, env._np_random_seed = _read_rng(own["rng"])
    if _is_mujoco(env):
        restore_simulator(env.model, env.data, own)


def _own_action_space(layer: Any) -> Any:
    """Return the action space of this layer, None for a wrapper that shows the inner one."""
    return layer._action_space if isinstance(layer, gymnasium.Wrapper) else layer.action_space


def _is_mujoco(env: gymnasium.Env[Any, Any]) -> bool:
    return hasattr(env, "model") and hasattr(env, "data")


def simulator_arrays(model: Any, data: Any) -> Arrays:
    """Return the state of a MuJoCo simulator, for the `snapshot` of an environment that holds one.

    Args:
        model: a `mujoco.MjModel`.
        data: its `mujoco.MjData`.

    Returns:
        Copies of the integration state and of the derived fields.
    """
    # Imported late: MUJOCO_GL must be chosen before mujoco is imported, and `import envs` is early.
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    derived = np.concatenate([getattr(data, name).ravel() for name in _DERIVED])
    return {"mujoco": state, "mujoco_derived": derived}


def restore_simulator(model: Any, data: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Bring a MuJoCo simulator to a saved state.

    Args:
        model: a `mujoco.MjModel`, equal to the one of the saved simulator.
        data: its `mujoco.MjData`.
        arrays: with what `simulator_arrays` returned.
    """
    import mujoco

    mujoco.mj_setState(model, data, arrays["mujoco"], mujoco.mjtState.mjSTATE_INTEGRATION)
    start = 0
    for name in _DERIVED:
        target = getattr(data, name)
        target[...] = arrays["mujoco_derived"][start : start + target.size].reshape(target.shape)
        start += target.size


def _text(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8).copy()


def _read_text(array: NDArray[Any]) -> str:
    return np.asarray(array, dtype=np.uint8).tobytes().decode()


def _rng_array(rng: np.random.Generator | None, seed: int | None) -> NDArray[np.uint8]:
    """Return a PCG64 generator as JSON bytes, empty if it was never made."""
    if rng is None:
        return _text("")
    return _text(json.dumps({"seed": seed, "state": rng.bit_generator.state}))


def _read_rng(array: NDArray[Any]) -> tuple[np.random.Generator | None, int | None]:
    text = _read_text(array)
    if not text:
        return None, None
    saved = json.loads(text)
    bits = np.random.PCG64()
    bits.state = saved["state"]
    return np.random.Generator(bits), saved["seed"]
