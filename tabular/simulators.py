"""What the kernels run for a simulator: an env's transition table if possible, else the env itself, stepped."""

from __future__ import annotations

import contextlib
import copy
import gc
import inspect
import itertools
import random
import sys
import time
import types
import weakref
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .arguments import names_checked
from .checks import check_count
from .kernels import MAX_STEP
from .mistakes import warn_caller
from .stepping import checked_start, checked_step
from .tables import PackedTable, TransitionTable, as_defined, is_set_on_instance, samples

# Envs are typed as Any throughout, because those of gym and of gymnasium share no base class.

# Wrappers are known by class, never by name. gymnasium has those of a kind in one module since 1.0.
# gym.make adds these, which matter only for the step limit.
OLD_CHECKER = "gym.wrappers.env_checker.PassiveEnvChecker"
MAKE_WRAPPERS = [
    f"{package}.wrappers.{name}"
    for package in ("gym", "gymnasium")
    for name in (
        "env_checker.PassiveEnvChecker", "time_limit.TimeLimit", "order_enforcing.OrderEnforcing",
        "common.PassiveEnvChecker", "common.TimeLimit", "common.OrderEnforcing",
    )
]  # fmt: skip
# These change nothing that is learned, but compiled code would not call them.
RECORDERS = [
    f"{package}.wrappers.{name}"
    for package in ("gym", "gymnasium")
    for name in (
        "record_episode_statistics.RecordEpisodeStatistics", "common.RecordEpisodeStatistics",
        "record_video.RecordVideo", "rendering.RecordVideo",
        "render_collection.RenderCollection", "rendering.RenderCollection",
        "human_rendering.HumanRendering", "rendering.HumanRendering",
        "autoreset.AutoResetWrapper", "common.Autoreset",
    )
]  # fmt: skip


def shape_of(simulator: Any) -> tuple[int, int]:
    """Return (states, actions) of an env; raise TypeError or ValueError unless it is one with Discrete spaces."""
    if isinstance(simulator, type):
        name = simulator.__name__
        raise TypeError(f"simulator must be an env, got the class {name}: call it, {name}()")
    if not callable(getattr(simulator, "step", None)) or not callable(getattr(simulator, "reset", None)):
        raise TypeError(f"simulator must be an env of gym or gymnasium, got {simulator!r}")
    if not _takes_seed(simulator.reset):
        needed = "simulator.reset must take seed=, as in gym since 0.26"
        raise TypeError(f"{needed}, got reset{inspect.signature(simulator.reset)}")
    for name in ("observation_space", "action_space"):
        space = getattr(simulator, name, None)
        if type(space).__name__ != "Discrete" or getattr(space, "start", 0) != 0:
            raise ValueError(f"simulator must have a Discrete {name} that starts at 0, got {space!r}")
    return int(simulator.observation_space.n), int(simulator.action_space.n)


def _takes_seed(reset: Callable) -> bool:
    """Whether a reset can be called with seed=, judging by its signature."""
    try:
        inspect.signature(reset).bind(seed=0)
    except TypeError:
        return False
    except ValueError:  # no signature, for instance because it is written in C
        pass
    return True


def _layers(simulator: Any) -> Iterator:
    """Yield an env and the envs inside its gym or gymnasium wrappers, outermost first."""
    wrappers: Any = tuple(_classes("gym.Wrapper", "gymnasium.Wrapper"))
    yield simulator
    while isinstance(simulator, wrappers):
        simulator = simulator.env
        yield simulator


def _is_wrapper(env: Any, names: list[str]) -> bool:
    """Whether an env is a wrapper of one of the classes with these names, neither subclassed nor patched."""
    if type(env) not in _classes(*names):
        return False
    methods = [getattr(type(env), name) for name in ("step", "reset")]
    return not _is_patched(env) and all(map(as_defined, methods))


def _is_patched(env: Any) -> bool:
    """Whether step or reset was set on this instance of an env."""
    return is_set_on_instance(env, "step") or is_set_on_instance(env, "reset")


def acts_elsewhere(simulator: Any) -> bool:
    """Whether a copy of an env may act on the original, because a function set on the instance is not copied."""
    return any(map(_is_patched, _layers(simulator)))


def _classes(*names: str) -> list[type]:
    """Return the classes with these names whose modules are loaded; an env cannot be of one that is not."""
    places = [name.rpartition(".") for name in names]
    found = [getattr(sys.modules.get(module), name, None) for module, _, name in places]
    return [kind for kind in found if kind is not None]


