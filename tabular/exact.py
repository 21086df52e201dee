"""Exact solutions of a transition table: optimal action values, and the value of any policy, without rollouts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .arguments import names_checked
from .checks import check_number, check_q_table
from .kernels import cached_jit
from .tables import TransitionTable

SPARSE_STATES = 300_000  # up to here a sparse LU factorisation takes seconds and fits into 1 GB


@names_checked
def value_iteration(
    table: TransitionTable, beta: float = 0.999, epsilon: float = 0.0, tolerance: float = 1e-10
) -> np.ndarray:
    """Compute the optimal action values, shape (states, actions), by Gauss-Seidel sweeps (Sutton and Barto 4.4).

    The sweeps end when no state's value changes by more than `tolerance`. The result is then off by at most
    `tolerance * beta / (1 - beta)`, or by rounding, about 1e-16 / (1 - beta) of the largest value, where that is more.
    With beta so close to 1 that 100,000 sweeps do not suffice, policy iteration finishes the work (Howard 1960; up to
    300,000 states), and only rounding is left. With beta=1 the tolerance bounds no error.

    With `epsilon` > 0 these are the values of the best epsilon-soft policy. Raises TypeError or ValueError for bad
    arguments, and RuntimeError if the values do not converge, as with beta=1 where some policy never ends.
    """
    beta, epsilon = _check_arguments(table, beta, epsilon)
    tolerance = check_number("tolerance", tolerance, 0.0, math.inf)
    greedy = np.empty(0, np.int64)
    return action_values(table, _swept_values(table, greedy, beta, epsilon, tolerance), beta)


@names_checked
def policy_value(table: TransitionTable, q_table: np.ndarray, beta: float = 0.999, epsilon: float = 0.0) -> np.ndarray:
    """Compute the exact value of every state, shape (states,), under the (epsilon-)greedy policy of `q_table`.

    Solves the Bellman equation (Sutton and Barto 4.1): the values are off by rounding alone, about 1e-16 / (1 - beta)
    of the largest. With beta < 1 and more than 300,000 states it sweeps, as `value_iteration` does, with a tolerance of
    1e-10. With beta=1 a state from which an episode never ends has no value: it gets nan if no episode can reach it,
    else RuntimeError is raised. Raises TypeError or ValueError for bad arguments.
    """
    beta, epsilon = _check_arguments(table, beta, epsilon)
    policy = np.argmax(check_q_table("q_table", q_table, table.shape), axis=1)
    if beta < 1.0 and table.shape[0] > SPARSE_STATES:
        return _swept_values(table, policy, beta, epsilon, tolerance=1e-10)
    chain, reward, ends = _markov_chain(table, policy, epsilon)
    if beta < 1.0:
        return _solve(chain * beta, reward)
    proper = _reaching(chain, ends)
    if not proper[_reached(chain, table.start)].all():
        raise RuntimeError("with beta=1 a policy that never ends has no value")
    values = np.full(table.shape[0], np.nan)
    values[proper] = _solve(chain[proper][:, proper], reward[proper])
    return values


def action_values(table: TransitionTable, values: np.ndarray, beta: float = 0.999) -> np.ndarray:
    """Compute action values, shape (states, actions), from state values by one step of look-ahead."""
    ahead = np.zeros(table.shape)
    for k in range(table.next_state.shape[-1]):
        bootstrap = np.where(table.terminated[..., k], 0.0, beta * values[table.next_state[..., k]])
        ahead += table.probability[..., k] * (table.reward[..., k] + bootstrap)
    return ahead


def likeliest_path(table: TransitionTable, q_table: np.ndarray) -> list[int]:
    """The states visited from the likeliest start if each greedy action has its likeliest outcome, up to any loop."""
    policy = np.argmax(check_q_table("q_table", q_table, table.shape), axis=1)
    path, state = [], int(np.argmax(table.start))
    while state not in path:
        path.append(state)
        state = int(table.next_state[state, policy[state], 0])  # the first outcome is the likeliest
    return path


def _markov_chain(table: TransitionTable, policy: np.ndarray, epsilon: float) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the Markov chain under a policy: sparse transition matrix, mean rewards, and where an episode may end."""
    from scipy import sparse  # imported here because workers never need it

    states, actions = table.shape
    share = np.full(table.shape, epsilon / actions)
    share[np.arange(states), policy] += 1.0 - epsilon
    probability = share[:, :, None] * table.probability
    continues = (probability > 0.0) & ~table.terminated
    row = np.broadcast_to(np.arange(states)[:, None, None], probability.shape)[continues]
    chain = sparse.csr_array((probability[continues], (row, table.next_state[continues])), shape=(states, states))
    ends = (probability * table.terminated).any(axis=(1, 2))
    return chain, (probability * table.reward).sum(axis=(1, 2)), ends


