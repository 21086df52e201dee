"""Benchmark the project: print one JSON line per figure, then a table.

`python tests/benchmark.py [section ...]` (default: all; see SECTIONS). A figure is the median of
at least five warm runs (`travel`: five windows of one run, and one peak), with its range.
`--write` saves the figures of these sections in tests/benchmark.jsonl, and renders all saved
figures in tests/benchmark.md and some in README.md.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import gymnasium  # noqa: E402

import td_helpers as td  # noqa: E402
from beyond import FederatedQLAgent  # noqa: E402
from figures.summaries import between, markdown  # noqa: E402
from tabular.files import atomic_write  # noqa: E402
from tabular.kernels import Experience, Parameters, evaluate  # noqa: E402

FIGURES: list[dict] = []
ACTIONS = (0, 1, 2, 3)
LABELS = {td.q_learning: "Q-learning", td.sarsa: "SARSA"}
PARAMETERS = Parameters(epsilon=0.3, learning_rate=0.001, beta=0.999, max_step=1000, key=1)

C_SOURCE = r"""
#include <stdint.h>
enum { n = 4 };  // actions, a constant as in the compiled Python; their loops are in gcc's fastest form
static inline uint64_t mix(uint64_t z) {
    z *= 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}
static inline int greedy(const double *q) {
    int best = 0;
    double value = q[0];
    _Pragma("GCC unroll 1") for (int a = 1; a < n; a++) if (q[a] > value) best = a, value = q[a];
    return best;
}
static inline double highest(const double *q) {
    double value = q[0];
    _Pragma("GCC unroll 1") for (int a = 1; a < n; a++) value = q[a] > value ? q[a] : value;
    return value;
}
static inline int choose(const double *q, double epsilon, uint64_t bits) {
    double x = (double)(int64_t)(bits >> 32) * 0x1p-32;
    return x < epsilon ? (int)(x * (n / epsilon)) : greedy(q);
}
#define LAKE const uint32_t *outcomes, int64_t width, const double *rewards, const uint32_t *thresholds
#define MOVE const uint32_t *o = outcomes + (s * n + a) * 4; \
    for (const uint32_t *threshold = thresholds; (uint32_t)bits > *threshold; threshold++) o++; \
    int64_t next = *o & ((1u << width) - 1), kind = *o >> width, ended = kind & 1; double target = rewards[kind];
