"""Saving and loading: a resumed run has the same bits and may be extended, and only valid saves are loaded."""

import functools
import io
import json
import math
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
import zipfile

import gym
import numpy as np
import pytest
from helpers import Ring, corridor, interrupted, learned

import td_helpers as td
from beyond import DistributedDynaQAgent, DynaQAgent, FederatedQLAgent, FederatedSARSAAgent

LAKE = td.FrozenLakeEnv()


def small(agent_class=td.QLAgent, simulator=LAKE, **settings):
    """Return an agent with 60 episodes on the 4 x 4 lake, tested every ten; a distributed one needs no Ray."""
    defaults = {"learning_episodes": 60, "test_interval": 10, "trials": 4, "max_step": 60, "seed": 3}
    if issubclass(agent_class, td.DistributedQLAgent):
        defaults |= {"cw_num": 3, "ew_num": 2, "batch_size": 3, "workers": td.InProcess()}
    return agent_class(simulator, 0.3, 0.1, **(defaults | settings))


def run(agent):
    """Run an agent to the end; return its learned state."""
    agent.learn_and_evaluate(progress=False)
    return learned(agent)


KINDS = {
    "Q-learning": small,
    "SARSA": functools.partial(small, td.SARSAAgent),
    "random ties, returns": functools.partial(small, ties="random", keep_returns=True),
    "stepped": functools.partial(small, compiled=False),
    "without P": functools.partial(small, simulator=Ring()),
    "distributed": functools.partial(small, td.DistributedQLAgent),
    "distributed, random ties, returns": functools.partial(
        small, td.DistributedQLAgent, ties="random", keep_returns=True
    ),
    "federated": functools.partial(small, FederatedQLAgent),
    "federated SARSA, returns": functools.partial(small, FederatedSARSAAgent, keep_returns=True),
    "Dyna-Q": functools.partial(small, DynaQAgent),
    "Dyna-Q, returns": functools.partial(small, DynaQAgent, keep_returns=True),
    "distributed Dyna-Q": functools.partial(small, DistributedDynaQAgent),
    "distributed Dyna-Q, returns": functools.partial(small, DistributedDynaQAgent, keep_returns=True),
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@pytest.fixture
def path(tmp_path):
    """The path to save to."""
    return tmp_path / "agent.npz"


@pytest.fixture
def saved(monkeypatch, path):
    """The saved file of an agent that was interrupted in its third test."""
    agent = small()
    with interrupted(monkeypatch, agent, "evaluate_on", 3):
        agent.learn_and_evaluate(progress=False)
    agent.save(path)
    return path


# Resuming --------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("test", [1, 3])
def test_a_run_stopped_in_a_test_and_saved_goes_on_with_the_same_bits(path, monkeypatch, make, test):
    stopped = make()
    with interrupted(monkeypatch, td.TDAgent, "evaluate_on", test):
        stopped.learn_and_evaluate(progress=False)
    stopped.save(path)
    resumed = make().load(path)
    assert learned(resumed) == learned(stopped)
    assert run(resumed) == run(make())


@kinds
def test_a_finished_run_is_continued_for_longer_with_the_bits_of_one_long_run(path, make):
    first = make()
    run(first)
    first.save(path)
    assert run(make(learning_episodes=100).load(path)) == run(make(learning_episodes=100))


@kinds
def test_a_run_goes_on_after_a_decayed_epsilon(path, make):
    whole, first = make(), make()
    for agent in (whole, first):
        agent.learn(30)
        agent.epsilon = 0.1
        agent.learn(9)
    first.save(path)
    rest = make().load(path)
    assert rest.epsilon == 0.3
    rest.epsilon = 0.1
    assert run(rest) == run(whole)


def test_a_saved_run_goes_on_in_another_process(saved, root):
    script = f"""
import td_helpers as td
agent = td.QLAgent(td.FrozenLakeEnv(), 0.3, 0.1, 60, test_interval=10, trials=4, max_step=60, seed=3)
rewards, q_table = agent.load({str(saved)!r}).learn_and_evaluate(progress=False)
print(q_table.tobytes().hex(), agent.episode, agent.steps, rewards, sep="|")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    q_table, episode, steps, rewards = run(small())
    assert done.stdout.strip() == f"{q_table.hex()}|{episode}|{steps}|{rewards}"


CHANGED = {
    "epsilon": 0.2, "learning_rate": 0.2, "learning_episodes": 90, "test_interval": 7, "trials": 5, "do_test": False,
    "max_step": 61, "compiled": False, "initial_value": 5.0,
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_an_agent_of_other_settings_takes_over_what_was_learned_and_keeps_its_own(saved, name):
    agent = small().load(saved)
    values = {"epsilon": 0.3, "learning_rate": 0.1} | {name: CHANGED[name]}
    epsilon, learning_rate = values.pop("epsilon"), values.pop("learning_rate")
    others = {"learning_episodes": 60, "test_interval": 10, "trials": 4, "max_step": 60, "seed": 3} | values
    other = td.QLAgent(LAKE, epsilon, learning_rate, **others).load(saved)
    assert learned(other) == learned(agent)
    assert getattr(other, name, CHANGED[name]) == CHANGED[name]


@pytest.mark.parametrize("field, value", [("cw_num", 2), ("cw_num", 5), ("batch_size", 11)])
def test_other_collectors_or_batches_are_told_to_lead_to_another_result(path, field, value):
    small(td.DistributedQLAgent, learning_episodes=33).save(path)
    agent = small(td.DistributedQLAgent, learning_episodes=60, test_interval=20, **{field: value})
    with pytest.warns(UserWarning, match=f"saved with {field}=3, this agent has {value}: it continues .* will differ"):
        agent.load(path)
    agent.learn_and_evaluate(progress=False)
    assert agent.episode == 60


def test_a_save_of_the_same_collectors_and_batches_is_loaded_without_a_word(path, recwarn):
    small(td.DistributedQLAgent).save(path)
    small(td.DistributedQLAgent).load(path)
    assert not recwarn.list


# Refused files ---------------------------------------------------------------------------


def refused(agent, path, match):
    """Check that a file is refused with a message, and that the agent is unchanged."""
    before = learned(agent)
    with pytest.raises(ValueError, match=match):
        agent.load(path)
    assert learned(agent) == before


TILTED = td.FrozenLakeEnv(transition_prob=(0.96, 0.02, 0.01, 0.01))
OTHERS = {
    "seed": lambda: small(seed=4),
    "beta": lambda: small(beta=0.9),
    "ties": lambda: small(ties="random"),
    "agent": lambda: small(td.SARSAAgent),
    "simulator": lambda: small(simulator=TILTED),
    "simulator of another size": lambda: small(simulator=td.FrozenLakeEnv(map_name="8x8")),
    "simulator without P": lambda: small(simulator=Ring()),
    "simulator with a time limit": lambda: small(simulator=gym.wrappers.TimeLimit(LAKE, 50)),
    "simulator of other slips, stepped": lambda: small(simulator=TILTED, compiled=False),
    "simulator with a time limit where it is stepped": lambda: small(
        simulator=gym.wrappers.TimeLimit(LAKE, 50), compiled=False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_another_agent_learned_is_refused(saved, name):
    agent = OTHERS[name]()
    agent.learn(2)
    refused(agent, saved, f"has {name.split()[0]} ")


def test_another_time_limit_of_a_stepped_env_without_p_is_refused(path):
    small(simulator=gym.wrappers.TimeLimit(Ring(), 20)).save(path)
    refused(small(simulator=gym.wrappers.TimeLimit(Ring(), 21)), path, "has simulator .* limit 20")


def test_another_env_of_the_same_shape_is_refused_though_no_step_was_taken(path):
    small(simulator=corridor(4)).save(path)
    refused(small(simulator=td.FrozenLakeEnv(["SFHFG"])), path, "has simulator table")


def test_a_single_core_save_is_refused_by_a_distributed_agent(saved):
    refused(small(td.DistributedQLAgent), saved, "it has agent QLAgent, this agent has DistributedQLAgent")


CHANGES = {
    "missing": None,
    "longer": lambda array: np.zeros((len(array) + 1, *array.shape[1:]), array.dtype),
    "of another shape": lambda array: np.zeros((3, 7, 2, 1), array.dtype),
    "of another kind": lambda array: array.astype("S"),
    "in half the bits": lambda array: array.astype(array.dtype.kind + "4"),
}


WRONG = [
    (kind, field, change)
    for kind, fields in {
        td.QLAgent: ["q_table", "tests", "rewards"],
        td.DistributedQLAgent: ["recent", "untested", "untested_q_tables"],
    }.items()
    for field in fields
    for change in CHANGES
    if (field, change) != ("recent", "longer")  # as more collectors leave it: this warns instead
]


@pytest.mark.parametrize("kind, field, change", WRONG, ids=lambda part: getattr(part, "__name__", part))
def test_a_save_with_a_wrong_array_is_refused_by_its_name(path, monkeypatch, kind, field, change):
    agent = small(kind)
    with interrupted(monkeypatch, td.TDAgent, "evaluate_on", 3):
        agent.learn_and_evaluate(progress=False)
    agent.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    wrong = arrays.pop(field)
    if change != "missing":
        arrays[field] = CHANGES[change](wrong)
    np.savez(path, **arrays)
    refused(small(kind), path, field)


IMPOSSIBLE = {
    "q_table": np.full((17, 4), np.nan), "rewards": np.full(2, np.inf), "tests twice": np.array([10, 10]),
    "tests before the first episode": np.array([-10, 10]), "untested twice": np.array([10, 10]),
    "untested before the first episode": np.array([-10, 10]), "untested_q_tables": np.full((2, 17, 4), np.nan),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_save_with_impossible_values_is_refused_by_their_name(path, name):
    agent = small(td.DistributedQLAgent)
    agent.rewards = {10: 1.0, 20: 2.0}  # as many entries as the faulty saves have
    agent._untested = {30: agent.q_table, 40: agent.q_table}
    agent.save(path)
    small(td.DistributedQLAgent).load(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | {name.split()[0]: IMPOSSIBLE[name]}))
    refused(small(td.DistributedQLAgent), path, name.split()[0])


@pytest.mark.parametrize("value", [None, -5, 1.5, "7", True, 2**80], ids=repr)
@pytest.mark.parametrize("name", ["episode", "steps", "seed", "beta", "ties", "agent", "simulator"])
def test_a_save_with_a_wrong_entry_in_its_header_is_refused_by_its_name(saved, name, value):
    with np.load(saved) as file:
        arrays = dict(file)
    header = json.loads(str(arrays["header"])) | {name: value}
    np.savez(saved, **(arrays | {"header": np.array(json.dumps(header))}))
    refused(small(), saved, name)


@pytest.mark.parametrize("header", ["", "[1]", "{", "null", '"agent"'])
def test_a_save_whose_header_is_no_table_of_settings_is_refused(saved, header):
    with np.load(saved) as file:
        arrays = dict(file)
    np.savez(saved, **(arrays | {"header": np.array(header)}))
    refused(small(), saved, "not a saved agent")


def test_a_truncated_save_is_refused_wherever_it_ends(saved):
    whole = saved.read_bytes()
    for size in range(0, len(whole), 53):
        saved.write_bytes(whole[:size])
        refused(small(), saved, "not a saved agent")


def test_a_save_with_a_flipped_byte_is_refused_or_tells_the_same(saved):
    whole, good = saved.read_bytes(), learned(small().load(saved))
    for at in range(0, len(whole), 11):
        saved.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        agent = small()
        before = learned(agent)
        try:
            assert learned(agent.load(saved)) == good, at
        except ValueError:
            assert learned(agent) == before, at


FOREIGN = {
    "text": lambda path: path.write_text("not an agent", encoding="utf-8"),
    "empty": lambda path: path.write_bytes(b""),
    "npy": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "npz": lambda path: np.savez(path.open("wb"), weights=np.zeros(3)),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"q_table": 1})),
}


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused(path, write):
    write(path)
    refused(small(), path, "not a saved agent")


class Bomb:
    """An object that ends the process if it is unpickled."""

    def __reduce__(self):
        return os._exit, (7,)


@pytest.mark.parametrize("field", ["tests", "header"])
def test_no_pickle_in_a_save_is_ever_opened(saved, field):
    with np.load(saved) as file:
        arrays = dict(file)
    np.savez(saved, **(arrays | {field: np.array([Bomb()], dtype=object)}))
    refused(small(), saved, "not a saved agent")


def test_what_is_no_file_is_refused_without_waiting_for_it(path):
    os.mkfifo(path)
    refused(small(), path, "must be a regular file, or none yet, .* which is a pipe")


def test_a_missing_file_is_reported_as_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        small().load(tmp_path / "none.npz")


# Oversized arrays -------------------------------------------------------------------------

FULL = {  # one agent per kind of save; stopped in a test, all its arrays have content
    "single-core": small,
    "distributed": functools.partial(small, td.DistributedQLAgent),
    "Dyna-Q": functools.partial(small, DynaQAgent),
}
ARRAYS = [
    *[("single-core", name) for name in ("q_table", "tests", "rewards", "header")],
    *[("distributed", name) for name in ("recent", "untested", "untested_q_tables")],
    *[("Dyna-Q", name) for name in ("values", "waiting", "counts_pair", "counts_next_state", "counts_reward_sum")],
]
arrays_of_all_kinds = pytest.mark.parametrize("kind, name", ARRAYS)


def stopped(monkeypatch, kind, path) -> bytes:
    """Save an agent that was interrupted in its third test; return its learned state."""
    agent = FULL[kind]()
    with interrupted(monkeypatch, td.TDAgent, "evaluate_on", 3):
        agent.learn_and_evaluate(progress=False)
    agent.save(path)
    return learned(agent)


def replace_array(path, name: str, content: bytes, method=zipfile.ZIP_DEFLATED) -> None:
    """Replace an array of a save by other bytes."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for entry, old in entries.items():
            archive.writestr(entry, content if entry == f"{name}.npy" else old)


def npy_header(shape: tuple, dtype) -> bytes:
    """Return the header of an .npy file."""
    file = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def saved_form(path, name: str) -> tuple:
    """Return (shape, dtype) of an array of a save."""
    with np.load(path) as file:
        return file[name].shape, file[name].dtype


def as_texts(shape, dtype) -> tuple:
    """Return a huge form of an array: a long text for strings, otherwise many rows."""
    return (shape, "<U500000000") if dtype.kind == "U" else ((2**29, *shape[1:]), dtype)


TOO_MUCH = {
    "long": as_texts,
    "of many axes": lambda shape, dtype: ((*shape, 2**29), dtype),
    "of wide items": lambda shape, dtype: (shape, f"V{2**30}"),
    "of negative length": lambda shape, dtype: ((-1, *shape[1:]), dtype),
}


@arrays_of_all_kinds
@pytest.mark.parametrize("change", TOO_MUCH)
def test_an_array_that_is_none_of_this_agents_is_refused_before_it_is_read(monkeypatch, path, kind, name, change):
    stopped(monkeypatch, kind, path)
    replace_array(path, name, npy_header(*TOO_MUCH[change](*saved_form(path, name))))  # a header without data
    refused(FULL[kind](), path, f"{name} of .*, shape .*, is not what")


@arrays_of_all_kinds
def test_an_array_whose_own_header_is_huge_is_refused_before_that_is_read(monkeypatch, path, kind, name):
    stopped(monkeypatch, kind, path)
    replace_array(path, name, b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little"))
    refused(FULL[kind](), path, f"{name} is not in the .npy version")


@arrays_of_all_kinds
def test_what_would_unpack_without_limit_is_refused(monkeypatch, path, kind, name):
    stopped(monkeypatch, kind, path)
    replace_array(path, name, bytes(100), zipfile.ZIP_LZMA)
    refused(FULL[kind](), path, "compressed by a method that numpy does not use")


@pytest.mark.parametrize("kind, name", [("single-core", "q_table"), ("distributed", "recent"), ("Dyna-Q", "waiting")])
def test_a_small_file_of_a_huge_array_takes_no_memory(monkeypatch, path, kind, name):
    stopped(monkeypatch, kind, path)
    shape, dtype = saved_form(path, name)
    width = math.prod(shape[1:]) * dtype.itemsize
    length = 2**26 // width
    replace_array(path, name, npy_header((length, *shape[1:]), dtype) + bytes(length * width))
    assert path.stat().st_size < 100_000
    agent = FULL[kind]()
    tracemalloc.start()
    try:
        refused(agent, path, f"{name} of .*, shape .*, is not what")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**21


@pytest.mark.parametrize("cut", [1, 8, 50])
@arrays_of_all_kinds
def test_an_array_that_ends_before_its_values_do_is_refused(monkeypatch, path, kind, name, cut):
    stopped(monkeypatch, kind, path)
    with zipfile.ZipFile(path) as archive:
        content = archive.read(f"{name}.npy")
    replace_array(path, name, content[:-cut])
    refused(FULL[kind](), path, "not a saved agent")


@pytest.mark.parametrize(
    "kind, name",
    [("single-core", "q_table"), ("distributed", "q_table"), ("distributed", "recent"), ("Dyna-Q", "q_table")],
)
def test_an_array_in_fortrans_order_is_loaded_in_the_order_that_is_learned_on(monkeypatch, path, kind, name):
    before = stopped(monkeypatch, kind, path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | {name: np.asfortranarray(arrays[name])}))
    agent = FULL[kind]().load(path)
    assert learned(agent) == before and agent.q_table.flags.carray
    assert run(agent) == run(FULL[kind]())


# Earlier versions -------------------------------------------------------------------------

EARLIER = {  # files in tests/saves: (agent, episodes learned), and the commit that wrote it
    "single_core": (small, 23),  # 1c4a91c
    "distributed_without_in_flight": (functools.partial(small, td.DistributedQLAgent), 30),  # 1c4a91c
    "dyna": (functools.partial(small, DynaQAgent), 30),  # b8f8ac3
    "distributed_dyna": (functools.partial(small, DistributedDynaQAgent), 30),  # a24d9c3
}


@pytest.mark.parametrize("name", EARLIER)
def test_a_save_of_an_earlier_version_goes_on_to_the_same_bits_without_a_word(root, recwarn, name):
    make, episode = EARLIER[name]
    whole = make()
    if episode == 23:  # it learned in one call, past its tests
        whole.learn(23)
    resumed = make().load(root / "tests" / "saves" / f"{name}.npz")
    assert resumed.episode == episode and not recwarn.list
    assert run(resumed) == run(whole)


def test_a_save_of_before_saves_had_a_header_is_refused_with_that(root):
    refused(small(), root / "tests" / "saves" / "without_header.npz", "a version whose saves had no header")  # d27e85b


@pytest.mark.parametrize("number", [3, 0, None, "2", [2]], ids=repr)
def test_a_save_of_a_format_to_come_is_refused_with_its_number(saved, number):
    with np.load(saved) as file:
        arrays = dict(file)
    header = json.loads(str(arrays["header"]))
    assert header["format"] == 2
    np.savez(saved, **(arrays | {"header": np.array(json.dumps(header | {"format": number}))}))
    refused(small(), saved, "its format is .*, and this version reads up to 2")


# The file ---------------------------------------------------------------------------------


def test_saving_leaves_one_file_and_no_pickle(saved):
    assert os.listdir(saved.parent) == ["agent.npz"]
    with np.load(saved, allow_pickle=False) as file:
        assert not any(file[name].dtype.hasobject for name in file.files)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    before = saved.read_bytes()

    def half(file, **_):
        file.write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(td.np, "savez_compressed", half)
    with pytest.raises(OSError, match="no space left"):
        small().save(saved)
    assert saved.read_bytes() == before and os.listdir(saved.parent) == ["agent.npz"]


def test_two_threads_that_save_to_one_path_never_leave_a_broken_file(path):
    agents = [small(), small(learning_episodes=30)]
    possible = {run(agent)[1] for agent in agents}
    agents[0].save(path)
    errors = []

    def save(agent):
        try:
            for _ in range(60):
                agent.save(path)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(agent,)) for agent in agents]
    for thread in threads:
        thread.start()
    found = set()
    while any(thread.is_alive() for thread in threads):
        found.add(small().load(path).episode)
    assert not errors
    assert found <= possible and os.listdir(path.parent) == ["agent.npz"]


# Agents that cannot be saved ---------------------------------------------------------------


class Infinite(td.QLAgent):
    """An agent whose tests return infinity."""

    def evaluate(self, *arguments, **settings):
        return float("inf")


def test_a_test_without_a_finite_value_is_refused_when_it_is_done():
    with pytest.raises(ValueError, match="what evaluate returns must be a number from"):
        Infinite(td.FrozenLakeEnv(), learning_episodes=20, test_interval=10).learn_and_evaluate(progress=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_table_that_is_not_finite_is_not_saved(path, value):
    agent = td.QLAgent(td.FrozenLakeEnv())
    agent.save(path)
    before = path.read_bytes()
    agent.q_table[3, 1] = value
    with pytest.raises(ValueError, match="q_table must be finite to be saved"):
        agent.save(path)
    assert path.read_bytes() == before
