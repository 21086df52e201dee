"""The assignment: frozen lakes, Q-learning and SARSA on one core, and Q-learning distributed over Ray.

A lake (tabular/lake.py) becomes a transition table, agents learn from it or from the stepped env, exact values show how
well they learned, and collectors, evaluators and a server share the work. What an agent has learned is in
tabular/learner.py, how it learns and tests episodes in tabular/episodes.py, the update rules in tabular/kernels.py.
Every result is a function of the arguments: every random draw is seeded, and an episode's draws depend only on the seed
and the episode's number, never on how a run is split into batches.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from tqdm.auto import tqdm

from tabular.arguments import describe, names_checked, no_such_name, summary
from tabular.changes import LARGE, ChangeLog, Replica, frozen, materialized
from tabular.checks import (
    Setting,
    as_given,
    check_count,
    check_flag,
    check_number,
    check_q_table,
    count_between,
    one_of,
    setting_names,
    settings_of,
)
from tabular.displays import show_table
from tabular.episodes import EpisodeLearner
from tabular.exact import policy_value, value_iteration
from tabular.explore import explore
from tabular.files import AnyPath, check_writable
from tabular.grids import MAPS, generate_map, generate_random_map, generate_row
from tabular.gyms import gym
from tabular.kernels import (
    MAX_EPISODES,
    MAX_STEP,
    MAX_TESTS,
    MAX_TRIALS,
    POLICIES,
    action_range,
    explore_or_exploit,
    greedy_action,
    greedy_value,
    q_learning_episode,
    q_learning_update,
    sarsa_episode,
    sarsa_update,
)
from tabular.lake import DOWN, LEFT, RIGHT, UP, FrozenLakeEnv
from tabular.mistakes import in_few_lines, warn_caller
from tabular.pictures import animate, greedy_path, plot_image
from tabular.plan import Batch, Collected, Cost, Learned, Snapshot, plan, tables_to_act_on, with_own_arrays
from tabular.plots import COLORS, Film, color_of, plot_result, plot_timing, save_figure, show, show_source
from tabular.pool import InProcess, Lost, Pool, Reference, Workers, check_workers, shared_workers
from tabular.recording import Recorder
from tabular.returns import to_fill
from tabular.rules import Rule, q_learning, sarsa
from tabular.run import Recovery, Tests, dataflow
from tabular.saves import Checkpoints, Save
from tabular.session import start_ray
from tabular.simulators import (
    check_copies_act_apart,
    compiled_form,
    copied,
    name_of,
    rollout,
    shape_of,
    warn_if_unseeded,
)
from tabular.subclasses import refuse_overrides, refuse_rule_methods, refuse_settings
from tabular.tables import TransitionTable, samples_table
from tabular.threads import Threads
from tabular.timeline import plot_timeline
from tabular.trace import Span, Trace, Traced, save_trace
from tabular.unrewarded import LONG, warn_of_no_reward
from tabular.usage import Usage

__all__ = [
    # The assignment
    "gym", "LEFT", "DOWN", "RIGHT", "UP",
    "MAPS", "FrozenLakeEnv", "generate_row", "generate_map", "generate_random_map",
    "TDAgent", "QLAgent", "SARSAAgent", "QLAgentServer", "CollectingWorker", "EvaluationWorker", "DistributedQLAgent",
    "plot_image", "plot_result", "plot_timing",
    # Watching
    "rollout", "greedy_path", "animate", "Film", "show", "show_source", "show_table", "explore",
    "Span", "plot_timeline", "save_trace",
    # Building blocks, re-exported from tabular/
    "TransitionTable", "samples_table", "value_iteration", "policy_value",
    "Rule", "q_learning", "sarsa", "q_learning_update", "sarsa_update", "q_learning_episode", "sarsa_episode",
    "explore_or_exploit", "greedy_action", "greedy_value",
    "Batch", "Snapshot", "Cost", "plan", "InProcess", "Threads", "Workers", "start_ray",
    "COLORS", "color_of", "save_figure",
]  # fmt: skip


def __dir__() -> list[str]:
    """List the public names alone, for completion."""
    return [*__all__, *(name for name in globals() if name.startswith("__"))]


if not TYPE_CHECKING:  # or checkers of types would allow any name

    def __getattr__(name: str) -> NoReturn:
        """Raise AttributeError for a name that the module does not have, with those that it may mean."""
        raise AttributeError(no_such_name(__name__, name, () if name.startswith("_") else __all__))


# Agents on one core -----------------------------------------------------------------------


class TDAgent(EpisodeLearner):
    """Base class of Q-learning and SARSA: a table of action values, exploration, and learning with periodic tests.

    Settings may be assigned between calls, for example to decay epsilon; they are checked as at construction. Inside a
    loop over `learn_in_batches` assigning one raises RuntimeError. Bad arguments raise TypeError or ValueError before
    any work.

    A subclass sets its rule as `kernel`, or overrides `learn(self, episodes=None)` and `evaluate`, which
    `learn_and_evaluate` calls. Such a `learn` changes `q_table` in place, or assigns it, and adds what it learned to
    `steps` and, last, to `episode`. In the docstring of a subclass a section "Arguments:" is completed with the lines
    below of those arguments that it passes on.

    One thread uses an agent at a time; a second one gets a RuntimeError. A copy (`copy.copy`, `copy.deepcopy`, pickle)
    shares nothing that learning changes, so both may learn at the same time. A copy shares the original's `workers`; an
    unpickled one has none. No copy writes to the original's `checkpoint`.

    Arguments:
        simulator: a gym or gymnasium env with Discrete observations and actions that start at 0
        epsilon: the probability of exploring, which is a random action
        learning_rate: how far an update moves a value towards its target, from 0 to 1
        learning_episodes: how many episodes `learn_and_evaluate` learns
        test_interval: the number of episodes from one test of the greedy policy to the next
        trials: the number of episodes of a test; None: `test_interval`
        beta: the discount of a reward, for each step before it
        do_test: False to leave out the tests
        max_step: the number of steps after which an episode is truncated
        seed: the seed of every random draw; the same settings and seed give the same bits
        compiled: None compiles the simulator if it has a `TransitionTable`, and else steps it; False always steps it;
            True raises ValueError if it has none
        initial_value: what all action values start at
        ties: which of the actions that tie for the highest value it takes while it learns: the "lowest", or one at
            "random"; tests and `greedy_policy` take the lowest
        keep_returns: True to keep the return of each episode learned in `returns`
        continuing: True for a task without an end: an episode that `max_step` truncates goes on as the next one, in the
            state where it stopped. A stepped env is then not reset, and nothing else may step it between calls; tests
            step a copy. It is reset when it terminates or truncates an episode itself, as a TimeLimit does, and, with a
            warning, after `load` or an interrupt

    Attributes:
        q_table: the action values, float64, (states, actions); may be assigned
        episode: the number of episodes learned so far
        steps: the number of steps learned so far
        rewards: a dict from the episode of each test to its mean discounted return
        returns: with `keep_returns` the undiscounted return of each episode learned, float64; else None
        compiled: whether the simulator is compiled
    """

    agent_name = "TD agent"
    kernel: Rule = None  # type: ignore[assignment]  # a subclass has one, unless it overrides learn
    result_settings: tuple[str, ...] = ()  # of a distributed agent: further settings that the result depends on

    epsilon = Setting(check_number)
    learning_rate = Setting(check_number)
    learning_episodes = Setting(count_between(1, MAX_EPISODES))
    test_interval = Setting(count_between(1, MAX_EPISODES))
    trials = Setting(count_between(1, MAX_TRIALS))
    beta = Setting(check_number)
    do_test = Setting(check_flag)
    max_step = Setting(count_between(1, MAX_STEP))
    seed = Setting(count_between(0, 2**63 - 1))
    ties = Setting(one_of(*POLICIES))
    keep_returns = Setting(check_flag)
    continuing = Setting(check_flag)

    @names_checked
    def __init__(
        self, simulator: Any, epsilon: float = 0.3, learning_rate: float = 0.001, learning_episodes: int = 30_000, *,
        test_interval: int = 100, trials: int | None = None, beta: float = 0.999, do_test: bool = True,
        max_step: int = 1000, seed: int = 0, compiled: bool | None = None, initial_value: float = 0.0,
        ties: str = "lowest", keep_returns: bool = False, continuing: bool = False,
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
        self.ties = ties
        self.keep_returns = keep_returns
        self.continuing = continuing
        self._place: np.ndarray | None = None  # as in `Learned`, while learning; a stepped env stands there
        compiled = compiled if compiled is None else check_flag("compiled", compiled)
        self._shape = shape_of(simulator)
        self._table, self._time_limit = compiled_form(simulator, compiled)
        self._simulator = simulator
        self.actions = action_range(self._shape[1])
        self._usage = Usage()
        self._random = random.Random(self.seed)  # for explore_or_exploit_policy alone
        initial_value = check_number("initial_value", initial_value, -1e300, 1e300)
        self._learned = Learned(np.full(self._shape, initial_value), episode=0, steps=0)
        self.rewards: dict[int, float] = {}
        self._check_settings()

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Complete the docstring; raise TypeError if the class body sets a setting, which the constructor would set."""
        super().__init_subclass__(**arguments)
        refuse_settings(cls)
        describe(cls)

    def __repr__(self) -> str:
        settings = summary(self, "epsilon", "learning_rate", *self.result_settings)
        until = settings.pop("learning_episodes", self.learning_episodes)
        parts = [name_of(self.simulator), *(f"{name}={value!r}" for name, value in settings.items())]
        parts += [] if self.compiled else ["stepped"]
        of = f" of {until:,}" if self.episode <= until else ""
        return f"{type(self).__name__}({', '.join(parts)}, {self.episode:,}{of} episodes learned)"

    def greedy_policy(self, state: int) -> int:
        """The action with the highest value in `state`; ties go to the lowest action."""
        return int(np.argmax(self.q_table[state]))

    def explore_or_exploit_policy(self, state: int) -> int:
        """A random action with probability epsilon, else the greedy one; `ties` breaks ties."""
        act = POLICIES[self.ties]
        return act(self.q_table[state].tolist(), self.actions, self.epsilon, self._random.random())

    @in_few_lines()
    @names_checked
    def learn(self, episodes: int | None = None) -> None:
        """Learn `episodes` more episodes (None: one test interval). An interrupt leaves the agent as it was."""
        self._check_settings()
        self._rehearse()
        episodes = self._episodes_asked_for(episodes)
        with self._usage.by_this_thread():
            q_table, before = self.q_table.copy(), self._learned
            returns = to_fill(episodes, self.keep_returns)
            self._set_out()
            steps = self.steps + self.learn_on(q_table, before.episode, episodes, None, returns)
            kept, place = before.returns.plus(returns), self._place
            self._learned = Learned(q_table, before.episode + episodes, steps, returns=kept, place=place)
        self._warn_if_unrewarded(before.episode)

    @in_few_lines()
    @names_checked
    def evaluate(self, policy: Callable | None = None, trials: int = 100, max_steps: int = 1000) -> float:
        """Return the mean discounted return of `policy(state)` (None: the greedy policy) over `trials` trials.

        The simulator's draws are those of the test after the current episode, so a deterministic policy gets the same
        value every time.
        """
        if policy is not None and not callable(policy):
            raise TypeError(f"policy must be a function of a state, got {policy!r}")
        trials = check_count("trials", trials, 1, MAX_TRIALS)
        max_steps = check_count("max_steps", max_steps, 1, MAX_STEP)
        with self._usage.by_this_thread():
            return self.evaluate_on(self.q_table, self.episode, trials, max_steps, policy)

    @in_few_lines()
    @names_checked
    def learn_and_evaluate(self, progress: bool = True) -> tuple[list[float], np.ndarray]:
        """Learn up to `learning_episodes`, testing as it goes; return (total_rewards, q_table).

        `total_rewards` has the greedy policy's mean discounted return for each finished test
        interval: none with `do_test=False`, or for intervals that `learn` passed (`rewards` has
        the episodes). Called again after an interrupt, it continues where it stopped.
        """
        progress = check_flag("progress", progress)
        self._check_settings()
        until = self.learning_episodes
        start = min(self.episode, until)
        # The bar appears after two seconds.
        shown = {"desc": self.agent_name, "unit": "episode", "delay": 2, "disable": not progress}
        with self._usage.by_this_thread(), tqdm(initial=start, total=until, **shown) as bar:
            for _ in self._run(until, self.do_test):
                bar.update(self.episode - bar.n)
        return self.total_rewards, self.q_table.copy()

    def _run(self, until: int, do_test: bool) -> Iterator[Batch | None]:
        """Learn up to episode `until`, with a test after every interval; yield after each."""
        while True:
            self._test_if_due(do_test)
            before = self.episode
            if before >= until:
                return
            rest = self.test_interval - before % self.test_interval
            self.learn(min(rest, until - before))
            if self.episode <= before:
                must = f"{type(self).__name__}.learn must add to self.episode what it learned"
                raise RuntimeError(f"{must}, got {self.episode} after {before}")
            yield None

    def _test_if_due(self, do_test: bool) -> None:
        """Test the greedy policy if a test is due."""
        if do_test and self._test_is_due():
            mean = self.evaluate(trials=self.trials, max_steps=self.max_step)
            most = sys.float_info.max
            self.rewards[self.episode] = check_number("what evaluate returns", mean, -most, most)

    def _test_is_due(self) -> bool:
        """Whether the current table is due for a test."""
        return self.episode > 0 and self.episode % self.test_interval == 0 and self.episode not in self.rewards

    def _episodes_asked_for(self, episodes: int | None) -> int:
        """Return the number of episodes that `learn` was called for."""
        return self.test_interval if episodes is None else check_count("episodes", episodes, 0, MAX_EPISODES)

    def _check_settings(self) -> None:
        """Raise TypeError or ValueError if the settings conflict; each was checked by itself when it was assigned."""
        if not isinstance(self.kernel, Rule | None):
            raise TypeError(f"kernel must be a Rule, td.Rule(update), got {self.kernel!r}")
        if self.kernel is not None:
            self.kernel.with_ties(self.ties)
        if type(self).learn is TDAgent.learn:
            refuse_rule_methods(type(self), vars(self))
        instead = "runs act by their rule: set kernel = td.Rule(update, policy=...), or call evaluate(policy=...)"
        refuse_overrides(type(self), TDAgent, ("greedy_policy", "explore_or_exploit_policy"), instead, vars(self))
        if self.do_test and self.learning_episodes // self.test_interval >= MAX_TESTS:
            raise ValueError(f"test_interval must leave fewer than {MAX_TESTS} tests, got {self.test_interval!r}")

    def _rehearse(self) -> None:
        """Warn, before anything is learned, if the results will not be reproducible."""
        if not self.compiled:
            warn_if_unseeded(self.simulator)

    def _warn_if_unrewarded(self, before: int) -> None:
        """Warn, once, if many episodes were learned, `before` of them earlier, and no reward other than 0 was seen."""
        if before < LONG <= self.episode and self.learning_rate > 0 and not (self.kernel.idle or self.q_table.any()):
            warn_of_no_reward(self.ties)