int64_t q_learning(double *q, LAKE, double epsilon, double rate, double beta, int64_t max_step,
                   uint64_t key, int64_t episodes) {
    int64_t steps = 0;
    for (int64_t e = 0; e < episodes; e++)
        for (int64_t t = 1, s = 0; t <= max_step; t++) {
            uint64_t bits = mix(key + ((uint64_t)e << 20) + t);
            int a = choose(q + s * n, epsilon, bits);
            MOVE
            if (!ended) target += beta * highest(q + next * n);
            q[s * n + a] += rate * (target - q[s * n + a]);
            steps++;
            if (ended) break;
            s = next;
        }
    return steps;
}
int64_t sarsa(double *q, LAKE, double epsilon, double rate, double beta, int64_t max_step,
              uint64_t key, int64_t episodes) {
    int64_t steps = 0;
    for (int64_t e = 0; e < episodes; e++) {
        uint64_t bits = mix(key + ((uint64_t)e << 20) + 1);
        int64_t s = 0, a = choose(q, epsilon, bits);
        for (int64_t t = 2; t <= max_step + 1; t++) {
            MOVE
            bits = mix(key + ((uint64_t)e << 20) + t);
            int64_t after = choose(q + next * n, epsilon, bits);
            if (!ended) target += beta * q[next * n + after];
            q[s * n + a] += rate * (target - q[s * n + a]);
            steps++;
            if (ended) break;
            s = next, a = after;
        }
    }
    return steps;
}
"""


def figure(name: str, values, unit: str, **more) -> float:
    """Print a figure as a JSON line, keep it for the tables, and return its median."""
    values = [float(value) for value in np.atleast_1d(values)]
    row = {"figure": name, "median": statistics.median(values), "low": min(values), "high": max(values), "unit": unit}
    row |= {"runs": len(values)} | more
    row = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}
    FIGURES.append(row)
    print(json.dumps(row), flush=True)
    return row["median"]


def rates(work, repetitions: int = 5) -> list[float]:
    """Return million units per second of `work`, which returns its number of units; a warm-up run comes first."""
    work()
    found = []
    for _ in range(repetitions):
        start = time.perf_counter()
        units = work()
        found.append(units / (time.perf_counter() - start) / 1e6)
    return found


def lakes() -> dict:
    """Return (lake, episodes) by name; that many episodes take about a million steps."""
    large = {f"{n}x{n}": td.FrozenLakeEnv(td.generate_map((n, n), 0.08, seed=1)) for n in (128, 1000)}
    small = {name: td.FrozenLakeEnv(map_name=name) for name in ("4x4", "16x16", "32x32")}
    return {
        name: (lake, n)
        for (name, lake), n in zip((small | large).items(), (300_000, 30_000, 10_000, 3000, 3000), strict=True)
    }


def bench_kernels() -> None:
    """Measure compiled learning, replaying and evaluating."""
    for name, (lake, episodes) in lakes().items():
        model, shape = lake.table.packed, lake.table.shape
        fresh = lambda shape=shape: np.zeros(shape)
        for kernel in (td.q_learning, td.sarsa):
            arguments = (model, ACTIONS, PARAMETERS, 0, episodes)
            work = lambda kernel=kernel, arguments=arguments, fresh=fresh: kernel(fresh(), *arguments)
            figure(f"{LABELS[kernel]}, {name}", rates(work), "million steps/s")
        log, q_table = Experience.empty(4_000_000), fresh()
        recorded = min(episodes, log.episodes_that_fit(PARAMETERS.max_step))
        td.q_learning(q_table, model, ACTIONS, PARAMETERS, 0, recorded, log)
        work = lambda log=log, fresh=fresh: td.q_learning.replay(fresh(), *log.recorded(), ACTIONS, PARAMETERS)
        figure(f"replay, {name}", rates(work), "million steps/s")
        count = PARAMETERS._replace(beta=1.0)  # with every reward 1, the return counts the steps
        counting = model._replace(rewards=np.ones_like(model.rewards))
        policy = np.argmax(td.value_iteration(lake.table, tolerance=1e-3) if lake.desc.size < 1e5 else q_table, axis=1)
        work = lambda policy=policy, counting=counting, count=count, episodes=episodes: evaluate(
            policy, counting, count, 0, 0, min(episodes, 10_000)
        )
        figure(f"greedy evaluation, {name}", rates(work), "million steps/s")


def bench_c() -> None:
    """Measure the same loops in C, in alternation with ours."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        print("no C compiler found: skipping the comparison with C")
        return
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "td.c", Path(folder) / "libtd.so"
        source.write_text(C_SOURCE, encoding="utf-8")
        command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        loops = ctypes.CDLL(str(library))
    lake = td.FrozenLakeEnv(map_name="16x16")
    model, pointer = lake.table.packed, lambda array: array.ctypes.data_as(ctypes.c_void_p)

    def in_c(name):
        q_table, loop = np.zeros(lake.table.shape), getattr(loops, name)
        loop.restype = ctypes.c_int64
        numbers = [ctypes.c_double(x) for x in (PARAMETERS.epsilon, PARAMETERS.learning_rate, PARAMETERS.beta)]
        sizes = ctypes.c_int64(PARAMETERS.max_step), ctypes.c_uint64(PARAMETERS.key), ctypes.c_int64(30_000)
        arrays = (pointer(array) for array in (model.rewards, model.thresholds))
        table = pointer(model.outcomes), ctypes.c_int64(model.bits), *arrays
        return loop(pointer(q_table), *table, *numbers, *sizes)

    for kernel in (td.q_learning, td.sarsa):
        ours, theirs = [], []
        for _ in range(15):  # alternate, so that both see the machine in the same state
            q_table = np.zeros(lake.table.shape)
            ours += rates(lambda k=kernel, q=q_table: k(q, model, ACTIONS, PARAMETERS, 0, 30_000), 1)
            theirs += rates(lambda k=kernel: in_c(k.__name__), 1)
        figure(f"{LABELS[kernel]} in C at -O3 on 16x16", theirs, "million steps/s")
        figure(f"{LABELS[kernel]} on 16x16, ours / C", np.divide(ours, theirs), "times as fast")


