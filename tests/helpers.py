"""What several test files share: small envs, small lakes, and running a kernel as plain Python."""

import functools
import pickle

import gym
import numpy as np

import td_helpers as td

NO_SLIP = (1.0, 0.0, 0.0, 0.0)
AGENTS = (td.QLAgent, td.SARSAAgent)


def plain(kernel, q_table, *arguments):
    """Run the plain Python of a learning kernel on `q_table`, in place."""
    rows = td._Rows(q_table)
    result = kernel.py_func(rows, *arguments)
    rows.write_back()
    return result


def corridor(length: int, **settings) -> td.FrozenLakeEnv:
    """A lake of one row: S, frozen cells, and G after `length` steps to the right."""
    return td.FrozenLakeEnv(["S" + "F" * (length - 1) + "G"], **settings)


def learned(agent) -> tuple:
    """All that an agent has learned, to be compared bit for bit."""
    return agent.q_table.tobytes(), agent.episode, agent.steps, agent.total_rewards


def recipe_of(agent) -> bytes:
    """What makes the worker's agent."""
    return pickle.dumps(functools.partial(td.QLAgent, agent.simulator, **agent._settings))


def dataflow(agent, cw_num: int, batches) -> tuple[np.ndarray, int]:
    """Batches of (first, episodes) through collectors and a server in this process: (q_table, steps).

    Batch i is collected on the table of `cw_num` batches before, and replayed in order.
    """
    recipe, server = recipe_of(agent), td.QLAgentServer()
    collectors = [td.CollectingWorker() for _ in range(cw_num)]
    snapshots = [(np.zeros_like(agent.q_table), 0)] * cw_num
    server.begin(snapshots[0])
    for i, (first, episodes) in enumerate(batches):
        experience = collectors[i % cw_num].collect(recipe, snapshots[i], first, episodes)
        snapshots.append(server.learn(recipe, experience))
    return snapshots[-1][0], snapshots[-1][1]


def batches_of(episodes: int, batch_size: int, test_interval: int) -> list[tuple[int, int]]:
    """(first, episodes) of batches that end at test points at the latest."""
    batches, first = [], 0
    while first < episodes:
        size = min(batch_size, test_interval - first % test_interval, episodes - first)
        batches.append((first, size))
        first += size
    return batches


def interrupt_at_test(monkeypatch, agent, test: int):
    """Run the agent until Ctrl-C falls into its evaluation number `test`."""
    evaluate = agent._evaluate

    def interrupted(q_table, number, *arguments):
        if number == test:
            raise KeyboardInterrupt
        return evaluate(q_table, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(agent, "_evaluate", interrupted)
        try:
            agent.learn_and_evaluate(progress=False)
        except KeyboardInterrupt:
            return agent
    raise AssertionError(f"test {test} never came")


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