def _unwrapped(simulator: Any, names: list[str] = MAKE_WRAPPERS) -> tuple:
    """Strip the wrappers with these names (by default those that gym.make adds); return (env, step limit)."""
    limit = MAX_STEP
    for env in _layers(simulator):
        if not _is_wrapper(env, names):
            break
        most = getattr(env, "_max_episode_steps", None)  # wrappers do not forward names with an underscore
        limit = limit if most is None else min(limit, max(1, most))
    return env, limit


def name_of(simulator: Any) -> str:
    """Return a short name of an env: a lake's map, or the id that it was made by, or its class, and any wrapper."""
    env = _unwrapped(simulator)[0]
    inner = getattr(env, "unwrapped", env)
    made_by = getattr(getattr(inner, "spec", None), "id", type(inner).__name__)
    name = str(getattr(inner, "map_name", made_by))
    return name if env is inner else f"{name} in {type(env).__name__}"


def skip_checkers(simulator: Any) -> None:
    """Switch off gym's check of the first step, which needs numpy.bool8; numpy 2 has none."""
    for env in _layers(simulator):
        if type(env) in _classes(OLD_CHECKER):
            env.checked_step = True


def compiled_form(simulator: Any, compiled: bool | None) -> tuple[PackedTable | None, int]:
    """Return (packed table, step limit) of an env; the table is None if the env has to be stepped.

    `compiled` may be True (raise ValueError if there is no table), False (do not look for one) or None.
    """
    skip_checkers(simulator)
    env, limit = _unwrapped(simulator)
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
        _warn_of_recorder(simulator)
        return None, limit


def copied(simulator: Any) -> Any:
    """Return a copy of an env, or None if that is impossible."""
    if acts_elsewhere(simulator):
        return None
    try:
        return copy.deepcopy(simulator)
    except Exception:  # of any kind: the env may hold a window, a lock or a connection
        return None


class EnvSet:
    """A set of envs, by identity: envs may equal each other or have no hash."""

    def __init__(self) -> None:
        self._found: dict[int, weakref.ref] = {}

    def add(self, env: Any) -> None:
        """Remember an env for as long as it lives, if it takes weak references."""
        number = id(env)
        with contextlib.suppress(TypeError):  # no weak references
            self._found[number] = weakref.ref(env, lambda _: self._found.pop(number, None))

    def __contains__(self, env: Any) -> bool:
        found = self._found.get(id(env))
        return found is not None and found() is env


_recorders_named = EnvSet()  # envs whose recorder was warned of


def _warn_of_recorder(simulator: Any) -> None:
    """Warn, once per env, if it could be compiled but for a wrapper that only records."""
    recorders = [type(env).__name__ for env in _layers(simulator) if _is_wrapper(env, RECORDERS)]
    if not recorders or simulator in _recorders_named:
        return
    try:
        TransitionTable.from_env(_unwrapped(simulator, MAKE_WRAPPERS + RECORDERS)[0])
    except ValueError:
        return
    _recorders_named.add(simulator)
    names = " and ".join(recorders)
    returns = " with keep_returns=True" if "RecordEpisodeStatistics" in recorders else ""
    warn_caller(
        f"{names} changes nothing that is learned, but makes the simulator hundreds of times slower, since it is then "
        f"stepped and not compiled: pass the env inside (simulator.env){returns}, or compiled=False to step it "
        "nevertheless"
    )


_seed_checked = EnvSet()  # envs whose use of the seed was checked


def warn_if_unseeded(simulator: Any) -> None:
    """Warn, once per env, if two episodes with the same seed differ, so that no result is reproducible."""
    if simulator in _seed_checked:
        return
    _seed_checked.add(simulator)
    if all(samples(_unwrapped(simulator)[0], name) for name in ("step", "reset")):
        return
    env = copied(simulator)
    if env is None:
        return
    try:
        with _global_generators_kept():
            follows = _are_alike(_first_results(_episodes(env, 0)), _first_results(_episodes(env, 0)))
    except Exception:  # learning will raise it
        return
    if not follows:
        warn_caller(
            "the simulator does not follow reset(seed=): two episodes with the same seed differ, so results are "
            "not reproducible (draw from self.np_random, which super().reset(seed=seed) seeds)"
        )


_apart = EnvSet()  # envs whose copies are known to be independent


def check_copies_act_apart(simulator: Any) -> None:
    """Raise TypeError if copies of an env stepped in turn behave differently from one stepped alone.

    They do if they share a generator, an attribute of their class, or a function that acts on the original.
    """
    if simulator in _apart:
        return
    if acts_elsewhere(simulator) or not _copies_act_apart(simulator):
        raise TypeError(
            "simulator must be an env whose copies share nothing that a step changes, and whose step and reset are "
            "those of its class, because each thread steps a copy: draw from self.np_random and not from random or "
            "np.random, or use workers=td.InProcess() or td.Workers()"
        )
    _apart.add(simulator)


