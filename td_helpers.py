"""The assignment: frozen lakes, Q-learning and SARSA on one core, and Q-learning distributed over Ray.

A lake becomes a transition table, agents learn from it or from the stepped env, exact answers judge what they
learned, and collectors, evaluators and a server spread the work. Every result is a function of the arguments: all
that is random takes a seed, and the draws of an episode depend on the seed and the episode's number alone, never on
how a run is cut into batches.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import math
import random
import threading
import time
import warnings
from bisect import bisect
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from tabular.changes import LARGE, ChangeLog, Replica, Version, following, whole
from tabular.checks import (
    Setting,
    check_count,
    check_flag,
    check_number,
    check_probabilities,
    check_q_table,
    count_between,
    refuse_overrides,
    settings_of,
)
from tabular.exact import likeliest_path, policy_value, value_iteration
from tabular.files import atomic_write, check_writable
from tabular.grids import MAPS, generate_map, generate_random_map, generate_row, neighbours, parse_map
from tabular.kernels import (
    EVALUATION,
    MAX_EPISODES,
    MAX_STEP,
    MAX_TESTS,
    MAX_TRIALS,
    Experience,
    Parameters,
    action_range,
    evaluate,
    explore_or_exploit,
    greedy_action,
    greedy_value,
    in_parts,
    mix,
    q_learning_episode,
    q_learning_update,
    sarsa_episode,
    sarsa_update,
)
from tabular.mistakes import in_few_lines
from tabular.plan import Batch, Collected, Cost, Learned, Snapshot, plan
from tabular.plots import (
    COLORS,
    Belief,
    Film,
    color_of,
    film,
    grid_pixels,
    plot_grid,
    plot_result,
    plot_timing,
    save_figure,
    show,
    show_source,
)
from tabular.pool import InProcess, Lost, Workers, check_workers, shared_workers
from tabular.rules import Rule, place_noted, q_learning, sarsa
from tabular.run import Recovery, Tests, dataflow
from tabular.saves import FORMAT, Checkpoints, Save, open_save
from tabular.session import start_ray
from tabular.simulators import (
    Policy,
    acts_elsewhere,
    compiled_form,
    copied,
    fingerprint,
    rollout,
    shape_of,
    warn_if_unseeded,
)
from tabular.stepping import Rows, Stepped
from tabular.tables import Moves, TransitionTable, read_only_lists, samples_table
from tabular.threads import Threads

try:
    with contextlib.redirect_stderr(io.StringIO()):  # gym prints a notice, which no filter stops
        import gym
except ImportError:
    import gymnasium as gym

__all__ = [
    # The assignment
    "LEFT", "DOWN", "RIGHT", "UP", "MAPS", "FrozenLakeEnv", "generate_row", "generate_map", "generate_random_map",
    "TDAgent", "QLAgent", "SARSAAgent", "QLAgentServer", "CollectingWorker", "EvaluationWorker", "DistributedQLAgent",
    "plot_image", "plot_result", "plot_timing",
    # To watch it
    "rollout", "greedy_path", "animate", "Film", "show", "show_source",
    # What it stands on, handed on from tabular/
    "TransitionTable", "samples_table", "value_iteration", "policy_value",
    "Rule", "q_learning", "sarsa", "q_learning_update", "sarsa_update", "q_learning_episode", "sarsa_episode",
    "explore_or_exploit", "greedy_action", "greedy_value",
    "Batch", "Snapshot", "Cost", "plan", "InProcess", "Threads", "Workers", "start_ray",
    "COLORS", "color_of", "save_figure",
]  # fmt: skip

# Frozen lake ----------------------------------------------------------------------------

LEFT, DOWN, RIGHT, UP = range(4)


class FrozenLakeEnv(gym.Env):
    """A slippery grid world: walk from S to G over ice (F), past holes (H).

    `desc` is a list of equally long strings of the letters S, F, H, G, or None for `map_name` (a key of `MAPS`; both
    None: a random 8 x 8 map). Action a (LEFT, DOWN, RIGHT, UP) moves in direction (a + k) % 4 with probability
    `transition_prob[k]`; a wall keeps the agent in place. A step from S or F costs 1. Standing on H or G, any action
    pays -1000 or +1000 and leads to the exit state, number nrow * ncol, which ends the episode. States are numbered
    row by row. Raises TypeError or ValueError for maps that are ragged, empty, of unknown letters, or without S or G,
    for an unknown map name, and for probabilities that are not four numbers that sum to 1.
    """

    metadata = {"render_modes": ["human", "ansi", "rgb_array"], "render_fps": 4}
    reward_range = (-1000, 1000)

    def __init__(self, desc=None, map_name="4x4", transition_prob=(0.97, 0.01, 0.01, 0.01), render_mode=None):
        if desc is None and map_name not in [None, *MAPS]:
            raise ValueError(f"map_name must be one of {sorted(MAPS)}, got {map_name!r}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None, 'human', 'ansi' or 'rgb_array', got {render_mode!r}")
        if desc is None:
            desc = generate_random_map() if map_name is None else MAPS[map_name]
        self.desc = parse_map(desc)
        self.nrow, self.ncol = self.desc.shape
        self.transition_prob = check_probabilities("transition_prob", transition_prob, 4)
        self.render_mode = render_mode
        self.exit_state = self.desc.size
        self.observation_space = gym.spaces.Discrete(self.exit_state + 1)
        self.action_space = gym.spaces.Discrete(4)
        self._starts = np.flatnonzero(self.desc == b"S").tolist()
        self._order = np.argsort(-np.array(self.transition_prob), kind="stable").tolist()  # likely first
        self._sorted_prob = [self.transition_prob[k] for k in self._order]
        self._cumulative = np.cumsum(self._sorted_prob).tolist()
        self._draws = []  # uniform numbers drawn ahead, since numpy draws 64 nearly as fast as one
        self._moves = Moves(self)
        self.s, self.lastaction = self._starts[0], None

    def __getstate__(self):
        """What was derived from the map is not shipped to other processes; it is made again."""
        derived = ("table", "P", "initial_state_distrib", "_moves")
        return {name: value for name, value in self.__dict__.items() if name not in derived}

    def __setstate__(self, state):
        for name, value in state.items():  # not __dict__.update, after which CPython reads attributes more slowly
            setattr(self, name, value)
        self._moves = Moves(self)

    def __deepcopy__(self, memo):
        """A copy with a generator of its own; the table, which is never changed, is the same."""
        lake = memo[id(self)] = type(self).__new__(type(self))
        lake.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        if "table" in vars(self):
            lake.table = self.table
        return lake

    @samples_table
    def step(self, action):
        """Act once: (state, reward, terminated, truncated, info). Raises ValueError for an unknown action."""
        try:
            outcomes = self._moves[self.s][action]
        except (KeyError, TypeError):
            raise ValueError(f"action must be 0, 1, 2 or 3, got {action!r}") from None
        if not self._draws:
            self._draws = self.np_random.random(64).tolist()
        slip = self._draws.pop()
        k = 0 if slip < self._cumulative[0] else bisect(self._cumulative, slip, 0, 3)
        probability, next_state, reward, terminated = outcomes[k]
        self.s, self.lastaction = next_state, action
        if self.render_mode == "human":
            self.render()
        return next_state, reward, terminated, False, {"prob": probability}

    @samples_table
    def reset(self, *, seed=None, options=None):
        """Back to S (one of them, drawn, where there are several): (state, info)."""
        super().reset(seed=seed)
        if seed is not None:
            self._draws = []
        starts = self._starts
        self.s = starts[0] if len(starts) == 1 else starts[int(self.np_random.integers(len(starts)))]
        self.lastaction = None
        if self.render_mode == "human":
            self.render()
        return self.s, {"prob": 1.0 / len(starts)}

    def render(self):
        """The map, the agent's cell in red: text for "ansi", printed for "human", pixels (uint8) for "rgb_array"."""
        if self.render_mode is None:
            return None
        if self.render_mode == "rgb_array":
            return grid_pixels(self.desc, None if self.s == self.exit_state else divmod(self.s, self.ncol))
        rows = [[cell.decode() for cell in row] for row in self.desc]
        lines = []
        if self.s == self.exit_state:
            lines.append("exit")
        else:
            row, col = divmod(self.s, self.ncol)
            rows[row][col] = gym.utils.colorize(rows[row][col], "red", highlight=True)
        lines.append("" if self.lastaction is None else f"  ({('Left', 'Down', 'Right', 'Up')[self.lastaction]})")
        text = "\n".join([*lines, *map("".join, rows)]) + "\n"
        return text if self.render_mode == "ansi" else print(text)

    @functools.cached_property
    def table(self) -> TransitionTable:
        """The lake as arrays of shape (states, 4, 4), exit state included; most are broadcast views."""
        shape = (self.exit_state + 1, 4, 4)
        letters = np.append(self.desc.ravel(), b"X")  # the exit state, behind the last cell
        terminated = np.isin(letters, [b"H", b"G", b"X"])
        reward = np.select([letters == b"H", letters == b"G", letters == b"X"], [-1000.0, 1000.0, 0.0], -1.0)
        directions = (np.arange(4)[:, None] + self._order) % 4  # of an action, from its likeliest outcome on
        next_state = np.full(shape, self.exit_state, np.int32)
        next_state[:-1] = neighbours(self.desc.shape)[:, directions]
        next_state[terminated] = self.exit_state
        return TransitionTable(
            probability=np.broadcast_to(np.array(self._sorted_prob), shape),
            next_state=next_state,
            reward=np.broadcast_to(reward[:, None, None], shape),
            terminated=np.broadcast_to(terminated[:, None, None], shape),
            start=self.initial_state_distrib,
        )

    @functools.cached_property
    def P(self) -> dict:
        """P[state][action] is the list of (probability, next_state, reward, terminated); made when first asked for.

        It refuses to be edited, as `table` and `step` would not follow: for other dynamics override `step`.
        """
        return read_only_lists(self._moves, len(self.table.next_state), np.argsort(self._order).tolist())

    @functools.cached_property
    def initial_state_distrib(self) -> np.ndarray:
        """The probability that an episode starts in a state, shape (states,): even over the S cells."""
        distribution = np.zeros(self.exit_state + 1)
        distribution[self._starts] = 1.0 / len(self._starts)
        return distribution