def bench_stepped() -> None:
    """Measure learning by stepping an env in Python, and a tutorial's loop."""
    lake = td.FrozenLakeEnv(map_name="16x16")

    def learn(kind):
        agent = kind(lake, compiled=False, do_test=False)
        agent.learn(1500)
        return agent.steps

    def tutorial(episodes=300):
        env = gymnasium.make("FrozenLake-v1", desc=td.MAPS["16x16"], is_slippery=True)
        rng, q_table, steps = np.random.default_rng(0), np.zeros((256, 4)), 0
        for _ in range(episodes):
            state, _ = env.reset()
            ended = False
            while not ended:
                action = env.action_space.sample() if rng.random() < 0.3 else np.argmax(q_table[state])
                next_state, reward, terminated, truncated, _ = env.step(action)
                target = reward + 0.999 * np.max(q_table[next_state]) * (not terminated)
                q_table[state, action] += 0.001 * (target - q_table[state, action])
                state, ended, steps = next_state, terminated or truncated, steps + 1
        return steps

    figure("Q-learning stepped on 16x16", rates(lambda: learn(td.QLAgent)), "million steps/s")
    figure("SARSA stepped on 16x16", rates(lambda: learn(td.SARSAAgent)), "million steps/s")
    figure("a tutorial's loop over gymnasium's FrozenLake 16x16", rates(tutorial), "million steps/s")


class Waiting(td.gym.Wrapper):
    """A simulator that waits a millisecond per step without using the processor, as a robot does."""

    def step(self, action):
        time.sleep(0.001)
        return self.env.step(action)


def bench_batches() -> None:
    """Measure a batch over Ray: a collector's cycle is collect, transfer, replay, and wait for its turn."""
    lake, transfer = td.FrozenLakeEnv(map_name="16x16"), {}
    with td.Workers(8, 0) as workers:
        for cw_num in (1, 2, 4, 8):
            for size in (10, 100, 1000):
                run = {"learning_episodes": 200 * size, "test_interval": 200 * size, "do_test": False}
                walls, parts = [], []
                for _ in range(6):
                    agent = td.DistributedQLAgent(lake, **run, cw_num=cw_num, batch_size=size, workers=workers)
                    walls.append(_learn_seconds(agent) / agent.batches * 1e3)
                    parts.append([seconds / agent.batches * 1e3 for seconds in (agent.cost.collect, agent.cost.replay)])
                wall, (collect, replay) = np.median(walls[1:]), np.median(parts[1:], axis=0)
                transfer.setdefault(size, wall - collect - replay)  # one collector never waits
                figure(
                    f"{size} episodes a batch, {cw_num} collector{'s' * (cw_num > 1)}", walls[1:], "ms a batch",
                    collect_ms=float(collect), transfer_ms=float(transfer[size]), replay_ms=float(replay),
                    wait_ms=float(max(0.0, cw_num * wall - collect - transfer[size] - replay)),
                    learner_busy=float(replay / wall), bytes=agent.cost.bytes // agent.batches,
                    bytes_per_step=agent.cost.bytes / agent.steps,
                )  # fmt: skip


