"""The inner loops, compiled by numba: random draws, update rules, episodes, replay and evaluation.

Each loop is written once, in plain Python. numba compiles it to run on a `PackedTable`; uncompiled, it also steps an
env. `tabular.rules.Rule` builds both from an update function: Q-learning's, SARSA's or a student's.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import NamedTuple

import numba
import numpy as np
from numba.extending import overload, register_jitable

from .cache import KernelCache
from .stepping import HIGHEST_REWARD, LOWEST_REWARD, checked_start, checked_step
from .stopping import ctrl_c_held, stop_if_ended

OPTIONS = {"nogil": True, "error_model": "numpy"}  # release the GIL; let x / 0 give inf or nan


def cached_jit(function, options=OPTIONS):
    """Compile a function when it is first called, and keep the result for the next process."""
    if numba.config.DISABLE_JIT:
        plain = np.errstate(over="ignore")(function)  # `mix` relies on numbers that wrap
        plain.py_func = function
        return plain
    compiled = compiled_when_called(function, options)
    with contextlib.suppress(RuntimeError):  # neither the module's folder nor HOME can be written to
        compiled._cache = KernelCache(function, options)  # as cache=True, but checked for damage and options
    return compiled


def compiled_when_called(function, options=OPTIONS):
    """Compile a function when it is first called; Ctrl-C waits while it compiles."""
    compiled = numba.njit(**options)(function)
    compiled._compile_for_args = functools.partial(_undisturbed, compiled._compile_for_args)
    return compiled


def _undisturbed(call, *arguments, **named):
    """Call a function; hold Ctrl-C until it returns."""
    with ctrl_c_held():
        return call(*arguments, **named)


def brief_jit(function):
    """Compile a function that a stepped loop calls at each step; it keeps the GIL, whose release would cost 2%."""
    return cached_jit(function, OPTIONS | {"nogil": False})


# Random draws ---------------------------------------------------------------------------

# A seed's draws are numbered. Each learning episode and each evaluation trial owns a stream of 2**20 of them, and its
# step t uses number t of the stream. Learning streams count from 0 and evaluation streams from 2**62, so the two never
# overlap.

LEARNING, EVALUATION = 0, 1 << 62
MAX_STEP = (1 << 20) - 2  # SARSA also uses the draw of the step after the last
MAX_TESTS, MAX_TRIALS, MAX_EPISODES = 1 << 22, 1 << 20, 1 << 40


class Parameters(NamedTuple):
    """The settings of an agent that an episode needs."""

    epsilon: float
    learning_rate: float
    beta: float
    max_step: int
    key: int  # from the seed, by `key_of`


class QuickParameters:
    """Parameters in slots, which plain Python reads five times as fast as a named tuple's fields."""

    __slots__ = Parameters._fields

    def __init__(self, *values):
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name, value):
        raise AttributeError(f"a rule must not assign to parameters.{name}: compiled code cannot")


@brief_jit
def mix(counter):
    """Splitmix64's output function (Steele, Lea and Flood 2014): a bijection of 64 bits."""
    z = np.uint64(counter) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@brief_jit
def draw(key, counter):
    """Draw number `counter` of a seed: (explore, uniform in [0, 1); slip, a 32-bit integer)."""
    bits = mix(np.uint64(key) + np.uint64(counter))
    return np.int64(bits >> np.uint64(32)) * 2.0**-32, np.int64(bits & np.uint64(0xFFFFFFFF))


def key_of(seed: int) -> int:
    """Hash a seed to a key of 62 bits, so that nearby seeds are unrelated and key ^ stream, an env's seed, has 63."""
    return int(mix(seed)) >> 2


@register_jitable
def learning_stream(episode):
    """The number of a learning episode's first draw."""
    return LEARNING + (episode << 20)


@register_jitable
def evaluation_stream(test, trial):
    """The number of the first draw of a trial of a test."""
    return EVALUATION + (test << 40) + (trial << 20)


# Simulators: a packed table, or an env that is `Stepped` ----------------------------------------------------

# One episode loop serves both, because it calls `reset` and `step` below. In plain Python they look at `simulator.env`:
# None on every `PackedTable`, the env itself on a `Stepped` (quicker than isinstance). Compiled loops only ever get
# tables; for them numba substitutes the @overload versions of both functions, so nothing is tested at run time.


@cached_jit
def sample_start(table, slip):
    """Sample the state where an episode starts."""
    start = 0
    while slip > table.start_thresholds[start]:
        start += 1
    return np.int64(np.uint32(table.start_states[start]))


