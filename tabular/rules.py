"""Learning rules: an update function, and the plain and compiled loops that are built from it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
import pickle
import threading
import traceback
import types
import weakref
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import numba
import numpy as np

from . import kernels
from .kernels import (
    OPTIONS,
    POLICIES,
    Experience,
    GrowingExperience,
    Log,
    Parameters,
    QuickParameters,
    cached_jit,
    compiled_when_called,
    explore_or_break_ties,
    explore_or_exploit,
    learning_loop,
    q_learning_episode,
    q_learning_update,
    replay_loop,
    sarsa_episode,
    sarsa_update,
)
from .mistakes import mistake, not_compiled, note_compiled_line, note_line, warn_caller
from .sources import Sources, pickled
from .stepping import Rows, Stepped
from .tables import PackedTable

REHEARSAL_STEPS = 1000  # at most this many; they take about 2 ms in plain Python
INT32, FLOAT64 = np.dtype(np.int32), np.dtype(np.float64)


@contextlib.contextmanager
def place_noted() -> Iterator[None]:
    """Add a note to an error from a stepped loop: the episode and step, read from the loop's local variables."""
    try:
        yield
    except Exception as error:
        place = {"t": 0}
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals is vars(kernels):
                place |= {name: frame.f_locals[name] for name in ("episode", "trial", "t") if name in frame.f_locals}
        unit = "trial" if "trial" in place else "episode"
        if isinstance(error, StopIteration):  # it would silently end a loop of the caller's
            replacement = RuntimeError("the simulator or the rule raised StopIteration")
            error = replacement.with_traceback(error.__traceback__)
        if unit in place:
            error.add_note(f"in {unit} {place[unit]}, step {place['t']} (0: reset)")
        raise error


# Checks of arguments, because compiled loops do not check bounds -------------------------------


def _arguments(function: Any) -> list[str]:
    """Return the names of a plain function's arguments; raise TypeError unless it is one and all are positional."""
    if not isinstance(function, types.FunctionType):
        raise TypeError(f"a rule must be made of plain functions, got {function!r}")
    arguments = inspect.signature(function).parameters
    if any(argument.kind is not argument.POSITIONAL_OR_KEYWORD for argument in arguments.values()):
        raise TypeError(f"{function.__name__} must take plain arguments, got {inspect.signature(function)}")
    return list(arguments)


def _check_update(update: Any) -> bool:
    """Whether an update takes the next action; raise TypeError unless it has the signature of an update."""
    off_policy, on_policy = _arguments(q_learning_update), _arguments(sarsa_update)
    found = _arguments(update)
    if found not in (off_policy, on_policy):
        raise TypeError(
            f"{update.__name__} must take ({', '.join(off_policy)}), and next_action after next_state if it needs it, "
            f"got ({', '.join(found)})"
        )
    return found == on_policy


def _check_policy(policy: Any) -> None:
    """Raise TypeError unless a policy has the signature of `explore_or_exploit`."""
    needed, found = _arguments(explore_or_exploit), _arguments(policy)
    if found != needed:
        raise TypeError(f"{policy.__name__} must take ({', '.join(needed)}), got ({', '.join(found)})")


def _check_writable(q_table: Any, shape: tuple[int, int]) -> None:
    """Raise ValueError unless a q_table has this shape, is float64 and can be updated in place."""
    if type(q_table) is not np.ndarray or not q_table.flags.writeable:
        kind = f"a {type(q_table).__name__}" if type(q_table) is not np.ndarray else "a read-only one"
        raise ValueError(f"q_table must be a plain, writable array, got {kind}")
    if q_table.shape != shape or q_table.dtype != FLOAT64:
        raise ValueError(f"q_table must be float64 of shape {shape}, got {q_table.dtype} of shape {q_table.shape}")