class QLAgent(TDAgent):
    """Q-learning: off-policy, learns the value of the greedy policy however it explores."""

    agent_name = "Q-learning agent"
    kernel = q_learning


class SARSAAgent(TDAgent):
    """SARSA: on-policy, learns the value of the policy that it follows, exploring included."""

    agent_name = "SARSA agent"
    kernel = sarsa


# Distributed ------------------------------------------------------------------------------
# The roles are plain classes, which can be read and run without Ray. What a collector or an evaluator returns depends
# only on the arguments, and the agent has the server's q_table after every batch, so any call can be sent again. (Large
# q_tables travel as changes, see `tabular.changes`; after a loss whole ones are sent first.)
#
#     q[i] = server.learn(collector[i % cw_num].collect(q[i - lag], batch i))     lag: cw_num * (in_flight - 1)
#     rewards[test] = evaluator[test % ew_num].evaluate(q at the test, test)


class CollectingWorker:
    """A collector: acts on a copy of the q_table, keeps updating it, returns the transitions.

    If it did not update its copy, equal values could lead it into the same wall until the step
    limit. `recorder` has the arguments of its `Recorder`.
    """

    def __init__(self, agent: TDAgent, **recorder: Any):
        self.agent, self.replica = agent, Replica()
        self.recorder = Recorder(agent.parameters().max_step, **recorder)

    def collect(self, snapshot: Snapshot, first: int, episodes: int) -> Collected:
        """Return the experience of `episodes` episodes from number `first`."""
        start = time.perf_counter()
        q_table = self.replica.take(snapshot.q_table, snapshot.steps)
        learn = functools.partial(self.agent.learn_on, q_table)
        returns = to_fill(episodes, self.agent.keep_returns)
        pairs, rewards = self.recorder.record(learn, first, episodes, returns)
        self.replica.learned = pairs
        return Collected(pairs, rewards, time.perf_counter() - start, returns)