@cached_jit
def sample_step(table, state, action, slip):
    """Sample the outcome of an action: (next_state, reward, terminated, truncated)."""
    row = state * table.outcomes.shape[1] + action if table.shared is None else 0
    k = 0
    while slip > table.thresholds[row, k]:
        k += 1
    outcome = np.int64(table.outcomes[state, action, k])
    # The cast to unsigned shows the compiler that indices are not negative, so it omits the code for negative ones.
    next_state = np.int64(np.uint32(outcome & ((1 << table.bits) - 1)))
    kind = np.int64(np.uint32(outcome >> table.bits))
    return next_state, table.rewards[kind], kind & 1 == 1, False


@cached_jit
def go_on(table, slip):
    """Return the state where the last episode was cut; if none was, sample a start (see `tabular.continuing`)."""
    if table.place[0] < 0:
        table.place[0], table.place[1] = sample_start(table, slip), 0
    return np.int64(np.uint32(table.place[0]))


@cached_jit
def step_from_place(table, state, action, slip):
    """Sample the outcome of an action, and note the place; it is truncated at the time limit."""
    next_state, reward, terminated, _ = sample_step(table, state, action, slip)
    table.place[1] += 1
    truncated = table.place[1] >= table.place[2]
    table.place[0] = -1 if terminated or truncated else next_state
    return next_state, reward, terminated, truncated


def reset(simulator, key, stream):
    """Start the episode whose draws begin at `stream`; return its first state."""
    if simulator.env is None:
        sample = sample_start if simulator.place is None else go_on
        return int(sample.py_func(simulator, draw(key, stream)[1]))
    return checked_start(_seeded_reset(simulator.env, key ^ stream), simulator.states)


def step(simulator, state, action, slip):
    """Act once, and return (next_state, reward, terminated, truncated); an env ignores `state` and `slip`."""
    if simulator.env is None:
        sample = sample_step if simulator.place is None else step_from_place
        next_state, reward, terminated, truncated = sample.py_func(simulator, state, action, slip)
        return next_state, float(reward), terminated, truncated
    returned = simulator.act(action)
    try:
        next_state, reward, terminated, truncated, _ = returned
        if (
            type(next_state) is int and 0 <= next_state < simulator.states
            and type(reward) is float and LOWEST_REWARD <= reward <= HIGHEST_REWARD
            and (terminated is False or terminated is True) and (truncated is False or truncated is True)
        ):  # fmt: skip
            return next_state, reward, terminated, truncated
    except (TypeError, ValueError):
        pass
    return checked_step(returned, simulator.states)


def _seeded_reset(env, seed):
    """Reset an env with a 63-bit seed, or with 32 bits if it refuses that, as numpy's RandomState does."""
    try:
        return env.reset(seed=seed)
    except ValueError:
        return env.reset(seed=int(mix(seed)) >> 32)


@overload(reset)
def _(simulator, key, stream):
    sample = go_on if _has_place(simulator) else sample_start
    return lambda simulator, key, stream: sample(simulator, draw(key, stream)[1])


@overload(step)
def _(simulator, state, action, slip):
    sample = step_from_place if _has_place(simulator) else sample_step
    return lambda simulator, state, action, slip: sample(simulator, state, action, slip)


def _has_place(table):
    """Whether a packed table of this numba type has a place."""
    return table[table.fields.index("place")] is not numba.types.none


# Actions ----------------------------------------------------------------------------------

MAX_UNROLLED = 32  # actions


def action_range(count: int) -> tuple[int, ...] | np.ndarray:
    """Return the actions 0, 1, ... in the form that is fastest to loop over: a tuple if few, else an array.

    The compiler knows a tuple's length and can unroll the loop, but compile time grows with the length.
    """
    return tuple(range(count)) if count <= MAX_UNROLLED else np.arange(count)


def greedy_action(row, actions):
    """The action with the highest value; ties go to the lowest action."""
    return row.index(max(row))


def greedy_value(row, actions):
    """The highest action value of a row."""
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
    """The epsilon-greedy action: `explore`, uniform in [0, 1), decides whether to explore and which action to take."""
    if explore < epsilon:
        return min(_integer_part(explore * (len(actions) / epsilon)), len(actions) - 1)
    return greedy_action(row, actions)


@register_jitable
def explore_or_break_ties(row, actions, epsilon, explore):
    """The epsilon-greedy action, as `explore_or_exploit`, but one of those that tie for the highest value at random."""
    if explore < epsilon:
        return min(_integer_part(explore * (len(actions) / epsilon)), len(actions) - 1)
    best, value, tied = 0, row[0], 1
    for action in range(1, len(actions)):
        if row[action] > value:
            best, value, tied = action, row[action], 1
        elif row[action] == value:
            tied += 1
    if tied > 1:
        # `explore` is uniform in [epsilon, 1) here. An epsilon of 1 never comes this far.
        further = min(_integer_part((explore - epsilon) / (1.0 - epsilon) * tied), tied - 1)
        while further > 0:
            best += 1
            if row[best] == value:
                further -= 1
    return best


