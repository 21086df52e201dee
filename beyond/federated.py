"""Federated learning: workers that learn on their own, and a server that merges what they learned.

A server that replays every step is at most about three times as fast as one core, because replaying a step takes a
third of the time of learning it. Workers that ship what they learned, not what they saw, have no such limit
(Khodadadian et al. 2022).
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np

from tabular.changes import Replica
from tabular.checks import Setting, check_number
from tabular.kernels import cached_jit
from tabular.plan import Batch, Cost, Snapshot
from tabular.pool import Pool, Reference
from tabular.returns import joined, to_fill
from td_helpers import CollectingWorker, DistributedQLAgent, QLAgentServer, SARSAAgent, TDAgent


class Report(NamedTuple):
    """What a worker learned from the table that it started with."""

    pairs: np.ndarray | None  # int32, the pairs it visited, as state * actions + action; None if all are sent
    values: np.ndarray  # float64, its values of these pairs
    visits: np.ndarray  # int32, how often it updated each
    steps: int
    seconds: float
    returns: np.ndarray | None = None  # of its episodes, if they are kept

    @property
    def nbytes(self) -> int:
        """The number of bytes shipped."""
        return sum(part.nbytes for part in (self.pairs, self.values, self.visits, self.returns) if part is not None)


class CountingReplica(Replica):
    """A replica that also counts visits per pair; a worker resets them to 0 after each batch."""

    visits: np.ndarray

    def writable(self, q_table: np.ndarray) -> np.ndarray:
        """Return a writable copy of a table, and make `visits` of the same shape."""
        # A pair's count is next to its value, in the same cache line: counting then costs 5%, not 30%.
        row = np.dtype([("values", "f8", q_table.shape[1]), ("visits", "i4", q_table.shape[1])])
        rows = np.zeros(len(q_table), row)
        rows["values"], self.visits = q_table, rows["visits"]
        return rows["values"]


class FederatedWorker(CollectingWorker):
    """A worker that learns on a copy of the table, and reports values and visits."""

    replica: CountingReplica

    def __init__(self, agent: TDAgent, **options: Any):
        super().__init__(agent, **options)
        self.replica = CountingReplica()

    def learn(self, snapshot: Snapshot, first: int, episodes: int) -> Report:
        """Learn `episodes` episodes from number `first` on the snapshot's q_table, and report what changed."""
        start = time.perf_counter()
        q_table = self.replica.take(snapshot.q_table, snapshot.steps)
        visits = self.replica.visits
        returns = to_fill(episodes, self.agent.keep_returns)
        steps = self.agent.learn_on(q_table, first, episodes, visits, returns)
        pairs = visited(visits)
        places = np.divmod(pairs, q_table.shape[1])
        counts = visits[places]
        if counts.sum() != steps:
            raise RuntimeError(f"the rule counted {counts.sum()} of {steps} visits: nothing to merge by")
        if len(pairs) * 16 < q_table.size * 12:  # bytes per pair, with and without its number
            report = pairs, q_table[places], counts
        else:
            report = None, q_table.flatten(), visits.flatten()
        visits[places] = 0
        self.replica.learned = pairs
        return Report(*report, steps, time.perf_counter() - start, returns)


