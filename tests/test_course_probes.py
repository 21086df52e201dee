"""The probes: each fault is named at its item, correct solutions get full marks, and every probe is needed."""

import queue
import re
import threading

import correct
import faults
import pytest
import ray
from faults import Change, names_of

import td_helpers as td
from course import chance, distributed, judge, plays, records, schedules, single, snapshots, updates
from course.findings import ITEMS, Finding

JUDGED = tuple(item for item in ITEMS if item != "loads")
ONE, MANY = JUDGED[:5], JUDGED[5:]  # the items of one core, and the others
SAMPLE = [(fault, ONE) for fault in faults.ONE_CORE[3::10]] + [(fault, MANY) for fault in faults.DISTRIBUTED[5::12]]


def sheet(fault, seed: int = 0, items=JUDGED) -> dict[str, Finding]:
    """The findings of a changed solution."""
    return {finding.item: finding for finding in judge.judge(names_of(fault.changes), seed, items)}


def assert_named(fault, items=JUDGED) -> None:
    """A fault is named at its item, and what else is lost follows from it."""
    findings = sheet(fault, 0, items)
    lost = {item for item, finding in findings.items() if finding.judged and finding.share < 1}
    assert fault.item in lost, f"{fault.name}: {findings[fault.item].seen}"
    more = {item: findings[item].seen for item in lost - {fault.item} - fault.follows}
    assert not more, f"{fault.name} costs more than it should: {more}"
    assert all(findings[item].seen and findings[item].hint for item in lost)


def assert_full(solution, seed: int) -> None:
    """Nothing is lost, and all is judged."""
    findings = sheet(solution, seed)
    assert list(findings) == list(JUDGED)
    wrong = {item: finding.seen for item, finding in findings.items() if not finding.judged or finding.share < 1}
    assert not wrong, f"{solution.name}, seed {seed}: {wrong}"


def by_name(name: str):
    """A fault."""
    return next(fault for fault in faults.FAULTS if fault.name == name)


# Faulty and correct solutions -------------------------------------------------------------------


def test_there_are_enough_of_them_and_each_has_a_name_of_its_own():
    assert len(faults.FAULTS) >= 40 and len(correct.CORRECT) >= 25
    names = [one.name for one in (*faults.FAULTS, *correct.CORRECT)]
    assert len(set(names)) == len(names)
    assert {fault.item for fault in faults.FAULTS} == set(JUDGED)


@pytest.mark.parametrize(("fault", "items"), SAMPLE, ids=[fault.name for fault, _ in SAMPLE])
def test_a_fault_is_named_at_its_item_and_nothing_else_is_lost(fault, items):
    assert_named(fault, items)


@pytest.mark.parametrize("solution", correct.CORRECT[5::13], ids=lambda one: one.name)
def test_a_correct_solution_gets_full_marks(solution):
    assert_full(solution, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.name)
def test_every_fault_is_named_at_its_item(fault):
    assert_named(fault)


@pytest.mark.long
@pytest.mark.parametrize("solution", correct.CORRECT, ids=lambda one: one.name)
def test_every_correct_solution_gets_full_marks_under_a_hundred_seeds(solution):
    for seed in range(100):
        assert_full(solution, seed)


@pytest.mark.long
def test_the_solution_is_right_under_a_thousand_schedules():
    names = names_of()
    for schedule in range(1000):
        record = records.Record(plays.Play(names, 0, schedule=schedule))
        assert not record.unjudged and not wrong_in(record), (schedule, wrong_in(record))


def wrong_in(record) -> list:
    """All problems of one play."""
    several = distributed.how_many([record]), distributed.same_numbers([record]), distributed.fresh_tables([record])
    return [
        *distributed.server_problems(record), *snapshots.snapshot_problems(record),
        *distributed.end_problems(record), *distributed.traffic_problems(record), *filter(None, several),
    ]  # fmt: skip


# The table of faults ----------------------------------------------------------------------------


def rows(root) -> list[str]:
    """The rows of the committed table."""
    text = (root / "course" / "faults.md").read_text(encoding="utf-8")
    assert text.startswith(faults.HEADER)
    return text.removeprefix(faults.HEADER).splitlines()


def test_the_table_has_all_faults_and_says_what_the_sheet_does(root):
    lines = rows(root)
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == [fault.name for fault in faults.FAULTS]
    for fault, line in list(zip(faults.FAULTS, lines, strict=True))[3::25]:
        assert faults.line_of(fault) == line, "run python tests/faults.py"


@pytest.mark.long
def test_all_of_the_table_is_what_the_sheets_say(root):
    assert [faults.line_of(fault) for fault in faults.FAULTS] == rows(root), "run python tests/faults.py"