# Agents on one core -----------------------------------------------------------------------


class Use(NamedTuple):
    """Who uses an agent."""

    thread: int | None
    learns_in_batches: bool


NOT_IN_USE = Use(None, False)
_using = threading.Lock()  # held for a moment by whoever begins to use an agent


class TDAgent:
    """What Q-learning and SARSA share: a table of action values, exploring, and learning in test intervals.

    `simulator` is an env of gym or gymnasium with Discrete observations and actions that start at 0. An agent explores
    with probability `epsilon`, discounts by `beta`, cuts an episode after `max_step` steps, and after every
    `test_interval` of its `learning_episodes` evaluates the greedy policy in `trials` episodes (None: `test_interval`)
    unless `do_test` is False. `compiled=None` compiles where the simulator has a `TransitionTable` and steps it
    otherwise, False always steps, True insists. All action values start at `initial_value`. Everything random follows
    from `seed`. Between calls settings may be assigned, as for an epsilon that decays; they are checked as at
    construction, and refused with a RuntimeError within a loop over `learn_in_batches`.

    Attributes: `q_table` (states, actions) float64, `episode` and `steps` learned so far, `compiled` (a bool), and
    `rewards`, a dict of each test's mean discounted return by the episode after which it was done. Raises TypeError or
    ValueError for bad arguments before any work.

    A subclass names its rule in `kernel`, or overrides `learn(self, episodes=None)` and `evaluate`, which
    `learn_and_evaluate` calls. Such a `learn` changes `q_table` in place, or assigns it, and adds what it learned to
    `steps` and, last, to `episode`.

    An agent is for one thread at a time: another one that lets it learn or act meanwhile gets a RuntimeError. A copy
    (`copy.copy`, `copy.deepcopy`, pickle) shares nothing that learning changes, and may learn beside it; the first two
    share `workers`, a pickle has none.
    """

    agent_name = "TD agent"
    kernel = None  # the Rule of a subclass
    _use = NOT_IN_USE

    epsilon = Setting(check_number)
    learning_rate = Setting(check_number)
    learning_episodes = Setting(count_between(1, MAX_EPISODES))
    test_interval = Setting(count_between(1, MAX_EPISODES))
    trials = Setting(count_between(1, MAX_TRIALS))
    beta = Setting(check_number)
    do_test = Setting(check_flag)
    max_step = Setting(count_between(1, MAX_STEP))
    seed = Setting(count_between(0, 2**63 - 1))

    def __init__(
        self, simulator, epsilon=0.3, learning_rate=0.001, learning_episodes=30_000, *, test_interval=100,
        trials=None, beta=0.999, do_test=True, max_step=1000, seed=0, compiled=None, initial_value=0.0,
    ):  # fmt: skip
        self.epsilon = epsilon
        self.learning_rate = learning_rate
        self.learning_episodes = learning_episodes
        self.test_interval = test_interval
        self.trials = min(self.test_interval, MAX_TRIALS) if trials is None else trials
        self.beta = beta
        self.do_test = do_test
        self.max_step = max_step
        self.seed = seed
        compiled = compiled if compiled is None else check_flag("compiled", compiled)
        self._shape = shape_of(simulator)
        self._table, self._time_limit = compiled_form(simulator, compiled)
        self._simulator = simulator
        self.actions = action_range(self._shape[1])
        self._random = random.Random(self.seed)  # for explore_or_exploit_policy alone
        initial_value = check_number("initial_value", initial_value, -1e300, 1e300)
        self._learned = Learned(np.full(self._shape, initial_value), episode=0, steps=0)
        self.rewards = {}
        self._check_settings()

    def _before_change(self, name: str) -> None:
        """RuntimeError where a setting, or what was learned, is assigned while a run is going on without it."""
        if self._use.learns_in_batches:
            raise RuntimeError(f"{name} may not be assigned while this agent learns in batches: end the loop first")
        if self._use.thread not in (None, threading.get_ident()):
            raise RuntimeError(f"{name} may not be assigned while another thread uses this agent")

    def __getstate__(self):
        return vars(self) | {"_use": NOT_IN_USE}

    def __copy__(self):
        return copy.deepcopy(self)

    @contextlib.contextmanager
    def _in_use(self, learns_in_batches: bool = False):
        """Refuse another thread meanwhile, and in this one a second run of batches."""
        thread, before = threading.get_ident(), self._use
        with _using:
            if before.thread not in (None, thread):
                raise RuntimeError("this agent is in use by another thread: copy.copy(agent) may learn beside it")
            if learns_in_batches and before.learns_in_batches:
                raise RuntimeError("this agent is learning in batches, which must come to their end first")
            self._use = Use(thread, before.learns_in_batches or learns_in_batches)
        try:
            yield
        finally:
            self._use = before

    @property
    def simulator(self):
        """The env; another one takes another agent."""
        return self._simulator

    @property
    def compiled(self) -> bool:
        """Whether the simulator is compiled, or stepped."""
        return self._table is not None

    @property
    def q_table(self) -> np.ndarray:
        """The action values, float64, (states, actions). What is assigned is checked and copied."""
        return whole(self._learned.q_table)

    @q_table.setter
    def q_table(self, q_table):
        self._before_change("q_table")
        q_table = check_q_table("q_table", q_table, self._shape)
        self._learned = self._learned._replace(q_table=q_table, recent=())

    @property
    def episode(self) -> int:
        """How many episodes were learned. An own `learn` adds to it; the next has the draws of this number."""
        return self._learned.episode

    @episode.setter
    def episode(self, episode):
        self._before_change("episode")
        self._learned = self._learned._replace(episode=check_count("episode", episode, 0, MAX_EPISODES))

    @property
    def steps(self) -> int:
        """How many steps were learned. An own `learn` adds to it."""
        return self._learned.steps

    @steps.setter
    def steps(self, steps):
        self._before_change("steps")
        self._learned = self._learned._replace(steps=check_count("steps", steps, 0, 2**62))

    @property
    def total_rewards(self) -> list[float]:
        """The mean discounted greedy return of every test done, in the order of the tests."""
        return [self.rewards[episode] for episode in sorted(self.rewards)]

    def greedy_policy(self, state: int) -> int:
        """The action of the highest value in `state`; ties go to the lowest action."""
        return int(np.argmax(self.q_table[state]))

    def explore_or_exploit_policy(self, state: int) -> int:
        """A random action with probability epsilon, else the greedy one."""
        return explore_or_exploit(self.q_table[state].tolist(), self.actions, self.epsilon, self._random.random())

    @in_few_lines()
    def learn(self, episodes: int | None = None) -> None:
        """Learn `episodes` more (None: a test interval). All or nothing: an interrupt leaves the agent as it was."""
        self._check_settings()
        self._rehearse()
        episodes = self._episodes_asked_for(episodes)
        with self._in_use():
            q_table = self.q_table.copy()
            steps = self.learn_on(q_table, self.episode, episodes)
            self._learned = Learned(q_table, self.episode + episodes, self.steps + steps)

    @in_few_lines()
    def evaluate(self, policy=None, trials: int = 100, max_steps: int = 1000) -> float:
        """The mean discounted return of `policy(state)` (None: the greedy policy) over `trials` episodes.

        The simulator's draws are those of the test due at the present episode, so that a policy without draws of its
        own gets the same answer when asked twice.
        """
        if policy is not None and not callable(policy):
            raise TypeError(f"policy must be a function of a state, got {policy!r}")
        trials = check_count("trials", trials, 1, MAX_TRIALS)
        max_steps = check_count("max_steps", max_steps, 1, MAX_STEP)
        with self._in_use():
            return self.evaluate_on(self.q_table, self.episode, trials, max_steps, policy)

    @in_few_lines()
    def learn_and_evaluate(self, progress: bool = True) -> tuple[list[float], np.ndarray]:
        """Learn up to `learning_episodes`, testing after every interval: (total_rewards, q_table).

        `total_rewards` has one mean discounted greedy return a finished test interval, none with
        `do_test=False` or for those that `learn` went past: `rewards` has the tests' episodes.
        Interrupted and called again, it goes on where it stopped.
        """
        progress = check_flag("progress", progress)
        self._check_settings()
        until = self.learning_episodes
        start = min(self.episode, until)
        # The bar shows up once two seconds have passed.
        shown = {"desc": self.agent_name, "unit": "episode", "delay": 2, "disable": not progress}
        with self._in_use(), tqdm(initial=start, total=until, **shown) as bar:
            for _ in self._run(until, self.do_test):
                bar.update(self.episode - bar.n)
        return self.total_rewards, self.q_table.copy()

    def _run(self, until: int, do_test: bool) -> Iterator[None]:
        """Learn up to episode `until`, with a test after every interval; yields after each."""
        while True:
            self._test_if_due(do_test)
            before = self.episode
            if before >= until:
                return
            rest = self.test_interval - before % self.test_interval
            self.learn(min(rest, until - before))
            if self.episode <= before:
                must = f"{type(self).__name__}.learn must add to self.episode what it learned"
                raise RuntimeError(f"{must}, it is {self.episode}")
            yield

    def _test_if_due(self, do_test: bool) -> None:
        """Test the greedy policy where a test is due."""
        if do_test and self._test_is_due():
            mean = self.evaluate(trials=self.trials, max_steps=self.max_step)
            self.rewards[self.episode] = check_number("what evaluate returns", mean, -math.inf, math.inf)

    def _test_is_due(self) -> bool:
        """Whether the table as it stands is to be tested."""
        return self.episode > 0 and self.episode % self.test_interval == 0 and self.episode not in self.rewards

    def _episodes_asked_for(self, episodes: int | None) -> int:
        """How many episodes `learn` is to learn."""
        return self.test_interval if episodes is None else check_count("episodes", episodes, 0, MAX_EPISODES)

    def _check_settings(self) -> None:
        """Raise where settings do not go together; each alone was checked when it was assigned."""
        if not isinstance(self.kernel, Rule | None):
            raise TypeError(f"kernel must be a Rule, td.Rule(update), got {self.kernel!r}")
        if type(self).learn is TDAgent.learn:
            refuse_rule_methods(type(self))
        instead = "runs act by their rule: set kernel = td.Rule(update, policy=...), or call evaluate(policy=...)"
        refuse_overrides(type(self), TDAgent, ("greedy_policy", "explore_or_exploit_policy"), instead)
        if self.do_test and self.learning_episodes // self.test_interval >= MAX_TESTS:
            raise ValueError(f"test_interval must leave fewer than {MAX_TESTS} tests, got {self.test_interval!r}")

    def _rehearse(self) -> None:
        """Tell, before anything is learned, of what could not be repeated."""
        if not self.compiled:
            warn_if_unseeded(self.simulator)

    def learn_on(self, q_table: np.ndarray, first: int, episodes: int, log=None) -> int:
        """Learn on `q_table` in place, and leave a `log`: the number of steps."""
        if self.kernel is None:
            raise NotImplementedError("TDAgent has no rule to learn by: take QLAgent or SARSAAgent")
        simulator = self._table if self.compiled else self.simulator
        task = q_table, simulator, self.actions, self.parameters()
        parts = in_parts(episodes, self.step_limit)
        return sum(self.kernel(*task, first + done, count, log) for done, count in parts)

    def evaluate_on(self, q_table, episode: int, trials: int, max_steps: int, policy=None) -> float:
        """The mean discounted return of a `policy` (None: the greedy one of `q_table`) in the test after an episode."""
        test = episode // self.test_interval % MAX_TESTS
        parameters, stream = self.parameters(max_steps), EVALUATION + (test << 40)
        if policy is None and self.compiled:
            actions, total = np.argmax(q_table, axis=1), 0.0
            for done, count in in_parts(trials, parameters.max_step):
                total = evaluate(actions, self._table, parameters, stream + (done << 20), count, total)
            return total / trials
        if policy is None:
            rows = Rows(q_table)
            policy = lambda state: greedy_action(rows[state], self.actions)
        with place_noted():
            simulator = Stepped(self.simulator, self._shape[0])
            return float(evaluate.py_func(Policy(policy), simulator, parameters, stream, trials)) / trials

    @property
    def step_limit(self) -> int:
        """After how many steps an episode is cut."""
        # A TimeLimit that is stepped cuts for itself.
        return min(self.max_step, self._time_limit) if self.compiled else self.max_step

    def parameters(self, max_step: int | None = None) -> Parameters:
        """What the kernels need to know; an episode has at most `max_step` steps (None: the agent's limit)."""
        key = int(mix(self.seed)) >> 2  # 62 bits: with an episode's number they still fit 63
        limit = self.step_limit if max_step is None else min(max_step, self._time_limit if self.compiled else MAX_STEP)
        return Parameters(self.epsilon, self.learning_rate, self.beta, limit, key)

    def save(self, path) -> None:
        """Write all that resuming needs to one .npz file: whole or not at all. What counts costs starts anew."""
        with atomic_write(path) as file:
            np.savez_compressed(file, **self._state())

    def load(self, path) -> TDAgent:
        """Take over what an agent of the same kind, simulator, seed and beta saved; returns self.

        All other settings stay this agent's, so that a run may go on for longer, or with another epsilon. Raises
        ValueError, naming what differs or is missing, and changes nothing where the file is not such a save.
        """
        self._before_change("what was learned")
        with open_save(path) as saved:
            for name, own in self._identity().items():
                if saved.header.get(name) != own:
                    raise ValueError(f"it has {name} {saved.header.get(name)}, this agent has {own}")
            loaded = object.__new__(type(self))
            vars(loaded).update(vars(self))
            loaded._restore(saved)
        self.__dict__ = loaded.__dict__  # at once: an interrupt leaves all or nothing
        return self

    def _identity(self) -> dict:
        """What tells whose learning it is: it goes on only where this is the same."""
        return {
            "agent": type(self).__name__,
            "simulator": fingerprint(self.simulator, self._table, self._time_limit),
            "seed": self.seed,
            "beta": self.beta,
        }

    def _header(self) -> dict:
        """What is saved besides arrays, to be written as JSON."""
        return {"format": FORMAT} | self._identity() | {"episode": self.episode, "steps": self.steps}

    def _state(self) -> dict[str, np.ndarray]:
        """All that resuming needs, as arrays by name."""
        return {
            "header": np.array(json.dumps(self._header())),
            "q_table": self.q_table,
            "tests": np.array(sorted(self.rewards), np.int64),
            "rewards": np.array(self.total_rewards, np.float64),
        }

    def _restore(self, saved: Save) -> None:
        """The reverse of `_state`; ValueError where it is none."""
        learned = Learned(
            q_table=saved.read("q_table", np.float64, self._shape),
            episode=check_count("episode", saved.header.get("episode"), 0),
            steps=check_count("steps", saved.header.get("steps"), 0, 2**62),
        )
        tests = saved.read_episodes("tests", MAX_TESTS)
        rewards = saved.read("rewards", np.float64, tests.shape)
        self._learned = learned
        self.rewards = dict(zip(tests.tolist(), rewards.tolist(), strict=True))