def bench_distributed() -> None:
    """Measure where distributing pays: with a simulator stepped in Python, and with one that waits."""
    lake, slow = td.FrozenLakeEnv(map_name="16x16"), Waiting(td.FrozenLakeEnv())
    run = {"learning_episodes": 30_000, "test_interval": 1000, "trials": 100, "compiled": False}
    with td.Workers(8, 4) as workers:
        team = {"cw_num": 2, "ew_num": 4, "batch_size": 1000, "workers": workers}
        ratios, slowdowns, shares = [], [], []
        for _ in range(6):
            single, tested, untested = td.QLAgent(lake, **run), *(
                td.DistributedQLAgent(lake, **run, **team, do_test=do_test) for do_test in (True, False)
            )  # fmt: skip
            alone, with_tests, without = map(_learn_seconds, (single, tested, untested))
            ratios.append(alone / with_tests)
            slowdowns.append(with_tests / without)
            shares.append(1 + tested.cost.evaluate / (tested.cost.collect + tested.cost.replay))
        figure("(2,4) stepped on 16x16 in batches of 1,000, against one core", ratios[1:], "times as fast")
        medians = {"slow_down": float(np.median(slowdowns[1:])), "share": float(np.median(shares[1:]))}
        ratios = np.divide(slowdowns[1:], shares[1:])
        figure("(2,4) stepped, slow-down by evaluation / its share of the work", ratios, "ratio", **medians)
        run = {"learning_episodes": 1600, "test_interval": 1600, "do_test": False, "max_step": 10, "batch_size": 20}
        walls = {n: [_learn_seconds(td.DistributedQLAgent(slow, **run, cw_num=n, workers=workers)) for _ in range(5)]
                 for n in (1, 8)}  # fmt: skip
        figure("8 collectors, each step waits 1 ms, against 1", np.divide(walls[1], walls[8]), "times as fast")


def bench_federated() -> None:
    """Measure a federated round of two workers on 128 x 128, in mid-run, and its parts."""
    lake = td.FrozenLakeEnv(td.generate_map((128, 128), 0.08, seed=1))
    run = {"epsilon": 0.05, "learning_rate": 0.01, "learning_episodes": 10**7, "do_test": False}
    size, single = 40_000, td.QLAgent(lake, **run)
    single.learn(300_000)  # skip the first, aimless episodes
    with td.Workers(2, 0) as workers:
        agent = FederatedQLAgent(lake, cw_num=2, ew_num=0, batch_size=size, workers=workers, **run)
        agent.q_table = single.q_table
        agent.learn(2 * size)
        alone, both, merges, megabytes = [], [], [], []
        for _ in range(5):
            alone.append(_steps_per_second(single, 8 * size))
            cost, batches = agent.cost, agent.batches
            both.append(_steps_per_second(agent, 8 * size))
            rounds = agent.batches - batches
            merges.append((agent.cost.replay - cost.replay) / rounds * 1e3)
            megabytes.append((agent.cost.bytes - cost.bytes) / rounds / 1e6)
    figure("federated, 2 workers on 128x128, against one core", np.divide(both, alone), "times the steps/s")
    figure("federated, 2 workers on 128x128: merge", merges, "ms a round")
    figure("federated, 2 workers on 128x128: shipped to the server", megabytes, "MB a round")


class Waits(td.gym.Wrapper):
    """A simulator that waits 200 microseconds per step, as one behind a socket does."""

    def step(self, action):
        time.sleep(0.0002)
        return self.env.step(action)


def bench_pools() -> None:
    """Measure the cost of a batch in each pool, and the speed-up over one core, in alternation."""
    lake = td.FrozenLakeEnv(map_name="16x16")
    large = {side: td.FrozenLakeEnv(td.generate_map((side, side), 0.08, seed=1)) for side in (32, 64)} | {16: lake}
    alone = {"learning_episodes": 20_000, "do_test": False}
    many = {"learning_episodes": 100_000, "test_interval": 1000}
    with td.Workers(8, 4) as workers:
        pools = {"in process": td.InProcess(), "in threads": td.Threads(), "over Ray": workers}
        for name, pool in pools.items():
            team = alone | {"learning_episodes": 2_000 if pool is workers else 20_000, "cw_num": 1, "batch_size": 10}
            costs = [_batch_microseconds(lake, team, pool) for _ in range(10)]
            figure(f"a batch of 10 episodes on 16x16, {name}", costs[1:], "us beyond learning")
        del pools["in process"]
        for cw_num in (2, 4):
            team = {"cw_num": cw_num, "ew_num": 4, "batch_size": 1000}
            _paired(f"({cw_num},4) on 16x16, as many trials as episodes", lake, many, team, pools)
        for size in (1000, 100):
            team = {"cw_num": 2, "ew_num": 0, "batch_size": size}
            _paired(f"(2,0) on 16x16, no tests, batches of {size}", lake, many | {"do_test": False}, team, pools)
        for side, size in ((16, 500), (32, 1000), (64, 2000)):
            run = {"epsilon": 0.05, "learning_rate": 0.01, "learning_episodes": 40 * size, "do_test": False}
            team = {"cw_num": 2, "ew_num": 0, "batch_size": size}
            _paired(f"federated on {side}x{side}, 2 workers", large[side], run, team, pools, FederatedQLAgent)
        run = {"learning_episodes": 320, "max_step": 50, "do_test": False}
        team = {"cw_num": 8, "ew_num": 0, "batch_size": 10}
        _paired("8 collectors, steps wait 200 us", Waits(td.FrozenLakeEnv()), run, team, pools)


