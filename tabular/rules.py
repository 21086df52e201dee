"""Rules to learn by: an update function, and all that is made of it."""

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
from typing import Any, NamedTuple

import numba
import numpy as np

from . import kernels
from .kernels import (
    OPTIONS,
    Experience,
    GrowingExperience,
    Log,
    Parameters,
    QuickParameters,
    cached_jit,
    compiled_when_called,
    explore_or_exploit,
    learning_loop,
    q_learning_episode,
    q_learning_update,
    replay_loop,
    sarsa_episode,
    sarsa_update,
)
from .mistakes import mistake, not_compiled, tell_compiled, tell_line, warn_caller
from .sources import Sources, pickled
from .stepping import Rows, Stepped
from .tables import PackedTable

REHEARSAL_STEPS = 1000  # in plain Python, which does some 500 in a millisecond
INT32, FLOAT64 = np.dtype(np.int32), np.dtype(np.float64)


@contextlib.contextmanager
def place_noted() -> Iterator[None]:
    """Add to an error from a stepped loop where it fell, as read from the loop's local variables."""
    try:
        yield
    except Exception as error:
        place = {"t": 0}
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals is vars(kernels):
                place |= {name: frame.f_locals[name] for name in ("episode", "trial", "t") if name in frame.f_locals}
        unit = "trial" if "trial" in place else "episode"
        if isinstance(error, StopIteration):  # which would end a caller's loop without a word
            told = RuntimeError("the simulator or the rule raised StopIteration")
            error = told.with_traceback(error.__traceback__)
        if unit in place:
            error.add_note(f"in {unit} {place[unit]}, step {place['t']} (0: reset)")
        raise error


# Checks, before compiled code reads and writes where it is told --------------------------------


def _arguments(function: Any) -> list[str]:
    """The names of a plain function's arguments; TypeError where it is none, or they do not go by their place."""
    if not isinstance(function, types.FunctionType):
        raise TypeError(f"a rule must be made of plain functions, got {function!r}")
    arguments = inspect.signature(function).parameters
    if any(argument.kind is not argument.POSITIONAL_OR_KEYWORD for argument in arguments.values()):
        raise TypeError(f"{function.__name__} must take plain arguments, got {inspect.signature(function)}")
    return list(arguments)


def _check_update(update: Any) -> bool:
    """Whether an update takes the next action; TypeError unless it is a function that an episode can call."""
    off_policy, on_policy = _arguments(q_learning_update), _arguments(sarsa_update)
    found = _arguments(update)
    if found not in (off_policy, on_policy):
        raise TypeError(
            f"{update.__name__} must take ({', '.join(off_policy)}), and next_action after next_state if it needs it, "
            f"got ({', '.join(found)})"
        )
    return found == on_policy


def _check_policy(policy: Any) -> None:
    """TypeError unless a policy is a function that an episode can call."""
    needed, found = _arguments(explore_or_exploit), _arguments(policy)
    if found != needed:
        raise TypeError(f"{policy.__name__} must take ({', '.join(needed)}), got ({', '.join(found)})")


def _check_table(q_table: Any, shape: tuple[int, int]) -> None:
    """ValueError unless a q_table can be learned on where it stands."""
    if type(q_table) is not np.ndarray or not q_table.flags.writeable:
        kind = f"a {type(q_table).__name__}" if type(q_table) is not np.ndarray else "one that is read-only"
        raise ValueError(f"q_table must be a plain array that can be written to, got {kind}")
    if q_table.shape != shape or q_table.dtype != FLOAT64:
        raise ValueError(f"q_table must be float64 of shape {shape}, got {q_table.dtype} of shape {q_table.shape}")