def refuse_rule_methods(kind: type) -> None:
    """TypeError where a class of agents has an update or a policy of its own that no run would call."""
    for name in ("update", "policy"):
        method = getattr(kind, name, None)
        if callable(method) and method is not getattr(kind.kernel, name, None):
            raise TypeError(
                f"{kind.__name__}.{name} would not be called: learning goes by a rule made of plain functions, so take "
                f"it out of the class and set kernel = td.Rule({'update' if name == 'update' else 'update, policy'})"
            )


class QLAgent(TDAgent):
    """Q-learning: off-policy, learns the greedy policy's value whatever it does to explore."""

    agent_name = "Q-learning agent"
    kernel = q_learning


class SARSAAgent(TDAgent):
    """SARSA: on-policy, learns the value of the policy that it follows, exploring included."""

    agent_name = "SARSA agent"
    kernel = sarsa


# Distributed ------------------------------------------------------------------------------
# The roles are plain classes, to be read, and run, without Ray. What a collector or an evaluator does is a function
# of the arguments, and the server's table is known here after every batch, so that any call can be sent again (large
# tables travel as what changed, in `tabular.changes`; what is sent again begins with whole ones):
#
#     q[i] = server.learn(collector[i % cw_num].collect(q[i - cw_num], batch i))
#     rewards[test] = evaluator[test % ew_num].evaluate(q at the test, test)


