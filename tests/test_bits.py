"""Every machine learns the same bits: check all agents' results by checksum, and repeat small runs in plain Python.

python tests/test_bits.py > tests/bits.json    recompute the checksums, after a change that is meant to change bits
python tests/test_bits.py 4x4 16x16            print those of the runs on these lakes
"""

import functools
import json
import math
import os
import platform
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numba
import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":  # run as a script: import from the project's folder, too
    sys.path.insert(0, str(HERE.parent))

import beyond  # noqa: E402
import td_helpers as td  # noqa: E402


def expected_sarsa(q_table, state, action, reward, next_state, terminated, actions, parameters):
    """A user's rule: the target is the mean over the next actions (Sutton and Barto 6.6)."""
    target = reward
    if not terminated:
        row, epsilon = q_table[next_state], parameters.epsilon
        target += parameters.beta * ((1 - epsilon) * max(row) + epsilon * sum(row) / len(actions))
    q_table[state][action] += parameters.learning_rate * (target - q_table[state][action])


class ExpectedSARSAAgent(td.TDAgent):
    kernel = td.Rule(expected_sarsa)


EPISODES = {"4x4": 600, "Dangerous Hallway": 5_000, "16x16": 10_000, "32x32": 10_000}
ODD = "odd lake"  # three S cells, slips of unequal probabilities
SIMULATORS = {
    "4x4": td.FrozenLakeEnv,
    "Dangerous Hallway": lambda: td.FrozenLakeEnv(map_name="Dangerous Hallway"),
    "16x16": lambda: td.FrozenLakeEnv(map_name="16x16"),
    "32x32": lambda: td.FrozenLakeEnv(td.generate_map((32, 32), 0.08, seed=32)),
    ODD: lambda: td.FrozenLakeEnv(["SFFS", "FHFF", "FFSH", "HFFG", "FFFF"], transition_prob=(0.61, 0.07, 0.11, 0.21)),
    "slippery cliff": lambda: gymnasium.make("CliffWalking-v1", is_slippery=True).unwrapped,
}
TEAM = {"cw_num": 3, "ew_num": 1, "batch_size": 10, "workers": td.InProcess()}
AGENTS = {
    "Q-learning": (td.QLAgent, {}),
    "SARSA": (td.SARSAAgent, {}),
    "Expected SARSA": (ExpectedSARSAAgent, {}),
    "distributed Q-learning": (td.DistributedQLAgent, TEAM),
    "federated Q-learning": (beyond.FederatedQLAgent, TEAM),
    "federated SARSA": (beyond.FederatedSARSAAgent, TEAM),
    "Dyna-Q": (beyond.DynaQAgent, {}),
    "distributed Dyna-Q": (beyond.DistributedDynaQAgent, TEAM),
}
FEDERATED = {  # with other rates and numbers of workers
    "federated Q-learning": [{"cw_num": 2, "learning_rate": 0.013}, {"cw_num": 17, "learning_rate": 0.001}],
    "federated SARSA": [{"cw_num": 5, "learning_rate": 0.3, "cap": 0.9}, {"cw_num": 20, "learning_rate": 0.02}],
}
STEPPED = {"learning_episodes": 200, "compiled": False}
RUNS = {  # by name: (agent, simulator, settings)
    **{
        f"{agent}, {name}": (agent, name, {"learning_episodes": EPISODES[name]})
        for name in EPISODES
        for agent in AGENTS
    },
    **{f"{agent}, stepped, {ODD}": (agent, ODD, STEPPED) for agent in AGENTS},
    **{f"{agent}, stepped, slippery cliff": (agent, "slippery cliff", STEPPED) for agent in ("Q-learning", "SARSA")},
    **{
        f"{agent}, {team['cw_num']} workers, 4x4": (agent, "4x4", {"learning_episodes": EPISODES["4x4"]} | team)
        for agent, teams in FEDERATED.items()
        for team in teams
    },
}
EXACT = {f"value_iteration, {name}": name for name in EPISODES}
NAMES = [*RUNS, *EXACT]
SMALL = ("4x4", ODD)  # takes seconds even in plain Python


