"""Dyna-Q: agents that count the transitions they see, and plan with the counts.

Q-learning learns from a step once. Dyna (Sutton 1990; Sutton and Barto, chapter 8) also learns a model from it, and
learns from the model between real steps. Here the model is counts, planning is prioritised sweeping with expected
updates (`planning`; with full sweeps it would be the adaptive real-time dynamic programming of Barto, Bradtke and Singh
1995), and initial values are optimistic, so that untried actions get tried (Brafman and Tennenholtz 2002).

When not to use it:

- Memory. A row of counts takes 32 bytes, and a pair has one per next state seen. A state of a lake, with 4 actions of
  up to 4 outcomes, takes up to 560 bytes (250 on 128 x 128 after 4 million steps), against 32 in a q_table.
- Many outcomes. In an env with a thousand outcomes per pair each backup of a pair reads a thousand rows, and each count
  searches them. Continuous rewards cost nothing extra, because only their sum is kept.
- Drift. No count is discarded, so planning uses an average over all time (Sutton and Barto 8.3). On Dangerous Hallway,
  with all actions rotated by a quarter turn after 2,000 episodes, the policy is within 5 of the optimum again after
  84,000 steps, against 7,000 for Q-learning at a rate of 0.1, and 6,000 for Dyna-Q from scratch (medians of 5 seeds).
- An unlucky pair. What its first tries led to is trusted until exploration retries it. On one 64 x 64 lake with epsilon
  0.05, 12 of 16 seeds stay 7 to 13 below the optimum for 20 million steps: a pair near the start, which slips into a
  hole once in a hundred tries, had done so in its first 5 to 74, and looks 22 to 330 too poor. With epsilon 0.1 it is 7
  of 16 seeds, with epsilon 0.05 and a prior of 0.1 (see `DynaQAgent`) 6.
- Small simulators. A batch has an overhead of about 0.1 ms: on an 8 x 8 lake, Q-learning at its best rate needs four
  times the steps, but no more time.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tabular.checks import Setting, check_count, check_number, check_q_table, count_between
from tabular.files import AnyPath
from tabular.mistakes import in_few_lines
from tabular.plan import Batch, Cost, Snapshot, plan, tables_to_act_on
from tabular.pool import Pool, Reference
from tabular.returns import Returns, joined
from tabular.saves import Save
from tabular.simulators import compiled_form
from tabular.subclasses import refuse_overrides, refuse_rule_methods
from td_helpers import CollectingWorker, DistributedQLAgent, QLAgent, TDAgent

from .planning import COLUMNS, ROW, Model, Planner, count_steps, learn_counts, plan_anew, record_counts


class Planning(NamedTuple):
    """How to plan after a batch, and how far."""

    beta: float
    tolerance: float  # a state's value is not updated if it is off by no more than this
    planning_steps: int  # state values that may be updated per learning step
    prior: float  # imaginary outcomes per pair
    worth: float  # of each of them


class Counted(NamedTuple):
    """What a worker counted in a batch."""

    counts: np.ndarray  # ROW, a pair's outcomes in order of discovery
    seconds: float  # of acting and counting
    returns: np.ndarray | None = None  # of the episodes, if they are kept


class Planned(NamedTuple):
    """What an agent has learned: the fields of `Learned`, plus the counts and the planner's state."""

    q_table: np.ndarray  # float64, (states, actions)
    episode: int
    steps: int
    recent: tuple  # of a distributed agent: the tables that the next rounds act on, latest last
    planner: Planner  # of the same q_table
    planned_with: tuple[float, float] | None  # (beta, prior); None if the q_table was not planned, but assigned
    model: Model
    returns: Returns = Returns()
    place: np.ndarray | None = None  # as in `Learned`


class PlannedSnapshot(NamedTuple):
    """A `Snapshot`, with what a server needs to continue from it."""

    q_table: np.ndarray
    steps: int
    values: np.ndarray
    waiting: np.ndarray
    counts: np.ndarray  # ROW: the latest round's or, if a server starts from it, all
    cost: Cost = Cost()
    returns: np.ndarray | None = None