# Every probe is needed --------------------------------------------------------------------------

# A kind of problem that the distributed probes look for, by item, and a fault that shows it.
NEEDED = {
    ("server", "rule"): "the collector's old argmax",
    ("server", "whole"): "learns the first step of an episode alone",
    ("server", "twice"): "a batch is sent twice",
    ("server", "nothing"): "numbers of episodes are sent alone",
    ("collectors", "count"): "a collector too few",
    ("collectors", "exploring"): "collectors do not explore",
    ("collectors", "batches"): "one episode a batch",
    ("collectors", "tables"): "collectors get no new table",
    ("collectors", "numbers"): "all collectors have one seed",
    ("snapshots", "results"): "results as text",
    ("snapshots", "none"): "nobody tests",
    ("snapshots", "greedy"): "the evaluator explores",
    ("snapshots", "number"): "the table before learning is tested, too",
    ("snapshots", "tables"): "a snapshot is the live table",
    ("snapshots", "lost"): "the last tests are lost",
    ("snapshots", "twice"): "one table is tested by two",
    ("snapshots", "order"): "results in order of arrival",
    ("snapshots", "returns"): "the evaluator does not discount",
    ("snapshots", "late"): "evaluators start when collecting is over",
    ("snapshots", "crossing"): "a call may pass one test alone",
    ("snapshots", "within"): "tests are of the table at a batch's end",
    ("end", "stuck"): "evaluators never end",
    ("end", "early"): "nobody is awaited",
    ("end", "episodes"): "surplus batches are learned",
    ("end", "table"): "a table of zeros without tests",
    ("end", "running"): "evaluators are left running",
    ("end", "swallowed"): "errors are swallowed",
    ("end", "error"): "a server that raises",
    ("traffic", "calls"): "a call for every step",
    ("traffic", "polls"): "hundreds of questions at once",
    ("arguments", "QLAgent globals"): "a rate by a global",
    ("arguments", "no effect of beta"): "beta is not passed on",
    ("arguments", "discount"): "beta is not passed to evaluators",
    ("arguments", "trials"): "evaluators run one trial",
    ("arguments", "no effect of ew_num"): "always one evaluator",
    ("arguments", "no effect of do_test"): "distributed tests in spite of do_test",
}
# Functions of the probes of one core, what they say of a correct agent, and a fault that shows each.
ONE_CORE = {
    "policy_problem": (lambda run, epsilon: None, "policies", "never goes up"),
    "target_of": (lambda update, settings: ["max", "taken", "zero"], "q_learning", "bootstraps from the minimum"),
    "scaled": (lambda updates, wanted, settings: None, "q_learning", "no discount"),
    "test_problems": (lambda run: [], "tests", "tested while exploring"),
    "other_returns": (lambda *_: ("", ""), "tests", "undiscounted"),
    "cut_problem": (lambda run: None, "tests", "trials that are cut do not count"),
    "tested_after": (lambda run: [4, 8, 12, 16, 20, 24], "tests", "tested before it learns"),
}


PROBING = ("records", "distributed", "snapshots", "judge", "arguments")


def assert_needed(item: str, name: str, without) -> None:
    """What the sheet says of an item is another thing where a probe is left out."""
    fault = by_name(name)
    says = sheet(fault, items=[item])[item]
    assert says.share < 1
    with pytest.MonkeyPatch.context() as patch:
        without(patch)
        assert sheet(fault, items=[item])[item] != says


def leave_out(kind: str):
    """A finding is made without the problems of a kind."""
    make = distributed.finding

    def without(patch):
        patch.setattr(
            distributed, "finding",
            lambda item, problems, *rest: make(item, [one for one in problems if one.kind != kind], *rest),
        )  # fmt: skip

    return without


def test_each_kind_of_problem_has_a_fault_that_shows_it(root):
    text = "".join((root / "course" / f"{name}.py").read_text(encoding="utf-8") for name in PROBING)
    kinds = set(re.findall(r'Problem\(\s*"(\w+)"', text))
    assert kinds <= {kind for _, kind in NEEDED}


@pytest.mark.parametrize("place", list(NEEDED)[4::11], ids="-".join)
def test_a_kind_of_problem_left_out_changes_the_sheet(place):
    assert_needed(place[0], NEEDED[place], leave_out(place[1]))


@pytest.mark.parametrize("name", ONE_CORE)
def test_a_probe_of_one_core_left_out_changes_the_sheet(name):
    instead, item, fault = ONE_CORE[name]
    room = single if hasattr(single, name) else updates
    assert_needed(item, fault, lambda patch: patch.setattr(room, name, instead))


