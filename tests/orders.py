"""Play whole runs on the simulated Ray, in random orders of events and with random faults, and check the outcomes.

`python tests/orders.py 20000` plays that many seeds of every agent, and prints a summary. Failures are printed with
their seed, shrunk to as few faults as possible.
"""

import collections
import contextlib
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple
from unittest import mock

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers import learned

import td_helpers as td
from beyond import DistributedDynaQAgent, FederatedQLAgent, FederatedSARSAAgent
from tabular.simulated_ray import Stuck, simulated

KINDS = {
    kind.agent_name: kind
    for kind in (td.DistributedQLAgent, FederatedQLAgent, FederatedSARSAAgent, DistributedDynaQAgent)
}
LAKE = td.FrozenLakeEnv()
SETTINGS = {
    "learning_episodes": 60, "test_interval": 15, "trials": 3, "max_step": 60, "seed": 5, "cw_num": 2, "ew_num": 1,
    "batch_size": 5, "patience": 60,
}  # fmt: skip
SHARE = 0.04  # of calls that meet a fault: about 3 in 2 runs


class Outcome(NamedTuple):
    """How a run ended."""

    wrong: str  # what went wrong; "" if nothing did
    error: str  # the clear error that ended the run; "" if it finished
    calls: int
    faults: dict[int, str]
    met: list[str]


def agent_on(pool, kind, **settings):
    """Return an untrained agent."""
    return kind(LAKE, 0.3, 0.1, workers=pool, **(SETTINGS | settings))


# Ways to run ------------------------------------------------------------------------------------


def run(agent):
    """Run once, to the end."""
    agent.learn_and_evaluate(progress=False)


def interrupted(agent):
    """Run with three interrupts while it waits for results."""
    original, results = agent.workers.result, iter([3, 1, 6])

    def stopped_at(count):
        def result(*arguments):
            nonlocal count
            count -= 1
            if count == 0:
                raise KeyboardInterrupt
            return original(*arguments)

        return result

    for count in results:
        with contextlib.suppress(KeyboardInterrupt), mock.patch.object(agent.workers, "result", stopped_at(count)):
            run(agent)
    run(agent)


def after_another(agent):
    """Run on processes that hold the remains of another run, which was stopped halfway."""
    other = agent_on(agent.workers, type(agent), seed=6, do_test=agent.do_test)
    with contextlib.suppress(RuntimeError, TimeoutError):
        for _ in other.learn_in_batches(60):
            if other.episode >= 30:
                break
    run(agent)


def in_parts(agent):
    """Run with another q_table assigned halfway: no process may keep anything of the old one."""
    agent.learn(max(0, 30 - agent.episode))
    if not hasattr(agent, "halved"):
        agent.q_table, agent.halved = agent.q_table / 2, True
    run(agent)


WAYS = {
    "with tests": (run, {}),
    "without tests": (run, {"do_test": False, "ew_num": 0}),
    "more in flight": (run, {"in_flight": 3}),
    "tables as changes": (run, {"do_test": False, "learning_episodes": 90}),
    "checkpoints": (run, {"checkpoint_seconds": 0.2}),  # of virtual time: after about every third batch
    "interrupted": (interrupted, {}),
    "after another run": (after_another, {}),
    "in parts": (in_parts, {"do_test": False}),
    "random ties, returns": (interrupted, {"ties": "random", "keep_returns": True}),
}


def settings_of(kind, way: str) -> dict:
    """Return the settings of a way to run; federated rounds cannot overlap, so they have no `in_flight`."""
    settings = dict(WAYS[way][1])
    if "in_flight" in settings and issubclass(kind, FederatedQLAgent):
        del settings["in_flight"]
    return settings


def to_the_end(way: str):
    """Return the function that finishes an undisturbed run from any point."""
    return in_parts if way == "in parts" else run


class Calm:
    """Cached results of undisturbed runs in this process."""

    def __init__(self):
        self.found = {}

    def __call__(self, kind, way: str) -> tuple:
        if (kind, way) not in self.found:
            agent = agent_on(td.InProcess(), kind, **settings_of(kind, way))
            to_the_end(way)(agent)
            self.found[kind, way] = learned(agent)
        return self.found[kind, way]


calm = Calm()