def _batch_microseconds(lake, team: dict, pool) -> float:
    """Return the cost of a batch beyond learning its episodes on one core."""
    own = {name: value for name, value in team.items() if name not in ("cw_num", "batch_size")}
    single, agent = td.QLAgent(lake, **own), td.DistributedQLAgent(lake, ew_num=0, workers=pool, **team)
    seconds = _learn_seconds(agent) - _learn_seconds(single)
    return seconds / agent.batches * 1e6


def _paired(name: str, simulator, run: dict, team: dict, pools: dict, kind=td.DistributedQLAgent) -> None:
    """Compare steps per second of a distributed run, in each pool, with one core's, in nine pairs."""
    ratios = {pool: [] for pool in pools}
    for _ in range(10):
        single = td.QLAgent(simulator, **run)
        seconds = _learn_seconds(single)
        for pool in pools:
            agent = kind(simulator, workers=pools[pool], **team, **run)
            ratios[pool].append(seconds / single.steps / (_learn_seconds(agent) / agent.steps))
    for pool, found in ratios.items():
        figure(f"{name}, {pool}", found[1:], "times one core's steps/s")


BARE_START = """
import time
import ray
start = time.perf_counter()
ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
class Empty:
    def ready(self): pass
actors = [ray.remote(Empty).options(num_cpus=0).remote() for _ in range(13)]
ray.get([actor.ready.remote() for actor in actors])
print(time.perf_counter() - start)
"""
OUR_START = """
import time
import ray
import td_helpers as td
start = time.perf_counter()
td.start_ray()
between = time.perf_counter()
td.Workers(8, 4).start()
print(between - start, time.perf_counter() - start)
"""


def bench_trace() -> None:
    """Measure what tracing a run costs, in seven rounds: the fastest of eight traced runs against that of eight others.

    A run has 901 calls, and takes a fraction of a second: single runs differ by more than a trace costs.
    """
    lake = td.FrozenLakeEnv(map_name="16x16")
    with td.Workers(2, 4) as workers:
        for name, pool in {"in process": td.InProcess(), "in threads": td.Threads(), "over Ray": workers}.items():
            percent, each = [], []
            for seed in range(8):
                seconds: dict[bool, list[float]] = {False: [], True: []}
                for turn in range(16):
                    trace = turn % 4 in (0, 3)  # so that each is as often first as second
                    agent = td.DistributedQLAgent(lake, trace=trace, cw_num=2, workers=pool, seed=seed)
                    gc.collect()  # or one run would clear away what another has left
                    seconds[trace].append(_learn_seconds(agent))
                extra = min(seconds[True]) - min(seconds[False])
                percent.append(100 * extra / min(seconds[False]))
                each.append(1e6 * extra / len(agent.trace))
            figure(f"a trace of (2,4) on 16x16, {name}", percent[1:], "% more time")
            figure(f"a traced call, {name}", each[1:], "us more")


