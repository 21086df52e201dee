"""Tables sent as changes: the same bits as whole tables, and fewer bytes."""

import itertools

import numpy as np
import pytest
from helpers import interrupted, killing_before, learned, same_as_by_hand
from test_run import Losing

import td_helpers as td
from beyond import FederatedQLAgent, FederatedSARSAAgent
from beyond.federated import FederatedServer, FederatedWorker
from tabular.changes import ChangeLog, Changes, Replica, Version, materialized
from tabular.pool import Lost
from tabular.simulated_ray import simulated

LAKE = td.FrozenLakeEnv(map_name="8x8")
BYTES = 65 * 4 * 8  # size of its q_table
SETTINGS = {
    "learning_episodes": 120, "test_interval": 20, "trials": 5, "max_step": 60, "seed": 5, "cw_num": 2, "ew_num": 2,
    "batch_size": 1,
}  # fmt: skip
kinds = pytest.mark.parametrize("kind", [td.DistributedQLAgent, FederatedQLAgent])


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """Make every table count as large."""
    monkeypatch.setattr(td, "LARGE", 0)


def agent_of(kind=td.DistributedQLAgent, pool=None, **changes):
    """Return an untrained agent."""
    return kind(LAKE, 0.1, 0.1, workers=pool or td.InProcess(), **(SETTINGS | changes))


def finished(*arguments, **changes):
    """Return an agent that has learned all its episodes."""
    agent = agent_of(*arguments, **changes)
    agent.learn_and_evaluate(progress=False)
    return agent


def heavy(monkeypatch, *arguments, **changes):
    """Return the learned state of an agent whose tables were sent whole."""
    with monkeypatch.context() as patch:
        patch.setattr(td, "LARGE", 2**60)
        agent = finished(*arguments, **changes)
    assert agent.cost.sent == agent.batches * BYTES
    return learned(agent)


# Bits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "stepped"])
@pytest.mark.parametrize(
    "kind, settings",
    [
        (td.DistributedQLAgent, {"cw_num": 1}),
        (td.DistributedQLAgent, {"cw_num": 3, "batch_size": 2}),
        (td.DistributedQLAgent, {"cw_num": 2, "in_flight": 4}),
        (td.DistributedQLAgent, {"cw_num": 40}),
        (FederatedQLAgent, {"cw_num": 1}),
        (FederatedQLAgent, {"cw_num": 5}),
        (FederatedSARSAAgent, {"cw_num": 2, "batch_size": 3}),
    ],
)
def test_a_run_whose_tables_travel_light_equals_the_dataflow_by_hand(kind, settings, compiled):
    agent = finished(kind, compiled=compiled, **settings)
    assert same_as_by_hand(agent)
    assert agent.cost.sent < agent.batches * BYTES * 0.9


class InTurn(td.DistributedQLAgent):
    """An agent whose collectors take turns, each acting on the latest table."""

    lag = 1


def test_collectors_that_take_turns_learn_what_one_core_learns():
    alone = td.QLAgent(LAKE, 0.1, 0.1, **{name: SETTINGS[name] for name in list(SETTINGS)[:5]})
    alone.learn_and_evaluate(progress=False)
    agent = finished(InTurn, cw_num=3)
    assert learned(agent) == learned(alone) and agent.cost.sent < agent.batches * BYTES * 0.9


@kinds
def test_every_batch_shows_the_table_that_one_whose_tables_travel_whole_shows(monkeypatch, kind):
    shown = []
    for large in (0, 2**60):
        monkeypatch.setattr(td, "LARGE", large)
        agent = agent_of(kind)
        shown.append([(agent.steps, agent.q_table.tobytes()) for _ in agent.learn_in_batches(120)])
    assert shown[0] == shown[1] and len(set(shown[0])) == len(shown[0])


@pytest.mark.parametrize("in_flight", [2, 3])
@pytest.mark.parametrize("lost", [{3}, {7, 8}, {11, 30, 31, 60}, set(range(1, 200, 2))], ids=str)
def test_losses_change_no_bit(monkeypatch, lost, in_flight):
    agent = finished(pool=Losing(dict.fromkeys(lost, Lost)), in_flight=in_flight)
    assert agent.restarts > 0
    assert learned(agent) == heavy(monkeypatch, in_flight=in_flight)


@pytest.mark.parametrize("lost", [{2}, {5, 6}, {11, 30, 31}], ids=str)
def test_losses_change_no_bit_of_a_federated_run(monkeypatch, lost):
    agent = finished(FederatedQLAgent, Losing(dict.fromkeys(lost, Lost)))
    assert agent.restarts > 0
    assert learned(agent) == heavy(monkeypatch, FederatedQLAgent)


