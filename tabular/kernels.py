"""The loops that learn: random draws, update rules, episodes, replay and evaluation, compiled by numba.

All of it is plain Python. Compiled, it runs on a `PackedTable`; as it stands, on an env that is stepped. A `Rule`
makes both of an update function, of Q-learning's and SARSA's as of a student's own.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import uuid
import weakref
from typing import NamedTuple

import numba
import numpy as np
from numba.extending import overload, register_jitable

from tabular.tables import PackedTable


def kernel(function):
    """Compile a function when it is first called, and keep the result for the next process."""
    if numba.config.DISABLE_JIT:
        plain = np.errstate(over="ignore")(function)  # `mix` relies on numbers that wrap
        plain.py_func = function
        return plain
    try:
        return numba.njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # neither the module's folder nor HOME can be written to: compiled anew in each process
        return numba.njit(error_model="numpy")(function)


# Random draws ---------------------------------------------------------------------------

LEARNING, EVALUATION = 0, 1 << 62  # where the two halves of a seed's draws begin
MAX_STEP = (1 << 20) - 2  # an episode has 2**20 draws to itself, and SARSA looks one ahead
MAX_TESTS, MAX_TRIALS, MAX_EPISODES = 1 << 22, 1 << 20, 1 << 40


class Parameters(NamedTuple):
    """What an episode needs to know of an agent."""

    epsilon: float
    learning_rate: float
    beta: float
    max_step: int
    key: int  # the seed, mixed


@kernel
def mix(counter):
    """Splitmix64's output function (Steele, Lea and Flood 2014): a bijection of 64 bits."""
    z = np.uint64(counter) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def draw(key, counter):
    """Draw number `counter` of a seed: 32 bits to explore with, in [0, 1), and 32 bits to slip with."""
    bits = mix(np.uint64(key) + np.uint64(counter))
    return np.int64(bits >> np.uint64(32)) * 2.0**-32, np.int64(bits & np.uint64(0xFFFFFFFF))


# Simulators: a packed table, or an env ----------------------------------------------------


@kernel
def sample_start(table, slip):
    """The state where an episode starts."""
    start = 0
    while slip > table.start_thresholds[start]:
        start += 1
    return np.int64(np.uint32(table.start_states[start]))


@kernel
def sample_step(table, state, action, slip):
    """What follows an action: (next_state, reward, terminated, truncated)."""
    row = state * table.outcomes.shape[1] + action if table.shared is None else 0
    k = 0
    while slip > table.thresholds[row, k]:
        k += 1
    outcome = np.int64(table.outcomes[state, action, k])
    # By way of unsigned, the compiler sees indices that cannot be negative, and drops what would count from the end.
    next_state = np.int64(np.uint32(outcome & ((1 << table.bits) - 1)))
    kind = np.int64(np.uint32(outcome >> table.bits))
    return next_state, table.rewards[kind], kind & 1 == 1, False


def reset(simulator, key, stream):
    """Start the episode whose draws begin at `stream`."""
    if type(simulator) is PackedTable:
        return sample_start.py_func(simulator, draw(key, stream)[1])
    return _widened(simulator.reset(seed=key ^ stream)[0])


def step(simulator, state, action, slip):
    """Act once: (next_state, reward, terminated, truncated)."""
    if type(simulator) is PackedTable:
        return sample_step.py_func(simulator, state, action, slip)
    next_state, reward, terminated, truncated, _ = simulator.step(action)
    if not reward - reward == 0:  # infinite, or not a number
        raise ValueError(f"the simulator's reward must be finite, got {reward!r}")
    if type(next_state) is not int or type(reward) is not float:
        next_state, reward = _widened(next_state), float(reward)
    return next_state, reward, terminated, truncated


def _widened(state):
    """A state as Python's int where it is numpy's, whose narrow types overflow."""
    return int(state) if isinstance(state, np.integer) else state


@overload(reset)
def _(simulator, key, stream):
    return lambda simulator, key, stream: sample_start(simulator, draw(key, stream)[1])


@overload(step)
def _(simulator, state, action, slip):
    return lambda simulator, state, action, slip: sample_step(simulator, state, action, slip)


# Actions ----------------------------------------------------------------------------------

MAX_UNROLLED = 32  # actions


