"""The bits that agents learn: are they the same in plain Python?

python tests/test_bits.py       print the checksums of all runs
"""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

if __name__ == "__main__":  # run as a script: search the project's folder for modules, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import td_helpers as td
from beyond import DistributedDynaQAgent, DynaQAgent, FederatedQLAgent, FederatedSARSAAgent

TEAM = {"cw_num": 3, "ew_num": 1, "batch_size": 10}
SMALL = {  # name of a run: kind, settings; small enough for plain Python
    "Q-learning": (td.QLAgent, {}),
    "SARSA": (td.SARSAAgent, {}),
    "distributed Q-learning": (td.DistributedQLAgent, TEAM),
    "federated Q-learning": (FederatedQLAgent, TEAM),
    "federated Q-learning, 2 workers": (FederatedQLAgent, TEAM | {"cw_num": 2, "learning_rate": 0.013}),
    "federated Q-learning, 17 workers": (FederatedQLAgent, TEAM | {"cw_num": 17, "learning_rate": 0.001}),
    "federated SARSA": (FederatedSARSAAgent, TEAM),
    "federated SARSA, 5 workers": (FederatedSARSAAgent, TEAM | {"cw_num": 5, "learning_rate": 0.3, "cap": 0.9}),
    "federated SARSA, 30 workers": (FederatedSARSAAgent, TEAM | {"cw_num": 30, "learning_rate": 0.02, "batch_size": 5}),
    "Dyna-Q": (DynaQAgent, {}),
    "distributed Dyna-Q": (DistributedDynaQAgent, TEAM),
}


def checksum(agent) -> str:
    """A checksum of all that an agent has learned."""
    counted = agent.episode, agent.steps
    parts = (agent.q_table, "<f8"), (counted, "<i8"), (agent.total_rewards, "<f8")
    return f"{zlib.crc32(b''.join(np.asarray(part, kind).tobytes() for part, kind in parts)):08x}"


def finished(name: str):
    """The agent of a run, when it has learned all its episodes."""
    kind, settings = SMALL[name]
    settings = {"learning_rate": 0.1, "learning_episodes": 400, "test_interval": 200, "trials": 5} | settings
    if issubclass(kind, td.DistributedQLAgent):
        settings["workers"] = td.InProcess()
    agent = kind(td.FrozenLakeEnv(), 0.3, max_step=100, seed=5, **settings)
    agent.learn_and_evaluate(progress=False)
    return agent


def printed() -> str:
    """The checksums of all runs, a line for each."""
    return "".join(f"{checksum(finished(name))} {name}\n" for name in SMALL)


@pytest.fixture(scope="module")
def in_plain_python(root):
    """What the runs print where numba is switched off."""
    command, environment = [sys.executable, __file__], os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    return {name: bits for bits, name in (line.split(" ", 1) for line in done.stdout.splitlines())}


@pytest.mark.parametrize("name", SMALL)
def test_compiled_and_in_plain_python_the_same_bits_are_learned(name, in_plain_python):
    assert checksum(finished(name)) == in_plain_python[name]


if __name__ == "__main__":
    print(printed(), end="")