class FederatedServer(QLAgentServer):
    """A server that merges the workers' reports into its q_table."""

    def begin(self, snapshot: Snapshot) -> None:
        """Start from a snapshot with a whole q_table."""
        super().begin(snapshot)
        self.place = np.empty(self.q_table.size, np.int32)  # the index of a pair among a round's pairs

    def merge(self, learning_rate: float, *reports: Report) -> Snapshot:
        """Merge a round's reports, in the order of the workers, and return the snapshot after it."""
        start, table = time.perf_counter(), self.q_table.reshape(-1)
        given = [report.pairs for report in reports if report.pairs is not None]
        if len(given) < len(reports):
            pairs = np.arange(table.size, dtype=np.int32)
        else:
            pairs = self.changes.distinct(*given)
            self.place[pairs] = np.arange(len(pairs))
            reports = tuple(report._replace(pairs=self.place[report.pairs]) for report in reports)
        values = table[pairs]
        if len(reports) == 1:  # one worker has learned exactly what one core would have
            values[:] = reports[0].values
        else:
            self.combine(values, learning_rate, reports)
        table[pairs] = values
        self.steps += sum(report.steps for report in reports)
        seconds, changed = time.perf_counter() - start, self.changes.send(pairs, self.steps)
        cost = Cost(
            collect=sum(report.seconds for report in reports),
            replay=seconds,
            bytes=sum(report.nbytes for report in reports),
            sent=changed.nbytes,
        )
        return Snapshot(changed, self.steps, cost, joined([report.returns for report in reports]))

    def combine(self, values: np.ndarray, learning_rate: float, reports: tuple[Report, ...]) -> None:
        """Merge the reports of two or more workers into the old values, in place.

        `values` has an entry for each pair that any worker visited; the `pairs` of a report are indices into it.
        """
        targets, counts = np.zeros(values.size), np.zeros(values.size, np.int64)
        for report in reports:
            pairs = np.arange(values.size, dtype=np.int32) if report.pairs is None else np.array(report.pairs)
            # Copies, since Ray's arrays are read-only, a different type for which numba would compile again.
            add_report(
                values, targets, counts, pairs, np.array(report.values), np.array(report.visits),
                self.agent.learning_rate,
            )  # fmt: skip
        merge(values, targets, counts, learning_rate)


class FederatedQLAgent(DistributedQLAgent):
    """Q-learning on `cw_num` workers that learn on their own, and a server that merges what they learned.

    A round is `batch_size` episodes per worker, all from the same table; with `do_test` it is truncated at tests.
    Workers learn at `local_rate`, and the server merges by the formula of `federated.merge`. With one worker the result
    is the single-core agent's, bit for bit. The rest is as in `DistributedQLAgent`, even if processes are killed.
    `single`, the class of the workers' agents, may have any rule.

    Arguments:
        cw_num: the number of workers
        batch_size: the number of episodes per worker and round
        in_flight: 2, since each round starts where the last ends
        learning_rate: how far a merge moves a value towards its target for each visit, from 0 to 1
        cap: what `local_rate`, at which workers learn, may be raised to; None: cw_num / 100, clipped to 0.2 to 0.6
    """

    agent_name = "Federated Q-learning"
    roles = {**DistributedQLAgent.roles, "server": FederatedServer, "collector": FederatedWorker}

    cap = Setting(lambda name, value: None if value is None else check_number(name, value))

    def __init__(self, *arguments: Any, cap: float | None = None, **settings: Any):
        self.cap = cap
        super().__init__(*arguments, **settings)

    @property
    def lag(self) -> int:
        """The lag of tables in rounds: 1, since all workers start from the latest table."""
        return 1

    @property
    def behind(self) -> int:
        """How many rounds apart the tables are that a worker is sent: 1, since it is sent every one."""
        return 1

    @property
    def episodes_a_batch(self) -> int:
        """The number of episodes per round: a batch for each worker."""
        return self.batch_size * self.cw_num

    @property
    def local_rate(self) -> float:
        """The workers' learning rate: max(learning_rate, min(cap, 1 - (1 - learning_rate)**(1.5 * cw_num))).

        With the exponent cw_num, one visit by a worker would count as much as `cw_num` visits on a single core. On 64 x
        64 lakes at a learning rate of 0.01, 16 workers would then take 1.1 times a single core's steps; with 1.5 *
        cw_num they take 1.0 times. 64 workers take 2.0 times at a cap of 0.2, and 1.4 by default
        (beyond/figures/scaling.py). A small number of workers needs no cap above 0.2, so the cap grows with cw_num. A
        single core gains more if its own learning rate is raised by half.
        """
        if self.cw_num == 1 or self.learning_rate == 1.0:
            return self.learning_rate
        cap = min(0.6, max(0.2, self.cw_num / 100)) if self.cap is None else self.cap
        half = self.learning_rate / (1 + math.sqrt(1 - self.learning_rate))  # two updates at this rate equal one
        together = float(effective_rates(half, np.array([3 * self.cw_num]))[-1])
        return max(self.learning_rate, min(cap, together))

    def _submit(self, pool: Pool, batch: Batch, snapshot: Any) -> Reference:
        """Have each worker learn an even share of the episodes, and the server merge them."""
        reports = [
            pool.submit("collector", worker, "learn", snapshot, *share)
            for worker, share in enumerate(batch.shares(self.cw_num))
        ]
        return pool.submit("server", 0, "merge", self.learning_rate, *reports)

    def _worker_settings(self) -> dict:
        return super()._worker_settings() | {"learning_rate": self.local_rate}

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.in_flight != 2:
            raise ValueError(f"in_flight must be 2, since each round starts where the last ends, got {self.in_flight}")

    def _check_rule(self) -> None:
        """Accept any rule, since the workers learn by it and nothing is replayed."""


