"""Planning from counts: a model of what followed each action, and prioritised sweeping after new counts.

The model is the maximum-likelihood one: how often a state and action led to each next state, and the sum of the
rewards. Counts of several workers add up exactly, in any order. Values are computed by prioritised sweeping (Moore and
Atkeson 1993) with small backups (van Seijen and Sutton 2013): when the value of a state changes, only the pairs that
were seen to lead to it change, each by one multiplication. The queue is first come, first served. Ordered by the
largest change, as in the paper, planning would update 0.8 to 1.6 times as many state values.

A prior weighs a pair's counts against `prior` imaginary outcomes that are worth `worth` each: with none, a pair is
worth what its counts say.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tabular.kernels import cached_jit

# A row of counts: `pair` (state * actions + action) led `count` times to `next_state` (the number of states if the
# episode terminated), for a total reward of `reward_sum`. Such rows are what is sent and saved.
ROW = np.dtype([("pair", "i4"), ("next_state", "i4"), ("count", "i8"), ("reward_sum", "f8")])
COLUMNS = ROW.names or ()

# In a model each row also has the index of the previous row of the same pair, and of the previous row to the same next
# state, or -1: linked lists, which can grow to any number of outcomes.
LINKED_ROW = np.dtype([*ROW.descr, ("same_pair", "i4"), ("same_next", "i4")])


class Model(NamedTuple):
    """Counts, linked both ways: from a pair to its outcomes, and from a state to the pairs that led to it."""

    rows: np.ndarray  # LINKED_ROW, in order of discovery; rows from `size` on are empty
    size: np.ndarray  # int64, (1,)
    visits: np.ndarray  # int64, (pairs,)
    outcomes: np.ndarray  # int32, (pairs,): the latest row of a pair, -1 if it has none
    sources: np.ndarray  # int32, (states + 1,): the latest row to a state; the last entry is for the end of an episode

    @classmethod
    def empty(cls, states: int, actions: int) -> Model:
        """Make a model without any counts."""
        pairs = states * actions
        lists = np.full(pairs, -1, np.int32), np.full(states + 1, -1, np.int32)
        return cls(np.empty(64, LINKED_ROW), np.zeros(1, np.int64), np.zeros(pairs, np.int64), *lists)

    @classmethod
    def of(cls, counts: np.ndarray, states: int, actions: int) -> Model:
        """Make a model from an array of ROW."""
        model = cls.empty(states, actions).with_room(len(counts))
        add_counts(model, np.array(counts))  # Ray's arrays are read-only, a type for which numba would compile again
        return model

    def forgotten(self) -> Model:
        """Empty this model in place, and return it."""
        forget(self)
        return self

    def with_room(self, count: int) -> Model:
        """Return this model with capacity for `count` more rows; all other arrays are shared."""
        needed = int(self.size[0]) + count
        if needed <= len(self.rows):
            return self
        rows = np.empty(max(needed, 2 * len(self.rows)), LINKED_ROW)
        rows[: self.size[0]] = self.rows[: self.size[0]]
        return self._replace(rows=rows)

    def counts(self) -> np.ndarray:
        """Return all counts as an array of ROW, from which `of` makes an equal model, bit for bit."""
        return without_links(self.rows[: self.size[0]])


class Planner(NamedTuple):
    """The state of planning, changed in place: action values, state values, and a queue of states.

    The value of a pair that was tried is always what `back_up` makes it. A state is queued if its entry in `values`
    differs from its best pair's value by more than the tolerance.
    """

    q_table: np.ndarray  # float64, (states, actions)
    values: np.ndarray  # float64, (states + 1,): of the states, and 0 for the end of an episode
    queue: np.ndarray  # int32, (states,): a ring buffer of the queued states, first come first served
    waits: np.ndarray  # bool, (states,): whether a state is queued
    ends: np.ndarray  # int64, (2,): how many states have left the queue, and how many have joined it

    @classmethod
    def of(cls, q_table: np.ndarray, values: np.ndarray, waiting: np.ndarray) -> Planner:
        """Make a planner whose queue has the states `waiting`, in order."""
        queue, waits = np.zeros(len(q_table), np.int32), np.zeros(len(q_table), np.bool_)
        queue[: len(waiting)] = waiting
        waits[waiting] = True
        return cls(q_table, values, queue, waits, np.array([0, len(waiting)]))

    @classmethod
    def unplanned(cls, q_table: np.ndarray) -> Planner:
        """Make a planner of action values that are not planned with yet."""
        return cls.of(q_table, np.append(q_table.max(axis=1), 0.0), np.zeros(0, np.int32))

    def copy(self) -> Planner:
        """Return a copy that shares no array."""
        return Planner(*map(np.array, self))

    def waiting(self) -> np.ndarray:
        """Return the queued states, in order."""
        first, last = self.ends
        return self.queue[np.arange(first, last) % len(self.queue)]


def without_links(rows: np.ndarray) -> np.ndarray:
    """Return a model's rows as counts, without their links."""
    counts = np.empty(len(rows), ROW)
    for name in COLUMNS:
        counts[name] = rows[name]
    return counts


@cached_jit
def add_row(model, pair, next_state, count, reward_sum):
    """Add counts of one outcome of a pair; the model must have room for a row."""
    model.visits[pair] += count
    i = model.outcomes[pair]
    while i >= 0:
        row = model.rows[i]
        if row["next_state"] == next_state:
            row["count"] += count
            row["reward_sum"] += reward_sum
            return
        i = row["same_pair"]
    i = model.size[0]
    row = model.rows[i]
    row["pair"], row["next_state"], row["count"], row["reward_sum"] = pair, next_state, count, reward_sum
    row["same_pair"], row["same_next"] = model.outcomes[pair], model.sources[next_state]
    model.outcomes[pair] = model.sources[next_state] = i
    model.size[0] = i + 1