def action_range(count: int):
    """The actions 0, 1, ... as a loop over them wants them.

    A tuple's length is known when a loop is compiled, which lets the compiler unroll it; but the time to compile
    grows with the tuple, so that many actions are an array.
    """
    return tuple(range(count)) if count <= MAX_UNROLLED else np.arange(count)


def greedy_action(row, actions):
    """The action of the highest value; ties go to the lowest action."""
    return row.index(max(row))


def greedy_value(row, actions):
    """The highest value."""
    return max(row)


@overload(greedy_action)
def _(row, actions):
    def compiled(row, actions):
        best, value = 0, row[0]
        for action in range(1, len(actions)):
            if row[action] > value:
                best, value = action, row[action]
        return best

    return compiled


@overload(greedy_value)
def _(row, actions):
    def compiled(row, actions):
        value = row[0]
        for action in range(1, len(actions)):
            if row[action] > value:
                value = row[action]
        return value

    return compiled


@register_jitable
def explore_or_exploit(row, actions, epsilon, explore):
    """The epsilon-greedy action: `explore`, uniform in [0, 1), says whether to explore, and where to."""
    if explore < epsilon:
        return min(_whole(explore * (len(actions) / epsilon)), len(actions) - 1)
    return greedy_action(row, actions)


def _whole(number):
    """The whole part of a number that is not negative."""
    return int(number)


@overload(_whole)
def _(number):
    # By way of unsigned, as in `sample_step`: it is used as an index.
    return lambda number: np.int64(np.uint32(number))


# Logs: what an episode leaves behind besides its updates ------------------------------------


class Experience(NamedTuple):
    """A log of every step, for a learner elsewhere to replay.

    A step is its pair, state * actions + action, and its reward. After an episode's last step the pair is -1 where it
    terminated, or -2 - next_state where it was cut, which is the state to bootstrap from; the reward is 0.
    """

    pairs: np.ndarray  # int32
    rewards: np.ndarray  # float64
    length: np.ndarray  # int64, (1,): entries written so far

    @classmethod
    def empty(cls, entries: int) -> Experience:
        """Room for so many entries: a step takes one, and an episode one more."""
        return cls(np.zeros(entries, np.int32), np.zeros(entries), np.zeros(1, np.int64))

    def episodes_that_fit(self, max_step: int) -> int:
        """How many more episodes of at most `max_step` steps there is room for, however long they turn out."""
        return (len(self.pairs) - int(self.length[0])) // (max_step + 1)

    def recorded(self) -> tuple[np.ndarray, np.ndarray]:
        """What was written so far: (pairs, rewards), as views."""
        return self.pairs[: self.length[0]], self.rewards[: self.length[0]]


def record(log, t, state, action, reward, actions):
    """Log step t of an episode: not at all (None), in an array of visits (states, actions), or as Experience."""
    if log is None:
        return
    if type(log) is Experience:
        _append(log, t, state, action, reward, actions)
    else:
        _count(log, t, state, action, reward, actions)


def finish(log, t, next_state, terminated):
    """Log that the episode ended after step t, and where."""
    if type(log) is Experience:
        _close(log, t, next_state, terminated)


def _nothing(log, t, state, action, reward, actions):
    pass


def _count(log, t, state, action, reward, actions):
    log[state, action] += 1


def _append(log, t, state, action, reward, actions):
    entry = log.length[0] + t - 1  # `length` changes once an episode: a counter in memory costs each step
    log.pairs[entry] = state * len(actions) + action
    log.rewards[entry] = reward


def _close(log, t, next_state, terminated):
    end = log.length[0] + t
    log.pairs[end] = -1 if terminated else -2 - next_state
    log.rewards[end] = 0.0
    log.length[0] = end + 1


@overload(record)
def _(log, t, state, action, reward, actions):
    if isinstance(log, numba.types.NoneType):
        return _nothing
    return _append if isinstance(log, numba.types.BaseNamedTuple) else _count


@overload(finish)
def _(log, t, next_state, terminated):
    if isinstance(log, numba.types.BaseNamedTuple):
        return _close
    return lambda log, t, next_state, terminated: None


# Update rules -------------------------------------------------------------------------------