def _check_task(
    q_table: np.ndarray, simulator: Any, actions: Any, parameters: Parameters, episodes: int, log: Log,
    returns: np.ndarray | None,
) -> None:  # fmt: skip
    """Raise ValueError unless the q_table, the log and the returns fit the simulator and the episodes."""
    states = len(simulator.outcomes) if type(simulator) is PackedTable else len(q_table)
    shape = (states, len(actions))
    if type(simulator) is PackedTable and simulator.outcomes.shape[1] != len(actions):
        raise ValueError(f"actions must number {simulator.outcomes.shape[1]}, as in the simulator, got {len(actions)}")
    _check_writable(q_table, shape)
    if isinstance(log, Experience):
        room = log.episodes_that_fit(parameters.max_step)
        if episodes > room:
            raise ValueError(f"experience must have room for {episodes} more episodes, it has room for {room}")
        if q_table.size > 2**31:
            raise ValueError(f"experience numbers pairs with 31 bits, too few for a q_table of shape {shape}")
    elif log is not None and log.shape != shape:
        raise ValueError(f"visits must be of shape {shape}, got {log.shape}")
    if returns is not None and (returns.shape != (episodes,) or returns.dtype != FLOAT64):
        raise ValueError(f"returns must be {episodes} floats, got {returns.dtype} of shape {returns.shape}")


def _check_experience(q_table: np.ndarray, pairs: np.ndarray, rewards: np.ndarray, actions: Any) -> None:
    """Raise ValueError unless the arrays have the types and shapes of experience; `belongs` checks the pairs."""
    _check_writable(q_table, (len(q_table), len(actions)))
    if pairs.ndim != 1 or pairs.dtype != INT32:
        raise ValueError(f"pairs must be a one-dimensional array of int32, got {pairs.dtype} of shape {pairs.shape}")
    if rewards.shape != pairs.shape or rewards.dtype.kind != "f":
        raise ValueError(f"rewards must be {len(pairs)} floats, got {rewards.dtype} of shape {rewards.shape}")