def _solve(chain: Any, reward: np.ndarray) -> np.ndarray:
    """Solve v = reward + chain v for v."""
    from scipy import sparse
    from scipy.sparse.linalg import splu

    system = sparse.eye_array(len(reward), format="csc") - chain.tocsc()
    # Most moves can be undone, so the pattern is nearly symmetric, and the diagonal dominates. An ordering for such
    # matrices, without pivoting, halves the time for a 256 x 256 lake.
    factors = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return factors.solve(reward)


def _reaching(chain: Any, ends: np.ndarray) -> np.ndarray:
    """Whether each state is, or can lead to, one where an episode may end."""
    found = ends
    while True:
        grown = found | (chain @ found.astype(float) > 0.0)
        if grown.sum() == found.sum():
            return found
        found = grown


def _reached(chain: Any, start: np.ndarray) -> np.ndarray:
    """Whether an episode may reach each state."""
    return _reaching(chain.T, start > 0.0)


def _swept_values(
    table: TransitionTable, policy: np.ndarray, beta: float, epsilon: float, tolerance: float
) -> np.ndarray:
    """Sweep the state values under a policy (optimal ones if it is empty) until they converge; return them."""
    # The values start at the cost of never ending, from which the goal's value spreads in a few sweeps. From 0, a cell
    # far from the goal would first sink for about 1 / (1 - beta) sweeps.
    idle = table.reward.min(where=~table.terminated, initial=0.0) / (1.0 - beta) if beta < 1.0 else 0.0
    values = np.full(table.shape[0], idle)
    solvable = beta < 1.0 and table.shape[0] <= SPARSE_STATES  # policy_value then sweeps nothing
    limit = 10_000 if beta == 1.0 else 100_000 if solvable else 10_000_000
    arrays = table.probability, table.next_state, table.reward, table.terminated
    change = _sweep(values, *arrays, policy, beta, epsilon, tolerance, limit)
    if change <= tolerance:
        return values
    if solvable:
        return _improved_values(table, values, beta, epsilon)
    why = "some policy never ends" if beta == 1.0 else "a sweep shrinks an error by beta alone"
    raise RuntimeError(f"with beta={beta:.15g} the values still change by {change:.3g} after {limit} sweeps: {why}")


def _improved_values(table: TransitionTable, values: np.ndarray, beta: float, epsilon: float) -> np.ndarray:
    """Improve the greedy policy of state values until it is the best one (Howard 1960); return its values."""
    states, policy = np.arange(len(values)), np.argmax(action_values(table, values, beta), axis=1)
    for _ in range(1000):
        chain, reward, _ = _markov_chain(table, policy, epsilon)
        values = _solve(chain * beta, reward)
        ahead = action_values(table, values, beta)
        better = ahead.max(axis=1) - ahead[states, policy] > 1e-13 * np.abs(ahead).max()  # by more than rounding
        if not better.any():
            return values
        policy[better] = np.argmax(ahead[better], axis=1)
    raise RuntimeError(f"with beta={beta:.15g} the values are too close to infinity to tell the best policy")


@cached_jit
def _sweep(values, probability, next_state, reward, terminated, policy, beta, epsilon, tolerance, sweeps):
    """Sweep all states to and fro, in place, until none changes by more than `tolerance`; return the last change."""
    states, actions, outcomes = next_state.shape
    change = np.inf
    for sweep in range(sweeps):
        change = 0.0
        for i in range(states):
            state = i if sweep % 2 else states - 1 - i
            best, mean = -np.inf, 0.0
            for action in range(actions):
                value = 0.0
                for k in range(outcomes):
                    p = probability[state, action, k]
                    if p == 0.0:
                        break
                    value += p * reward[state, action, k]
                    if not terminated[state, action, k]:
                        value += p * beta * values[next_state[state, action, k]]
                mean += value / actions
                chosen = value > best if len(policy) == 0 else action == policy[state]
                if chosen:
                    best = value
            value = (1.0 - epsilon) * best + epsilon * mean
            change = max(change, abs(value - values[state]))
            values[state] = value
        if change <= tolerance:
            break
    return change


def _check_arguments(table: Any, beta: Any, epsilon: Any) -> tuple[float, float]:
    """Check the table, beta and epsilon; return (beta, epsilon) as floats."""
    if not isinstance(table, TransitionTable):
        raise TypeError(f"table must be a TransitionTable (lake.table), got {type(table).__name__}")
    return check_number("beta", beta), check_number("epsilon", epsilon)
