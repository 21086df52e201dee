"""The numba cache: a damaged file or a full disk costs a compilation and a warning, and nothing else."""

import importlib
import json
import subprocess
import sys

import numba
import pytest

import td_helpers as td
from tabular import kernels
from tabular.cache import KernelCache

CASES = """
import json, random, resource, shutil, sys, warnings
from pathlib import Path
import numba
sys.path.insert(0, sys.argv[2])
from tabular import cache
from tabular.kernels import cached_jit, q_learning_update
from tabular.rules import Rule
import td_helpers as td

rng, folder = random.Random(0), Path(sys.argv[1])

# numba caches only functions that have a file
folder.mkdir()
(folder / "doubled.py").write_text("def twice(x): return 2 * x", encoding="ascii")
sys.path.insert(0, str(folder))
from doubled import twice

def files(ending):
    return sorted(Path(numba.config.CACHE_DIR).rglob(f"*.{ending}"))

def call():
    # compile or load as in a new process; return the result, whether it was loaded, and the warnings
    function = cached_jit(twice)
    cache._warned_of.clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = function(4)
    return [result, len(function.stats.cache_hits), [str(warning.message) for warning in told]]

def damage(ending, change):
    numba.config.CACHE_DIR = str(folder / f"{ending} {change.__name__}")
    call()
    [path] = files(ending)
    path.write_bytes(change(path.read_bytes()))
    return {"folder": str(path.parent), "damaged": call(), "after": call()}

def emptied(content):
    return b""

def cut(content):
    return content[: len(content) // 2]

def shortened(content):
    return content[:-1]

def random_bytes(content):
    return rng.randbytes(len(content))

def zeros(content):
    return bytes(len(content))

def flipped(content):
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]

seen = {}
for ending in ("nbi", "nbc"):
    for change in (emptied, cut, shortened, random_bytes, zeros, flipped):
        seen[f"{ending} {change.__name__}"] = damage(ending, change)

numba.config.CACHE_DIR = str(folder / "full")
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))  # as if the disk were full
full = call()
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
[place] = (folder / "full").iterdir()
seen["a full disk"] = {"folder": str(place), "damaged": full, "after": [call()[0], call()[1], []]}

numba.config.CACHE_DIR = str(folder / "gone")
function = cached_jit(twice)
[place] = (folder / "gone").iterdir()
shutil.rmtree(place)
place.write_bytes(b"")
cache._warned_of.clear()
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    results = [function(4), function(4.0)]
seen["a folder that is gone"] = {"folder": str(place), "results": results, "told": [str(w.message) for w in told]}

numba.config.CACHE_DIR = str(folder / "learning")
def learn():
    class Agent(td.QLAgent):
        kernel = Rule(q_learning_update)
    agent = Agent(td.FrozenLakeEnv(), 0.3, 0.1, do_test=False)
    agent.learn(10)
    return [agent.steps, agent.q_table.tobytes().hex()]
before = learn()
for path in files("nbc"):
    path.write_bytes(b"")
cache._warned_of.clear()
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    seen["a rule"] = [before, learn(), len(told)]
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory, root):
    """The outcome of each kind of damage, from a separate process."""
    folder = tmp_path_factory.mktemp("cache") / "own"
    ended = subprocess.run([sys.executable, "-c", CASES, folder, root], cwd=root, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout)


CHANGES = ("emptied", "cut", "shortened", "random_bytes", "zeros", "flipped")
DAMAGE = [*(f"{ending} {change}" for ending in ("nbi", "nbc") for change in CHANGES), "a full disk"]


@pytest.mark.parametrize("name", DAMAGE)
def test_what_cannot_be_kept_or_read_is_compiled_anew_and_told_once(seen, name):
    result, hits, told = seen[name]["damaged"]
    assert (result, hits) == (8, 0)
    assert len(told) == 1 and told[0].startswith(f"numba's cache in {seen[name]['folder']} is damaged, or cannot be")


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_cache_is_repaired(seen, name):
    assert seen[name]["after"] == [8, 1, []]


def test_a_folder_that_is_gone_is_told_once_and_all_is_compiled(seen):
    gone = seen["a folder that is gone"]
    assert gone["results"] == [8, 8.0]
    assert len(gone["told"]) == 1 and gone["folder"] in gone["told"][0]


def test_learning_goes_on_to_the_same_bits_though_what_was_kept_of_its_rule_is_damaged(seen):
    before, after, told = seen["a rule"]
    assert before == after and told == 1


def test_kernels_that_were_kept_are_loaded_without_a_word(root):
    code = "from tabular.kernels import mix; mix(1); print(sum(mix.stats.cache_hits.values()))"
    command = [sys.executable, "-W", "error", "-c", code]
    _, second = (subprocess.run(command, cwd=root, capture_output=True, text=True, check=True) for _ in range(2))
    assert second.stdout == "1\n"


def test_code_that_was_compiled_with_other_options_is_not_taken(tmp_path, monkeypatch):
    """Otherwise code from an old cache would still hold the interpreter's lock."""
    (tmp_path / "doubling.py").write_text("def double(x):\n    return 2 * x\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    double = importlib.import_module("doubling").double
    taken = []
    for options in ({"error_model": "numpy"}, {"error_model": "numpy"}, kernels.OPTIONS, kernels.OPTIONS):
        compiled = numba.njit(**options)(double)
        compiled._cache = KernelCache(double, options)
        assert compiled(21) == 42
        taken.append(sum(compiled.stats.cache_hits.values()))
    assert taken == [0, 1, 0, 1]
    assert kernels.OPTIONS["nogil"] and all(
        dispatcher.targetoptions["nogil"] for dispatcher in (kernels.evaluate, td.q_learning.kernel)
    )
