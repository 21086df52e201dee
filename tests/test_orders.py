"""With any faults in any order, a run ends with the undisturbed bits, or with a clear error to resume from."""

import pytest
from orders import KINDS, WAYS, failures, play, shrink

import td_helpers as td

SEEDS, CHUNKS = 500, 4  # seeds per agent, split over this many tests, which may run in parallel


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("name", KINDS)
def test_no_order_of_events_and_no_fault_leads_to_another_table(name, chunk):
    assert failures(KINDS[name], range(chunk, SEEDS, CHUNKS)) == []


@pytest.mark.parametrize("name", KINDS)
def test_where_every_eighth_call_meets_a_fault_runs_end_well_or_with_a_clear_error(name):
    assert failures(KINDS[name], range(SEEDS, SEEDS + 40), share=0.12) == []


# Call numbers: 0 to 3 start the processes, 4 to 7 wait for them, 8 is `begin`, batches start at 9.
ONCE_WRONG = {
    "begin is lost": {8: "is swallowed"},
    "begin runs late": {8: "runs late"},
    "begin does not run, and the server has the table of a batch before": {8: "does not run", 12: "dies in"},
    "a batch is learned twice": {12: "runs twice"},
    "a batch is learned after its answer was given up": {14: "runs late"},
    "a process dies while it starts": {2: "dies in"},
    "a process dies when it has started": {6: "dies before"},
    "a process cannot be reached while it starts": {4: "cut off"},
    "a process never starts": {1: "hangs"},
    "a process that replaces one dies while it starts": {14: "dies in", 24: "dies in"},
}


@pytest.mark.parametrize("way", ["with tests", "interrupted", "after another run"])
@pytest.mark.parametrize("faults", ONCE_WRONG.values(), ids=ONCE_WRONG)
@pytest.mark.parametrize("name", KINDS)
def test_what_simulation_once_found_ends_well(name, way, faults):
    for seed in range(3):
        outcome = play(KINDS[name], way, seed, faults)
        assert (outcome.wrong, outcome.error) == ("", "")


class KeepsItsTable(td.QLAgentServer):
    """A faulty server: if it has a table, it ignores the one that it is sent."""

    def begin(self, snapshot):
        if not hasattr(self, "q_table"):
            super().begin(snapshot)


class Faulty(td.DistributedQLAgent):
    """An agent with such a server."""

    roles = td.DistributedQLAgent.roles | {"server": KeepsItsTable}


def test_a_fault_is_found_and_shrunk_to_what_it_takes():
    seeds = range(0, 40 * len(WAYS), len(WAYS))  # all with the same way
    failing = next(seed for seed in seeds if play(Faulty, "with tests", seed).wrong)
    outcome = play(Faulty, "with tests", failing)
    shrunk = shrink(Faulty, "with tests", failing, outcome.faults)
    assert "another table" in shrunk.wrong and len(shrunk.faults) == 1
    assert not play(Faulty, "with tests", failing, {}).wrong
    assert any(f"'with tests', {failing}, {shrunk.faults}" in text for text in failures(Faulty, [failing]))