def play(kind, way: str, seed: int, faults=SHARE) -> Outcome:
    """Play a run on the simulated Ray, and check its outcome."""
    large = 0 if way == "tables as changes" else td.LARGE
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(mock.patch.object(td, "LARGE", large))
        stack.enter_context(mock.patch.object(os, "fsync", lambda file: None))  # here processes fail, not machines
        settings = settings_of(kind, way)
        path = None
        if way == "checkpoints":
            path = settings["checkpoint"] = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "agent.npz"
        agent = agent_on(td.Workers(2, settings.get("ew_num", 1)), kind, **settings)
        error = wrong = ""
        with simulated(seed, faults, most_events=50_000) as simulation:
            try:
                WAYS[way][0](agent)
            except (RuntimeError, TimeoutError) as problem:
                error = f"{type(problem).__name__}: {problem}"
                if type(problem).__module__.startswith("ray"):
                    wrong = f"an error of Ray's own: {error}"
            except (Exception, Stuck) as problem:
                wrong = f"{type(problem).__name__}: {problem}"
        wrong = wrong or mistakes(agent, way, error, path)
    return Outcome(wrong, error, simulation.calls, simulation.faults, simulation.met)


def mistakes(agent, way: str, error: str, path) -> str:
    """Return what differs from the undisturbed result, now or after resuming; "" if nothing does."""
    expected = calm(type(agent), way)
    if not error and learned(agent) != expected:
        return "ended with another table"
    resumed = [agent]
    if path is not None and path.exists():
        settings = {"checkpoint": None, "checkpoint_seconds": 60.0}
        resumed.append(agent_on(td.InProcess(), type(agent), **settings).load(path))
    for one in resumed:
        one.workers, one.checkpoint = td.InProcess(), None
        to_the_end(way)(one)
        if learned(one) != expected:
            return "another table once it was resumed"
    return ""


def shrink(kind, way: str, seed: int, faults: dict[int, str]) -> Outcome:
    """Reduce a failure to as few faults as possible: some of these, or a single one of their kinds at any call."""
    smallest = play(kind, way, seed, faults)
    while True:
        simpler = (play(kind, way, seed, fewer) for fewer in fewer_faults(smallest))
        found = next((outcome for outcome in simpler if outcome.wrong), None)
        if found is None:
            return smallest
        smallest = found


def fewer_faults(outcome: Outcome):
    """Yield simpler sets of an outcome's faults, to try next."""
    faults = outcome.faults
    for left_out in faults:
        yield {number: fate for number, fate in faults.items() if number != left_out}
    if len(faults) > 1:
        for fate in dict.fromkeys(faults.values()):
            for number in range(outcome.calls):
                yield {number: fate}


def report(kind, way: str, seed: int, outcome: Outcome) -> str:
    """Describe a failure, with the call that replays it."""
    again = f"play({kind.__name__}, {way!r}, {seed}, {outcome.faults})"
    return "\n".join([f"{kind.agent_name}, {way}: {outcome.wrong}", f"    {again}", *(f"    {m}" for m in outcome.met)])


def failures(kind, seeds, share: float = SHARE, tally: collections.Counter | None = None) -> list[str]:
    """Play each seed in one of the ways; return descriptions of the failures, shrunk."""
    found = []
    for seed in seeds:
        way = list(WAYS)[seed % len(WAYS)]
        outcome = play(kind, way, seed, share)
        if outcome.wrong:
            found.append(report(kind, way, seed, shrink(kind, way, seed, outcome.faults)))
        if tally is not None:
            tally.update(outcome.faults.values())
            tally["runs"] += 1
            tally["calls"] += outcome.calls
            tally["ended with a clear error"] += bool(outcome.error)
            tally["failures"] += bool(outcome.wrong)
    return found


def main(seeds: int, shares: list[float]) -> int:
    """Play `seeds` seeds of every agent with each share of faults; return how many failed."""
    failed = 0
    for i, kind in enumerate(KINDS.values()):
        for share in shares:
            tally, start = collections.Counter(), time.perf_counter()
            for problem in failures(kind, range(i * seeds, (i + 1) * seeds), share, tally):
                print(problem, flush=True)
            seconds = time.perf_counter() - start
            failed += tally["failures"]
            print(f"{kind.agent_name}, share {share:g}, {seconds:.0f} s: {dict(tally.most_common())}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]), [float(share) for share in sys.argv[2:]] or [SHARE])))