class DynaWorker:
    """A worker that acts as a collector does, and reports counts of the transitions it saw."""

    def __init__(self, agent: TDAgent, **recorder: Any):
        self.agent, self.collector = agent, CollectingWorker(agent, **recorder)
        self.model = Model.empty(*agent.q_table.shape)

    def collect(self, snapshot: Snapshot | PlannedSnapshot, first: int, episodes: int) -> Counted:
        """Act for `episodes` episodes from number `first`, and return the counts."""
        acts_on = Snapshot(snapshot.q_table, snapshot.steps)
        collected, start = self.collector.collect(acts_on, first, episodes), time.perf_counter()
        self.model = self.model.forgotten().with_room(len(collected.pairs))
        rewards = collected.rewards.astype(np.float64)
        count_steps(self.model, collected.pairs, rewards, len(self.agent.actions))
        return Counted(self.model.counts(), collected.seconds + time.perf_counter() - start, collected.returns)

    def q_table(self) -> np.ndarray:
        """Return the table as this worker's own learning left it after the last batch."""
        return self.collector.replica.copy


class DynaServer:
    """The learner: adds up the workers' counts, and plans."""

    def __init__(self, agent: TDAgent, behind: int | None = None):
        self.agent = agent  # `behind` is not used: q_tables are always sent whole

    def begin(self, snapshot: PlannedSnapshot) -> None:
        """Start from a snapshot that has all counts."""
        q_table = check_q_table("q_table", snapshot.q_table, self.agent.q_table.shape)
        self.model, self.latest = Model.of(snapshot.counts, *q_table.shape), snapshot._replace(q_table=q_table)

    def learn(self, planning: Planning, *reports: Counted) -> PlannedSnapshot:
        """Add a round's counts, in the order of the workers, plan, and return the snapshot after it."""
        start = time.perf_counter()
        counts = np.concatenate([report.counts for report in reports])
        self.model = self.model.with_room(len(counts))
        planner = Planner.of(self.latest.q_table, self.latest.values, self.latest.waiting).copy()
        learn_counts(self.model, planner, counts, *planning, np.zeros(1, np.bool_))
        seconds, waiting = time.perf_counter() - start, planner.waiting()
        cost = Cost(
            collect=sum(report.seconds for report in reports),
            replay=seconds,
            bytes=counts.nbytes,
            sent=sum(part.nbytes for part in (planner.q_table, planner.values, waiting, counts)),
        )
        steps = self.latest.steps + int(counts["count"].sum())
        returns = joined([report.returns for report in reports])
        self.latest = PlannedSnapshot(planner.q_table, steps, planner.values, waiting, counts, cost, returns)
        return self.latest


