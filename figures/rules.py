"""Two update rules that take expectations instead of samples, to find out what the samples' noise does."""

from __future__ import annotations

import functools

import td_helpers as td
from figures.experiments import lake_of


def expected_sarsa(q_table, state, action, reward, next_state, terminated, actions, parameters):
    """The target is the mean over the next actions: SARSA without the noise of its own exploring.

    Van Seijen et al. (2009); Sutton and Barto 6.6.
    """
    target = reward
    if not terminated:
        row, epsilon = q_table[next_state], parameters.epsilon
        value = (1 - epsilon) * max(row) + epsilon * sum(row) / len(actions)
        target = reward + parameters.beta * value
    q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])


class ExpectedSARSAAgent(td.TDAgent):
    agent_name = "Expected SARSA agent"
    kernel = td.Rule(expected_sarsa)


@functools.cache
def expecting_agent(map_name: str) -> type[td.TDAgent]:
    """An agent whose target is the mean over the slips, from the lake's table: Q-learning without any noise.

    It still meets only the pairs that it tries, so it can be locked in.
    """
    table = lake_of(map_name).table
    outcomes = table.probability.shape[2]
    probability, following = table.probability, table.next_state
    expected_reward = (probability * table.reward).sum(axis=2)
    going_on = probability * ~table.terminated

    def expected_q_learning(q_table, state, action, reward, next_state, terminated, actions, parameters):
        target = expected_reward[state, action]
        for k in range(outcomes):
            target += parameters.beta * going_on[state, action, k] * max(q_table[following[state, action, k]])
        q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])

    return type("ExpectingAgent", (td.TDAgent,), {"kernel": td.Rule(expected_q_learning)})
