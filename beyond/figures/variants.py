"""Other ways to merge what federated workers learned, and other ways for them to learn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import td_helpers as td
from beyond import FederatedQLAgent, FederatedSARSAAgent
from beyond.federated import FederatedServer, FederatedWorker, effective_rates

FEDERATED = {"Q-learning": FederatedQLAgent, "SARSA": FederatedSARSAAgent}

# Servers


class Averaging(FederatedServer):
    """Takes a mean of the workers' tables."""

    def combine(self, values, learning_rate, reports):
        tables, visits = side_by_side(values, reports)
        weights = self.weights(visits)
        values[:] = (weights * tables).sum(axis=0) / weights.sum(axis=0)

    def weights(self, visits) -> np.ndarray:
        """The weight of each worker's value of a pair, by its visits."""
        return np.ones_like(visits)


class ImportanceAveraging(Averaging):
    """Weights a value by one over what its worker kept of the old one (Woo, Joshi and Chi 2023)."""

    def weights(self, visits):
        most = visits.max(axis=0)  # all weights relative to the largest, which would overflow
        return 1 - together(self.agent.learning_rate, most - visits)


class AddingUp(FederatedServer):
    """Adds the workers' differences to the table."""

    def combine(self, values, learning_rate, reports):
        tables, _ = side_by_side(values, reports)
        values += (tables - values).sum(axis=0)


def together(rate: float, visits) -> np.ndarray:
    """The rate that `visits` updates amount to, 1 - (1 - rate)**visits, by sums and products: see `effective_rates`."""
    visits = np.asarray(visits, np.int64)
    rates = effective_rates(rate, visits.ravel())
    return rates[np.minimum(visits, len(rates) - 1)]


def side_by_side(values, reports) -> tuple[np.ndarray, np.ndarray]:
    """The workers' values of all pairs, and their visits: a row for each worker."""
    tables = np.tile(values, (len(reports), 1))
    visits = np.zeros(tables.shape)
    for i, report in enumerate(reports):
        pairs = slice(None) if report.pairs is None else report.pairs
        tables[i, pairs], visits[i, pairs] = report.values, report.visits
    return tables, visits


# Agents


class PowerOfOne(FederatedQLAgent):
    """With the local rate at which a worker's visit weighs as much as one visit of each on a single core."""

    @property
    def local_rate(self) -> float:
        power_of_one = float(together(self.learning_rate, self.cw_num))
        return min(power_of_one, 0.6, max(0.2, self.cw_num / 100))


class CapOf20(FederatedQLAgent):
    """With local rates of .2 at most, for any number of workers."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, cap=0.2, **settings)


class OwnEpsilon(FederatedWorker):
    """A worker that gets its epsilon with each round."""

    def learn(self, *arguments):
        *arguments, self.agent.epsilon = arguments
        return super().learn(*arguments)


class Telling(NamedTuple):
    """A pool that sends each worker its epsilon."""

    pool: object
    epsilons: np.ndarray

    def submit(self, role, i, method, *arguments):
        told = [self.epsilons[i]] if role == "collector" else []
        return self.pool.submit(role, i, method, *arguments, *told)


class Epsilons(FederatedQLAgent):
    """Workers that explore unequally: from a fifth of epsilon to four times it, in equal ratios."""

    roles = FederatedQLAgent.roles | {"collector": OwnEpsilon}

    def _submit(self, pool, batch, snapshot):
        epsilons = self.epsilon * np.geomspace(0.2, 4.0, self.cw_num)
        return super()._submit(Telling(pool, epsilons), batch, snapshot)


class Growing(FederatedQLAgent):
    """Rounds that grow by 5%, from a quarter of the batch size to four times it."""

    def learn_in_batches(self, episodes):
        size, most = self.batch_size / 4, self.batch_size * 4
        while True:
            self.batch_size, size = round(size), min(1.05 * size, most)
            yield from super().learn_in_batches(self.batch_size * self.cw_num)


class Averaged(FederatedQLAgent):
    """Tables merged by plain averaging, at the same local rate."""

    roles = FederatedQLAgent.roles | {"server": Averaging}


class ImportanceAveraged(FederatedQLAgent):
    """Tables merged by importance averaging, at the same local rate."""

    roles = FederatedQLAgent.roles | {"server": ImportanceAveraging}


class MeanTargets(FederatedWorker):
    """A worker that reports the mean target of each pair instead of its value."""

    def learn(self, *arguments):
        report = super().learn(*arguments)
        start = pair_values(self.replica.received, report)
        change, rates = report.values - start, together(self.agent.learning_rate, report.visits)
        return report._replace(values=start + np.divide(change, rates, out=change, where=change != 0))


class OneByOne(FederatedServer):
    """A server that merges each report as it arrives, into a table that has changed since it was sent."""

    def merge(self, learning_rate, report):
        rates, now = together(learning_rate, report.visits), pair_values(self.q_table, report)
        return super().merge(learning_rate, report._replace(values=now + rates * (report.values - now)))


class Asynchronous(FederatedQLAgent):
    """Without rounds: each worker starts from the table that its last report led to, and none waits for the others."""

    roles = FederatedQLAgent.roles | {"server": OneByOne, "collector": MeanTargets}
    lag = behind = td.DistributedQLAgent.lag
    episodes_a_batch = td.DistributedQLAgent.episodes_a_batch

    def _submit(self, pool, batch, snapshot):
        worker = batch.number % self.cw_num
        report = pool.submit("collector", worker, "learn", snapshot, batch.first, batch.last - batch.first)
        return pool.submit("server", 0, "merge", self.learning_rate, report)


def pair_values(q_table, report) -> np.ndarray:
    """A table's values of the pairs of a report."""
    values = q_table.reshape(-1)
    return values.copy() if report.pairs is None else values[report.pairs]


VARIANTS = {
    "power 1": PowerOfOne,
    "cap .2": CapOf20,
    "growing rounds": Growing,
    "unequal epsilons": Epsilons,
    "plain averaging": Averaged,
    "importance averaging": ImportanceAveraged,
    "no rounds": Asynchronous,
}