class CollectingWorker:
    """A collector: acts on a copy of the q_table, goes on learning on it, ships what it saw.

    With a frozen copy of an empty table it would bump into the same wall until the step limit.
    """

    def __init__(self, agent: TDAgent, ships: bool = True, logs: int = 1):
        self.agent, self.replica = agent, Replica()
        self.ships = ships  # False where experience is handed over in memory, as views of logs
        self.logs = deque([Experience.empty(0)] * logs)  # used in turn

    def collect(self, snapshot: Snapshot, first: int, episodes: int) -> Collected:
        """The experience of `episodes` episodes from number `first`."""
        start = time.perf_counter()
        pairs, rewards = self.record(self.replica.take(snapshot), first, episodes)
        self.replica.learned = pairs
        if self.ships:
            short = rewards.astype(np.float32)
            rewards = short if np.array_equal(short, rewards) else rewards.copy()
            pairs = pairs.copy()
        return Collected(pairs, rewards, time.perf_counter() - start)

    def record(self, q_table: np.ndarray, first: int, episodes: int) -> tuple:
        """Learn episodes on a table: (pairs, rewards), until their log is used again."""
        agent, log = self.agent, self.next_log(episodes)
        parts, done, steps = [], 0, 0
        while done < episodes:
            fitting = min(log.episodes_that_fit(agent.step_limit), episodes - done)
            if fitting == 0:
                parts.append([part.copy() for part in log.recorded()])
                log.length[0] = 0
                continue
            steps += agent.learn_on(q_table, first + done, fitting, log)
            done += fitting
        pairs, rewards = log.recorded()
        if parts:
            parts.append((pairs, rewards))
            pairs, rewards = (np.concatenate(part) for part in zip(*parts, strict=True))
        if len(pairs) != steps + episodes:
            recorded = f"{len(pairs) - episodes} of {steps} steps"
            raise RuntimeError(f"the rule recorded {recorded}: nothing to replay")
        return pairs, rewards

    def next_log(self, episodes: int) -> Experience:
        """An empty log with room for an episode at least, or for so many, within reason."""
        room = self.agent.step_limit + 1  # entries that one episode may take
        entries = max(room, min(episodes * room, 2**18))
        self.logs.rotate(-1)
        if len(self.logs[0].pairs) < entries:
            self.logs[0] = Experience.empty(entries)
        self.logs[0].length[0] = 0
        return self.logs[0]