def _check_task(
    q_table: np.ndarray, simulator: Any, actions: Any, parameters: Parameters, episodes: int, log: Log
) -> None:
    """ValueError unless the q_table and the log fit the simulator and the episodes."""
    states = len(simulator.outcomes) if type(simulator) is PackedTable else len(q_table)
    shape = (states, len(actions))
    if type(simulator) is PackedTable and simulator.outcomes.shape[1] != len(actions):
        raise ValueError(f"actions must be those of the simulator, {simulator.outcomes.shape[1]}, got {len(actions)}")
    _check_table(q_table, shape)
    if isinstance(log, Experience):
        room = log.episodes_that_fit(parameters.max_step)
        if episodes > room:
            raise ValueError(f"experience must have room for {episodes} more episodes, it has for {room}")
        if q_table.size > 2**31:
            raise ValueError(f"experience has 31 bits for a pair, too few for a q_table of shape {shape}")
    elif log is not None and log.shape != shape:
        raise ValueError(f"visits must be of shape {shape}, got {log.shape}")


def _check_experience(q_table: np.ndarray, pairs: np.ndarray, rewards: np.ndarray, actions: Any) -> None:
    """ValueError unless experience has the form that episodes on such a q_table leave; `belongs` reads the pairs."""
    _check_table(q_table, (len(q_table), len(actions)))
    if pairs.ndim != 1 or pairs.dtype != INT32:
        raise ValueError(f"pairs must be a row of int32, got {pairs.dtype} of shape {pairs.shape}")
    if rewards.shape != pairs.shape or rewards.dtype.kind != "f":
        raise ValueError(f"rewards must be {len(pairs)} floats, got {rewards.dtype} of shape {rewards.shape}")