@pytest.mark.long
@pytest.mark.parametrize("place", NEEDED, ids="-".join)
def test_every_kind_of_problem_left_out_changes_the_sheet(place):
    assert_needed(place[0], NEEDED[place], leave_out(place[1]))


# What holds for all sheets ----------------------------------------------------------------------


def test_a_sheet_asks_for_chance_no_more_often_than_its_rate_of_false_alarms_allows(monkeypatch):
    asked, likely = [], chance.likely
    monkeypatch.setattr(chance, "likely", lambda *numbers: asked.append(numbers) or likely(*numbers))
    sheet(correct.CORRECT[0])
    assert 20 < len(asked) <= chance.CHECKS and chance.CHECKS * chance.ALPHA <= 1e-5


def test_bounds_are_those_of_the_binomial_distribution():
    assert chance.likely(0, 0, 0.5) and chance.likely(500, 1000, 0.5) and chance.likely(580, 1000, 0.5)
    assert not chance.likely(590, 1000, 0.5) and not chance.likely(410, 1000, 0.5)
    assert chance.likely(0, 50, 0.0) and not chance.likely(1, 50, 0.0) and not chance.likely(49, 50, 1.0)


def test_the_same_sheet_every_time_nothing_on_stderr_and_no_ray(capfd):
    items, started = ["policies", "traffic"], ray.is_initialized()
    lake, fault = td.FrozenLakeEnv, by_name("hundreds of questions at once")
    first = sheet(fault, items=items)
    assert sheet(fault, items=items) == first
    assert capfd.readouterr().err == "" and td.FrozenLakeEnv is lake
    assert ray.is_initialized() == started


# The smallest run that shows a fault ------------------------------------------------------------

OF_CALLS = [fault for fault in faults.DISTRIBUTED if fault.item != "arguments"]
IN_NO_SINGLE_RUN = {  # but in counts over many steps, or in what happens under no schedule
    "a collector too few", "collectors do not explore", "collectors never go up", "collectors explore all the time",
    "collectors keep their first table", "collectors act on zeros", "evaluators start when collecting is over",
    "evaluators start when half of the collectors are done",
}  # fmt: skip
STORY = r"run that shows it \(seed (\d+), size (\d+), schedule (\d+): ([^)]+)\):\n((?s:.*))"


def assert_replayed(fault) -> None:
    """The sheet tells the smallest run that shows a fault, the same every time, and it can be played again."""
    seen = sheet(fault, items=[fault.item])[fault.item].seen
    if fault.name in IN_NO_SINGLE_RUN:
        assert "smallest run" not in seen
        return
    seed, size, schedule, named, story = re.search(STORY, seen).groups()
    settings = dict(part.split("=") for part in named.split(", "))
    given = {name: str(value) for name, value in schedules.SIZES[int(size)].items()}
    assert given.items() <= settings.items()
    others = {name: settings[name] for name in settings.keys() - given}
    others |= {"do_test": False} if "do_test" in others else {}
    again = schedules.replay(names_of(fault.changes), int(seed), int(size), int(schedule), **others)
    assert story == "\n".join(schedules.told(again))
    assert sheet(fault, int(seed), [fault.item])[fault.item].seen == seen


@pytest.mark.parametrize("fault", OF_CALLS[3::13], ids=lambda fault: fault.name)
def test_the_smallest_run_that_shows_a_fault_is_told_and_can_be_played_again(fault):
    assert_replayed(fault)


@pytest.mark.long
@pytest.mark.parametrize("fault", OF_CALLS, ids=lambda fault: fault.name)
def test_the_smallest_run_is_told_for_every_fault_of_the_distributed_items(fault):
    assert_replayed(fault)


def test_a_test_that_is_due_within_a_batch_has_a_small_run_that_shows_it():
    for name in ("a call may pass one test alone", "tests are of the table at a batch's end"):
        seen = sheet(by_name(name), items=["snapshots"])["snapshots"].seen
        settings = dict(part.split("=") for part in re.search(STORY, seen)[4].split(", "))
        assert int(settings["learning_episodes"]) <= 6 and int(settings["batch_size"]) % int(settings["test_interval"])


def assert_right_at_all_sizes(solution) -> None:
    """No small run of a correct solution shows anything."""
    names = names_of(solution.changes)
    plain = records.Record(plays.Play(names, 0))
    for size in range(len(schedules.SIZES)):
        for schedule in range(schedules.EACH):
            record = records.Record(schedules.replay(names, 1, size, schedule))
            found = [
                *distributed.server_problems(record), *distributed.in_one_run(record),
                *snapshots.snapshot_problems(record), *distributed.end_problems(record),
                *distributed.traffic_problems(record),
                *snapshots.crossing(plain, record), *snapshots.within(plain, record),
            ]  # fmt: skip
            assert not found, (solution.name, size, schedule, found)