class QLAgentServer:
    """The learner: holds the one true q_table, and learns from experience with its own max."""

    def __init__(self, agent: TDAgent, behind: int | None = None):
        self.agent = agent
        self.behind = behind  # see `ChangeLog`: whole tables, unless told otherwise

    def begin(self, snapshot: Snapshot) -> None:
        """Start from a snapshot."""
        self.q_table = check_q_table("q_table", snapshot.q_table, self.agent.q_table.shape)
        self.steps = snapshot.steps
        self.log = ChangeLog(self.q_table, self.steps, self.behind)

    def learn(self, collected: Collected) -> Snapshot:
        """Replay a batch."""
        start, agent = time.perf_counter(), self.agent
        pairs, rewards = collected.pairs, collected.rewards
        task = pairs, rewards, agent.actions, agent.parameters()
        self.steps += agent.kernel.replay(self.q_table, *task)
        seconds, table = time.perf_counter() - start, self.log.send(pairs, self.steps)
        shipped = pairs.nbytes + rewards.nbytes
        cost = Cost(collected.seconds, seconds, bytes=shipped, sent=table.nbytes)
        return Snapshot(table, self.steps, cost)


class EvaluationWorker:
    """An evaluator: tests the greedy policy of a q_table."""

    def __init__(self, agent: TDAgent):
        self.agent = agent

    def evaluate(self, q_table: np.ndarray, episode: int) -> tuple[float, float]:
        """(mean discounted return, seconds) of the test after an episode."""
        start, agent = time.perf_counter(), self.agent
        mean = agent.evaluate_on(np.array(q_table), episode, agent.trials, agent.max_step)
        return mean, time.perf_counter() - start