def bench_returns() -> None:
    """Measure what keeping the returns of 10,000 episodes costs, in 20 pairs of runs, with and without."""
    lake, team = td.FrozenLakeEnv(map_name="16x16"), {"cw_num": 2, "workers": td.InProcess()}
    for kind, run in ((td.QLAgent, {}), (td.SARSAAgent, {}), (td.DistributedQLAgent, team), (FederatedQLAgent, team)):
        extra = []
        for pair in range(21):
            run |= {"learning_episodes": 10_000, "do_test": False, "seed": pair}
            order = (False, True) if pair % 2 else (True, False)
            seconds = {keeps: _learn_seconds(kind(lake, keep_returns=keeps, **run)) for keeps in order}
            extra.append(100 * (seconds[True] / seconds[False] - 1))
        figure(f"returns kept, 16x16: {kind.agent_name}", extra[1:], "% more time")


def bench_start() -> None:
    """Measure start-up: importing, compiling, loading compiled code, and starting Ray."""
    learn = "import td_helpers as td; a = td.QLAgent(td.FrozenLakeEnv(), do_test=False); a.learn(1)"
    for name, code in {"import": "import td_helpers", "import, then learn from the cache": learn}.items():
        figure(f"start: {name}", [_timed(lambda c=code: _python(c)) for _ in range(5)], "s")
    fresh = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as folder:
            fresh.append(_timed(lambda f=folder: _python(learn, NUMBA_CACHE_DIR=f)))
    figure("start: import, compile, then learn", fresh, "s")
    bare, ours, ray_alone = [], [], []
    for _ in range(5):  # alternate, so that both see the machine in the same state
        bare.append(float(_python(BARE_START)))
        ray_seconds, seconds = map(float, _python(OUR_START).split())
        ray_alone.append(ray_seconds)
        ours.append(seconds)
    figure("start: Ray", ray_alone, "s")
    figure("start: Ray and 13 processes", ours, "s")
    figure("start: the same, against Ray and 13 empty actors", np.divide(ours, bare), "times as long")


def bench_large() -> None:
    """Measure a 1000 x 1000 lake in a fresh process."""
    code = """
import json, resource, time
import td_helpers as td
desc, found = td.generate_map((1000, 1000), 0.08, seed=1), {}
def clock(name, work):
    start = time.perf_counter(); result = work(); found[name] = time.perf_counter() - start; return result
lake = td.FrozenLakeEnv(desc)
clock("build", lambda: lake.table.packed)
agent = td.QLAgent(lake, do_test=False)
agent.learn(1); start = time.perf_counter(); agent.learn(3000)
found["learn"] = agent.steps / (time.perf_counter() - start) / 1e6
found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
values = clock("values", lambda: td.value_iteration(lake.table, tolerance=1e-9))
from tabular.exact import action_values
again = action_values(lake.table, values.max(axis=1))
found["residual"] = float(abs(again - values).max())
import matplotlib; matplotlib.use("Agg")
clock("draw", lambda: td.plot_image(values, desc).savefig("/dev/null", format="png"))
print(json.dumps(found))
"""
    runs = [json.loads(_python(code).splitlines()[-1]) for _ in range(5)]
    figure("1000x1000: build", [run["build"] for run in runs], "s")
    figure("1000x1000: learn", [run["learn"] for run in runs], "million steps/s")
    figure("1000x1000: peak memory", [run["peak"] for run in runs], "GB")
    figure("1000x1000: value iteration", [run["values"] for run in runs], "s", residual=runs[0]["residual"])
    figure("1000x1000: plot_image", [run["draw"] for run in runs], "s")


TRAVEL = """
import sys, time
import td_helpers as td
from beyond import FederatedQLAgent
if sys.argv[1] == "whole": td.LARGE = 2**60
kind = FederatedQLAgent if sys.argv[2] == "federated" else td.DistributedQLAgent
lake = td.FrozenLakeEnv(td.generate_map((1000, 1000), 0.08, seed=1))
with td.Workers(2, 0) as workers:
    agent = kind(lake, 0.05, 0.01, 10**9, cw_num=2, ew_num=0, batch_size=100, do_test=False, workers=workers)
    batches = agent.learn_in_batches(10**6)
    while agent.batches < 150: next(batches)
    for _ in range(5):
        before, start = agent.cost, time.perf_counter()
        for _ in range(40): next(batches)
        seconds, cost = time.perf_counter() - start, agent.cost
        work = (cost.collect - before.collect) / 2 + cost.replay - before.replay
        megabytes = (cost.bytes + cost.sent - before.bytes - before.sent) / 1e6
        print(seconds * 1e3 / 40, work * 1e3 / 40, megabytes / 40)
    from ray._private.state import actors
    pids = ["self", *(actors(process._actor_id.hex())["Pid"] for process in workers._processes.values())]
    texts = [open(f"/proc/{pid}/status").read() for pid in pids]
    print(sum(int(text.partition("VmHWM:")[2].split()[0]) for text in texts) / 1e6)
"""


