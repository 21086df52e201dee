"""Every entry point ("door") for a table: any array or lists become the agent's own C-ordered float64 copy."""

import numpy as np
import pandas
import pytest

import td_helpers as td
from beyond import DistributedDynaQAgent, DynaQAgent, FederatedQLAgent, FederatedSARSAAgent
from beyond.planning import ROW

LAKE = td.FrozenLakeEnv()
SHAPE = LAKE.table.shape
TABLE = np.random.default_rng(0).integers(0, 100, SHAPE).astype(float)


class Subclass(np.ndarray):
    """An array subclass whose instances are read-only."""

    def __array_finalize__(self, other):
        self.flags.writeable = False


def field() -> np.ndarray:
    """Return a field of a structured array, interleaved with another."""
    rows = np.zeros(SHAPE[0], [("visits", "i4", 3), ("values", "f8", SHAPE[1])])
    rows["values"] = TABLE
    return rows["values"]


def read_only() -> np.ndarray:
    table = TABLE.copy()
    table.flags.writeable = False
    return table


KINDS = {
    "Fortran's order": lambda: np.asfortranarray(TABLE),
    "transposed": lambda: np.ascontiguousarray(TABLE.T).T,
    "every second": lambda: np.repeat(np.repeat(TABLE, 2, axis=0), 2, axis=1)[::2, ::2],
    "backwards": lambda: np.ascontiguousarray(TABLE[::-1, ::-1])[::-1, ::-1],
    "a field": field,
    "float32": lambda: TABLE.astype(np.float32),
    "float16, in Fortran's order": lambda: np.asfortranarray(TABLE.astype(np.float16)),
    "longdouble": lambda: TABLE.astype(np.longdouble),
    "the other byte order": lambda: TABLE.astype(TABLE.dtype.newbyteorder()),
    "int64": lambda: TABLE.astype(np.int64),
    "uint8": lambda: TABLE.astype(np.uint8),
    "read-only": read_only,
    "a matrix": lambda: np.asmatrix(TABLE),
    "a masked array that masks nothing": lambda: np.ma.array(TABLE, mask=np.zeros(SHAPE, bool)),
    "a subclass": lambda: TABLE.view(Subclass),
    "a DataFrame": lambda: pandas.DataFrame(TABLE),
    "a DataFrame's values": lambda: pandas.DataFrame(TABLE).astype({0: int}).values,
    "lists": TABLE.tolist,
    "a list of rows": lambda: list(TABLE.astype(np.int32)),
    "a tuple of tuples": lambda: tuple(map(tuple, TABLE.tolist())),
}
given = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass")


def agent_of(kind, **settings):
    if issubclass(kind, td.DistributedQLAgent):
        settings |= {"cw_num": 2, "batch_size": 5, "workers": td.InProcess()}
    return kind(LAKE, 0.3, 0.1, do_test=False, max_step=60, seed=3, **settings)


AGENTS = (
    td.QLAgent, td.SARSAAgent, td.DistributedQLAgent, FederatedQLAgent, FederatedSARSAAgent, DynaQAgent,
    DistributedDynaQAgent,
)  # fmt: skip


def through_setter(kind):
    def learned(table) -> bytes:
        agent = agent_of(kind)
        agent.learn(5)
        agent.q_table = table
        held = agent.q_table
        assert type(held) is np.ndarray and held.flags.carray and held.dtype == np.float64
        assert held.flags.owndata and not np.shares_memory(held, np.asarray(table))
        agent.learn(20)
        return agent.q_table.tobytes()

    return learned


def through_replaying_server(table) -> bytes:
    worker = td.QLAgent(LAKE, 0.3, 0.1, max_step=60, seed=3)
    collector, server = td.CollectingWorker(worker), td.QLAgentServer(worker)
    snapshot = td.Snapshot(table, 0)
    server.begin(snapshot)
    assert server.q_table.flags.carray and not np.shares_memory(server.q_table, np.asarray(table))
    server.learn(collector.collect(snapshot, 0, 20))
    return server.q_table.tobytes()