class QLAgentServer:
    """The learner: replays experience on its own q_table, and takes the max from that table."""

    def __init__(self, agent: TDAgent, behind: int | None = None):
        self.agent = agent
        self.behind = behind  # see `ChangeLog`; None sends whole q_tables

    def begin(self, snapshot: Snapshot) -> None:
        """Start from a snapshot with a whole q_table."""
        self.q_table = check_q_table("q_table", snapshot.q_table, self.agent.q_table.shape)
        self.steps = snapshot.steps
        self.changes = ChangeLog(self.q_table, self.steps, self.behind)

    def learn(self, collected: Collected) -> Snapshot:
        """Replay a batch, and return the snapshot after it."""
        start, agent = time.perf_counter(), self.agent
        pairs, rewards = collected.pairs, collected.rewards
        task = pairs, rewards, agent.actions, agent.parameters()
        self.steps += agent.kernel.replay(self.q_table, *task)
        seconds = time.perf_counter() - start
        q_table = self.changes.send(pairs, self.steps)
        cost = Cost(collected.seconds, seconds, bytes=collected.nbytes, sent=q_table.nbytes)
        return Snapshot(q_table, self.steps, cost, collected.returns)


class EvaluationWorker:
    """An evaluator: tests the greedy policy of a q_table."""

    def __init__(self, agent: TDAgent):
        self.agent = agent

    def evaluate(self, q_table: np.ndarray, episode: int) -> tuple[float, float]:
        """Return (mean discounted return, seconds) of the test after `episode`."""
        start, agent = time.perf_counter(), self.agent
        mean = agent.evaluate_on(np.array(q_table), episode, agent.trials, agent.max_step)
        return mean, time.perf_counter() - start


