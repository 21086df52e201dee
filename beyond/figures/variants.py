"""Alternative ways for federated workers to merge and to learn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import td_helpers as td
from beyond import FederatedQLAgent, FederatedSARSAAgent
from beyond.federated import FederatedServer, FederatedWorker, effective_rates

FEDERATED = {"Q-learning": FederatedQLAgent, "SARSA": FederatedSARSAAgent}

# Servers


class Averaging(FederatedServer):
    """A server that averages the workers' tables."""

    def combine(self, values, learning_rate, reports):
        tables, visits = side_by_side(values, reports)
        weights = self.weights(visits)
        values[:] = (weights * tables).sum(axis=0) / weights.sum(axis=0)

    def weights(self, visits) -> np.ndarray:
        """Return the weight of each worker's value of a pair, given its visits."""
        return np.ones_like(visits)


class ImportanceAveraging(Averaging):
    """A server that weights a value by one over the old value's remaining share (Woo, Joshi and Chi 2023)."""

    def weights(self, visits):
        most = visits.max(axis=0)  # relative to the largest weight, which would overflow
        return 1 - together(self.agent.learning_rate, most - visits)


class AddingUp(FederatedServer):
    """A server that adds the workers' changes to the table."""

    def combine(self, values, learning_rate, reports):
        tables, _ = side_by_side(values, reports)
        values += (tables - values).sum(axis=0)


def together(rate: float, visits) -> np.ndarray:
    """Return the combined rate of `visits` updates, 1 - (1 - rate)**visits, exactly as `effective_rates` does."""
    visits = np.asarray(visits, np.int64)
    rates = effective_rates(rate, visits.ravel())
    return rates[np.minimum(visits, len(rates) - 1)]


def side_by_side(values, reports) -> tuple[np.ndarray, np.ndarray]:
    """Return the workers' values of all pairs and their visits, one row per worker."""
    tables = np.tile(values, (len(reports), 1))
    visits = np.zeros(tables.shape)
    for i, report in enumerate(reports):
        pairs = slice(None) if report.pairs is None else report.pairs
        tables[i, pairs], visits[i, pairs] = report.values, report.visits
    return tables, visits


# Agents


class PowerOfOne(FederatedQLAgent):
    """An agent whose local rate gives one visit the weight of `cw_num` visits on a single core, up to a cap."""

    @property
    def local_rate(self) -> float:
        power_of_one = float(together(self.learning_rate, self.cw_num))
        return min(power_of_one, 0.6, max(0.2, self.cw_num / 100))


class CapOf20(FederatedQLAgent):
    """An agent whose local rate is at most 0.2, with any number of workers."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, cap=0.2, **settings)


class OwnEpsilon(FederatedWorker):
    """A worker that receives its epsilon with each round."""

    def learn(self, *arguments):
        *arguments, self.agent.epsilon = arguments
        return super().learn(*arguments)


class EpsilonPool(NamedTuple):
    """A pool that sends each worker its epsilon."""

    pool: object
    epsilons: np.ndarray

    def submit(self, role, i, method, *arguments):
        epsilon = [self.epsilons[i]] if role == "collector" else []
        return self.pool.submit(role, i, method, *arguments, *epsilon)


class Epsilons(FederatedQLAgent):
    """An agent whose workers' epsilons range from a fifth of its own to four times it, geometrically spaced."""

    roles = FederatedQLAgent.roles | {"collector": OwnEpsilon}

    def _submit(self, pool, batch, snapshot):
        epsilons = self.epsilon * np.geomspace(0.2, 4.0, self.cw_num)
        return super()._submit(EpsilonPool(pool, epsilons), batch, snapshot)


class Growing(FederatedQLAgent):
    """An agent whose rounds grow by 5%, from a quarter of the batch size to four times it."""

    def learn_in_batches(self, episodes):
        size, most = self.batch_size / 4, self.batch_size * 4
        while True:
            self.batch_size, size = round(size), min(1.05 * size, most)
            yield from super().learn_in_batches(self.batch_size * self.cw_num)


class Averaged(FederatedQLAgent):
    """An agent that merges tables by plain averaging, at the same local rate."""

    roles = FederatedQLAgent.roles | {"server": Averaging}


class ImportanceAveraged(FederatedQLAgent):
    """An agent that merges tables by importance averaging, at the same local rate."""

    roles = FederatedQLAgent.roles | {"server": ImportanceAveraging}


class MeanTargets(FederatedWorker):
    """A worker that reports each pair's mean target instead of its value."""

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
    """An agent without rounds: each worker starts from the table that merged its last report, and never waits."""

    roles = FederatedQLAgent.roles | {"server": OneByOne, "collector": MeanTargets}
    lag = behind = td.DistributedQLAgent.lag
    episodes_a_batch = td.DistributedQLAgent.episodes_a_batch

    def _submit(self, pool, batch, snapshot):
        worker = batch.number % self.cw_num
        report = pool.submit("collector", worker, "learn", snapshot, batch.first, batch.last - batch.first)
        return pool.submit("server", 0, "merge", self.learning_rate, report)


def pair_values(q_table, report) -> np.ndarray:
    """Return a table's values for the pairs of a report."""
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