INTERRUPTS = {
    "collecting": (td.CollectingWorker, "collect", 11), "learning": (td.QLAgentServer, "learn", 12),
    "sending": (ChangeLog, "send", 13), "taking": (Replica, "take", 14), "applying": (Changes, "apply", 30),
    "keeping": (Version, "__init__", 9), "testing": (td.EvaluationWorker, "evaluate", 3),
}  # fmt: skip


@pytest.mark.parametrize("target, method, call", INTERRUPTS.values(), ids=INTERRUPTS)
def test_an_interrupt_anywhere_leaves_what_goes_on_to_the_same_bits(monkeypatch, tmp_path, target, method, call):
    agent = agent_of(in_flight=3)
    with interrupted(monkeypatch, target, method, call):
        agent.learn_and_evaluate(progress=False)
    assert 0 < agent.episode < 120 and agent.q_table.any() and agent.q_table.flags.writeable
    agent.save(tmp_path / "agent.npz")
    expected = heavy(monkeypatch, in_flight=3)
    for one in (agent_of(in_flight=3).load(tmp_path / "agent.npz"), agent):
        one.learn_and_evaluate(progress=False)
        assert learned(one) == expected


@pytest.mark.parametrize("call", [1, 2, 5, 6])
def test_an_interrupt_while_a_table_is_put_together_leaves_it_to_be_asked_for_again(monkeypatch, call):
    agent, same = agent_of(), agent_of()
    batches, undisturbed = agent.learn_in_batches(30), same.learn_in_batches(30)
    for _ in range(12):
        next(batches), next(undisturbed)
    with interrupted(monkeypatch, Changes, "apply", call):
        _ = agent.q_table
    assert agent.q_table.tobytes() == same.q_table.tobytes()
    assert list(batches) == list(undisturbed)
    assert learned(agent) == learned(same)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [td.DistributedQLAgent, InTurn, FederatedQLAgent])
def test_a_run_over_ray_changes_no_bit_and_counts_the_same_bytes(monkeypatch, kind, seed):
    with simulated(seed):
        over_ray = finished(kind, td.Workers(2, 2))
    here = finished(kind)
    assert learned(over_ray) == learned(here) == heavy(monkeypatch, kind)
    assert over_ray.cost.sent == here.cost.sent < here.batches * BYTES


@pytest.mark.parametrize("seed", range(5))
@kinds
def test_kills_change_no_bit_and_most_tables_travel_as_what_changed(kind, seed):
    agent = agent_of(kind, td.Workers(2, 2))
    with simulated(seed), killing_before(agent.workers, {10: [("collector", 1)], 30: [("server", 0)]}) as hit:
        agent.learn_and_evaluate(progress=False)
    assert learned(agent) == learned(finished(kind)) and agent.restarts == len(hit) == 2
    assert agent.cost.sent < 0.9 * agent.batches * BYTES


def test_a_large_lake_is_light_by_itself(monkeypatch):
    monkeypatch.undo()
    lake = td.FrozenLakeEnv(td.generate_map((100, 100), 0.08, seed=1))
    agent = td.DistributedQLAgent(lake, 0.1, 0.1, cw_num=2, batch_size=2, do_test=False, workers=td.InProcess())
    agent.learn(60)
    assert agent.cost.sent < agent.batches * agent.q_table.nbytes / 3


# Messages ----------------------------------------------------------------------------------


def test_a_log_sends_the_pairs_of_the_last_batches_each_once_with_the_values_of_now():
    q_table = np.zeros((50, 2))
    log = ChangeLog(q_table, steps=10, behind=2)
    sent = []
    for steps, pairs in ((13, [4, 5, 4, -1]), (15, [99, -3]), (18, [5, 7, 5, -1])):
        q_table.reshape(-1)[[pair for pair in pairs if pair >= 0]] = steps
        sent.append(log.send(np.array(pairs, np.int32), steps))
    first, second, third = sent
    assert first.sum() == 2 * 13  # a whole table: no receiver has one from two batches ago
    assert (second.since, third.since) == (10, 13)
    assert dict(zip(second.pairs, second.values, strict=True)) == {4: 13, 5: 13, 99: 15}
    assert dict(zip(third.pairs, third.values, strict=True)) == {99: 15, 5: 18, 7: 18}
    assert third.nbytes == 3 * (4 + 8)