class Rule:
    """A rule to learn by, made of an update function: a loop that learns, and one that replays experience.

    The update is plain Python, written as `q_learning_update` is, or as `sarsa_update` if it needs the next action:

        def update(q_table, state, action, reward, next_state, terminated, actions, parameters):
        def update(q_table, state, action, reward, next_state, next_action, terminated, actions, parameters):

    It changes `q_table[state][action]`, or `q_table[state, action]`, and returns nothing; `actions` is 0, 1, ... to
    loop over; `parameters` has epsilon, learning_rate and beta. Where `terminated`, next_state must not matter: a
    replay does not know it. Stepped, a row of the q_table is a list: max(row) does for both, row.max() does not.

    A `policy` says how to act, in the place of `explore_or_exploit`; `row` is q_table[state], and `explore` the one
    random number it may use, uniform in [0, 1):

        def policy(row, actions, epsilon, explore):

    Both may call functions of their own file or notebook, and read its globals: what is compiled is compiled anew where
    these have changed. Raises TypeError for anything else. The first episode is tried in plain Python, which tells of
    mistakes as Python does: a rule that returns a value is refused, and one that changes nothing is warned of.

    A rule keeps nothing between its calls: of a distributed run's steps a collector and the server both learn.

    A rule travels to other processes as these functions with all that they read, and is compiled anew there; what they
    import from elsewhere travels as a name.
    """

    def __init__(self, update: Callable, policy: Callable = explore_or_exploit):
        # Of what numba has compiled, the plain functions.
        update, policy = (getattr(function, "py_func", function) for function in (update, policy))
        self.needs_next_action = _check_update(update)
        _check_policy(policy)
        self.update, self.policy = update, policy
        self.__name__ = update.__name__.removesuffix("_update")
        self.__doc__ = update.__doc__
        self._episode = sarsa_episode if self.needs_next_action else q_learning_episode
        self.py_func = learning_loop(self._episode, update, _checked(policy))
        self._own = [function for function in (update, policy) if function.__module__ != kernels.__name__]
        self.tried = not self._own  # whether it is known what it does, as of the functions of kernels.py
        self._loops: Any = None  # _Loops, once they are needed

    def __call__(
        self, q_table: np.ndarray, simulator: Any, actions: Any, parameters: Parameters, first: int, episodes: int,
        log: Log = None,
    ) -> int:  # fmt: skip
        """Learn `episodes` episodes from number `first` on a q_table, in place: the steps.

        On a packed table compiled, on an env by stepping. `log` is None, an array of visits (states, actions), or
        Experience with room for the episodes. Raises ValueError, before anything is learned, where shapes do not fit.
        """
        _check_task(q_table, simulator, actions, parameters, episodes, log)
        if type(simulator) is not PackedTable or numba.config.DISABLE_JIT:
            return self.plain(q_table, simulator, actions, parameters, first, episodes, log)
        first_episode = lambda table: self._first_episode(table, simulator, actions, _short(parameters), first)[1]
        task = simulator, actions, parameters, first, episodes, log
        return self._call(self.kernel, first_episode if episodes else None, q_table, *task)

    def plain(
        self, q_table: np.ndarray, simulator: Any, actions: Any, parameters: Parameters, first: int, episodes: int,
        log: Log = None,
    ) -> int:  # fmt: skip
        """The same in plain Python, on a packed table too."""
        rows, steps = Rows(q_table), 0
        plain_log: Any = log
        if isinstance(log, Experience):
            plain_log = GrowingExperience()
        elif log is not None:
            plain_log = log.data  # quicker to write to than an array
        quick = QuickParameters(*parameters)
        if type(simulator) is not PackedTable:
            simulator = Stepped(simulator, len(q_table))
        try:
            with place_noted():
                if not self.tried and episodes:
                    steps, trial = self._first_episode(rows, simulator, actions, quick, first, plain_log)
                    self.tried = trial.judged()
                    first, episodes = first + 1, episodes - 1
                steps += self.py_func(rows, simulator, actions, quick, first, episodes, plain_log)
        except Exception as error:
            tell_line(error, self._functions())
            raise
        rows.write_back()
        self._check_finite(q_table)
        if isinstance(log, Experience):
            plain_log.write_to(log)
        return steps

    def replay(
        self, q_table: np.ndarray, pairs: np.ndarray, rewards: np.ndarray, actions: Any, parameters: Parameters
    ) -> int:
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
        """Try a rule that was not used yet on episode `first`, which changes nothing but an env: what is wrong is told.

        Processes elsewhere tell of errors, but their warnings are not seen.
        """
        if self.tried:
            return
        if type(simulator) is PackedTable:
            first_episode = lambda table: self._first_episode(table, simulator, actions, _short(parameters), first)[1]
            self._tried_in_plain_python(first_episode, q_table)
        else:
            self.plain(np.array(q_table), simulator, actions, _short(parameters, 100), first, 1)  # of those that wait

    @property
    def kernel(self) -> Callable:
        """The compiled learning loop, which checks nothing."""
        return self._up_to_date().learn

    @property
    def replay_kernel(self) -> Any:
        """The compiled replay loop; None where the rule needs the next action.

        Replays nothing and returns -1 where a pair is not of the table; checks no shapes.
        """
        return self._up_to_date().replay

    def _up_to_date(self) -> _Loops:
        """The compiled loops, of the functions and of what they read as these are now."""
        loops = self._loops
        if loops is None or (self._own and loops.sources.changed()):
            with _compiling:
                if self._loops is loops:  # and no other thread has made them meanwhile
                    self._loops, self.tried = self._compile(), self.tried and loops is None
        return self._loops

    def _compile(self) -> _Loops:
        if self._own:  # not kept for the next process: numba would not notice a change in the file that has them
            compile_loop, sources = compiled_when_called, Sources(*self._own)
            compiled = sources.compiled(numba.njit(**OPTIONS, boundscheck=True))
            update, policy = compiled.get(self.update, self.update), self.policy
            if policy in compiled:
                policy = compile_loop(_checked_compiled(compiled[policy]))
        else:
            # Kept under a hash of the pickled closure. A function of kernels.py is pickled as its name, the same in
            # every process, and what is kept is dropped when that file changes.
            compile_loop, sources, update, policy = cached_jit, None, self.update, self.policy
        learn = compile_loop(learning_loop(self._episode, update, policy))
        return _Loops(learn, None if self.needs_next_action else compile_loop(replay_loop(update)), sources)

    def _call(
        self, loop: Any, first_episode: Callable[[Any], _Rehearsal] | None, q_table: np.ndarray, *arguments: Any
    ) -> int:
        """Call a compiled loop, after a trial in plain Python where the rule was not tried yet."""
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
            tell_compiled(error, self._functions())
            raise
        if problem:
            self.tried = True  # it is one of arrays, and not of lists
        self._check_finite(q_table)
        return steps

    def _check_finite(self, q_table: np.ndarray) -> None:
        """FloatingPointError where a rule of one's own has left nan or inf, of which compiled code says nothing."""
        if self._own and not math.isfinite(q_table.sum()) and not np.isfinite(q_table).all():
            state, action = np.argwhere(~np.isfinite(q_table))[0].tolist()
            told = f"{self.update.__name__} left {q_table[state, action]} in q_table[{state}, {action}]"
            raise mistake(FloatingPointError(f"{told}: compiled=False tells where, if Python would refuse it"))

    def _tried_in_plain_python(
        self, first_episode: Callable[[Any], _Rehearsal], q_table: np.ndarray
    ) -> Exception | None:
        """Try an episode on copies of a table, as lists and as an array: the error where neither can do it."""
        learned: list[np.ndarray] = []
        problem = None
        for copy in (Rows, np.array):
            table: Any = copy(q_table)
            try:
                with place_noted():
                    trial = first_episode(table)
                    if not learned:
                        self.tried = trial.judged()
                learned.append(table.as_array() if copy is Rows else table)
            except Exception as error:
                if learned:  # it is one of lists: compiled it will do, or numba will tell
                    return None
                problem = error
                told = getattr(error, "in_rule", False)
                tell_line(error, self._functions())
                if told or not isinstance(error, AttributeError | TypeError):
                    raise
        if len(learned) == 2 and not np.allclose(learned[0], learned[1], equal_nan=True):
            name = self.update.__name__
            raise mistake(
                TypeError(
                    f"{name} learns one thing where rows of the q_table are lists, as stepped, and another where they "
                    "are arrays, as compiled: 2 * row, row + row, row < row and row[1:] differ, so go by row[action]"
                )
            )
        return None if learned else problem

    def _first_episode(
        self, table: Any, simulator: Any, actions: Any, parameters: Any, first: int, log: Any = None
    ) -> tuple[int, _Rehearsal]:
        """Learn an episode in plain Python: the steps, and what the rule did."""
        trial = _Rehearsal(self, table, parameters)
        loop = learning_loop(self._episode, trial.update, trial.policy)
        return loop(table, simulator, actions, parameters, first, 1, log), trial

    def _first_replayed(
        self, table: Any, pairs: np.ndarray, rewards: np.ndarray, actions: Any, parameters: Parameters
    ) -> _Rehearsal:
        """Replay the first episode likewise."""
        trial, end = _Rehearsal(self, table, parameters), min(REHEARSAL_STEPS, int(np.argmax(pairs < 0))) + 1
        pairs = np.append(pairs[: end - 1], np.int32(-1))
        replay_loop(trial.update)(table, pairs, rewards[:end], actions, parameters)
        return trial

    def _functions(self) -> list:
        """The rule's own functions, and those of their files that they call."""
        return Sources(*self._own).functions

    def __reduce__(self) -> str | tuple:
        if globals().get(self.__name__) is self:
            return self.__name__
        return _received, (pickled((self.update, self.policy)), Sources(*self._own).of_modules())

    def __deepcopy__(self, memo: dict) -> Rule:
        """Itself: agents in threads share what is compiled of it."""
        return self

    def __repr__(self) -> str:
        return f"<rule {self.__name__}>"