def through_merging_server(table) -> bytes:
    worker = td.QLAgent(LAKE, 0.3, 0.1, max_step=60, seed=3)
    roles, snapshot = FederatedQLAgent.roles, td.Snapshot(table, 0)
    server, collectors = roles["server"](worker), [roles["collector"](worker) for _ in range(2)]
    server.begin(snapshot)
    server.merge(0.1, *(one.learn(snapshot, 10 * i, 10) for i, one in enumerate(collectors)))
    return server.q_table.tobytes()


def through_planning_server(table) -> bytes:
    agent = agent_of(DistributedDynaQAgent)
    server = agent.roles["server"](DynaQAgent(LAKE))
    start = agent._snapshots()[-1]._replace(q_table=table, counts=np.zeros(0, ROW))
    server.begin(start)
    counted = agent.roles["collector"](td.QLAgent(LAKE, 0.3, 0.1, max_step=60)).collect(td.Snapshot(table, 0), 0, 20)
    return server.learn(agent._planning(), counted).q_table.tobytes()


DOORS = {f"q_table of {kind.__name__}": through_setter(kind) for kind in AGENTS} | {
    "begin of a server that replays": through_replaying_server,
    "begin of a server that merges": through_merging_server,
    "begin of a server that plans": through_planning_server,
}
doors = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)


@pytest.fixture(scope="module")
def learned_from_c():
    """Return what a plain array learns through a door, as a cached function of the door."""
    found = {}
    return lambda door: found.setdefault(door, door(TABLE.copy()))


@doors
@given
def test_through_every_door_every_kind_of_table_is_learned_on_alike(door, make, learned_from_c):
    table = make()
    assert door(table) == learned_from_c(door) != TABLE.tobytes()
    assert np.array_equal(np.asarray(table, float), TABLE)


BAD = {
    "masked": (lambda: np.ma.array(TABLE, mask=TABLE > 98), ValueError, "finite, got masked entries"),
    "rows masked": (lambda: [np.ma.array(row, mask=row > 98) for row in TABLE], ValueError, "got masked entries"),
    "nan": (lambda: np.where(TABLE > 98, np.nan, TABLE), ValueError, "finite, got nan or inf"),
    "inf": (lambda: np.where(TABLE > 98, np.inf, TABLE).astype(np.float32), ValueError, "finite, got nan or inf"),
    "longer than float64": (lambda: np.full(SHAPE, np.longdouble("1e400")), ValueError, "finite, got nan or inf"),
    "another shape": (lambda: TABLE[:-1], ValueError, "got \\(16, 4\\)"),
    "transposed": (lambda: TABLE.T, ValueError, "got \\(4, 17\\)"),
    "a matrix too wide": (lambda: np.asmatrix(TABLE[:, :3]), ValueError, "got \\(17, 3\\)"),
    "flat": (lambda: TABLE.ravel(), ValueError, "got \\(68,\\)"),
    "rows that differ": (lambda: [*TABLE.tolist()[:-1], [1.0]], ValueError, "got rows of different lengths"),
    "a number": (lambda: 0.0, ValueError, "got \\(\\)"),
    "None": (lambda: None, ValueError, "got \\(\\)"),
    "complex": (lambda: TABLE + 0j, TypeError, "real numbers, got complex128"),
    "words": (lambda: TABLE.astype(str), TypeError, "real numbers, got"),
    "bool": (lambda: TABLE > 5, TypeError, "real numbers, got bool"),
    "objects": (lambda: TABLE.astype(object), TypeError, "real numbers, got object"),
}


@doors
@pytest.mark.parametrize("make, error, message", BAD.values(), ids=BAD)
def test_through_every_door_what_is_no_table_is_refused(door, make, error, message):
    with pytest.raises(error, match="q_table must (have|hold|be) .*" + message):
        door(make())


IN_PLACE = {
    "read-only": (read_only, "read-only"),
    "a matrix": (lambda: np.asmatrix(TABLE), "a matrix"),
    "a masked array": (lambda: np.ma.array(TABLE), "a MaskedArray"),
    "lists": (TABLE.tolist, "a list"),
    "float32": (lambda: TABLE.astype(np.float32), "float32"),
    "the other byte order": (lambda: TABLE.astype(TABLE.dtype.newbyteorder()), "got >f8" if np.little_endian else "f8"),
}