class Rule:
    """A learning rule, built from an update function: one loop that learns, and one that replays experience.

    The update is plain Python, written as `q_learning_update` is, or as `sarsa_update` if it needs the next action:

        def update(q_table, state, action, reward, next_state, terminated, actions, parameters):
        def update(q_table, state, action, reward, next_state, next_action, terminated, actions, parameters):

    It changes `q_table[state][action]`, or `q_table[state, action]`, and returns nothing; `actions` holds 0, 1, ...
    to loop over; `parameters` has epsilon, learning_rate and beta. It must ignore next_state when `terminated`: a
    replay does not know it. A row of the q_table is a list when the simulator is stepped and an array in compiled
    code: max(row) works for both, row.max() does not.

    A `policy` chooses actions in place of `explore_or_exploit`; `row` is q_table[state], and `explore` the only
    random number that it may use, uniform in [0, 1):

        def policy(row, actions, epsilon, explore):

    Both may call functions of their own file or notebook and read its globals; when any of these change, the rule is
    recompiled. The first episode is tried in plain Python, where mistakes raise Python's usual errors; a rule that
    returns a value is refused, and one that changes nothing causes a warning. Raises TypeError for anything that is
    not a plain function with one of these signatures.

    A rule must keep no state between calls. In a distributed run it is called twice for each step: by the collector
    that takes the step, on its own copy of the q_table, and by the server, which replays the step.

    To reach other processes a rule is pickled as these functions with all that they read, and compiled again there;
    what they import from other files is pickled by name only.
    """

    def __init__(self, update: Callable, policy: Callable = explore_or_exploit):
        # Of a function that numba has compiled already, take the plain one.
        update, policy = (getattr(function, "py_func", function) for function in (update, policy))
        self.needs_next_action = _check_update(update)
        _check_policy(policy)
        self.update, self.policy = update, policy
        self.__name__ = update.__name__.removesuffix("_update")
        self.__doc__ = update.__doc__
        self._episode = sarsa_episode if self.needs_next_action else q_learning_episode
        self.py_func = learning_loop(self._episode, update, _checked(policy))
        self._own = [function for function in (update, policy) if function.__module__ != kernels.__name__]
        self.tried = not self._own  # in plain Python; the functions of kernels.py need no rehearsal
        self.idle = False  # whether it was seen to change nothing in spite of rewards
        self._loops: Any = None  # _Loops, once they are needed
        is_default = policy is explore_or_exploit
        self._with_random_ties = Rule(update, explore_or_break_ties) if is_default else None

    def __call__(
        self, q_table: np.ndarray, simulator: Any, actions: Any, parameters: Parameters, first: int, episodes: int,
        log: Log = None, returns: np.ndarray | None = None,
    ) -> int:  # fmt: skip
        """Learn on a q_table, in place, for `episodes` episodes from number `first` on; return the number of steps.

        A packed table runs compiled, an env is stepped. `log` is None, an array of visits (states, actions), or an
        Experience with room for the episodes. `returns`, if given, is filled with each episode's undiscounted return.
        Raises ValueError, before anything is learned, if shapes do not match.
        """
        _check_task(q_table, simulator, actions, parameters, episodes, log, returns)
        if type(simulator) is not PackedTable or numba.config.DISABLE_JIT:
            return self.plain(q_table, simulator, actions, parameters, first, episodes, log, returns)
        on_copies = lambda: (deepcopy(simulator), actions, _short(parameters), first)  # of a place, if it has one
        first_episode = lambda table: self._first_episode(table, *on_copies())[1]
        task = simulator, actions, parameters, first, episodes, log, returns
        return self._call(self.kernel, first_episode if episodes else None, q_table, *task)

    def plain(
        self, q_table: np.ndarray, simulator: Any, actions: Any, parameters: Parameters, first: int, episodes: int,
        log: Log = None, returns: np.ndarray | None = None,
    ) -> int:  # fmt: skip
        """Learn as a call of the rule does, but in plain Python even on a packed table."""
        rows, steps = Rows(q_table), 0
        plain_log: Any = log
        if isinstance(log, Experience):
            plain_log = GrowingExperience()
        elif log is not None:
            plain_log = log.data  # a memoryview, faster to write to than an array
        quick = QuickParameters(*parameters)
        if type(simulator) is not PackedTable:
            simulator = Stepped(simulator, len(q_table))
        try:
            with place_noted():
                if not self.tried and episodes:
                    steps, rehearsal = self._first_episode(rows, simulator, actions, quick, first, plain_log, returns)
                    self.tried = rehearsal.judge()
                    first, episodes = first + 1, episodes - 1
                    returns = None if returns is None else returns[1:]
                steps += self.py_func(rows, simulator, actions, quick, first, episodes, plain_log, returns)
        except Exception as error:
            note_line(error, self._functions())
            raise
        rows.write_back()
        self._check_finite(q_table)
        if isinstance(log, Experience):
            plain_log.write_to(log)
        return steps

    def replay(
        self, q_table: np.ndarray, pairs: np.ndarray, rewards: np.ndarray, actions: Any, parameters: Parameters
    ) -> int:
        """Learn on a q_table, in place, from recorded experience in its order; return the number of steps.

        `pairs` and `rewards` are as in `Experience`, but may be read-only, and rewards may be float32. Raises TypeError
        if the rule needs the next action, and ValueError, before anything is learned, if the experience does not fit
        the table.
        """
        if self.needs_next_action:
            raise TypeError(f"{self.__name__} cannot be replayed: it needs the next action, which is not recorded")
        _check_experience(q_table, pairs, rewards, actions)
        # For another type of array, even a read-only one, numba would compile the loop once more.
        if not pairs.flags.carray:
            pairs = np.array(pairs)
        if rewards.dtype != FLOAT64 or not rewards.flags.carray:
            rewards = np.array(rewards, FLOAT64)
        first_episode = lambda table: self._first_replayed(table, pairs, rewards, actions, parameters)
        task = pairs, rewards, actions, parameters
        steps = self._call(self.replay_kernel, first_episode if len(pairs) else None, q_table, *task)
        if steps < 0:
            raise ValueError(
                f"pairs must be from {-1 - len(q_table)} to {q_table.size - 1}, the last below 0, "
                f"got {pairs.min()} to {pairs.max()}, the last {pairs[-1]}"
            )
        return steps

    def rehearse(self, q_table: np.ndarray, simulator: Any, actions: Any, parameters: Parameters, first: int) -> None:
        """Try a new rule on episode `first`, and raise or warn about its mistakes; do nothing if it was tried before.

        The q_table is not changed, but an env is stepped. A distributed run calls this first, in the driver, because
        warnings in other processes are not shown.
        """
        if self.tried:
            return
        if type(simulator) is PackedTable:
            first_episode = lambda table: self._first_episode(table, simulator, actions, _short(parameters), first)[1]
            self._tried_in_plain_python(first_episode, q_table)
        else:
            self.plain(np.array(q_table), simulator, actions, _short(parameters, 100), first, 1)  # an env may be slow

    def with_ties(self, ties: str) -> Rule:
        """Return the rule that learns alike and breaks ties as `ties` says: to the "lowest" action, or at "random".

        Raises ValueError for "random" if the rule has a policy of the user's, which chooses actions by itself.
        """
        if ties == "lowest" or self.policy is POLICIES[ties]:
            return self
        if self._with_random_ties is None:
            own = f"the policy of {self!r}, {self.policy.__name__}, chooses actions by itself"
            raise ValueError(f"ties must be 'lowest' for a rule with a policy of its own, got {ties!r}: {own}")
        return self._with_random_ties

    @property
    def kernel(self) -> Callable:
        """The compiled learning loop; it checks no arguments."""
        return self._up_to_date().learn

    @property
    def replay_kernel(self) -> Any:
        """The compiled replay loop; None if the rule needs the next action.

        If the pairs are invalid it replays nothing and returns -1; it checks no shapes.
        """
        return self._up_to_date().replay

    def _up_to_date(self) -> _Loops:
        """Return the compiled loops, recompiled if the rule's functions or anything that they read have changed."""
        loops = self._loops
        if loops is None or (self._own and loops.sources.changed()):
            with _compiling:
                if self._loops is loops:  # no other thread has compiled them meanwhile
                    # Changed functions have not been tried, so a recompilation makes `tried` False again; the first
                    # compilation leaves it alone.
                    self._loops, self.tried = self._compile(), self.tried and loops is None
        return self._loops

    def _compile(self) -> _Loops:
        if self._own:  # not cached on disk: numba would miss changes in what the functions read
            compile_loop, sources = compiled_when_called, Sources(*self._own)
            compiled = sources.compiled(numba.njit(**OPTIONS, boundscheck=True))
            update, policy = compiled.get(self.update, self.update), self.policy
            if policy in compiled:
                policy = compile_loop(_checked_compiled(compiled[policy]))
        else:
            # Cached on disk under a hash of the pickled closure. A function of kernels.py is pickled as its name, the
            # same in every process, and the cache is dropped when that file changes.
            compile_loop, sources, update, policy = cached_jit, None, self.update, self.policy
        learn = compile_loop(learning_loop(self._episode, update, policy))
        return _Loops(learn, None if self.needs_next_action else compile_loop(replay_loop(update)), sources)

    def _call(
        self, loop: Any, first_episode: Callable[[Any], _Rehearsal] | None, q_table: np.ndarray, *arguments: Any
    ) -> int:
        """Call a compiled loop, after a rehearsal in plain Python if the rule has not been tried."""
        problem = None
        if not self.tried and first_episode is not None:
            problem = self._tried_in_plain_python(first_episode, q_table)
        try:
            steps = loop(q_table, *arguments)
        except Exception as error:
            if not self._own:
                raise
            if isinstance(error, numba.core.errors.NumbaError) or not getattr(loop, "signatures", True):
                raise problem or not_compiled(error, self._functions(), loop is self._loops.replay) from None
            note_compiled_line(error, self._functions())
            raise
        if problem:
            self.tried = True  # plain Python could not run it, but numba can
        self._check_finite(q_table)
        return steps

    def _check_finite(self, q_table: np.ndarray) -> None:
        """Raise FloatingPointError if a user's rule has left nan or inf, which compiled code does silently."""
        if self._own and not math.isfinite(q_table.sum()) and not np.isfinite(q_table).all():
            state, action = np.argwhere(~np.isfinite(q_table))[0].tolist()
            problem = f"{self.update.__name__} left {q_table[state, action]} in q_table[{state}, {action}]"
            raise mistake(FloatingPointError(f"{problem}: compiled=False shows where, if Python raises an error"))

    def _tried_in_plain_python(
        self, first_episode: Callable[[Any], _Rehearsal], q_table: np.ndarray
    ) -> Exception | None:
        """Try an episode on two copies of a table: one with rows as lists (as stepped), one an array (as compiled).

        - Both work and agree: return None.
        - Both work and differ: raise TypeError.
        - Only lists work: return None; numba decides whether the rule can be compiled.
        - Only the array works: return None; the rule can run compiled.
        - Neither works: return the array's error, which the caller raises unless numba can run what Python cannot.

        A copy "does not work" if it leads to AttributeError or TypeError. Other errors, and mistakes that the checks
        of rules find, are raised at once; but once lists have worked, no error on the array is raised.
        """
        learned: list[np.ndarray] = []
        problem = None
        for copy in (Rows, np.array):
            table: Any = copy(q_table)
            try:
                with place_noted():
                    rehearsal = first_episode(table)
                    if not learned:
                        self.tried = rehearsal.judge()
                learned.append(table.as_array() if copy is Rows else table)
            except Exception as error:
                if learned:  # it works on lists; whether it works compiled, numba will show
                    return None
                problem = error
                is_known_mistake = getattr(error, "in_rule", False)  # before `note_line` marks it
                note_line(error, self._functions())
                if is_known_mistake or not isinstance(error, AttributeError | TypeError):
                    raise
        if len(learned) == 2 and not np.allclose(learned[0], learned[1], equal_nan=True):
            name = self.update.__name__
            raise mistake(
                TypeError(
                    f"{name} learns one thing when rows of the q_table are lists (stepped) and another when they are "
                    "arrays (compiled): 2 * row, row + row, row < row and row[1:] differ, so use row[action]"
                )
            )
        return None if learned else problem

    def _first_episode(
        self, table: Any, simulator: Any, actions: Any, parameters: Any, first: int, log: Any = None,
        returns: np.ndarray | None = None,
    ) -> tuple[int, _Rehearsal]:  # fmt: skip
        """Learn one episode in plain Python; return the number of steps and a record of what the rule did."""
        rehearsal = _Rehearsal(self, table, parameters)
        loop = learning_loop(self._episode, rehearsal.update, rehearsal.policy)
        return loop(table, simulator, actions, parameters, first, 1, log, returns), rehearsal

    def _first_replayed(
        self, table: Any, pairs: np.ndarray, rewards: np.ndarray, actions: Any, parameters: Parameters
    ) -> _Rehearsal:
        """Replay the first recorded episode in plain Python; return a record of what the rule did."""
        rehearsal = _Rehearsal(self, table, parameters)
        end = min(REHEARSAL_STEPS, int(np.argmax(pairs < 0))) + 1
        pairs = np.append(pairs[: end - 1], np.int32(-1))
        replay_loop(rehearsal.update)(table, pairs, rewards[:end], actions, parameters)
        return rehearsal

    def _functions(self) -> list:
        """Return the rule's own functions, and those in the same files that they call."""
        return Sources(*self._own).functions

    def __reduce__(self) -> str | tuple:
        if globals().get(self.__name__) is self:
            return self.__name__
        return _received, (pickled((self.update, self.policy)), Sources(*self._own).of_modules())

    def __deepcopy__(self, memo: dict) -> Rule:
        """Return itself, so that agents in threads share the compiled loops."""
        return self

    def __repr__(self) -> str:
        return f"<rule {self.__name__}>"


