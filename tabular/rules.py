"""Rules to learn by: an update function, and all that is made of it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import traceback
import types
import uuid
import weakref

import numba
import numpy as np
from numba.extending import register_jitable

from . import kernels
from .kernels import (
    Experience,
    GrowingExperience,
    QuickParameters,
    explore_or_exploit,
    kernel,
    learning_loop,
    q_learning_episode,
    q_learning_update,
    replay_loop,
    sarsa_episode,
    sarsa_update,
)
from .stepping import Rows
from .tables import PackedTable

INT32, FLOAT64 = np.dtype(np.int32), np.dtype(np.float64)


@contextlib.contextmanager
def place_noted():
    """Add to an error from a stepped loop where it fell, as read from the loop's local variables."""
    try:
        yield
    except Exception as error:
        place = {"t": 0}
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals is vars(kernels):
                place |= {name: frame.f_locals[name] for name in ("episode", "trial", "t") if name in frame.f_locals}
        unit = "trial" if "trial" in place else "episode"
        if unit in place:
            error.add_note(f"in {unit} {place[unit]}, step {place['t']} (0: reset)")
        raise


# Checks, before compiled code reads and writes where it is told --------------------------------


def _arguments(function) -> list[str]:
    """The names of a plain function's arguments; TypeError where it is none, or they do not go by their place."""
    if not isinstance(function, types.FunctionType):
        raise TypeError(f"a rule must be made of plain functions, got {function!r}")
    arguments = inspect.signature(function).parameters
    if any(argument.kind is not argument.POSITIONAL_OR_KEYWORD for argument in arguments.values()):
        raise TypeError(f"{function.__name__} must take plain arguments, got {inspect.signature(function)}")
    return list(arguments)


def _check_update(update) -> bool:
    """Whether an update takes the next action; TypeError unless it is a function that an episode can call."""
    off_policy, on_policy = _arguments(q_learning_update), _arguments(sarsa_update)
    found = _arguments(update)
    if found not in (off_policy, on_policy):
        raise TypeError(
            f"{update.__name__} must take ({', '.join(off_policy)}), and next_action after next_state if it needs it, "
            f"got ({', '.join(found)})"
        )
    return found == on_policy


def _check_policy(policy) -> None:
    """TypeError unless a policy is a function that an episode can call."""
    needed, found = _arguments(explore_or_exploit), _arguments(policy)
    if found != needed:
        raise TypeError(f"{policy.__name__} must take ({', '.join(needed)}), got ({', '.join(found)})")


def _check_task(q_table, simulator, actions, parameters, episodes, log) -> None:
    """ValueError unless the q_table and the log fit the simulator and the episodes."""
    states = len(simulator.outcomes) if type(simulator) is PackedTable else len(q_table)
    shape = (states, len(actions))
    if q_table.shape != shape or q_table.dtype != FLOAT64:
        raise ValueError(f"q_table must be float64 of shape {shape}, got {q_table.dtype} of shape {q_table.shape}")
    if type(log) is Experience:
        room = log.episodes_that_fit(parameters.max_step)
        if episodes > room:
            raise ValueError(f"experience must have room for {episodes} more episodes, it has for {room}")
        if q_table.size > 2**31:
            raise ValueError(f"experience has 31 bits for a pair, too few for a q_table of shape {shape}")
    elif log is not None and log.shape != shape:
        raise ValueError(f"visits must be of shape {shape}, got {log.shape}")


def _check_experience(q_table, pairs, rewards, actions) -> None:
    """ValueError unless experience has the form that episodes on such a q_table leave; `belongs` reads the pairs."""
    if q_table.ndim != 2 or q_table.shape[1] != len(actions) or q_table.dtype != FLOAT64:
        raise ValueError(
            f"q_table must be float64 of shape (states, {len(actions)}), got {q_table.dtype} of shape {q_table.shape}"
        )
    if pairs.ndim != 1 or pairs.dtype != INT32:
        raise ValueError(f"pairs must be a row of int32, got {pairs.dtype} of shape {pairs.shape}")
    if rewards.shape != pairs.shape or rewards.dtype.kind != "f":
        raise ValueError(f"rewards must be {len(pairs)} floats, got {rewards.dtype} of shape {rewards.shape}")