def bench_travel() -> None:
    """Measure a batch on a 1000 x 1000 lake over Ray, sending whole tables or only their changes."""
    for kind in ("replaying", "federated"):
        for how in ("whole", "changes"):
            *runs, peak = (line.split() for line in _python(TRAVEL, how, kind).splitlines())
            batch, work, megabytes = zip(*(map(float, run) for run in runs), strict=True)
            name = f"1000x1000 over Ray, {kind} server, {'what changed' if how == 'changes' else 'whole tables'}"
            figure(f"{name}: batch", batch, "ms")
            figure(f"{name}: of it learning, by one worker and the server", work, "ms")
            figure(f"{name}: shipped both ways", megabytes, "MB a batch")
            figure(f"{name}: peak memory of agent, server and 2 workers, added up", [float(peak[0])], "GB")


def _timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _learn_seconds(agent) -> float:
    return _timed(lambda: agent.learn_and_evaluate(progress=False))


def _steps_per_second(agent, episodes: int) -> float:
    before = agent.steps
    seconds = _timed(lambda: agent.learn(episodes))
    return (agent.steps - before) / seconds


def _python(code: str, *arguments: str, **environment: str) -> str:
    """Run code in a fresh process; return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env=os.environ | environment, check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip


SECTIONS = {
    "kernels": bench_kernels,
    "c": bench_c,
    "stepped": bench_stepped,
    "start": bench_start,
    "large": bench_large,
    "travel": bench_travel,
    "batches": bench_batches,
    "pools": bench_pools,
    "trace": bench_trace,
    "returns": bench_returns,
    "distributed": bench_distributed,
    "federated": bench_federated,
}


def machine() -> str:
    """Return a one-line description of the machine."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line for line in lines if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def tables(figures: list[dict]) -> str:
    """Return the figures in Markdown: kernels and batches as cross tables, then the others, one per row."""
    head, *figures = figures
    noise = "Medians of at least five runs; over Ray, the 1000x1000 figures are from five windows of one run"
    parts = [f"{head['machine']}. {noise}. Ranges show the noise.", ""]
    for section in ("kernels", "batches"):
        group = [row for row in figures if row["section"] == section]
        if group:
            parts += [crosswise(group), ""]
    rest = [row for row in figures if row["section"] not in ("kernels", "batches")]
    return "\n".join([*parts, listed(rest)])


def listed(figures: list[dict]) -> str:
    """Return a table with one figure per row."""
    rows = [[row["figure"], f"{row['median']:g}", f"{row['low']:g} to {row['high']:g}", row["unit"]] for row in figures]
    return markdown(["figure", "median", "range", "unit"], rows)


def crosswise(figures: list[dict]) -> str:
    """Return a cross table of figures named "column, row"."""
    names = [f["figure"].split(", ") for f in figures]
    columns, rows = (list(dict.fromkeys(part)) for part in zip(*names, strict=True))
    cell = {(row, column): f"{f['median']:g}" for (column, row), f in zip(names, figures, strict=True)}
    body = [[row, *(cell.get((row, column), "") for column in columns)] for row in rows]
    return markdown([figures[0]["unit"], *columns], body)