class _PlanningAgent(TDAgent):
    """Base class of the Dyna-Q agents: they keep counts, and recompute an assigned q_table from them where they can.

    Arguments:
        learning_rate: how far a Q-learning update, between plans, moves a value towards its target, from 0 to 1
        planning_steps: the number of state values that a plan may update per step learned; 0: no plan
        prior: how many imaginary outcomes, each worth `initial_value`, count in the value of a pair that was tried
        tolerance: how far a state's value may be off after a plan; None: a ten thousandth of the largest reward in
            the transition table, or of `initial_value` if there is none
        initial_value: what all action values start at; None: the highest reward in the transition table

    Attributes:
        counts: the transitions counted so far
    """

    _shown: tuple[np.ndarray, int] | None = None  # the q_table that the user was last given, with its checksum
    planning_steps = Setting(count_between(0, 2**30))
    tolerance = Setting(functools.partial(check_number, low=1e-300, high=math.inf))
    prior = Setting(functools.partial(check_number, high=1e6))

    def __init__(
        self, simulator: Any, epsilon: float = 0.05, learning_rate: float = 0.1, learning_episodes: int = 30_000, *,
        planning_steps: int = 50, prior: float = 0.0, tolerance: float | None = None,
        initial_value: float | None = None, **settings: Any,
    ):  # fmt: skip
        self.planning_steps = planning_steps
        self.prior = prior
        given = 0.0 if initial_value is None else initial_value
        super().__init__(simulator, epsilon, learning_rate, learning_episodes, initial_value=given, **settings)
        rewards = self._known_rewards()
        if initial_value is None:
            if rewards is None:
                raise ValueError(
                    "initial_value must be given if no transition table gives the rewards: use the highest possible "
                    f"return; got None for {simulator!r}"
                )
            self._learned = self._learned._replace(q_table=np.full(self._shape, rewards.max()))
        self._initial_value = float(self._learned.q_table[0, 0])
        self.q_table = self.q_table
        self._learned = self._learned._replace(planned_with=self._plans_with)  # there is nothing to plan with yet
        largest = np.abs(self.q_table if rewards is None else rewards).max()
        self.tolerance = (1e-4 * float(largest) or 1e-4) if tolerance is None else tolerance

    def _known_rewards(self) -> np.ndarray | None:
        """The rewards in the simulator's transition table; None if it has no table."""
        table = self._table
        if table is None:
            with contextlib.suppress(ValueError):
                table, _ = compiled_form(self.simulator, True)
        return None if table is None else table.rewards

    @property
    def initial_value(self) -> float:
        """What all pairs are worth before they are tried, and each of the prior's imaginary outcomes."""
        return self._initial_value

    @property
    def _plans_with(self) -> tuple[float, float]:
        """The settings that a pair's value depends on, besides the counts."""
        return self.beta, self.prior

    @property
    def counts(self) -> np.ndarray:
        """All counts: a structured array of pair, next_state, count and reward_sum.

        A pair is state * actions + action; a next_state equal to the number of states means that the episode
        terminated.
        """
        return self._learned.model.counts()

    @property
    def q_table(self) -> np.ndarray:
        """The action values, float64, (states, actions); read-only within a loop over `learn_in_batches`.

        An assigned q_table is checked, copied and planned with: pairs that were tried get the values that follow from
        the counts and the other values. One changed in place is treated likewise when the agent next learns or saves.
        """
        q_table = self._learned.q_table
        if self._usage.in_batches:
            q_table = q_table.view()
            q_table.flags.writeable = False
        elif self._shown is None or self._shown[0] is not q_table:
            self._shown = q_table, zlib.crc32(q_table.data)
        return q_table

    @q_table.setter
    def q_table(self, q_table: np.ndarray) -> None:
        self._before_change("q_table")
        self._assign(check_q_table("q_table", q_table, self._shape))

    def _assign(self, q_table: np.ndarray) -> None:
        """Replace the q_table with one that is not planned with yet."""
        planner, learned = Planner.unplanned(q_table), self._learned
        model = getattr(learned, "model", None) or Model.empty(*self._shape)
        returns, place = learned.returns, learned.place
        self._learned = Planned(q_table, learned.episode, learned.steps, (), planner, None, model, returns, place)
        self._shown = None

    @property  # type: ignore[misc]  # cannot be assigned, since it must equal the sum of the counts
    def steps(self) -> int:
        """The number of steps learned, all of which are in the counts."""
        return self._learned.steps

    # Counts are added in place. The compiled call that adds them also sets a switch, which selects the newer of two
    # versions of what was learned: an interrupt sees the old version or the new one, never a mixture.

    @property
    def _learned(self) -> Any:  # Planned, once it is constructed
        before, after, switch = self._versions
        return after if switch[0] else before

    @_learned.setter
    def _learned(self, learned: Any) -> None:
        self._versions = learned, learned, np.zeros(1, np.bool_)

    def _room_for(self, counts: np.ndarray) -> Model:
        """Grow the model to have room for `counts`, and return it."""
        model = self._learned.model.with_room(len(counts))
        self._learned = self._learned._replace(model=model)
        return model

    def _planning(self) -> Planning:
        return Planning(self.beta, self.tolerance, self.planning_steps, self.prior, self.initial_value)

    def _assign_changes(self) -> None:
        """Treat a q_table that was changed in place as assigned."""
        q_table = self._learned.q_table
        if self._shown is not None and self._shown[0] is q_table and self._shown[1] != zlib.crc32(q_table.data):
            self._assign(q_table.copy())

    def save(self, path: AnyPath) -> None:
        """Write all that resuming needs to one .npz file, as `TDAgent.save` does."""
        if not self._usage.in_batches:
            self._assign_changes()
        super().save(path)

    def _plan_anew(self) -> None:
        """Derive the values from the counts again if the q_table, beta or prior has changed."""
        self._assign_changes()
        learned = self._learned
        if learned.planned_with == self._plans_with or not self.planning_steps:
            return
        planner = learned.planner.copy()
        plan_anew(learned.model, planner, self.beta, self.tolerance, self.prior, self.initial_value)
        planned = {"q_table": planner.q_table, "planner": planner, "planned_with": self._plans_with}
        self._learned = learned._replace(recent=(), **planned)

    def _identity(self) -> dict[str, Any]:
        worth = {"initial_value": self.initial_value} if self.prior else {}
        return super()._identity() | {"prior": self.prior} | worth

    def _header(self) -> dict[str, Any]:
        is_planned = self._learned.planned_with == self._plans_with
        return super()._header() | {"planned_beta": self.beta if is_planned else None}

    def _state(self) -> dict[str, Any]:
        planner, counts = self._learned.planner, self.counts
        state = super()._state() | {"values": planner.values, "waiting": planner.waiting()}
        return state | {f"counts_{name}": counts[name] for name in COLUMNS}

    def _restore(self, saved: Save) -> None:
        states, actions = self._shape
        values = saved.read("values", np.float64, (states + 1,))
        waiting = saved.read("waiting", np.int32, (None,), states)
        pairs = saved.read("counts_pair", ROW["pair"], (None,), states * actions * (states + 1))
        counts = np.zeros(len(pairs), ROW)
        counts["pair"] = pairs
        for name in COLUMNS[1:]:
            counts[name] = saved.read(f"counts_{name}", ROW[name], counts.shape)
        _check_counts(counts, self._shape, saved.header.get("steps"))
        if len(np.unique(waiting)) != len(waiting) or not np.isin(waiting, np.arange(states)).all():
            raise ValueError("waiting must be distinct states")
        if values[-1] != 0.0:
            raise ValueError(f"values must end with 0, the value after an episode's end, got {values[-1]}")
        beta = saved.header.get("planned_beta")
        beta = beta if beta is None else check_number("planned_beta", beta)
        super()._restore(saved)
        planner, model = Planner.of(self._learned.q_table, values, waiting), Model.of(counts, states, actions)
        learned, planned_with = self._learned, None if beta is None else (beta, self.prior)
        state = learned.q_table, learned.episode, learned.steps, learned.recent, planner, planned_with, model
        self._learned = Planned(*state, learned.returns, learned.place)