def _play(role, agent_class, kernel: Rule, simulator, settings: dict, options: dict):
    """A worker of a role, with an agent of its own."""
    agent = agent_class(simulator, **settings)
    agent.kernel = kernel  # as it stands with whoever sent it: a class that is imported here has that of its file
    return role(agent, **options)


class DistributedQLAgent(QLAgent):
    """Q-learning with `cw_num` collectors, `ew_num` evaluators and one server, over Ray.

    Batches of `batch_size` episodes are collected on the q_table of `cw_num` batches before, and replayed in order.
    With `do_test` they are cut at test points. So the result is a function of (seed, cw_num, batch_size, in_flight, and
    test_interval where it tests) alone, whatever process is killed; with one collector it is `QLAgent`'s, bit for bit.
    All else is as in `QLAgent`.

    That is with the two batches a collector that are `in_flight` by default: one is collected, one waits for its table.
    There is no run with fewer. Each one more hides some latency of a slow network, and makes the tables that batches
    are collected on another `cw_num` batches older.

    `workers` lends processes, or `InProcess()`, which needs no Ray; without, a session's runs share processes, started
    by the first. A process that has not answered for `patience` seconds (or twice the longest batch so far) is given
    up, as is one that died: the work is sent again. A run raises RuntimeError where one process is lost more than 5
    times in a row, or cannot be reached for `patience` seconds, with nothing learned or tested between; what was
    learned stays. With `checkpoint`, a path, it is also saved there every `checkpoint_seconds`, and when a run ends;
    where that fails a warning says so, and the run goes on.

    `restarts` counts the processes replaced, `batches` the batches learned; `cost` sums what they cost.
    """

    agent_name = "Distributed Q-learning"
    single = QLAgent  # what its workers hold
    decisive = ("cw_num", "batch_size", "in_flight")  # settings that the result depends on
    roles = {"server": QLAgentServer, "collector": CollectingWorker, "evaluator": EvaluationWorker}

    cw_num = Setting(check_count)
    ew_num = Setting(count_between(0, 2**40))
    batch_size = Setting(check_count)
    in_flight = Setting(count_between(2, 1000))
    patience = Setting(functools.partial(check_number, low=0.001, high=math.inf))
    checkpoint_seconds = Setting(functools.partial(check_number, high=math.inf))

    def __init__(
        self, simulator, epsilon=0.3, learning_rate=0.001, learning_episodes=30_000, *, cw_num=4, ew_num=4,
        batch_size=100, in_flight=2, workers=None, patience=180.0, checkpoint=None, checkpoint_seconds=60.0,
        **settings,
    ):  # fmt: skip
        self.cw_num = cw_num
        self.ew_num = ew_num
        self.batch_size = batch_size
        self.in_flight = in_flight
        self.workers = workers
        self.patience = patience
        self.checkpoint = checkpoint
        self.checkpoint_seconds = checkpoint_seconds
        super().__init__(simulator, epsilon, learning_rate, learning_episodes, **settings)
        self.restarts, self.batches, self.cost = 0, 0, Cost()
        self._untested = {}  # episode: the q_table to test, until its result is in
        self._warn_of_cut_batches()

    @property
    def kernel(self) -> Rule:
        """The rule, which is that of the workers."""
        return self.single.kernel

    @property
    def lag(self) -> int:
        """How many batches lie between the table that a batch is collected on and the one that it is learned on."""
        return self.cw_num * (self.in_flight - 1)

    @property
    def behind(self) -> int:
        """How many batches lie between two tables that a process is sent."""
        return self.cw_num

    @property
    def episodes_a_batch(self) -> int:
        """How many episodes are learned at once, where no test cuts them."""
        return self.batch_size

    @in_few_lines()
    def learn(self, episodes: int | None = None) -> None:
        """Learn `episodes` more (None: a test interval). Cut within a batch, it gives another result than in one go."""
        for _ in self.learn_in_batches(episodes):
            pass

    def learn_in_batches(self, episodes: int | None = None) -> Iterator[Batch]:
        """Learn `episodes` more (None: a test interval), and yield each batch when it is learned.

        `q_table`, `steps` and `cost` are then those after the batch; the table is read-only until the run has ended.
        """
        with in_few_lines():
            self._check_settings()
            yield from self._run(self.episode + self._episodes_asked_for(episodes), do_test=False)

    def _run(self, until: int, do_test: bool) -> Iterator[Batch]:
        """Learn up to episode `until`, whatever process dies; what was learned stays when it is interrupted."""
        if do_test and self._test_is_due():
            self._untested.setdefault(self.episode, self.q_table)
        if self.episode >= until and not (do_test and self._untested):
            return
        self._rehearse()
        checkpoints = Checkpoints(self.save, self.checkpoint, self.checkpoint_seconds)
        with self._in_use(learns_in_batches=True), self._pool(do_test) as pool, checkpoints:
            recovery = Recovery(pool, self.patience)
            tests = Tests(pool, recovery, self.ew_num, self._untested if do_test else {}, self._keep_test)
            try:
                while self.episode < until:
                    try:
                        interval = self.test_interval if self.do_test else None
                        batches = plan(self.episode, until, self.episodes_a_batch, interval)
                        for batch, snapshot in dataflow(pool, recovery, batches, self._snapshots(), self._submit):
                            self._commit(batch, snapshot)
                            recovery.succeeded()
                            if do_test and self._test_is_due():
                                tests.add(self.episode, self.q_table)
                            checkpoints.write_if_due()
                            yield batch
                    except Lost as lost:
                        recovery.mend(lost)
                tests.finish()
            finally:
                self.restarts += recovery.replaced
                self._own_arrays()

    def _rehearse(self) -> None:
        """The same, and of a rule that was not used yet: the warnings of workers are not seen."""
        super()._rehearse()
        if self.kernel is None or self.kernel.tried:
            return
        simulator = self._table if self.compiled else copied(self.simulator)
        if simulator is not None:
            self.kernel.rehearse(self.q_table, simulator, self.actions, self.parameters(), self.episode)

    def _submit(self, pool, batch: Batch, snapshot):
        """Send a batch on its way, to be collected on a snapshot: the call for the next one."""
        episodes, collector = batch.last - batch.first, batch.number % self.cw_num
        collected = pool.submit("collector", collector, "collect", snapshot, batch.first, episodes)
        return pool.submit("server", 0, "learn", collected)

    def _commit(self, batch: Batch, snapshot: Snapshot) -> None:
        """Take over what a batch led to: the one place where a run changes what was learned."""
        q_table = following(self._learned.q_table, snapshot.q_table)
        recent = (*self._tables_to_act_on()[1:], q_table)
        self._learned = Learned(q_table, batch.last, snapshot.steps, recent)
        self.batches += 1
        before, self.cost = self.cost, self.cost.plus(snapshot.cost)
        size = 8 * math.prod(self._shape)
        if before.sent // size < self.cost.sent // size:
            whole(recent[0])  # once a table's worth of changes has come in, those before are dropped

    def _keep_test(self, episode: int, mean: float, seconds: float) -> None:
        """Take over the result of a test."""
        self.rewards[episode] = mean
        self.cost = self.cost.plus(Cost(evaluate=seconds))

    def _snapshots(self) -> list[Snapshot]:
        """What the next batches are collected on, `lag` of them; the server starts from the last."""
        return [Snapshot(whole(q_table), self.steps) for q_table in self._tables_to_act_on()]

    def _tables_to_act_on(self) -> tuple:
        """The tables that the next batches are collected on, `lag` of them, the latest last."""
        recent = self._learned.recent[-self.lag :] or (self._learned.q_table,)
        return (recent[0],) * (self.lag - len(recent)) + recent

    def _own_arrays(self) -> None:
        """Copy what came from Ray: its arrays are read-only, and fill its store for as long as they are held.

        The latest table is the one that a user gets, and may change in place.
        """
        q_table = np.array(self.q_table)
        older = self._learned.recent[:-1]
        recent = *(table if isinstance(table, Version) else np.array(table) for table in older), q_table
        self._learned = self._learned._replace(q_table=q_table, recent=recent)
        self._untested = {episode: np.array(q_table) for episode, q_table in self._untested.items()}

    @contextlib.contextmanager
    def _pool(self, do_test: bool):
        """The pool of a run, once its processes know what to hold."""
        pool = self.workers or shared_workers(self.cw_num, self.ew_num if do_test else 0)
        settings = self._worker_settings()
        options = {
            "server": {"behind": self.behind if 8 * math.prod(self._shape) > LARGE else None},
            # A collector's batch is replayed before the table of the batch `in_flight` - 1 of its own later is there.
            "collector": {"ships": pool.ships, "logs": self.in_flight - 1},
            "evaluator": {},
        }
        makers = {
            name: functools.partial(_play, role, self.single, self.kernel, self.simulator, settings, options[name])
            for name, role in self.roles.items()
        }
        with pool.run(makers):
            yield pool

    def _worker_settings(self) -> dict:
        """The settings of the workers' agents, as they stand now."""
        own = settings_of(self)
        return {name: own[name] for name in own if hasattr(self.single, name)} | {"compiled": self.compiled}

    def _check_settings(self) -> None:
        super()._check_settings()
        if type(self).kernel is not DistributedQLAgent.kernel:
            raise TypeError(
                f"{type(self).__name__}.kernel must not be set, since its workers learn by the kernel of `single`, "
                f"{self.single.__name__}: set `single` alone"
            )
        self._check_rule()
        instead = "workers learn by the kernel of `single` and test its greedy policy: give it a td.Rule(update)"
        refuse_overrides(type(self), DistributedQLAgent, ("learn", "evaluate"), instead)
        refuse_overrides(self.single, TDAgent, ("learn", "evaluate"), instead)
        refuse_rule_methods(type(self))
        refuse_rule_methods(self.single)
        if self.checkpoint is not None:
            check_writable("checkpoint", self.checkpoint)
        if self.do_test and self.ew_num == 0:
            raise ValueError("ew_num must be 1 or more where do_test is True, got 0")
        check_workers(self.workers, self.cw_num, self.ew_num * self.do_test)
        if isinstance(self.workers, Threads) and not self.compiled and acts_elsewhere(self.simulator):
            raise TypeError(
                "simulator must have the step and reset of its class, since each thread steps a copy, and what was put "
                "upon one acts on that one: take workers=td.InProcess(), or td.Workers()"
            )

    def _check_rule(self) -> None:
        """TypeError where the server could not replay."""
        if not isinstance(self.kernel, Rule) or self.kernel.needs_next_action:
            raise TypeError(
                f"{self.single.__name__} cannot be replayed by a server: its update needs the next action of the "
                "policy that acted, which the server's table no longer follows. Let its workers learn for themselves: "
                "beyond.FederatedSARSAAgent, or a FederatedQLAgent with `single` set to it"
            )

    def _warn_of_cut_batches(self) -> None:
        """Tell where tests make batches smaller than was asked for."""
        if self.do_test and self.episodes_a_batch > self.test_interval:
            warnings.warn(
                f"a batch of {self.episodes_a_batch} episodes is cut to {self.test_interval}, since a test follows "
                f"every {self.test_interval}: set test_interval, or do_test=False",
                stacklevel=3,
            )

    def _header(self) -> dict:
        return super()._header() | {name: getattr(self, name) for name in self.decisive}

    def _state(self) -> dict[str, np.ndarray]:
        untested = sorted(self._untested)
        tables = [self._untested[episode] for episode in untested]
        return super()._state() | {
            "recent": np.array([whole(table) for table in self._tables_to_act_on()]),
            "untested": np.array(untested, np.int64),
            "untested_q_tables": np.array(tables).reshape(-1, *self._shape),
        }

    def _restore(self, saved: Save) -> None:
        most = max(1000, self.lag, 2 * self.ew_num + 1)  # tables; a run by more processes may have left more of them
        recent = saved.read("recent", np.float64, (None, *self._shape), most)
        untested = saved.read_episodes("untested", most)
        q_tables = saved.read("untested_q_tables", np.float64, (len(untested), *self._shape))
        super()._restore(saved)
        # The latest is the one that a user gets, and may change in place.
        self._learned = self._learned._replace(recent=(*recent[:-1], self._learned.q_table))
        self._untested = dict(zip(untested.tolist(), q_tables, strict=True))
        for name in self.decisive:
            value, own = saved.header.get(name), getattr(self, name)
            if value != own:
                warnings.warn(
                    f"saved with {name}={value}, this agent has {own}: it goes on from what was learned, but to "
                    "another result than a run in one go",
                    stacklevel=4,
                )