def test_no_small_run_of_the_solution_shows_anything():
    assert_right_at_all_sizes(correct.CORRECT[0])


@pytest.mark.long
@pytest.mark.parametrize("solution", correct.CORRECT, ids=lambda one: one.name)
def test_no_small_run_of_a_correct_solution_shows_anything(solution):
    assert_right_at_all_sizes(solution)


# Whatever is submitted --------------------------------------------------------------------------

ENDLESS = "            while True:\n                simulator.reset()\n"
BROKEN = {
    "raises": Change("q_learning", "            for _ in range(self.max_step):\n", """\
            1 / 0
            for _ in range(self.max_step):
"""),
    "never ends": Change("sarsa", "            state, _ = simulator.reset()\n", ENDLESS),
    "ends the program": Change("agent", "        total_rewards = []\n", "        raise SystemExit(3)\n"),
    "cannot be made": Change("agent", "self.epsilon = epsilon", "self.epsilon = epsilom"),
    "asks for more": Change("agent", "def __init__(self, epsilon", "def __init__(self, boat, epsilon"),
    "catches everything": Change("workers", "    while not learning_is_over:\n", """\
    while not learning_is_over:
        try:
            1 / 0
        except BaseException:
            pass
"""),
    "has no server": Change("server", "", "pass\n"),
    "a table of text": Change("agent", "np.zeros((self.state_space, self.action_space))", "'none'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_whatever_a_submission_raises_there_is_a_finding_of_each_item(name):
    if name in ("ends the program", "catches everything"):
        items = ["tests", "end"]
    else:
        items = ["q_learning", "episodes", "traffic", "arguments"]
    findings = list(judge.judge(names_of((BROKEN[name],)), 0, items))
    assert [finding.item for finding in findings] == items
    assert all(finding.seen for finding in findings)


def test_blanks_are_said_first_and_without_a_hint():
    blank = Change("agent", "        total_reward = 0.0\n", "        raise NotImplementedError()\n")
    start = "            state, _ = simulator.reset()\n"
    early = Change("q_learning", start, "            raise NotImplementedError()\n")
    for change, item, where in ((blank, "tests", "evaluate"), (early, "q_learning", "learn")):
        (finding,) = judge.judge(names_of((change,)), 0, [item])
        assert finding.seen == f"Not answered: {where} raises NotImplementedError." and not finding.hint


ERRORS = {  # an error in a process, and what a student reads of it
    "of the server": Change("server", "            self.episode += 1\n", "            self.episode += 1 / 0\n"),
    "when it is made": Change("server", "        self.episode = 0\n", "        self.episode = 0 / 0\n"),
    "that cannot be pickled": Change("server", "            self.episode += 1\n", """\
            class Sunk(Exception):
                def __init__(self, boat, where):
                    super().__init__(f"{boat} sank {where}")
            raise Sunk("it", "here")
"""),
    "of a collector": Change("workers", "        experiences = []\n", "        experiences = q_table['left']\n"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_in_a_process_is_the_students_own(kind):
    record = records.Record(plays.Play(names_of((ERRORS[kind],)), 0))
    says = {"of the server": "ZeroDivisionError: division by zero, in learn",
            "when it is made": "ZeroDivisionError: division by zero, in __init__",
            "that cannot be pickled": "Sunk: it sank here, in learn",
            "of a collector": "IndexError: only integers"}[kind]  # fmt: skip
    assert (
        record.play.error.startswith(says) and record.broken.seen == f"it stopped with an error: {record.play.error}."
    )


def test_arguments_get_points_for_the_agents_that_come_to_a_result():
    blank = lambda cell: Change(
        cell, "    def learn", "    def learn(self): raise NotImplementedError()\n\n    def other"
    )
    no_sarsa, no_run = blank("sarsa"), Change("distributed", "        ray.get(workers)\n", "        1 / 0\n")
    for changes, thirds, named in (
        ((no_sarsa,), 2, "SARSAagent"), ((no_run,), 2, "the distributed agent"),
        ((no_sarsa, no_run), 1, "SARSAagent and the distributed agent"),
        ((blank("q_learning"), no_sarsa, no_run), 0, ""),
    ):  # fmt: skip
        (finding,) = judge.judge(names_of(changes), 0, ["arguments"])
        assert finding.share == pytest.approx(thirds / 3) and named in finding.seen


def test_policies_that_one_agent_shows_alone_are_judged():
    (finding,) = judge.judge(names_of(by_name("SARSA raises").changes), 0, ["policies"])
    assert finding.share == 1 and "Judged by QLAgent alone" in finding.seen


def test_what_is_right_without_a_broken_part_is_not_lost_with_it():
    share = lambda name, *items: [one.share for one in sheet(by_name(name), items=items).values()]
    assert share("never tested", "tests") == [0]
    assert share("SARSA raises", "episodes", "tests") == [0.5, 0.5]
    assert share("evaluators raise", "server", "collectors", "end", "traffic") == [1, 1, 0.5, 1]


def test_no_class_is_taken_for_another():
    names = names_of((Change("q_learning", "", "pass\n"),))
    (finding,) = judge.judge(names, 0, ["q_learning"])
    assert finding.seen == "Not found: there is no class QLAgent."


@pytest.mark.parametrize("code", ["@ray.remote(max_concurrency=4)\n", "ray.util.ActorPool([])\n\n@ray.remote\n"])
def test_what_the_simulated_ray_does_not_have_is_not_judged(code):
    names = names_of()
    text = faults.solution()["distributed"].replace("        ray.get(workers)\n", "        ray.util.sleep()\n")
    if "max" in code:
        text = faults.solution()["distributed"].replace("        ray.get(workers)\n", """\
        ray.remote(max_concurrency=4)(type("A", (), {}))
""")  # fmt: skip
    exec(text, names)
    findings = list(judge.judge(names, 0, ["server", "snapshots", "end", "policies"]))
    assert [finding.judged for finding in findings] == [True, False, False, False]


def test_threads_of_a_submissions_own_are_not_judged():
    """Also where nobody sees that they failed."""
    names = names_of((Change("distributed", "        ray.get(workers)\n", """\
        import threading
        thread = threading.Thread(target=lambda: ray.get(workers))
        thread.start()
        thread.join()
"""),))  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda told: None)
        findings = list(judge.judge(names, 0, ["sarsa", "server", "end"]))
    assert [finding.judged for finding in findings] == [True, False, False]


# Over the real Ray ------------------------------------------------------------------------------

RAISING = Change(
    "server", "        self.results[number] = result\n", "        raise LookupError('the boat has sunk')\n"
)


def over_ray(changes, do_test: bool, timeout: float = 60.0, batch_size: int = 2) -> tuple | None:
    """What a solution returns over Ray with a collector and an evaluator, on a small lake; None where it hangs."""
    names: dict[str, object] = {"__name__": "__main__"}
    for number, code in enumerate(faults.code_of(changes)):
        exec(compile(code, f"cell {number}", "exec"), names)
    names["simulator"] = td.FrozenLakeEnv()
    agent = names["distributed_QL_agent"](
        0.3, 0.1, 24, 4, cw_num=1, ew_num=1, test_interval=4, batch_size=batch_size, do_test=do_test
    )
    outcome = queue.Queue()

    def run():
        try:
            outcome.put(agent.learn_and_evaluate())
        except Exception as problem:
            outcome.put(problem)

    threading.Thread(target=run, daemon=True).start()
    try:
        returned = outcome.get(timeout=timeout)
    except queue.Empty:
        returned = None
    ray.kill(agent.server)  # its workers end with it
    if isinstance(returned, Exception):
        raise returned
    return returned


@pytest.mark.long
def test_the_solution_is_right_over_ray(workers):
    results, table = over_ray((), True)
    assert len(results) == 6 and table.any()
    results, table = over_ray((), False)
    assert results == [] and table.any()
    with pytest.raises(LookupError):
        over_ray((RAISING,), True)


@pytest.mark.long
@pytest.mark.parametrize(
    "fault", [fault for fault in faults.FAULTS if fault.over_ray not in ("", "schedules")], ids=lambda one: one.name
)
def test_a_fault_that_shows_over_ray_shows_there(workers, fault):
    if fault.over_ray == "results":
        assert len(over_ray(fault.changes, True)[0]) != 6
    elif fault.over_ray == "long batches":
        assert len(over_ray(fault.changes, True, batch_size=8)[0]) == 3
    elif fault.over_ray == "zeros":
        assert not over_ray(fault.changes, False)[1].any()
    elif fault.over_ray == "hangs":
        assert over_ray(fault.changes, True, timeout=20.0) is None
    elif fault.over_ray == "raises":
        with pytest.raises(ZeroDivisionError):
            over_ray(fault.changes, True)
    else:
        assert fault.over_ray == "silent"
        assert len(over_ray((*fault.changes, RAISING), True)[0]) < 6