def _checked(policy: Callable) -> Callable:
    """A policy, where it is one's own with a look at what it returns: ValueError for what is no action."""

    def act(row: Any, actions: Any, epsilon: float, explore: float) -> int:
        action = policy(row, actions, epsilon, explore)
        if not isinstance(action, int | np.integer) or not 0 <= action < len(actions):
            told = f"{policy.__name__} must return an action, 0 to {len(actions) - 1}, it returned {action!r}"
            raise mistake(ValueError(told))
        return int(action)

    return policy if policy is explore_or_exploit else act


def _checked_compiled(policy: Callable) -> Callable:
    """The same of one that is compiled, which would act beyond the table, in memory that is not its own."""

    def act(row: Any, actions: Any, epsilon: float, explore: float) -> int:
        action = policy(row, actions, epsilon, explore)
        if not 0 <= action < len(actions):
            raise ValueError("the policy must return an action, 0 or more and below their number")
        return int(action)

    return act


def _short(parameters: Parameters, steps: int = REHEARSAL_STEPS) -> Parameters:
    """Parameters of a trial, whose episode is not long."""
    return parameters._replace(max_step=min(parameters.max_step, steps))


_compiling = threading.Lock()


class _Loops(NamedTuple):
    """A rule's compiled loops, and what went into them."""

    learn: Callable
    replay: Any  # None where the rule needs the next action
    sources: Sources | None  # None where it cannot change