class DynaQAgent(_PlanningAgent, QLAgent):
    """Dyna-Q on one core: acts for `batch_size` episodes, counts the transitions, plans, and acts on the plan.

    While it acts it also learns as Q-learning does, at `learning_rate`, or it would walk in circles until the next
    plan. After each batch (truncated at tests, with `do_test`) it plans from the counts, until no state's value is off
    by more than `tolerance` or `planning_steps` state values per learning step have been updated. `tolerance` should be
    well below the cost of a step, since smaller differences are ignored. `initial_value` should be the highest possible
    return; None raises ValueError if there is no transition table. Planning works with lower values, too, but the agent
    may then never try actions that are better than those it knows. With `planning_steps=0` nothing is planned, and
    `q_table` is what the agent's own Q-learning makes it. An interrupt leaves the agent as it was after a batch. The
    rest is as in `QLAgent`.

    A pair that was tried n times is worth (sum of rewards + beta * sum of the values that followed + `prior` *
    `initial_value`) / (n + `prior`). With a `prior` of 0 a pair that disappointed once is tried again only to explore;
    with 0.01 or 0.1 it is tried until others look better. `initial_value` then sets how much is explored, and may need
    to exceed any return: 25 times the highest one served best on SixArms with 0.01, where an arm may take a hundred
    tries, and 5 times with 0.1 (beyond/Report.md).

    Arguments:
        batch_size: the number of episodes from one plan to the next
    """

    agent_name = "Dyna-Q agent"

    batch_size = Setting(check_count)

    def __init__(self, *arguments: Any, batch_size: int = 10, **settings: Any):
        self.batch_size = batch_size
        super().__init__(*arguments, **settings)

    @in_few_lines()
    def learn(self, episodes: int | None = None) -> None:
        """Learn `episodes` more episodes (None: one test interval). Stopping within a batch changes later results."""
        for _ in self.learn_in_batches(episodes):
            pass

    def learn_in_batches(self, episodes: int | None = None) -> Iterator[Batch]:
        """Learn `episodes` more episodes (None: one test interval), and yield each batch when it is learned."""
        with in_few_lines():
            self._check_settings()
            yield from self._run(self.episode + self._episodes_asked_for(episodes), do_test=False)

    def _run(self, until: int, do_test: bool) -> Iterator[Batch]:
        """Learn up to episode `until`, with a test whenever one is due; yield after each batch."""
        with self._usage.by_this_thread(in_batches=True):
            self._rehearse()
            self._plan_anew()
            self._test_if_due(do_test)
            worker = DynaWorker(self)
            interval = self.test_interval if self.do_test else None
            for batch in plan(self.episode, until, self.batch_size, interval):
                snapshot = Snapshot(self.q_table, self.steps)
                self._set_out()
                counted = worker.collect(snapshot, batch.first, batch.last - batch.first)
                self._learn_counts(counted, batch.last, worker.q_table())
                self._test_if_due(do_test)
                yield batch

    def _check_settings(self) -> None:
        super()._check_settings()
        instead = "it learns from its counts: to act in another way set kernel = td.Rule(update, policy)"
        refuse_overrides(type(self), DynaQAgent, ("learn",), instead, vars(self))
        refuse_rule_methods(type(self), vars(self))

    def _learn_counts(self, counted: Counted, episode: int, q_table: np.ndarray) -> None:
        """Add the counts of the batch that ends before number `episode`, and plan.

        Without planning the agent's q_table is the given one, which its worker learned.
        """
        counts, plans = counted.counts, self.planning_steps > 0
        model, before, switch = self._room_for(counts), self._learned, np.zeros(1, np.bool_)
        planner = before.planner.copy() if plans else Planner.unplanned(q_table.copy())
        steps = before.steps + int(counts["count"].sum())
        after = before._replace(
            q_table=planner.q_table, episode=episode, steps=steps, planner=planner,
            planned_with=before.planned_with if plans else None, returns=before.returns.plus(counted.returns),
            place=self._place,
        )  # fmt: skip
        self._versions = before, after, switch
        if plans:
            learn_counts(model, planner, counts, *self._planning(), switch)
        else:
            record_counts(model, counts, switch)
        self._warn_if_unrewarded(before.episode)