def test_changes_that_would_take_more_room_than_the_table_are_sent_as_the_table():
    q_table = np.zeros((6, 2))
    log = ChangeLog(q_table, 0, 1)
    kinds = [type(log.send(np.arange(count, dtype=np.int32), count)) for count in (7, 8, 12)]
    assert kinds == [Changes, np.ndarray, np.ndarray]


def test_what_a_server_sent_is_left_alone_by_what_it_learns_later():
    worker = td.QLAgent(LAKE, 0.1, 0.1, max_step=60)
    server, start = td.QLAgentServer(worker), td.Snapshot(np.zeros((65, 4)), 0)
    server.behind = 1
    server.begin(start)
    collected = td.CollectingWorker(worker).collect(start, 0, 1)
    first = server.learn(collected).q_table
    before = first.values.tobytes()
    server.learn(collected)
    assert isinstance(first, Changes) and first.values.tobytes() == before


# Workers' tables ---------------------------------------------------------------------------


@pytest.mark.parametrize("role", [td.CollectingWorker, FederatedWorker])
def test_a_worker_that_learned_starts_from_the_table_that_it_is_sent(role):
    worker = td.QLAgent(LAKE, 0.1, 0.1, max_step=60)
    one, other = role(worker), role(worker)
    task = one.collect if role is td.CollectingWorker else one.learn
    fresh = other.collect if role is td.CollectingWorker else other.learn
    table = np.zeros((65, 4))
    table.flags.writeable = False  # as Ray's arrays are
    task(td.Snapshot(table, 0), 0, 3)
    changed = table.copy()
    changed[0, 1], changed[7, 2] = 3.0, 4.0
    changes = Changes(0, np.array([1, 30], np.int32), np.array([3.0, 4.0]))
    for _ in range(2):  # several workers of one process receive the same
        found, expected = task(td.Snapshot(changes, 9), 5, 3), fresh(td.Snapshot(changed, 9), 5, 3)
        assert [part.tobytes() for part in found[:2]] == [part.tobytes() for part in expected[:2]]
    assert not table.any()


def test_changes_to_a_table_that_a_worker_does_not_have_are_refused():
    changes = td.Snapshot(Changes(5, np.array([1], np.int32), np.array([3.0])), 9)
    replica = Replica()
    with pytest.raises(RuntimeError, match="changes since step 5 were sent to a worker without that table"):
        replica.take(*changes[:2])
    for steps in (4, 10):
        replica.take(np.zeros((6, 2)), steps)
        replica.learned = np.zeros(0, np.int32)
        with pytest.raises(RuntimeError, match="changes since step 5"):
            replica.take(*changes[:2])
    replica.take(np.zeros((6, 2)), 5)  # without telling it what the server learned
    with pytest.raises(RuntimeError, match="changes since step 5"):
        replica.take(*changes[:2])


# The agent's changes -----------------------------------------------------------------------


def test_an_agent_keeps_no_more_changes_than_a_table_and_those_of_the_lag_take():
    agent = agent_of(do_test=False, learning_episodes=3000)
    most = 0
    for _ in agent.learn_in_batches(3000):
        version, kept = agent._learned.q_table, 0
        while isinstance(version, Version) and version.table is None:
            kept, version = kept + version.changes.nbytes, version.before
        most = max(most, kept)
    assert 0 < most <= (1 + 1 + agent.lag) * BYTES


def test_a_version_is_put_together_from_all_that_came_before():
    table, versions = np.zeros((4, 2)), []
    for pair, value in ((0, 1.0), (5, 2.0), (0, 3.0)):
        before = versions[-1] if versions else table
        versions.append(Version(before, Changes(0, np.array([pair], np.int32), np.array([value]))))
    for order in itertools.permutations(range(3)):
        found = [materialized(versions[i]).ravel().tolist() for i in order]
        expected = [[1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 2, 0, 0], [3, 0, 0, 0, 0, 2, 0, 0]]
        assert found == [expected[i] for i in order]
    assert not table.any() and not materialized(versions[0]).flags.writeable


# Merging -------------------------------------------------------------------------------------


def test_a_merge_of_few_pairs_changes_those_and_tells_of_them():
    worker = td.QLAgent(LAKE, 0.1, 0.1, max_step=20)
    server, start = FederatedServer(worker), td.Snapshot(np.ones((65, 4)), 0)
    server.behind = 1
    server.begin(start)
    reports = [FederatedWorker(worker).learn(start, episode, 1) for episode in (0, 1)]
    changes = server.merge(0.1, *reports).q_table
    visited = np.union1d(*(report.pairs for report in reports))
    assert sorted(changes.pairs) == visited.tolist()
    assert (np.delete(server.q_table.ravel(), visited) == 1).all()