def _checked(policy: Callable) -> Callable:
    """Wrap a user's policy so that it raises ValueError if it returns no valid action."""

    def act(row: Any, actions: Any, epsilon: float, explore: float) -> int:
        action = policy(row, actions, epsilon, explore)
        if not isinstance(action, int | np.integer) or not 0 <= action < len(actions):
            message = f"{policy.__name__} must return an action, 0 to {len(actions) - 1}, it returned {action!r}"
            raise mistake(ValueError(message))
        return int(action)

    return policy if policy in POLICIES.values() else act


def _checked_compiled(policy: Callable) -> Callable:
    """Wrap a compiled policy in the check of `_checked`: an invalid action would write outside the q_table's memory."""

    def act(row: Any, actions: Any, epsilon: float, explore: float) -> int:
        action = policy(row, actions, epsilon, explore)
        if not 0 <= action < len(actions):
            raise ValueError("the policy must return an action, from 0 to the number of actions minus 1")
        return int(action)

    return act


def _short(parameters: Parameters, steps: int = REHEARSAL_STEPS) -> Parameters:
    """Return the parameters with at most `steps` steps per episode."""
    return parameters._replace(max_step=min(parameters.max_step, steps))


_compiling = threading.Lock()


class _Loops(NamedTuple):
    """A rule's compiled loops, and the sources that they were compiled from."""

    learn: Callable
    replay: Any  # None if the rule needs the next action
    sources: Sources | None  # None if they cannot change