class _Rehearsal:
    """A rule's update and policy, watched while they play an episode on a table."""

    def __init__(self, rule: Rule, table: Rows | np.ndarray, parameters: Any):
        self.rule, self.table, self.parameters = rule, table, parameters
        self.before = table.table if isinstance(table, Rows) else table.copy()
        self.rewarded, self.returned = False, None

    def update(self, q_table: Any, state: int, action: int, reward: float, *rest: Any) -> None:
        """Update, and note what is to be judged."""
        self.rewarded = self.rewarded or reward != 0
        returned = self.rule.update(q_table, state, action, reward, *rest)
        self.returned = self.returned if returned is None else returned

    def policy(self, row: Any, actions: Any, epsilon: float, explore: float) -> int:
        """Act."""
        row = list(row) if self.rule.policy is explore_or_exploit else row  # plain, it is one for lists
        return _checked(self.rule.policy)(row, actions, epsilon, explore)

    def judged(self) -> bool:
        """Whether it is known what the rule does; TypeError for what no rule may do, a warning for what none should."""
        name = self.rule.update.__name__
        if self.returned is not None:
            told = f"{name} must change q_table[state][action] and return nothing, it returned {self.returned!r}"
            raise mistake(TypeError(told))
        if self.changed():
            return True
        if self.rewarded and self.parameters.learning_rate > 0:
            warn_caller(f"{name} changed nothing in the q_table in its first episode, although rewards came")
            return True
        return False

    def changed(self) -> bool:
        """Whether the table is another than before."""
        if isinstance(self.table, Rows):
            return any(row != self.before[state].tolist() for state, row in self.table.items())
        return not np.array_equal(self.table, self.before)


_received_rules: weakref.WeakValueDictionary[bytes, Rule] = weakref.WeakValueDictionary()


def _received(functions: bytes, of_modules: tuple = ()) -> Rule:
    """The rule that another process sent: the same one, compiled once, if it sends it again as it was.

    RuntimeError where it reads something else of a module here than it did there.
    """
    for module, name, value in of_modules:
        try:
            here = getattr(importlib.import_module(module), name, None)
        except ImportError:  # it is no file, and was sent along
            continue
        if type(here) is not type(value) or repr(here) != repr(value):
            told = f"the rule reads {module}.{name}, which is {value!r} where it was sent from and {here!r} here"
            raise RuntimeError(f"{told}, where the file is imported as it stands: keep it in the rule's own file")
    rule = _received_rules.get(functions)
    if rule is None:
        rule = _received_rules[functions] = Rule(*pickle.loads(functions))
    return rule


q_learning = Rule(q_learning_update)
sarsa = Rule(sarsa_update)
