"""What the agents are to offer themselves, made from their present insides: this file goes when they do.

learn_in_process(agent)             becomes  workers=td.InProcess() at the agent's construction, then agent.learn(...)
learn_in_batches(agent, episodes)   becomes  agent.learn_in_batches(episodes)
cost_of(agent)                      becomes  agent.cost
"""

from __future__ import annotations

import functools
import pickle
from collections import deque
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

import td_helpers as td


class Cost(NamedTuple):
    """Seconds that the batches took, by role."""

    collect: float = 0.0
    replay: float = 0.0
    evaluate: float = 0.0


def cost_of(agent) -> Cost:
    """The cost of a run; a single-core agent does not take it apart."""
    return Cost(**getattr(agent, "seconds", {}))


def learn_in_batches(agent, episodes: int):
    """Learn over the workers that the agent was given; yields when a batch has been learned."""
    import ray

    recipe = ray.cloudpickle.dumps(functools.partial(agent.single, agent.simulator, **agent._local_settings()))
    agent.workers.start()
    yield from agent._batches(agent.workers, recipe, agent.episode + episodes)


class CalledAtOnce:
    """An actor in this process: what is sent to it is done at once."""

    def __init__(self, role):
        self.role = role

    def __getattr__(self, method):
        return SimpleNamespace(remote=getattr(self.role, method))


def learn_in_process(agent, server=td.QLAgentServer) -> np.ndarray:
    """The table that an agent's run over Ray would end with, its roles called in turn in this process."""
    collector = CalledAtOnce(td.CollectingWorker())
    workers = SimpleNamespace(server=CalledAtOnce(server()), collectors=[collector] * agent.cw_num)
    recipe = pickle.dumps(functools.partial(agent.single, agent.simulator, **agent._local_settings()))
    snapshots = deque([(agent.q_table, 0)] * len(agent._recent))
    workers.server.begin.remote(snapshots[0])
    first = number = 0
    while first < agent.learning_episodes:
        end = agent._batch_end(first, agent.learning_episodes)
        snapshots.append(agent._send(workers, recipe, number, snapshots.popleft(), first, end))
        first = end
        number += 1
    return snapshots[-1][0]