class _Rehearsal:
    """Watches a rule's update and policy while they play an episode on a table."""

    def __init__(self, rule: Rule, table: Rows | np.ndarray, parameters: Any):
        self.rule, self.table, self.parameters = rule, table, parameters
        self.before = table.table if isinstance(table, Rows) else table.copy()
        self.rewarded, self.returned = False, None

    def update(self, q_table: Any, state: int, action: int, reward: float, *rest: Any) -> None:
        """Call the rule's update, and note rewards and what it returned."""
        self.rewarded = self.rewarded or reward != 0
        returned = self.rule.update(q_table, state, action, reward, *rest)
        self.returned = self.returned if returned is None else returned

    def policy(self, row: Any, actions: Any, epsilon: float, explore: float) -> int:
        """Call the rule's policy, and check its action."""
        row = list(row) if self.rule.policy in POLICIES.values() else row  # in plain Python they need a list
        return _checked(self.rule.policy)(row, actions, epsilon, explore)

    def judge(self) -> bool:
        """Return whether the rehearsal was conclusive; raise TypeError for a returned value, warn of no change."""
        name = self.rule.update.__name__
        if self.returned is not None:
            message = f"{name} must change q_table[state][action] and return nothing, it returned {self.returned!r}"
            raise mistake(TypeError(message))
        if self.changed():
            self.rule.idle = False
            return True
        if self.rewarded and self.parameters.learning_rate > 0:
            warn_caller(f"{name} changed nothing in the q_table in its first episode, although there were rewards")
            self.rule.idle = True
            return True
        return False

    def changed(self) -> bool:
        """Whether the table has changed."""
        if isinstance(self.table, Rows):
            return any(row != self.before[state].tolist() for state, row in self.table.items())
        return not np.array_equal(self.table, self.before)


_received_rules: weakref.WeakValueDictionary[bytes, Rule] = weakref.WeakValueDictionary()


def _received(functions: bytes, of_modules: tuple = ()) -> Rule:
    """Return the rule that another process sent; the same object, compiled once, if it is sent again unchanged.

    Raises RuntimeError if a value that the rule reads from a module is not the same here as in the sender.
    """
    for module, name, value in of_modules:
        try:
            here = getattr(importlib.import_module(module), name, None)
        except ImportError:  # not importable here: it was sent along with the rule
            continue
        if type(here) is not type(value) or repr(here) != repr(value):
            problem = f"the rule reads {module}.{name}, which is {value!r} in the process that sent it, {here!r} here"
            raise RuntimeError(f"{problem}, imported from the file on disk: keep the value in the rule's own file")
    rule = _received_rules.get(functions)
    if rule is None:
        rule = _received_rules[functions] = Rule(*pickle.loads(functions))
    return rule


q_learning = Rule(q_learning_update)
sarsa = Rule(sarsa_update)
