"""What several test files share: small envs and lakes, a distributed run by hand, Ctrl-C where it is wanted."""

import contextlib
import itertools
import time
from unittest import mock

import gym
import numpy as np
import pytest

import td_helpers as td
from beyond import FederatedQLAgent

NO_SLIP = (1.0, 0.0, 0.0, 0.0)
AGENTS = (td.QLAgent, td.SARSAAgent)


def corridor(length: int, **settings) -> td.FrozenLakeEnv:
    """A lake of one row: S, frozen cells, and G after `length` steps to the right."""
    return td.FrozenLakeEnv(["S" + "F" * (length - 1) + "G"], **settings)


def learned(agent) -> tuple:
    """All that an agent has learned, to be compared bit for bit."""
    return agent.q_table.tobytes(), agent.episode, agent.steps, agent.total_rewards


def by_hand(agent) -> tuple[np.ndarray, int, list[float]]:
    """What a distributed agent must learn, by a loop of its own over the roles: (q_table, steps, total_rewards).

    Batch i is collected on the table of `cw_num` batches before, or more, by `in_flight`, and replayed in order. A
    federated agent's workers share a round's episodes, and all start from the latest table.
    """
    federated = isinstance(agent, FederatedQLAgent)
    rate = agent.local_rate if federated else agent.learning_rate
    worker = agent.single(
        agent.simulator, agent.epsilon, rate, test_interval=agent.test_interval, trials=agent.trials, beta=agent.beta,
        max_step=agent.max_step, seed=agent.seed, compiled=agent.compiled,
    )  # fmt: skip
    server, evaluator = agent.roles["server"](worker), td.EvaluationWorker(worker)
    collectors = [agent.roles["collector"](worker) for _ in range(agent.cw_num)]
    snapshots, means = [td.Snapshot(np.zeros_like(agent.q_table), 0)], []
    server.begin(snapshots[0])
    size = agent.batch_size * agent.cw_num if federated else agent.batch_size
    batches = batches_of(agent.learning_episodes, size, agent.test_interval if agent.do_test else None)
    for i, (first, episodes) in enumerate(batches):
        if federated:
            cuts = [first + episodes * m // agent.cw_num for m in range(agent.cw_num + 1)]
            shares = [(cut, following - cut) for cut, following in itertools.pairwise(cuts)]
            reports = [one.learn(snapshots[-1], *share) for one, share in zip(collectors, shares, strict=True)]
            snapshots.append(server.merge(agent.learning_rate, *reports))
        else:
            on = snapshots[max(0, len(snapshots) - agent.cw_num * (agent.in_flight - 1))]
            snapshots.append(server.learn(collectors[i % agent.cw_num].collect(on, first, episodes)))
        if agent.do_test and (first + episodes) % agent.test_interval == 0:
            means.append(evaluator.evaluate(snapshots[-1].q_table, first + episodes)[0])
    return snapshots[-1].q_table, snapshots[-1].steps, means


def same_as_by_hand(agent) -> bool:
    """Whether a distributed agent that has learned all its episodes has the bits of the loop by hand."""
    q_table, steps, means = by_hand(agent)
    return learned(agent) == (q_table.tobytes(), agent.learning_episodes, steps, means)


def batches_of(episodes: int, batch_size: int, test_interval: int | None) -> list[tuple[int, int]]:
    """(first, episodes) of batches that end at test points, if any, at the latest."""
    ends = sorted({episodes, *(range(test_interval, episodes, test_interval) if test_interval else [])})
    return [
        (first, min(batch_size, end - first))
        for start, end in itertools.pairwise([0, *ends])
        for first in range(start, end, batch_size)
    ]


@contextlib.contextmanager
def interrupted(monkeypatch, target, method: str, call: int):
    """Ctrl-C falls into call number `call` of a method, and the block ends with it."""
    original, calls = getattr(target, method), itertools.count(1)

    def interrupt(*arguments, **settings):
        if next(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments, **settings)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(target, method, interrupt)
        yield


@contextlib.contextmanager
def befallen(workers, action):
    """Have `action(number, (role, i))` done before each call that a pool sends; they are counted from 0."""
    original, numbers = workers.submit, itertools.count()

    def submit(role, i, *call):
        action(next(numbers), (role, i))
        return original(role, i, *call)

    with mock.patch.object(workers, "submit", submit):
        yield


@contextlib.contextmanager
def under_fire(workers, moments: dict[int, list]):
    """Kill the processes of slots before the calls of these numbers are sent: yields the set of those that were hit."""
    import ray

    hit = set()

    def kill(number, _):
        for slot in moments.get(number, []):
            hit.add(workers._processes[slot])
            ray.kill(workers._processes[slot])

    with befallen(workers, kill):
        yield hit


def processes_alive() -> set:
    """The ids of Ray's actors that live or are about to."""
    from ray._private.state import actors

    return {name for name, actor in actors().items() if actor["State"] != "DEAD"}


def comes_true(condition) -> bool:
    """Whether a condition holds, at once or after some seconds: Ray tells of an ended process when it gets to it."""
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


class Ring(gym.Env):
    """Five states in a ring, without a P: action 1 goes on, action 0 stays; it ends on the way from 4 to 0.

    `resets` and `actions` count the calls. With `at` = (episode, step), counted from 0 and 1, it calls `fault(self)`
    there; what that returns is what `step` returns.
    """

    def __init__(self, at=None, fault=None, ends=True):
        self.observation_space, self.action_space = gym.spaces.Discrete(5), gym.spaces.Discrete(2)
        self.at, self.fault, self.ends = at, fault, ends
        self.resets = self.actions = self.t = self.s = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s, self.t, self.resets = 0, 0, self.resets + 1
        if self.at == (self.resets - 1, 0):
            self.fault(self)
        return self.s, {}

    def step(self, action):
        self.t, self.actions = self.t + 1, self.actions + 1
        if self.at == (self.resets - 1, self.t):
            return self.fault(self)
        self.s, last = (self.s + action) % 5, self.s
        slip = -1.0 - 0.25 * self.np_random.random()
        return self.s, slip, self.ends and (last, self.s) == (4, 0), False, {}


class Fan(gym.Env):
    """One state and many actions: each ends the episode, and is worth its number. It may be compiled."""

    def __init__(self, actions: int):
        self.observation_space, self.action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(actions)
        self.table = td.TransitionTable(
            probability=np.ones((2, actions, 1)),
            next_state=np.ones((2, actions, 1), np.int32),
            reward=np.broadcast_to(np.arange(float(actions))[:, None], (2, actions, 1)),
            terminated=np.ones((2, actions, 1), bool),
            start=np.array([1.0, 0.0]),
        )

    @td.samples_table
    def reset(self, *, seed=None, options=None):
        return 0, {}

    @td.samples_table
    def step(self, action):
        return 1, float(action), True, False, {}


def frequencies(outcomes) -> dict:
    """{(next_state, reward, terminated): probability} of a list of (probability, ...)."""
    total = {}
    for probability, *outcome in outcomes:
        if probability:
            total[tuple(outcome)] = total.get(tuple(outcome), 0.0) + float(probability)
    return total


def table_frequencies(table, state, action) -> dict:
    """The same of a transition table's entry."""
    at = state, action
    columns = table.probability[at], table.next_state[at], table.reward[at], table.terminated[at]
    return frequencies(zip(*(column.tolist() for column in columns), strict=True))


def random_q_table(shape, seed=0) -> np.ndarray:
    """Values without ties."""
    return np.random.default_rng(seed).normal(size=shape)