@pytest.mark.parametrize("make, message", IN_PLACE.values(), ids=IN_PLACE)
def test_a_rule_learns_in_place_and_so_on_a_plain_array_alone(make, message):
    agent = agent_of(td.QLAgent)
    with pytest.raises(ValueError, match=f"q_table must be .*{message}"):
        agent.learn_on(make(), 0, 1)
    with pytest.raises(ValueError, match=f"q_table must be .*{message}"):
        td.q_learning.replay(make(), np.array([0, -1], np.int32), np.zeros(2), agent.actions, agent.parameters())


@pytest.mark.parametrize("make", [KINDS[name] for name in ("Fortran's order", "every second", "backwards", "a field")])
def test_a_rule_learns_in_place_on_an_array_of_any_order(make):
    tables = TABLE.copy(), make()
    for table in tables:
        agent_of(td.QLAgent).learn_on(table, 0, 20)
    assert np.array_equal(*tables) and not np.array_equal(tables[0], TABLE)


# Tables changed in place ----------------------------------------------------------------

DYNA = DynaQAgent, DistributedDynaQAgent  # these copy before they change
ALONE = {"Q-learning": td.QLAgent, "SARSA": td.SARSAAgent, "Dyna-Q": DynaQAgent}
TEAMS = {  # with one worker the collected table is the latest
    "distributed": (td.DistributedQLAgent, 1),
    "federated": (FederatedQLAgent, 2),
    "federated SARSA": (FederatedSARSAAgent, 2),
    "distributed Dyna-Q": (DistributedDynaQAgent, 2),
}


def learners():
    """Yield (name, factory) of untrained agents, by kind and pool."""
    for name, kind in ALONE.items():
        yield name, lambda kind=kind: kind(LAKE, 0.3, 0.1)
    for name, (kind, workers) in TEAMS.items():
        for pool in (td.InProcess, td.Threads):
            settings = {"cw_num": workers, "batch_size": 5, "do_test": False}
            make = lambda kind=kind, pool=pool, settings=settings: kind(LAKE, 0.3, 0.1, workers=pool(), **settings)
            yield f"{name}, {pool.__name__}", make


def saved_and_loaded(agent, make, folder):
    agent.save(folder / "save.npz")
    return make().load(folder / "save.npz")


@pytest.mark.parametrize("reloaded", [False, True], ids=["after a run", "after a load"])
@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in learners()])
def test_a_change_in_place_is_learned_on(make, reloaded, tmp_path):
    agents = make(), make()
    for agent in agents:
        agent.learn(40)
    if reloaded:
        agents = [saved_and_loaded(agent, make, tmp_path) for agent in agents]
    changed, assigned = agents
    changed.q_table[:] = TABLE
    changed.q_table[3, 2] += 1.0
    expected = TABLE.copy()
    expected[3, 2] += 1.0
    assigned.q_table = expected
    for agent in agents:
        agent.learn(40)
    assert changed.q_table.tobytes() == assigned.q_table.tobytes()


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in learners()])
def test_a_change_in_place_is_saved(make, tmp_path):
    agents = make(), make()
    for agent in agents:
        agent.learn(40)
    agents[0].q_table[:] = TABLE
    agents[1].q_table = TABLE
    resumed = [saved_and_loaded(agent, make, tmp_path) for agent in agents]
    for agent in resumed:
        agent.learn(40)
    assert resumed[0].q_table.tobytes() == resumed[1].q_table.tobytes()


@pytest.mark.parametrize(
    "kind", [td.DistributedQLAgent, FederatedQLAgent, FederatedSARSAAgent, DynaQAgent, DistributedDynaQAgent]
)
def test_within_a_loop_over_batches_a_table_is_read_only_and_afterwards_it_is_not(kind):
    agent = agent_of(kind)
    before = agent.q_table
    for batch in agent.learn_in_batches(40):
        for table in [agent.q_table] if issubclass(kind, DYNA) else [before, agent.q_table]:
            with pytest.raises(ValueError, match="read-only"):
                table[0, 0] = 1.0 * batch.number
    agent.q_table[0, 0] = 1.0