def where_to_run(figures: list[dict]) -> str:
    """Return the README's section on pools: their uses, their costs per batch, and their speed-ups."""
    row = {row["figure"]: row for row in figures[1:]}
    cost = lambda pool: f"{row[f'a batch of 10 episodes on 16x16, {pool}']['median']:,.0f} µs"
    uses = [
        ["`td.InProcess()`", "immediately, one by one", "debugging, tests, a thousand workers on a laptop"],
        ["`td.Threads()`", "in threads of this process", "lakes and waiting simulators on this machine's cores"],
        ["`td.Workers()`", "in Ray processes", "Python simulators, clusters, runs that must survive kills"],
    ]
    table = markdown(
        ["`workers=`", "calls run", "suits", "cost per batch"],
        [[*use, cost(pool)] for use, pool in zip(uses, ("in process", "in threads", "over Ray"), strict=True)],
    )
    table = table.replace("---: | ---: | ---: |", "--- | --- | ---: |")  # left-align words
    pace = lambda name, pool: f"{row[f'{name}, {pool}']['median']:.2g}"
    both = lambda name: f"{pace(name, 'in threads')} in threads, {pace(name, 'over Ray')} over Ray"
    tested = "(2,4) on 16x16, as many trials as episodes"
    cost_of = "A batch here is ten episodes on 16x16; its cost is the overhead beyond learning them."
    gains = [
        f"- (2,4) on 16x16, in batches of 1,000 (the report has 100), 1,000 trials after each: {both(tested)}",
        f"- two federated workers on 64x64: {both('federated on 64x64, 2 workers')}",
        f"- eight collectors whose steps wait 200 µs: {both('8 collectors, steps wait 200 us')}",
    ]
    lines = [table, "", cost_of, "Steps per second on two cores, relative to one core, compiled:", "", *gains]
    return "\n".join(lines)


def in_readme(text: str, figures: list[dict]) -> str:
    """Return the README's text with the benchmark's figures between its marks; the report adds the rest."""
    median = {row["figure"]: row["median"] for row in figures[1:]}
    text = between(text, "pools", where_to_run(figures))
    sentence = (
        f"Measured on {figures[0]['machine']}: compiled Q-learning takes {median['Q-learning, 16x16']:.0f} million "
        f"steps per second in its first episodes on 16x16, {median['Q-learning on 16x16, ours / C']:.2f} times as many "
        f"as the same loop in C. Ray and 13 processes start in {median['start: Ray and 13 processes']:.1f} s. "
        "[benchmark.md](tests/benchmark.md) has the rest."
    )
    return between(text, "benchmark", textwrap.fill(sentence, 120, break_on_hyphens=False))


def in_document(figures: list[dict]) -> str:
    """Return the text of benchmark.md."""
    return f"""# What it costs

Measured by `make bench`. Kernel speeds are for a run's first episodes. A batch is what a run over Ray sends at once.

{tables(figures)}
"""


def write() -> None:
    """Save the figures, replacing those of the same sections, and render all."""
    path, readme = ROOT / "tests" / "benchmark.jsonl", ROOT / "README.md"
    kept = FIGURES[:1]
    if path.exists():
        kept = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if kept[0] != FIGURES[0]:
        machine_of_file = kept[0]["machine"]
        sys.exit(f"{path.name} was measured on another machine ({machine_of_file}): delete it and measure all sections")
    found = {}
    for row in kept[1:] + FIGURES[1:]:
        found.setdefault(row["section"], []).append(row)
    for section in {row["section"] for row in FIGURES[1:]}:
        found[section] = [row for row in FIGURES[1:] if row["section"] == section]
    rows = FIGURES[:1] + [row for section in SECTIONS for row in found.get(section, [])]
    texts = {
        path: "".join(json.dumps(row) + "\n" for row in rows),
        readme: in_readme(readme.read_text(encoding="utf-8"), rows),
        ROOT / "tests" / "benchmark.md": in_document(rows),
    }
    for path, text in texts.items():
        with atomic_write(path) as file:
            file.write(text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--write", action="store_true", help="save and render the figures")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.sections if name not in SECTIONS]:
        parser.error(f"unknown section {unknown[0]!r}; known are {', '.join(SECTIONS)}")
    FIGURES.append({"machine": machine()})
    for name in arguments.sections or SECTIONS:
        done = len(FIGURES)
        SECTIONS[name]()
        for row in FIGURES[done:]:
            row["section"] = name
    print(tables(FIGURES))
    print(f"peak memory of the benchmark: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    if arguments.write:
        write()


if __name__ == "__main__":
    main()