def _play(
    role: Callable, agent_class: type[TDAgent], kernel: Rule, simulator: Any, settings: dict, options: dict
) -> Any:
    """Make a worker that plays a role, with its own agent."""
    agent = agent_class(simulator, **settings)
    agent.kernel = kernel  # the driver's, which may have been assigned; a class imported here has its file's
    return role(agent, **options)


NOT_CALLED_BY_RUNS = "learn", "evaluate", "learn_on", "evaluate_on", "parameters"  # a distributed agent's methods


class DistributedQLAgent(QLAgent):
    """Q-learning with `cw_num` collectors, `ew_num` evaluators and one server, over Ray.

    Each batch of `batch_size` episodes is collected on the q_table from `cw_num` batches earlier, and batches are
    replayed in order. With `do_test` they are truncated at tests. So the result depends only on the settings (cw_num,
    batch_size, in_flight and, with `do_test`, test_interval among them), even if processes are killed. With one
    collector it equals `QLAgent`'s, bit for bit. Everything else is as in `QLAgent`.

    This describes `in_flight=2`, the default and the minimum: each collector has two batches in flight, one being
    collected and one waiting for its table. Each further batch hides more of a slow network's latency, but batches are
    then collected on tables that are another `cw_num` batches older.

    A process that dies, or has not answered for `patience` seconds (or twice the longest batch so far, if that is
    longer), is replaced, and its work sent again. A run raises RuntimeError if the same work is lost more than 5 times
    in a row, or a process cannot be reached for `patience` seconds, with nothing learned or tested meanwhile; what was
    learned is kept. If a save to `checkpoint` fails, a warning says so, and the run continues.

    Arguments:
        cw_num: the number of collectors
        ew_num: the number of evaluators
        batch_size: the number of episodes per batch
        in_flight: the number of batches that each collector has in flight, 2 or more
        workers: the processes: a `Workers`, or `Threads()` or `InProcess()`, which need no Ray; None: those that all
            runs of a session share, which the first run starts
        patience: the seconds after which a process that has not answered is replaced
        checkpoint: the path to which the agent is saved while it learns, and when a run ends; None: it is not saved
        checkpoint_seconds: the seconds from one save to the next
        trace: whether runs are traced, for `plot_timeline` and `save_trace`

    Attributes:
        restarts: the number of processes replaced
        batches: the number of batches learned
        cost: the total `Cost`: seconds of each role, and bytes sent
        trace: the calls of the latest run, a list of `Span`s; None unless runs are traced
    """

    agent_name = "Distributed Q-learning"
    single: type[TDAgent] = QLAgent  # the class of the workers' agents
    result_settings = ("cw_num", "batch_size", "in_flight")
    roles: dict[str, type] = {"server": QLAgentServer, "collector": CollectingWorker, "evaluator": EvaluationWorker}

    workers = Setting(as_given)
    checkpoint = Setting(as_given)
    cw_num = Setting(check_count)
    ew_num = Setting(count_between(0, 2**40))
    batch_size = Setting(check_count)
    in_flight = Setting(count_between(2, 1000))
    patience = Setting(functools.partial(check_number, low=0.001, high=math.inf))
    checkpoint_seconds = Setting(functools.partial(check_number, high=math.inf))

    def __init__(
        self, simulator: Any, epsilon: float = 0.3, learning_rate: float = 0.001, learning_episodes: int = 30_000, *,
        cw_num: int = 4, ew_num: int = 4, batch_size: int = 100, in_flight: int = 2, workers: Pool | None = None,
        patience: float = 180.0, checkpoint: AnyPath | None = None, checkpoint_seconds: float = 60.0,
        trace: bool = False, **settings: Any,
    ):  # fmt: skip
        self.cw_num = cw_num
        self.ew_num = ew_num
        self.batch_size = batch_size
        self.in_flight = in_flight
        self.workers = workers
        self.patience = patience
        self.checkpoint = checkpoint
        self.checkpoint_seconds = checkpoint_seconds
        self._trace = Trace() if check_flag("trace", trace) else None
        super().__init__(simulator, epsilon, learning_rate, learning_episodes, **settings)
        self.restarts, self.batches, self.cost = 0, 0, Cost()
        self._untested: dict[int, np.ndarray] = {}  # episode: the q_table to test, until its result is in
        self._warn_of_truncated_batches()

    @property
    def kernel(self) -> Rule:  # type: ignore[override]  # cannot be assigned, unlike the workers'
        """The workers' rule."""
        return self.single.kernel

    @property
    def trace(self) -> list[Span] | None:
        """The calls of the latest run, in the order of sending; None unless constructed with `trace=True`.

        A run replaces the trace of the run before, and a save has none. Within a loop over `learn_in_batches` the trace
        has the calls so far.
        """
        return None if self._trace is None else self._trace.spans()

    @property
    def lag(self) -> int:
        """The lag of tables in batches: batch i is collected on the table after batch i - lag."""
        return self.cw_num * (self.in_flight - 1)

    @property
    def behind(self) -> int:
        """How many batches apart the tables are that a collector is sent."""
        return self.cw_num

    @property
    def episodes_a_batch(self) -> int:
        """The number of episodes per batch, unless a test truncates it."""
        return self.batch_size

    @in_few_lines()
    @names_checked
    def learn(self, episodes: int | None = None) -> None:
        """Learn `episodes` more episodes (None: one test interval). Stopping within a batch changes later results."""
        for _ in self.learn_in_batches(episodes):
            pass

    @names_checked
    def learn_in_batches(self, episodes: int | None = None) -> Iterator[Batch]:
        """Learn `episodes` more episodes (None: one test interval), and yield each batch when it is learned.

        `q_table`, `steps` and `cost` then include the batch; the table is read-only until the run ends.
        """
        with in_few_lines():
            self._check_settings()
            yield from self._run(self.episode + self._episodes_asked_for(episodes), do_test=False)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"checkpoint": None}  # or a copy would overwrite the original's

    def _run(self, until: int, do_test: bool) -> Iterator[Batch]:
        """Learn up to episode `until`, replacing processes that die; an interrupt keeps what was learned."""
        if do_test and self._test_is_due():
            self._untested.setdefault(self.episode, self.q_table)
        if self.episode >= until and not (do_test and self._untested):
            return
        self._rehearse()
        checkpoints = Checkpoints(self.save, self.checkpoint, self.checkpoint_seconds)
        with self._usage.by_this_thread(in_batches=True), self._pool(do_test) as pool, checkpoints:
            recovery = Recovery(pool, self.patience)
            tests = Tests(pool, recovery, self.ew_num, self._untested if do_test else {}, self._keep_test)
            try:
                for batch, snapshot in self._learned_batches(pool, recovery, until):
                    self._commit(batch, snapshot)
                    recovery.succeeded()
                    self._warn_if_unrewarded(batch.first)
                    if do_test and self._test_is_due():
                        tests.add(self.episode, self.q_table)
                    checkpoints.write_if_due()
                    yield batch
                tests.finish()
            finally:
                self.restarts += recovery.replaced
                self._own_arrays()

    def _learned_batches(self, pool: Pool, recovery: Recovery, until: int) -> Iterator[tuple[Batch, Snapshot]]:
        """Yield each batch up to episode `until`, in order, with the snapshot after it.

        When a call is lost, all batches that are not committed yet are sent again.
        """
        before, test_interval = self.batches, self.test_interval if self.do_test else None
        while self.episode < until:
            batches = plan(self.episode, until, self.episodes_a_batch, test_interval, self.batches - before)
            try:
                yield from dataflow(pool, recovery, batches, self._snapshots(), self._submit)
            except Lost as lost:
                recovery.recover(lost)

    def _rehearse(self) -> None:
        """Also rehearse a new rule in this process, since a worker's warnings are not shown."""
        super()._rehearse()
        rule = None if self.kernel is None else self.kernel.with_ties(self.ties)
        if rule is None or rule.tried:
            return
        simulator = self._table if self.compiled else copied(self.simulator)
        if simulator is not None:
            rule.rehearse(self.q_table, simulator, self.actions, self.parameters(), self.episode)

    def _submit(self, pool: Pool, batch: Batch, snapshot: Any) -> Reference:
        """Submit a batch to be collected and learned; return the call for the next snapshot."""
        episodes, collector = batch.last - batch.first, batch.number % self.cw_num
        collected = pool.submit("collector", collector, "collect", snapshot, batch.first, episodes)
        return pool.submit("server", 0, "learn", collected)

    def _commit(self, batch: Batch, snapshot: Snapshot) -> None:
        """Commit a batch's result; nothing else changes the learned state during a run."""
        self._learned = self._learned.after(batch, snapshot, self.lag)
        self.batches += 1
        self.cost = self.cost.plus(snapshot.cost)

    def _keep_test(self, episode: int, mean: float, seconds: float) -> None:
        """Store the result of a test."""
        self.rewards[episode] = mean
        self.cost = self.cost.plus(Cost(evaluate=seconds))

    def _snapshots(self) -> Sequence[object]:
        """Return the snapshots that the next `lag` batches are collected on; the server starts from the last."""
        q_tables = tables_to_act_on(self._learned, self.lag)
        return [Snapshot(frozen(materialized(q_table)), self.steps) for q_table in q_tables]

    def _own_arrays(self) -> None:
        """Copy the arrays that came from Ray: they are read-only, and occupy its store while they are referenced."""
        self._learned = with_own_arrays(self._learned)
        self._untested = {episode: np.array(q_table) for episode, q_table in self._untested.items()}

    @contextlib.contextmanager
    def _pool(self, do_test: bool) -> Iterator[Pool]:
        """Reserve the pool for a run, with the makers of its roles."""
        pool = self.workers or shared_workers(self.cw_num, self.ew_num if do_test else 0)
        if self._trace is not None:
            pool = Traced(pool)
            self._trace = pool.trace
        settings, kernel = self._worker_settings(), self.kernel.with_ties(self.ties)
        options: dict[str, dict[str, Any]] = {
            "server": {"behind": self.behind if 8 * math.prod(self._shape) > LARGE else None},
            # A log is in use until its batch is replayed. The collector's batch `in_flight` - 1 later waits for the
            # table after that replay, and so can use the same log again.
            "collector": {"ships": pool.ships, "logs": self.in_flight - 1},
            "evaluator": {},
        }
        makers = {
            name: functools.partial(_play, role, self.single, kernel, self.simulator, settings, options[name])
            for name, role in self.roles.items()
        }
        with pool.run(makers):
            yield pool

    def _worker_settings(self) -> dict[str, Any]:
        """Return the current settings for the workers' agents."""
        taken = setting_names(self.single)
        settings = {name: value for name, value in settings_of(self).items() if name in taken}
        return settings | {"compiled": self.compiled}

    def _check_settings(self) -> None:
        super()._check_settings()
        if type(self).kernel is not DistributedQLAgent.kernel:
            raise TypeError(
                f"{type(self).__name__}.kernel must not be set, since its workers learn by the kernel of `single`, "
                f"{self.single.__name__}: set `single` instead"
            )
        self._check_rule()
        if self.continuing:
            why = "batches are collected side by side, before it is known in which state the one before stops"
            raise ValueError(f"continuing must be False for a distributed agent, got True: {why}")
        instead = "workers learn by the kernel of `single` and test its greedy policy: give it a td.Rule(update)"
        refuse_overrides(type(self), DistributedQLAgent, NOT_CALLED_BY_RUNS, instead, vars(self))
        refuse_overrides(self.single, TDAgent, ("learn", "evaluate"), instead)
        by_the_agent = "workers do not know the agent's episode: assign its settings between calls of learn"
        refuse_overrides(self.single, TDAgent, ("parameters",), by_the_agent)
        refuse_rule_methods(type(self), vars(self))
        refuse_rule_methods(self.single)
        try:
            inspect.signature(self.single).bind(self.simulator, **dict.fromkeys(setting_names(TDAgent)))
        except TypeError as error:
            made = "must accept a simulator and the settings of TDAgent, since workers construct it with them"
            raise TypeError(f"{self.single.__name__} {made} ({error})") from None
        if self.checkpoint is not None:
            check_writable("checkpoint", self.checkpoint)
        if self.do_test and self.ew_num == 0:
            raise ValueError("ew_num must be 1 or more if do_test is True, got 0")
        check_workers(self.workers, self.cw_num, self.ew_num * self.do_test)
        if isinstance(self.workers, Threads) and not self.compiled:
            check_copies_act_apart(self.simulator)

    def _check_rule(self) -> None:
        """Raise TypeError if a server could not replay the rule."""
        if not isinstance(self.kernel, Rule) or self.kernel.needs_next_action:
            raise TypeError(
                f"{self.single.__name__} cannot be replayed by a server: its update needs the next action of the "
                "policy that acted, but the server's table has changed since. Let its workers learn on their own: "
                "beyond.FederatedSARSAAgent, or a FederatedQLAgent with `single` set to it"
            )

    def _warn_of_truncated_batches(self) -> None:
        """Warn if tests truncate batches."""
        if self.do_test and self.episodes_a_batch > self.test_interval:
            warn_caller(
                f"a batch of {self.episodes_a_batch} episodes is truncated to {self.test_interval}, as a test follows "
                f"every {self.test_interval}: set test_interval, or do_test=False"
            )

    def _header(self) -> dict[str, Any]:
        return super()._header() | {name: getattr(self, name) for name in self.result_settings}

    def _state(self) -> dict[str, Any]:
        untested = sorted(self._untested)
        tables = [self._untested[episode] for episode in untested]
        return super()._state() | {
            "recent": np.array([materialized(table) for table in tables_to_act_on(self._learned, self.lag)]),
            "untested": np.array(untested, np.int64),
            "untested_q_tables": np.array(tables).reshape(-1, *self._shape),
        }

    def _restore(self, saved: Save) -> None:
        most = max(1000, self.lag, 2 * self.ew_num + 1)  # q_tables; another agent's settings may have led to more
        recent = saved.read("recent", np.float64, (None, *self._shape), most)
        untested = saved.read_episodes("untested", most)
        q_tables = saved.read("untested_q_tables", np.float64, (len(untested), *self._shape))
        super()._restore(saved)
        # The last one is the table that users get, and may change in place.
        self._learned = self._learned._replace(recent=(*recent[:-1], self._learned.q_table))
        self._untested = dict(zip(untested.tolist(), q_tables, strict=True))
        for name in self.result_settings:
            value, own = saved.header.get(name), getattr(self, name)
            if value != own:
                warnings.warn(
                    f"saved with {name}={value}, this agent has {own}: it continues from what was learned, but the "
                    "result will differ from one uninterrupted run's",
                    stacklevel=4,
                )