class FederatedSARSAAgent(FederatedQLAgent):
    """Federated SARSA: on-policy, since each worker's next action comes from its current table."""

    agent_name = "Federated SARSA"
    single = SARSAAgent


@cached_jit
def visited(visits):
    """Return the pairs that were visited."""
    found = np.empty(visits.size, np.int32)
    count = 0
    for state in range(visits.shape[0]):
        for action in range(visits.shape[1]):
            if visits[state, action] > 0:
                found[count] = state * visits.shape[1] + action
                count += 1
    return found[:count].copy()


@cached_jit
def effective_rates(rate, visits):
    """Return an array of 1 - (1 - rate)**n, the effective rate of n updates at `rate`, up to the largest of `visits`.

    Entry n is the value that n updates with target 1 reach from 0, in the arithmetic of the update rules. Sums and
    products have the same bits on every machine and in plain Python; a library's expm1 and pow do not.

    Entries never decrease, since nothing negative is added. They never exceed 1: at most 1 - entry is added, and
    the sum rounds to at most 1. Once an update changes nothing, no later one does. The array then ends, and its last
    entry, at most some 2**-54 / rate below 1, holds for all larger n.
    """
    most = 0
    for n in visits:
        most = max(most, n)
    updates, together = 0, 0.0
    while updates < most and together + rate * (1.0 - together) > together:
        together += rate * (1.0 - together)
        updates += 1
    rates = np.zeros(updates + 1)
    for n in range(updates):
        rates[n + 1] = rates[n] + rate * (1.0 - rates[n])
    return rates


@cached_jit
def add_report(old_values, targets, counts, pairs, values, visits, local_rate):
    """Add a report: its visits, and visits * change / effective rate, which is visits * (mean target - old value)."""
    rates = effective_rates(local_rate, visits)
    for i in range(len(pairs)):
        change = values[i] - old_values[pairs[i]]
        if change != 0.0:
            targets[pairs[i]] += visits[i] * change / rates[min(visits[i], len(rates) - 1)]
        counts[pairs[i]] += visits[i]


@cached_jit
def merge(values, targets, counts, learning_rate):
    """The retention-matched merge, in place.

    It retains as much of an old value as one core would after the same number of visits:

        Q = Q0 + (1 - (1 - alpha)**N) * sum of (n_m / N) * (Q_m - Q0) / (1 - (1 - a)**n_m),

    where N is the sum of the visits n_m. Dividing each change by its effective number of steps
    and scaling the sum by a common one is FedNova (Wang et al. 2020); weighting by visits is in
    Woo, Joshi and Chi (2023). Doing so per pair, with the retention of one core, was not found
    in print.
    """
    rates = effective_rates(learning_rate, counts)
    for pair in range(len(values)):
        n = counts[pair]
        if n > 0:
            values[pair] += rates[min(n, len(rates) - 1)] * targets[pair] / n