class Rule:
    """A rule to learn by, made of an update function: a loop that learns, and one that replays experience.

    The update is plain Python, written as `q_learning_update` is, or as `sarsa_update` if it needs the next action:

        def update(q_table, state, action, reward, next_state, terminated, actions, parameters):
        def update(q_table, state, action, reward, next_state, next_action, terminated, actions, parameters):

    It changes `q_table[state][action]`; `actions` is 0, 1, ... to loop over; `parameters` has epsilon, learning_rate
    and beta. Where `terminated`, next_state must not matter: a replay does not know it. Stepped, a row of the q_table
    is a list: max(row) does for both, row.max() does not.

    A `policy` says how to act, in the place of `explore_or_exploit`; `row` is q_table[state], and `explore` the one
    random number it may use, uniform in [0, 1):

        def policy(row, actions, epsilon, explore):

    Both may call functions of their own file or notebook. Raises TypeError for anything else. A rule travels to other
    processes as these functions, and is compiled anew there.
    """

    def __init__(self, update, policy=explore_or_exploit):
        # Of what numba has compiled, the plain functions.
        update, policy = (getattr(function, "py_func", function) for function in (update, policy))
        self.needs_next_action = _check_update(update)
        _check_policy(policy)
        self.update, self.policy = update, policy
        self.__name__ = update.__name__.removesuffix("_update")
        self.__doc__ = update.__doc__
        episode = sarsa_episode if self.needs_next_action else q_learning_episode
        self.py_func = learning_loop(episode, update, policy)
        self._token = uuid.uuid4().hex

    def __call__(self, q_table, simulator, actions, parameters, first, episodes, log=None) -> int:
        """Learn `episodes` episodes from number `first` on a q_table, in place: the steps.

        On a packed table compiled, on an env by stepping. `log` is None, an array of visits (states, actions), or
        Experience with room for the episodes. Raises ValueError, before anything is learned, where shapes do not fit.
        """
        _check_task(q_table, simulator, actions, parameters, episodes, log)
        if type(simulator) is PackedTable and not numba.config.DISABLE_JIT:
            return self.kernel(q_table, simulator, actions, parameters, first, episodes, log)
        return self.plain(q_table, simulator, actions, parameters, first, episodes, log)

    def plain(self, q_table, simulator, actions, parameters, first, episodes, log=None) -> int:
        """The same in plain Python, on a packed table too."""
        rows = Rows(q_table)
        plain_log = log
        if type(log) is Experience:
            plain_log = GrowingExperience()
        elif log is not None:
            plain_log = memoryview(log)  # quicker to write to than an array
        parameters = QuickParameters(*parameters)
        with place_noted():
            steps = self.py_func(rows, simulator, actions, parameters, first, episodes, plain_log)
        rows.write_back()
        if type(log) is Experience:
            plain_log.write_to(log)
        return steps

    def replay(self, q_table, pairs, rewards, actions, parameters) -> int:
        """Learn on a q_table, in place, from recorded experience, in its order: the steps.

        `pairs` and `rewards` are as in `Experience`; float32 rewards and read-only arrays will do. Raises TypeError
        where the rule needs the next action, and ValueError, before anything is learned, where the experience is not
        of such a table.
        """
        if self.needs_next_action:
            raise TypeError(f"{self.__name__} cannot be replayed: it needs the next action, which is not recorded")
        _check_experience(q_table, pairs, rewards, actions)
        # Arrays of another kind, such as read-only ones, would be compiled for anew.
        if not pairs.flags.carray:
            pairs = np.array(pairs)
        if rewards.dtype != FLOAT64 or not rewards.flags.carray:
            rewards = np.array(rewards, FLOAT64)
        steps = self.replay_kernel(q_table, pairs, rewards, actions, parameters)
        if steps < 0:
            raise ValueError(
                f"pairs must be from {-1 - len(q_table)} to {q_table.size - 1}, the last below 0, "
                f"got {pairs.min()} to {pairs.max()}, the last {pairs[-1]}"
            )
        return steps

    @functools.cached_property
    def kernel(self):
        """The compiled learning loop, which checks nothing."""
        return self._compile(self.py_func)

    @functools.cached_property
    def replay_kernel(self):
        """The compiled replay loop; None where the rule needs the next action.

        Replays nothing and returns -1 where a pair is not of the table; checks no shapes.
        """
        return None if self.needs_next_action else self._compile(replay_loop(self.update))

    def _compile(self, loop):
        if self.update.__module__ == self.policy.__module__ == kernels.__name__:
            # Kept under a hash of the pickled closure. A function of that file is pickled as its name, the same in
            # every process, and what is kept is dropped when that file changes.
            return kernel(loop)
        # Not kept: numba would not notice a change in the file that has the functions.
        for function in _with_helpers(self.update) + _with_helpers(self.policy):
            if function.__module__ != kernels.__name__:
                register_jitable(function)
        return numba.njit(error_model="numpy")(loop)

    def __reduce__(self):
        if globals().get(self.__name__) is self:
            return self.__name__
        return _received, (self._token, self.update, self.policy)

    def __repr__(self):
        return f"<rule {self.__name__}>"


_received_rules = weakref.WeakValueDictionary()


def _received(token: str, update, policy) -> Rule:
    """The rule that another process sent: the same one, compiled once, if it sends it again."""
    rule = _received_rules.get(token)
    if rule is None:
        rule = _received_rules[token] = Rule(update, policy)
        rule._token = token
    return rule


def _with_helpers(function) -> list:
    """A function, and those of its own file or notebook that it calls, directly or by way of others."""
    home, found = function.__module__, [function]
    for function in found:
        names = inspect.getclosurevars(function)
        for other in (*names.globals.values(), *names.nonlocals.values()):
            if isinstance(other, types.FunctionType) and other.__module__ == home and other not in found:
                found.append(other)
    return found


q_learning = Rule(q_learning_update)
sarsa = Rule(sarsa_update)


