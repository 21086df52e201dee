"""Simulators as the kernels see them: an env's transition table, or the env itself, to be stepped."""

from __future__ import annotations

import contextlib
import copy
import inspect
import zlib
from typing import NamedTuple

import numpy as np

from .checks import check_count
from .kernels import MAX_STEP
from .stepping import checked_start, checked_step
from .tables import TransitionTable


def shape_of(simulator) -> tuple[int, int]:
    """(states, actions) of an env; TypeError or ValueError where it is none, or its spaces are not Discrete."""
    if not callable(getattr(simulator, "step", None)) or not callable(getattr(simulator, "reset", None)):
        raise TypeError(f"simulator must be an env of gym or gymnasium, got {simulator!r}")
    if not _takes_seed(simulator.reset):
        needed = "simulator.reset must take seed=, as gym's since 0.26"
        raise TypeError(f"{needed}, got reset{inspect.signature(simulator.reset)}")
    for name in ("observation_space", "action_space"):
        space = getattr(simulator, name, None)
        if type(space).__name__ != "Discrete" or getattr(space, "start", 0) != 0:
            raise ValueError(f"simulator must have a Discrete {name} that starts at 0, got {space!r}")
    return int(simulator.observation_space.n), int(simulator.action_space.n)


def _takes_seed(reset) -> bool:
    """Whether a reset can be called with seed=, as far as its signature tells."""
    try:
        inspect.signature(reset).bind(seed=0)
    except TypeError:
        return False
    except ValueError:  # it has none, as what is not written in Python
        pass
    return True


def compiled_form(simulator, compiled: bool | None):
    """(packed table, step limit) of an env; the table is None where it is to be stepped."""
    env, limit = simulator, MAX_STEP
    # What gym.make puts around an env changes nothing but the limit.
    while type(env).__name__ in ("TimeLimit", "OrderEnforcing", "PassiveEnvChecker"):
        if type(env).__name__ == "TimeLimit" and env._max_episode_steps is not None:
            limit = min(limit, max(1, env._max_episode_steps))
        env = env.env
    if compiled is False:
        return None, limit
    try:
        table = TransitionTable.from_env(env)
        if table.shape != shape_of(simulator):  # compiled code would write beyond the q_table
            needed = f"simulator must have a P of shape {shape_of(simulator)} to be compiled"
            raise ValueError(f"{needed}, got {table.shape}")
        return table.packed, limit
    except ValueError:
        if compiled:
            raise
        return None, limit


def copied(simulator):
    """A copy of an env, to be played with; None where it has none."""
    try:
        return copy.deepcopy(simulator)
    except Exception:  # of whatever kind: it may hold a window, a lock or a connection
        return None


def fingerprint(simulator, table, limit: int) -> str:
    """What tells one simulator from another: a checksum of its table, or its types and spaces; and its time limit."""
    if table is None:  # it is stepped, but may have one
        with contextlib.suppress(ValueError):
            table, _ = compiled_form(simulator, True)
    if table is None:
        inner = type(getattr(simulator, "unwrapped", None)).__name__
        spaces = f"{simulator.observation_space} {simulator.action_space}"
        return f"{type(simulator).__name__} {inner} {spaces} limit {limit}"
    arrays = [part.tobytes() for part in table if isinstance(part, np.ndarray)]
    return f"table {zlib.crc32(b''.join(arrays)):08x} limit {limit}"


class Policy(NamedTuple):
    """A function of a state in the form of an array of actions."""

    function: object

    def __getitem__(self, state):
        return self.function(state)


class Rollout(NamedTuple):
    """One episode: `states` has one more entry than `actions` and `rewards`."""

    states: np.ndarray  # int64
    actions: np.ndarray  # int64
    rewards: np.ndarray  # float64
    terminated: bool
    truncated: bool  # by the env or by the step limit


def rollout(env, policy, seed: int = 0, max_steps: int = 1000) -> Rollout:
    """Follow `policy(state)` for one episode of a seeded env, at most `max_steps` steps."""
    count, _ = shape_of(env)
    if not callable(policy):
        raise TypeError(f"policy must be a function of a state, got {policy!r}")
    check_count("seed", seed, 0)
    check_count("max_steps", max_steps)
    states, actions, rewards = [checked_start(env.reset(seed=seed), count)], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        actions.append(policy(states[-1]))
        state, reward, terminated, truncated = checked_step(env.step(actions[-1]), count)
        states.append(state)
        rewards.append(reward)
        truncated = truncated or (len(actions) == max_steps and not terminated)
    return Rollout(np.array(states), np.array(actions), np.array(rewards, float), bool(terminated), bool(truncated))