def _check_shared_plan(name: str, value: Any) -> int:
    """Return a number of planning steps; raise ValueError for 0, with the reason."""
    steps = check_count(name, value, 0, 2**30)
    if steps == 0:
        raise ValueError(f"{name} must be 1 or more, got 0: workers' own tables are lost, only their counts are kept")
    return steps


class DistributedDynaQAgent(_PlanningAgent, DistributedQLAgent):
    """Dyna-Q with `cw_num` workers that act and count, and a server that adds up their counts, and plans.

    A round is `batch_size` episodes per worker, all from the latest table; with `do_test` it is truncated at tests.
    Counts add up exactly, in any order and from any number of workers: nothing is averaged. With one worker the result
    is `DynaQAgent`'s, bit for bit. With `in_flight=3` a round acts on the table from two rounds earlier, so that no
    worker waits for the slowest one or for the server. The rest is as in `DynaQAgent` and `DistributedQLAgent`, even if
    processes are killed: a snapshot carries its round's counts, and the agent keeps all counts for a new server.

    Arguments:
        cw_num: the number of workers
        batch_size: the number of episodes per worker and round, each of which ends with a plan
        in_flight: 2, or 3 and more to act on older tables, so that nobody waits
    """

    agent_name = "Distributed Dyna-Q"
    roles = {**DistributedQLAgent.roles, "server": DynaServer, "collector": DynaWorker}

    planning_steps = Setting(_check_shared_plan)

    def __init__(self, *arguments: Any, batch_size: int = 10, **settings: Any):
        super().__init__(*arguments, batch_size=batch_size, **settings)

    @property
    def lag(self) -> int:
        """The lag of tables in rounds: round i acts on the table after round i - lag."""
        return self.in_flight - 1

    @property
    def episodes_a_batch(self) -> int:
        """The number of episodes per round: a batch for each worker."""
        return self.batch_size * self.cw_num

    def _run(self, until: int, do_test: bool) -> Iterator[Batch]:
        with self._usage.by_this_thread():
            self._plan_anew()
        yield from super()._run(until, do_test)

    def _submit(self, pool: Pool, batch: Batch, snapshot: Any) -> Reference:
        """Have each worker act for an even share of the episodes, and the server add their counts, in their order."""
        if isinstance(snapshot, PlannedSnapshot):  # workers do not need its counts
            snapshot = snapshot._replace(counts=snapshot.counts[:0])
        reports = [
            pool.submit("collector", worker, "collect", snapshot, first, episodes)
            for worker, (first, episodes) in enumerate(batch.shares(self.cw_num))
            if episodes
        ]
        return pool.submit("server", 0, "learn", self._planning(), *reports)

    def _commit(self, batch: Batch, snapshot: Any) -> None:  # a PlannedSnapshot
        counts = np.array(snapshot.counts)
        model, before, switch = self._room_for(counts), self._learned, np.zeros(1, np.bool_)
        planner = Planner.of(snapshot.q_table, snapshot.values, snapshot.waiting)
        recent = (*tables_to_act_on(self._learned, self.lag)[1:], snapshot.q_table)
        planned_with, returns = before.planned_with, before.returns.plus(snapshot.returns)
        after = Planned(snapshot.q_table, batch.last, snapshot.steps, recent, planner, planned_with, model, returns)
        self._versions = before, after, switch
        record_counts(model, counts, switch)
        self.batches += 1
        self.cost = self.cost.plus(snapshot.cost)

    def _snapshots(self) -> list[Snapshot | PlannedSnapshot]:
        planner = self._learned.planner
        older = [Snapshot(q_table, self.steps) for q_table in tables_to_act_on(self._learned, self.lag)[:-1]]
        return [*older, PlannedSnapshot(self.q_table, self.steps, planner.values, planner.waiting(), self.counts)]

    def _own_arrays(self) -> None:
        super()._own_arrays()
        planner = self._learned.planner.copy()._replace(q_table=self._learned.q_table)
        self._learned = self._learned._replace(planner=planner)

    def _check_rule(self) -> None:
        """Accept any rule: workers act by it, but what is learned comes from the counts."""


def _check_counts(counts: np.ndarray, shape: tuple[int, int], steps: int | None) -> None:
    """Raise ValueError unless the counts are valid and sum to `steps`."""
    states, actions = shape
    in_range = (counts["pair"] >= 0) & (counts["pair"] < states * actions)
    in_range &= (counts["next_state"] >= 0) & (counts["next_state"] <= states) & (counts["count"] > 0)
    if not in_range.all() or counts["count"].sum() != steps:
        raise ValueError(f"counts must be of pairs and states in a q_table of shape {shape}, and sum to {steps} steps")