@functools.cache
def simulator(name: str):
    return SIMULATORS[name]()


def checksum(*parts) -> str:
    """Return a checksum of numbers and arrays, the same for any byte order."""
    return f"{zlib.crc32(b''.join(np.asarray(part, '<f8').tobytes() for part in parts)):08x}"


def checksum_of(agent) -> str:
    """Return the checksum of an agent's learned state."""
    return checksum(agent.q_table, agent.episode, agent.steps, agent.total_rewards)


@functools.cache
def checksum_here(name: str) -> str:
    """Return the checksum of a run's result on this machine."""
    if name in EXACT:
        return checksum(td.value_iteration(simulator(EXACT[name]).table))
    agent, place, settings = RUNS[name]
    kind, team = AGENTS[agent]
    settings = {"learning_rate": 0.1, "test_interval": 200, "trials": 5, "seed": 5} | team | settings
    agent = kind(simulator(place), 0.3, **settings)
    agent.learn_and_evaluate(progress=False)
    return checksum_of(agent)


def checksums(places: list[str]) -> str:
    """Return the checksums of all runs, or of those in some places, as JSON."""
    names = [name for name in NAMES if not places or name.endswith(tuple(places))]
    return json.dumps({name: checksum_here(name) for name in names}, indent=0)


@pytest.fixture(scope="module")
def committed() -> dict[str, str]:
    return json.loads((HERE / "bits.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_this_machine_gives_the_committed_bits(name, committed):
    found = checksum_here(name)
    assert found == committed[name], (
        f"the run '{name}' gives other bits here than on the machine of the committed checksum, so numbers in the "
        f"notebook and the report may differ here too: {found}, not {committed[name]}.\nThis is {platform.system()} "
        f"on {platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, numba "
        f"{numba.__version__}; the checksums are of the versions in requirements.txt.\n"
        "If the change of bits is intended: python tests/test_bits.py > tests/bits.json"
    )


def test_no_two_committed_checksums_are_alike(committed):
    assert list(committed) == NAMES and len(set(committed.values())) == len(NAMES)


@pytest.mark.parametrize("module", [td, beyond])
def test_every_agent_of_the_project_is_among_the_runs(module):
    agents = {one for one in vars(module).values() if isinstance(one, type) and issubclass(one, td.TDAgent)}
    assert agents - {td.TDAgent} <= {kind for kind, _ in AGENTS.values()}


LEARNED = {"q_table": [[0.1, 0.0]], "episode": 3, "steps": 7, "total_rewards": [1.5]}


@pytest.mark.parametrize(
    "change",
    [
        {"q_table": [[math.nextafter(0.1, 1.0), 0.0]]},
        {"q_table": [[0.1, -0.0]]},
        {"episode": 4},
        {"steps": 8},
        {"total_rewards": [math.nextafter(1.5, 2.0)]},
    ],
    ids=["value", "sign of a zero", "episode", "steps", "test"],
)
def test_a_checksum_tells_of_the_smallest_change(change):
    assert checksum_of(SimpleNamespace(**LEARNED | change)) != checksum_of(SimpleNamespace(**LEARNED))


@pytest.fixture(scope="module")
def plain() -> dict[str, str]:
    """The checksums of the runs on small lakes with numba switched off."""
    command, environment = [sys.executable, __file__, *SMALL], os.environ | {"NUMBA_DISABLE_JIT": "1"}
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("name", [name for name in RUNS if name.endswith(SMALL)])
def test_plain_python_gives_the_bits_of_compiled_code(name, plain):
    assert plain[name] == checksum_here(name)


if __name__ == "__main__":
    print(checksums(sys.argv[1:]))
