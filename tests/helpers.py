"""Helpers shared by test files: small envs and lakes, a distributed run by a plain loop, interrupts and kills."""

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
    """Return an agent's learned state, with its returns if it keeps them, for comparison bit for bit."""
    returns = () if agent.returns is None else (agent.returns.tobytes(),)
    return agent.q_table.tobytes(), agent.episode, agent.steps, agent.total_rewards, *returns


def by_hand(agent) -> tuple[np.ndarray, int, list[float], list[np.ndarray]]:
    """Return what a distributed agent must learn, by a plain loop over the roles.

    It is (q_table, steps, total_rewards, returns of each batch or None).

    Batches are replayed in order; each is collected with the table of `cw_num * (in_flight - 1)` batches earlier. A
    federated agent's workers share a round's episodes, and all start from the latest table.
    """
    federated = isinstance(agent, FederatedQLAgent)
    rate = agent.local_rate if federated else agent.learning_rate
    worker = agent.single(
        agent.simulator, agent.epsilon, rate, test_interval=agent.test_interval, trials=agent.trials, beta=agent.beta,
        max_step=agent.max_step, seed=agent.seed, compiled=agent.compiled, ties=agent.ties,
        keep_returns=agent.keep_returns,
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
    return snapshots[-1].q_table, snapshots[-1].steps, means, [snapshot.returns for snapshot in snapshots[1:]]


def same_as_by_hand(agent) -> bool:
    """Whether a finished distributed agent has learned exactly what `by_hand` returns."""
    q_table, steps, means, returns = by_hand(agent)
    kept = (np.concatenate(returns).tobytes(),) if agent.keep_returns else ()
    return learned(agent) == (q_table.tobytes(), agent.learning_episodes, steps, means, *kept)


def batches_of(episodes: int, batch_size: int, test_interval: int | None) -> list[tuple[int, int]]:
    """Return (first, episodes) of each batch; no batch extends past a test, if there are tests."""
    ends = sorted({episodes, *(range(test_interval, episodes, test_interval) if test_interval else [])})
    return [
        (first, min(batch_size, end - first))
        for start, end in itertools.pairwise([0, *ends])
        for first in range(start, end, batch_size)
    ]


@contextlib.contextmanager
def interrupted(monkeypatch, target, method: str, call: int):
    """Raise KeyboardInterrupt in call number `call` of a method, and expect it to end the block."""
    original, calls = getattr(target, method), itertools.count(1)

    def interrupt(*arguments, **settings):
        if next(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments, **settings)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(target, method, interrupt)
        yield


@contextlib.contextmanager
def before_each_call(workers, action):
    """Run `action(number, (role, i))` before each call that a pool sends, counted from 0."""
    original, numbers = workers.submit, itertools.count()

    def submit(role, i, *call):
        action(next(numbers), (role, i))
        return original(role, i, *call)

    with mock.patch.object(workers, "submit", submit):
        yield


@contextlib.contextmanager
def killing_before(workers, moments: dict[int, list]):
    """Kill processes before calls are sent, by call number: {number: slots}; yield the set of killed processes."""
    import ray

    hit = set()

    def kill(number, _):
        for slot in moments.get(number, []):
            hit.add(workers._processes[slot])
            ray.kill(workers._processes[slot])

    with before_each_call(workers, kill):
        yield hit


def processes_alive() -> set:
    """Return the ids of Ray actors that are alive or starting."""
    from ray._private.state import actors

    return {name for name, actor in actors().items() if actor["State"] != "DEAD"}


def eventually(condition) -> bool:
    """Whether a condition holds within 30 s: Ray reports ended processes with a delay."""
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


class Ring(gym.Env):
    """Five states in a ring, without a P: action 1 moves on, action 0 stays; moving from 4 to 0 ends the episode.

    `resets` and `actions` count calls. At `at` = (episode, step), counted from 0 and 1, `step` returns `fault(self)`;
    step 0 is the reset, which only calls it.
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
    """An env that can be compiled: one state, and many actions that end the episode with their number as reward."""

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
    """Return {(next_state, reward, terminated): probability} for a list of (probability, ...)."""
    total = {}
    for probability, *outcome in outcomes:
        if probability:
            total[tuple(outcome)] = total.get(tuple(outcome), 0.0) + float(probability)
    return total


def table_frequencies(table, state, action) -> dict:
    """Return the same for an entry of a transition table."""
    at = state, action
    columns = table.probability[at], table.next_state[at], table.reward[at], table.terminated[at]
    return frequencies(zip(*(column.tolist() for column in columns), strict=True))


def random_q_table(shape, seed=0) -> np.ndarray:
    """Return a random table without ties."""
    return np.random.default_rng(seed).normal(size=shape)