def _integer_part(number):
    """The integer part of a non-negative number."""
    return int(number)


@overload(_integer_part)
def _(number):
    # Cast to unsigned, as in `sample_step`, because it is used as an index.
    return lambda number: np.int64(np.uint32(number))


POLICIES = {"lowest": explore_or_exploit, "random": explore_or_break_ties}  # by how they break ties


# Logs of an episode's steps -------------------------------------------------------------------


class Experience(NamedTuple):
    """A log of every step, for a server to replay.

    A step is recorded as its pair, state * actions + action, and its reward. One more entry, of reward 0, ends an
    episode: its pair is -1 if the episode terminated, or -2 - next_state if it was truncated, since the update
    bootstraps from next_state.
    """

    pairs: np.ndarray  # int32
    rewards: np.ndarray  # float64
    length: np.ndarray  # int64, (1,): entries written so far

    @classmethod
    def empty(cls, entries: int) -> Experience:
        """Make an empty log with room for `entries`; each step takes one, and the end of an episode another."""
        return cls(np.zeros(entries, np.int32), np.zeros(entries), np.zeros(1, np.int64))

    def episodes_that_fit(self, max_step: int) -> int:
        """Return how many more episodes fit for certain, if each has at most `max_step` steps."""
        return (len(self.pairs) - int(self.length[0])) // (max_step + 1)

    def clear(self) -> None:
        """Empty the log."""
        self.length[0] = 0

    def recorded(self) -> tuple[np.ndarray, np.ndarray]:
        """The entries written so far: (pairs, rewards), as views."""
        return self.pairs[: self.length[0]], self.rewards[: self.length[0]]


Log = Experience | np.ndarray | None  # every step, or visits per (state, action), or nothing


class GrowingExperience:
    """Experience as lists, for plain Python: appending to a list is twice as fast as writing to an array."""

    __slots__ = ("pairs", "rewards")

    def __init__(self):
        self.pairs, self.rewards = [], []

    def write_to(self, experience: Experience) -> None:
        """Append the entries to an `Experience`."""
        start = experience.length[0]
        end = start + len(self.pairs)
        experience.pairs[start:end] = self.pairs
        experience.rewards[start:end] = self.rewards
        experience.length[0] = end


def record(log, t, state, action, reward, actions):
    """Log step t of an episode: as experience, or as one more visit in an array (states, actions)."""
    if type(log) is GrowingExperience:
        log.pairs.append(state * len(actions) + action)
        log.rewards.append(reward)
    else:
        log[state, action] += 1


def finish(log, t, next_state, terminated):
    """Log that an episode ended after step t, and in which state; visits have no entry for it."""
    if type(log) is GrowingExperience:
        log.pairs.append(-1 if terminated else -2 - next_state)
        log.rewards.append(0.0)


@overload(record)
def _(log, t, state, action, reward, actions):
    def write(log, t, state, action, reward, actions):
        entry = log.length[0] + t - 1  # `length` changes once per episode: changing it at each step is slower
        log.pairs[entry] = state * len(actions) + action
        log.rewards[entry] = reward

    def count(log, t, state, action, reward, actions):
        log[state, action] += 1

    return write if isinstance(log, numba.types.BaseNamedTuple) else count


@overload(finish)
def _(log, t, next_state, terminated):
    def close(log, t, next_state, terminated):
        end = log.length[0] + t
        log.pairs[end] = -1 if terminated else -2 - next_state
        log.rewards[end] = 0.0
        log.length[0] = end + 1

    def nothing(log, t, next_state, terminated):
        pass

    return close if isinstance(log, numba.types.BaseNamedTuple) else nothing


# Update rules -------------------------------------------------------------------------------


@register_jitable
def q_learning_update(
    q_table, state, action, reward, next_state, terminated, actions, parameters
):  # fmt: skip
    """Off-policy: the target takes the best next action.

    Watkins (1989); Sutton and Barto 6.5.
    """
    if terminated:
        target = reward
    else:
        target = reward + parameters.beta * greedy_value(q_table[next_state], actions)
    q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])


@register_jitable
def sarsa_update(
    q_table, state, action, reward, next_state, next_action, terminated, actions, parameters
):  # fmt: skip
    """On-policy: the target takes the next action itself.

    Rummery and Niranjan (1994); Sutton and Barto 6.4.
    """
    if terminated:
        target = reward
    else:
        target = reward + parameters.beta * q_table[next_state][next_action]
    q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])


# Episodes -----------------------------------------------------------------------------------