@register_jitable
def q_learning_update(q_table, state, action, reward, next_state, terminated, actions, parameters):
    """Off-policy: the target takes the best next action (Watkins 1989; Sutton and Barto 6.5)."""
    if terminated:
        target = reward
    else:
        target = reward + parameters.beta * greedy_value(q_table[next_state], actions)
    q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])


@register_jitable
def sarsa_update(
    q_table, state, action, reward, next_state, next_action, terminated, actions, parameters
):
    """On-policy: the target takes the next action itself (Rummery and Niranjan 1994; S. and B. 6.4)."""
    if terminated:
        target = reward
    else:
        target = reward + parameters.beta * q_table[next_state][next_action]
    q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])


# Episodes -----------------------------------------------------------------------------------


@register_jitable
def q_learning_episode(q_table, simulator, actions, parameters, stream, log, update):
    """Act, update, act again: the next action is chosen after the update. Returns the steps."""
    epsilon, key = parameters.epsilon, parameters.key
    state = reset(simulator, key, stream)
    for t in range(1, parameters.max_step + 1):
        explore, slip = draw(key, stream + t)
        action = explore_or_exploit(q_table[state], actions, epsilon, explore)
        next_state, reward, terminated, truncated = step(simulator, state, action, slip)
        update(q_table, state, action, reward, next_state, terminated, actions, parameters)
        record(log, t, state, action, reward, actions)
        state = next_state
        if terminated or truncated:
            break
    finish(log, t, state, terminated)
    return t


@register_jitable
def sarsa_episode(q_table, simulator, actions, parameters, stream, log, update):
    """Act, choose the next action, update: with what it will do next. Returns the steps."""
    epsilon, key = parameters.epsilon, parameters.key
    state = reset(simulator, key, stream)
    explore, slip = draw(key, stream + 1)
    action = explore_or_exploit(q_table[state], actions, epsilon, explore)
    for t in range(1, parameters.max_step + 1):
        next_state, reward, terminated, truncated = step(simulator, state, action, slip)
        explore, slip = draw(key, stream + t + 1)
        next_action = explore_or_exploit(q_table[next_state], actions, epsilon, explore)
        update(
            q_table, state, action, reward, next_state, next_action, terminated, actions, parameters
        )
        record(log, t, state, action, reward, actions)
        state, action = next_state, next_action
        if terminated or truncated:
            break
    finish(log, t, state, terminated)
    return t


@kernel
def evaluate(policy, simulator, parameters, first, trials):
    """The sum of the discounted returns of `policy[state]` in `trials` episodes whose draws begin at stream `first`."""
    total = 0.0
    for trial in range(trials):
        stream = first + (trial << 20)
        state = reset(simulator, parameters.key, stream)
        discount = 1.0
        for t in range(1, parameters.max_step + 1):
            slip = draw(parameters.key, stream + t)[1]
            state, reward, terminated, truncated = step(simulator, state, policy[state], slip)
            total += discount * reward
            discount *= parameters.beta
            if terminated or truncated:
                break
    return total


@kernel
def q_loop(q_table, simulator, actions, parameters, first, episodes, log):
    steps = 0
    for episode in range(first, first + episodes):
        steps += q_learning_episode(q_table, simulator, actions, parameters, LEARNING + (episode << 20), log, q_learning_update)
    return steps


@kernel
def s_loop(q_table, simulator, actions, parameters, first, episodes, log):
    steps = 0
    for episode in range(first, first + episodes):
        steps += sarsa_episode(q_table, simulator, actions, parameters, LEARNING + (episode << 20), log, sarsa_update)
    return steps


@kernel
def q_replay(q_table, pairs, rewards, actions, parameters):
    steps = 0
    for i in range(len(pairs)):
        if pairs[i] >= 0:
            state, action, following = pairs[i] // len(actions), pairs[i] % len(actions), pairs[i + 1]
            next_state, terminated = following // len(actions) if following >= 0 else -2 - following, following == -1
            q_learning_update(q_table, state, action, rewards[i], next_state, terminated, actions, parameters)
            steps += 1
    return steps


class Rule:
    def __init__(self, loop, replay):
        self.loop, self.replay, self.py_func = loop, replay, loop.py_func
    def __call__(self, *a):
        return self.loop(*a)


q_learning, sarsa = Rule(q_loop, q_replay), Rule(s_loop, None)