def _copies_act_apart(simulator: Any) -> bool:
    """Whether two copies stepped in turn behave like one stepped alone; True if that cannot be determined."""
    if all(samples(_unwrapped(simulator)[0], name) for name in ("step", "reset")):
        return True
    with _global_generators_kept():
        try:
            copies = [copy.deepcopy(simulator) for _ in range(3)]
            if _refers_to(copies[0], _layers(simulator)):
                return False
            alone, again = (_first_results(_episodes(copies[0], 0)) for _ in range(2))
        except Exception:  # the run will raise it
            return True
        try:
            in_turn = zip(_episodes(copies[1], 0), _episodes(copies[2], 1), strict=False)
            beside = _first_results(result for result, _ in in_turn)
        except Exception:
            return False
    return _are_alike(alone, beside) or not _are_alike(alone, again)


def _refers_to(copied: object, originals: Iterator) -> bool:
    """Whether a copy still refers to one of the originals, for instance by a bound method or a closure.

    deepcopy does not copy functions, so one kept in an attribute still acts on the original.
    """
    wanted, reached = set(map(id, originals)), [copied]
    seen: set[int] = set()
    while reached and len(seen) < 100_000:
        value = reached.pop()
        if id(value) in wanted:
            return True
        if id(value) in seen or isinstance(value, type | types.ModuleType):
            continue
        seen.add(id(value))
        if isinstance(value, types.FunctionType):  # not its globals, which lead everywhere
            reached += [*(value.__closure__ or ()), *(value.__defaults__ or ())]
        else:
            reached += gc.get_referents(value)
    return False


@contextlib.contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Restore the global generators of Python and numpy after the block, since an env may draw from them."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


def _episodes(env: Any, seed: int) -> Iterator:
    """Yield what an env returns, step by step, in episodes with seeds from `seed` on."""
    (states, actions), choose = shape_of(env), random.Random(0)
    for number in itertools.count(seed):
        yield checked_start(env.reset(seed=number), states)
        ended = False
        while not ended:
            step = checked_step(env.step(choose.randrange(actions)), states)
            yield step
            ended = step[2] or step[3]


def _first_results(played: Iterator) -> list:
    """Return the first hundred items, or fewer after 2 ms, but at least six."""
    found, until = [], time.perf_counter() + 0.002
    for result in played:
        found.append(result)
        if len(found) >= 100 or (len(found) > 5 and time.perf_counter() > until):
            break
    return found


def _are_alike(first: list, second: list) -> bool:
    """Whether two lists agree up to the length of the shorter one."""
    both = min(len(first), len(second))
    return first[:both] == second[:both]


def fingerprint(simulator: Any, table: PackedTable | None, limit: int) -> str:
    """Describe a simulator well enough to tell it from others: a checksum of its table, else types and spaces."""
    if table is None:  # the env is stepped, but may still have a table
        with contextlib.suppress(ValueError):
            table, _ = compiled_form(simulator, True)
    if table is None:
        inner = type(getattr(simulator, "unwrapped", None)).__name__
        spaces = f"{simulator.observation_space} {simulator.action_space}"
        return f"{type(simulator).__name__} {inner} {spaces} limit {limit}"
    arrays = [part.tobytes() for part in table if isinstance(part, np.ndarray)]
    return f"table {zlib.crc32(b''.join(arrays)):08x} limit {limit}"


class Policy:
    """Wraps a function of a state to look like an array of actions; raises ValueError for an invalid action."""

    __slots__ = ("actions", "function")

    def __init__(self, function: Callable[[int], Any], actions: int):
        self.function, self.actions = function, actions

    def __getitem__(self, state: int) -> Any:
        action = self.function(state)
        if not isinstance(action, int | np.integer | np.bool_) or not 0 <= action < self.actions:
            raise ValueError(f"policy must return an action, 0 to {self.actions - 1}, it returned {action!r}")
        return action


class Rollout(NamedTuple):
    """One episode: `states` has one more entry than `actions` and `rewards`."""

    states: np.ndarray  # int64
    actions: np.ndarray  # int64
    rewards: np.ndarray  # float64
    terminated: bool
    truncated: bool  # by the env or by the step limit


@names_checked
def rollout(env: Any, policy: Callable[[int], int], seed: int = 0, max_steps: int = 1000) -> Rollout:
    """Play one episode of a seeded env with the actions `policy(state)`, for at most `max_steps` steps."""
    count, _ = shape_of(env)
    skip_checkers(env)
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