@register_jitable
def q_learning_episode(q_table, simulator, actions, parameters, stream, log, update, policy):
    """Learn one episode; choose the next action after the update. Return (steps, return)."""
    epsilon, key = parameters.epsilon, parameters.key
    state, total = reset(simulator, key, stream), 0.0
    for t in range(1, parameters.max_step + 1):
        explore, slip = draw(key, stream + t)
        action = policy(q_table[state], actions, epsilon, explore)
        next_state, reward, terminated, truncated = step(simulator, state, action, slip)
        update(q_table, state, action, reward, next_state, terminated, actions, parameters)
        if log is not None:
            record(log, t, state, action, reward, actions)
        total += reward
        state = next_state
        if terminated or truncated:
            break
    if log is not None:
        finish(log, t, state, terminated)
    return t, total


@register_jitable
def sarsa_episode(q_table, simulator, actions, parameters, stream, log, update, policy):
    """Learn one episode; choose the next action before the update. Return (steps, return)."""
    epsilon, key = parameters.epsilon, parameters.key
    state, total = reset(simulator, key, stream), 0.0
    explore, slip = draw(key, stream + 1)
    action = policy(q_table[state], actions, epsilon, explore)
    for t in range(1, parameters.max_step + 1):
        next_state, reward, terminated, truncated = step(simulator, state, action, slip)
        explore, slip = draw(key, stream + t + 1)
        next_action = policy(q_table[next_state], actions, epsilon, explore)
        update(
            q_table, state, action, reward, next_state, next_action, terminated, actions,
            parameters,
        )  # fmt: skip
        if log is not None:
            record(log, t, state, action, reward, actions)
        total += reward
        state, action = next_state, next_action
        if terminated or truncated:
            break
    if log is not None:
        finish(log, t, state, terminated)
    return t, total


# Learning and replaying --------------------------------------------------------------------------


def learning_loop(episode_of, update, policy):
    """Build the loop in which a rule learns from episode to episode."""

    def learn(q_table, simulator, actions, parameters, first, episodes, log, returns):
        steps = 0
        for episode in range(first, first + episodes):
            stream = learning_stream(episode)
            length, total = episode_of(q_table, simulator, actions, parameters, stream, log, update, policy)
            steps += length
            if returns is not None:
                returns[episode - first] = total
        return steps

    return learn


def replay_loop(update):
    """Build the loop in which a rule learns from recorded steps; it returns their number, or -1 for invalid pairs."""

    def replay(q_table, pairs, rewards, actions, parameters):
        width = len(actions)
        if not belongs(pairs, len(q_table), width):
            return -1
        steps = 0
        for i in range(len(pairs)):
            pair = pairs[i]
            if pair >= 0:
                state, action = pair // width, pair % width
                following = pairs[i + 1]
                terminated = following == -1
                next_state = following // width if following >= 0 else -2 - following
                update(q_table, state, action, rewards[i], next_state, terminated, actions, parameters)
                steps += 1
        return steps

    return replay


@register_jitable
def belongs(pairs, states, width):
    """Whether all pairs lie within a table of shape (states, width), and the last one ends an episode."""
    if len(pairs) == 0:
        return True
    lowest = highest = pairs[0]
    for i in range(len(pairs)):
        pair = pairs[i]
        lowest = pair if pair < lowest else lowest  # the compiler vectorises this, but not min()
        highest = pair if pair > highest else highest
    return -1 - states <= lowest and highest < states * width and pairs[-1] < 0


# Evaluation ------------------------------------------------------------------------------------


@cached_jit
def evaluate(policy, simulator, parameters, test, first, trials, total=0.0):
    """Return `total` plus the discounted returns of `policy[state]` in trials number `first`, ... of a test."""
    beta, key = parameters.beta, parameters.key
    for trial in range(first, first + trials):
        stream = evaluation_stream(test, trial)
        state = reset(simulator, key, stream)
        discount = 1.0
        for t in range(1, parameters.max_step + 1):
            _, slip = draw(key, stream + t)
            state, reward, terminated, truncated = step(simulator, state, policy[state], slip)
            total += discount * reward
            discount *= beta
            if terminated or truncated:
                break
    return total


# Stopping ----------------------------------------------------------------------------------------

PART_SECONDS = 0.05  # a compiled call cannot be interrupted, so none should take much longer
FIRST_STEPS = 2**18  # at most this many steps in the first part, whose pace is not known yet


def in_parts(episodes: int, max_step: int) -> Iterator[tuple[int, int]]:
    """Yield (episodes done, episodes to do next) for parts of some 0.05 s each, between which Ctrl-C is handled."""
    done, size = 0, max(1, FIRST_STEPS // max_step)
    while done < episodes:
        stop_if_ended()
        count, start = min(size, episodes - done), time.monotonic()
        yield done, count
        done += count
        seconds = time.monotonic() - start
        size = max(1, int(count * min(4.0, PART_SECONDS / max(seconds, 1e-9))))