@cached_jit
def count_steps(model, pairs, rewards, actions):
    """Count the steps of recorded experience, in which -1 terminates an episode and -2 - state truncates it."""
    end = len(model.sources) - 1
    for i in range(len(pairs)):
        if pairs[i] >= 0:
            following = pairs[i + 1]
            if following >= 0:
                next_state = following // actions
            else:
                next_state = end if following == -1 else -2 - following
            add_row(model, pairs[i], next_state, 1, rewards[i])


@cached_jit
def forget(model):
    """Empty a model, in time that grows with its rows and not with its number of pairs."""
    for i in range(model.size[0]):
        row = model.rows[i]
        model.visits[row["pair"]] = 0
        model.outcomes[row["pair"]] = -1
        model.sources[row["next_state"]] = -1
    model.size[0] = 0


@cached_jit
def add_counts(model, counts):
    """Add rows of counts."""
    for i in range(len(counts)):
        row = counts[i]
        add_row(model, row["pair"], row["next_state"], row["count"], row["reward_sum"])


@cached_jit
def record_counts(model, counts, switch):
    """Add rows of counts and set the switch, in one call that Ctrl-C cannot interrupt."""
    add_counts(model, counts)
    switch[0] = True


@cached_jit
def best_value(q_table, state):
    """Return the highest action value in a state."""
    best = q_table[state, 0]
    for action in range(1, q_table.shape[1]):
        if q_table[state, action] > best:
            best = q_table[state, action]
    return best


@cached_jit
def back_up(model, planner, beta, prior, worth, pair):
    """Back up a pair: its mean reward plus beta times the mean value of the next states.

    `prior` imaginary outcomes, worth `worth` each, count as well.
    """
    actions = planner.q_table.shape[1]
    reward_sum = value_sum = 0.0
    i = model.outcomes[pair]
    while i >= 0:
        row = model.rows[i]
        reward_sum += row["reward_sum"]
        value_sum += row["count"] * planner.values[row["next_state"]]
        i = row["same_pair"]
    value = (reward_sum + beta * value_sum + prior * worth) / (model.visits[pair] + prior)
    planner.q_table[pair // actions, pair % actions] = value


@cached_jit
def join_queue(planner, state, tolerance):
    """Enqueue a state unless it is queued already or its value is within the tolerance."""
    if not planner.waits[state] and abs(best_value(planner.q_table, state) - planner.values[state]) > tolerance:
        planner.waits[state] = True
        planner.queue[planner.ends[1] % len(planner.queue)] = state
        planner.ends[1] += 1


@cached_jit
def sweep(model, planner, beta, tolerance, prior, most):
    """Process the queue until it is empty or `most` state values were updated, each with the pairs that lead to it."""
    # One loop over plain arrays: calls within it, each with tuples of arrays as arguments (seventy numbers), would take
    # most of the time.
    rows, visits, sources = model.rows, model.visits, model.sources
    q_table, values, queue, waits = planner.q_table, planner.values, planner.queue, planner.waits
    first, last = planner.ends
    states, actions = q_table.shape
    flat, width = q_table.reshape(-1), np.uint32(actions)  # 32 bits divide faster than 64
    updates = 0
    while first < last and updates < most:
        state = queue[first % states]
        first += 1
        waits[state] = False
        value = best_value(q_table, state)
        change = value - values[state]
        if abs(change) <= tolerance:
            continue
        values[state] = value
        updates += 1
        i = sources[state]
        while i >= 0:
            row = rows[i]
            pair = np.uint32(row["pair"])
            before = np.int64(pair // width)
            flat[pair] += beta * change * row["count"] / (visits[pair] + prior)
            if not waits[before] and abs(best_value(q_table, before) - values[before]) > tolerance:
                waits[before] = True
                queue[last % states] = before
                last += 1
            i = row["same_next"]
    planner.ends[0], planner.ends[1] = first, last


@cached_jit
def back_up_added(model, planner, counts, beta, tolerance, prior, worth):
    """Back up the pairs of added rows; enqueue their states latest first: changes spread back along the path taken."""
    actions = planner.q_table.shape[1]
    for i in range(len(counts)):
        back_up(model, planner, beta, prior, worth, counts[i]["pair"])
    for i in range(len(counts) - 1, -1, -1):
        join_queue(planner, counts[i]["pair"] // actions, tolerance)


@cached_jit
def learn_counts(model, planner, counts, beta, tolerance, planning_steps, prior, worth, switch):
    """Add rows of counts, plan what they change and set the switch, in one call that Ctrl-C cannot interrupt.

    At most one state value per row, plus `planning_steps` per learning step, is updated; other states stay queued.
    """
    add_counts(model, counts)
    back_up_added(model, planner, counts, beta, tolerance, prior, worth)
    steps = 0
    for i in range(len(counts)):
        steps += counts[i]["count"]
    sweep(model, planner, beta, tolerance, prior, len(counts) + planning_steps * steps)
    switch[0] = True


@cached_jit
def plan_anew(model, planner, beta, tolerance, prior, worth):
    """Back up all pairs again, for example with a new beta, and enqueue the states whose value is then off."""
    for pair in range(len(model.visits)):
        if model.visits[pair] > 0:
            back_up(model, planner, beta, prior, worth, pair)
    for state in range(planner.q_table.shape[0]):
        join_queue(planner, state, tolerance)