# Pictures -----------------------------------------------------------------------------------


def as_lake(lake) -> FrozenLakeEnv:
    """A lake: itself, also from within wrappers, or made from a name of `MAPS` or from a map; TypeError for others."""
    inner = getattr(lake, "unwrapped", lake)
    if isinstance(inner, FrozenLakeEnv):
        return inner
    if hasattr(inner, "step"):
        raise TypeError(f"lake must be a FrozenLakeEnv, a name of MAPS or a map: others have no map, got {lake}")
    if isinstance(lake, np.ndarray) and lake.dtype.kind in "fiu":
        raise TypeError("lake must be a FrozenLakeEnv, a name of MAPS or a map, after the q_table: got numbers")
    return FrozenLakeEnv(map_name=lake) if isinstance(lake, str) else FrozenLakeEnv(lake)


def greedy_path(q_table: np.ndarray, lake) -> list[int]:
    """The states from S where the greedy policy leads if every move has its likeliest outcome; it ends before a loop.

    `lake` is a FrozenLakeEnv, a name of `MAPS`, or a map. The last state is a goal if the path leads to one.
    """
    lake = as_lake(lake)
    return [state for state in likeliest_path(lake.table, q_table) if state != lake.exit_state]


def _belief(q_table: np.ndarray, lake: FrozenLakeEnv, text: str = "") -> Belief:
    """What a table says of a lake's cells, as pictures show it: cells never updated have no action."""
    cells = check_q_table("q_table", q_table, lake.table.shape)[:-1]  # without the exit state
    learned = cells.any(axis=1).reshape(lake.desc.shape) & np.isin(lake.desc, [b"S", b"F"])
    values = cells.max(axis=1).reshape(lake.desc.shape)
    values = np.where(lake.desc == b"H", np.nan, values)  # holes would stretch the scale
    actions = np.where(learned, cells.argmax(axis=1).reshape(lake.desc.shape), -1)
    return Belief(values, actions, [divmod(state, lake.ncol) for state in greedy_path(q_table, lake)], text)


def plot_image(q_table: np.ndarray, lake, title: str = "Value and greedy policy"):
    """A lake's learned values as a heat map, the greedy actions as arrows and the likeliest path as a line: the figure.

    `lake` is a FrozenLakeEnv, a name of `MAPS`, or a map. Cells that were never updated carry no arrow; maps beyond
    4096 cells are shown without arrows, and thinned out to 1000 cells a side. Raises ValueError where `q_table` does
    not fit the lake.
    """
    lake = as_lake(lake)
    values, actions, path, _ = _belief(q_table, lake)
    return plot_grid(values, actions, lake.desc, title, path)


def animate(tables: dict[str, list[np.ndarray]], lake, episodes, seconds: float = 0.2) -> Film:
    """What learners believed of a lake, side by side: a film to be shown or saved as a GIF.

    `tables` maps a learner's name to its q_tables, one after each of `episodes` learned. Each picture has the exact
    value of the greedy policy below. Raises ValueError where their numbers differ.
    """
    lake = as_lake(lake)
    beliefs = {
        name: [_belief(table, lake, f"exact value {policy_value(lake.table, table)[0]:.0f}") for table in of_one]
        for name, of_one in tables.items()
    }
    alt = f"{' and '.join(tables)} while learning: the value of each cell, the greedy actions and the likeliest path"
    return Film(film(lake.desc, beliefs, [f"episode {episode:,}" for episode in episodes], seconds), alt)
