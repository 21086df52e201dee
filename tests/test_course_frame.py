"""Whatever is handed in gets a sheet, and harms nothing."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import td_helpers as td
from course import fence, grade, marks, offered, pages, sheets, submission
from course.fence import Fence, Limits
from course.findings import ITEMS, KEEP_NAMES, Finding

TESTS = Path(__file__).resolve().parent
posix = pytest.mark.skipif(os.name != "posix", reason="limits and signals of POSIX")
AGENT = "class QLAgent:\n    pass"
QUICK = ("policies", "sarsa", "end")  # items that are asked for where three will do
LIMITS = Limits(seconds=0.3, megabytes=500, megabytes_of_a_file=1, patience=60)


@pytest.fixture(autouse=True)
def stub(monkeypatch):
    """Judge with `judged(item)` of the submission."""
    monkeypatch.setattr(fence, "JUDGE", "stub_judge")
    monkeypatch.syspath_prepend(str(TESTS))


@pytest.fixture(scope="module")
def fenced():
    """A fence with small limits, which serves all tests of this file, one after another."""
    with Fence(LIMITS) as made:
        yield made


@pytest.fixture
def hand_in(fenced, tmp_path):
    """Judges a notebook of these cells: its marks by item, after a look at whether the fence stands."""

    def judge(*cells, items=QUICK):
        path = notebook(tmp_path / "hw.ipynb", *cells)
        loaded, findings = fenced.judge(path, 0, items)
        sheet = marks.sheet_of("hw.ipynb", loaded, findings, dict.fromkeys([*items, "loads"], 10))
        assert [mark.item for mark in sheet.marks] == [*items, "loads"]
        return {mark.item: mark for mark in sheet.marks}

    return judge


def notebook(path: Path, *cells: str) -> Path:
    """A notebook of code cells."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    nbformat.write(made, path)
    return path


def kept(*cells: str) -> str:
    """The statements that define something."""
    statements, broken = submission.read(list(cells))
    assert not broken
    return "\n".join(submission.ast.unparse(one.node) for one in statements)


# Which statements define ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np",
        "from copy import deepcopy",
        "map_16 = (MAPS['16x16'], 16)",
        "epsilon, rate = 0.3, 0.1",
        "simulator = FrozenLakeEnv(desc=MAP[0])",
        "rng = np.random.default_rng(0)",
        "import ray\nserver = ray.remote(Server)",
        "QLAgent.learn = learn",
        "setattr(QLAgent, 'learn', learn)",
        "maps = []\nfor size in (4, 8):\n    maps.append(size)",
        "try:\n    import gym\nexcept ImportError:\n    import gymnasium as gym",
        "if MAP == map_DH:\n    episodes = 30000\nelse:\n    episodes = 100000",
        "@ray.remote\ndef collecting_worker(server):\n    return ray.get(server.learn.remote())",
        "x: int = 3",
        "best = lambda row: row.argmax()",
    ],
)
def test_what_defines_is_kept(source):
    assert kept(source) == submission.ast.unparse(submission.ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "simulator.reset()",
        "print(3)",
        "rewards, table = agent.learn_and_evaluate()",
        "agent = QLAgent(0.3)\nagent.learn()\ntable = agent.q_table",
        "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\nplt.show()",
        "while True:\n    x = 1",
        "for rate in (0.1, 0.2):\n    agent = QLAgent(rate)\n    agent.learn()",
        "if __name__ == '__main__':\n    main()",
        "import ray\ncontext = ray.init()\nrefs = [worker.remote(i) for i in range(3)]\nray.get(refs)",
        "with open('map.txt') as file:\n    MAP = file.read()",
        "raise NotImplementedError()",
        "name = input('name? ')",
        "assert False",
        "from course.nbgrader import points\npoints('sarsa')",
    ],
)
def test_what_trains_prints_or_waits_is_left_out(source):
    agent = "class QLAgent:\n    def run(self):\n        return self.learn()"
    rest = [line for line in kept(agent, source).split("\n") if not line.startswith(("import", "class", "    "))]
    assert "".join(rest) == ""


def test_what_is_made_of_results_is_left_out_until_the_name_is_made_anew():
    assert kept("q = agent.learn()\nbest = q.max()\nq = 3\nlast = q + 1") == "q = 3\nlast = q + 1"


def test_a_function_that_trains_is_kept_and_not_called():
    source = "def experiment(rate):\n    return QLAgent(rate).learn_and_evaluate()"
    assert kept(source, "results = [experiment(rate) for rate in (1, 2)]") == source


def test_a_training_cell_does_not_replace_the_class_of_the_same_name():
    assert (
        kept("class agent:\n    def go(self):\n        self.learn()", "agent = agent()\nagent.go()").count("agent") == 1
    )


def test_of_a_compound_statement_what_defines_is_kept():
    assert kept("if True:\n    rate = 0.1\n    print(rate)\nelse:\n    agent.learn()") == "if True:\n    rate = 0.1"


@pytest.mark.parametrize(
    ("source", "left"),
    [
        ("%matplotlib inline\nx = 1", "x = 1"),
        ("!pip install gym\nx = 1", "x = 1"),
        ("pip install gym", ""),
        ("%%time\nx = 1", "x = 1"),
        ("%%bash\nrm -rf x", ""),
        ("if True:\n    %load_ext x\n    y = 2", "if True:\n    pass\n    y = 2"),
        ("files = !ls\nx = 1", "files = None\nx = 1"),
        ("np.argmax?\nx = 1", "x = 1"),
    ],
)
def test_magics_are_left_out(source, left):
    text = kept(source)
    assert text.replace("    pass\n", "") == left.replace("    pass\n", "")


def test_a_percent_sign_at_the_start_of_a_line_of_python_is_no_magic():
    assert kept("x = (7\n% 4)") == "x = 7 % 4"


@pytest.mark.parametrize("source", ["print 'two'", "def f(:", "x = (", "\0", "return 3", "x = '\ud800'"])
def test_a_cell_that_does_not_compile_is_named_and_the_others_are_read(source):
    statements, broken = submission.read(["x = 1", source, "y = 2"])
    assert [one.cell for one in statements] == [1, 3] and [one.cell for one in broken] == [2]


# What is no notebook ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\x89PNG\r\n\x1a\n", "not JSON"),
        (b"import numpy", "not JSON"),
        (b"[1, 2]", "no cells"),
        (b'{"cells": 3}', "no cells"),
        (b'{"worksheets": {}}', "no cells"),
        (b"[" * 100_000, "not JSON"),
        ("{'cells'".encode("utf-16"), "not JSON"),
        (b'{"cells": [', "not JSON"),
    ],
)
def test_what_is_no_notebook_gets_no_points_and_is_told_why(fenced, tmp_path, data, why):
    path = tmp_path / "hw.ipynb"
    path.write_bytes(data)
    loaded, findings = fenced.judge(path, 0, QUICK)
    sheet = marks.sheet_of("hw.ipynb", loaded, findings, dict.fromkeys([*QUICK, "loads"], 10))
    assert sheet.points == 0 and sheet.unjudged == 0 and why in sheet.marks[-1].seen


@pytest.mark.parametrize(
    "notebook_of",
    [
        lambda source: {"cells": [{"cell_type": "code", "source": source}]},
        lambda source: {"cells": [{"cell_type": "code", "source": source.splitlines(keepends=True)}], "nbformat": 4},
        lambda source: {"worksheets": [{"cells": [{"cell_type": "code", "input": source}]}], "nbformat": 3},
        lambda source: {"cells": [7, None, {}, {"cell_type": "code"}, {"cell_type": "code", "source": source}]},
        lambda source: {"cells": [{"cell_type": "code", "source": source, "outputs": [{"text": "x" * 5_000_000}]}]},
    ],
)
def test_every_form_of_notebook_is_read(tmp_path, notebook_of):
    path = tmp_path / "hw.ipynb"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(json.dumps(notebook_of("x = 1\ny = 2")), encoding=encoding)
        assert submission.code_cells(path)[-1] == "x = 1\ny = 2"


@pytest.mark.parametrize(
    ("cells", "seen"),
    [
        ([], "0 code cells defines"),
        (["print(3)"], "1 code cells defines"),
        (["def heat(x):\n    return x", "class Net:\n    pass"], "None of the assignment's classes"),
    ],
)
def test_an_empty_notebook_and_that_of_another_assignment_get_nothing_for_the_file(hand_in, cells, seen):
    mark = hand_in(*cells)["loads"]
    assert mark.points == 0 and seen in mark.seen


# What is executed ---------------------------------------------------------------------------------


def test_what_is_defined_is_judged_with_all_that_it_reads(hand_in):
    sheet = hand_in(
        "%matplotlib inline\nimport ray\nimport td_helpers as td\nepsilon = 0.3",
        "class QLAgent:\n    def run(self):\n        self.learn()\n@ray.remote\nclass Server:\n    pass",
        "agent = QLAgent()\nagent.learn_and_evaluate()\nprint(agent)",
        "def judged(item):\n    return item, epsilon, type(Server).__name__, td.FrozenLakeEnv().reset()[0]",
    )
    assert sheet["sarsa"].seen == "('sarsa', 0.3, 'RemoteClass', 0)"
    assert sheet["loads"].points == 10 and "3 of its 4" in sheet["loads"].seen


def test_what_raises_is_said_and_the_rest_goes_on(hand_in):
    sheet = hand_in(AGENT, "x = 1 / 0\ny = 2", "z = (", "def judged(item):\n    return y")
    assert sheet["end"].seen == "2"
    assert sheet["loads"].points == 5
    assert "`x = 1 / 0`, raises ZeroDivisionError" in sheet["loads"].seen
    assert "Code cell 3 does not compile" in sheet["loads"].seen


@pytest.mark.parametrize(
    ("loop", "points", "said"),
    [
        ("while True:\n    pass", 5, "Code cell 2, line 3, has a loop that was not executed, since it never ends."),
        ("while 1:\n    for _ in range(3):\n        break", 5, "since it never ends"),
        ("while True:\n    if y:\n        break", 10, "line 3, has a loop that was not executed."),
        ("while True:\n    for _ in range(3):\n        pass\n    else:\n        break", 10, "not executed."),
        ("while y < 0:\n    y = 1", 10, "not executed."),
        ("try:\n    while True:\n        next(y)\nexcept TypeError:\n    pass", 10, "line 4, has a loop"),
    ],
)
def test_a_loop_left_out_is_said_and_costs_points_where_what_follows_is_never_reached(hand_in, loop, points, said):
    mark = hand_in(AGENT, f"class Server:\n    y = 2\n{loop}", "print(3)\nwhile True:\n    pass")["loads"]
    assert mark.points == points and said in mark.seen and "cell 3" not in mark.seen


def test_the_lake_of_earlier_years_is_executed(hand_in):
    lake = """
from gym.envs.toy_text import discrete
import numpy as np
class FrozenLakeEnv(discrete.DiscreteEnv):
    def __init__(self):
        P = {s: {a: [(0.5, 1, -1, False), (0.5, 1, -1, True)] for a in range(4)} for s in range(2)}
        super().__init__(2, 4, P, np.array([1.0, 0.0]))
    def draw(self):
        return discrete.categorical_sample([0, 1], self.np_random)
simulator = FrozenLakeEnv()
steps = {simulator.step(3)[:2] for _ in range(9)}
"""
    sheet = hand_in(AGENT, lake, "def judged(item):\n    return simulator.reset(), simulator.step(0)[:2], np.int(3)")
    assert sheet["end"].seen == "(0, (1, -1), 3)" and sheet["loads"].points == 10


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from ray.util import ActorPool", "ActorPool"),
        ("import ray.util.queue as queues", "queues"),
        ("import ray\n@ray.remote\nclass Server:\n    async def learn(self): pass", "Server"),
        ("import ray\n@ray.remote(max_concurrency=4)\nclass Server:\n    pass", "Server"),
        ("import ray\nQueue = ray.util.queue.Queue", "Queue"),
        ("from ray.util import ActorPool\nclass Pool(ActorPool): pass", "Pool"),
    ],
)
def test_what_the_simulated_ray_does_not_have_is_no_fault(hand_in, source, name):
    judged = f"""
def judged(item):
    try:
        {name}.remote()
    except NotImplementedError as error:
        return f"not simulated: {{error}}"
"""
    sheet = hand_in(AGENT, source, judged)
    assert sheet["end"].seen.startswith("not simulated")
    assert sheet["loads"].points == 10 and "the grader does not have" in sheet["loads"].seen


@pytest.mark.parametrize(
    "source",
    [
        "import td_helpers as td\nclass QLAgent(td.QLAgent):\n    pass",
        "from td_helpers import QLAgent",
        "import td_helpers\nQLAgent = getattr(td_helpers, 'QLAgent', None)",
        "from td_helpers import *\nQLAgent = QLAgent\nimport tabular",
        "from tabular.rules import q_learning",
        "import tabular.kernels as kernels",
        "from beyond import DynaQAgent",
        "import importlib\nkernels = importlib.import_module('tabular.kernels')",
        "kernels = __import__('tabular.kernels')",
        "import copy, td_helpers\nQLAgent = copy.deepcopy(td_helpers.QLAgent)",
        "import course.single",
    ],
)
def test_the_model_answer_is_out_of_reach_and_who_asks_for_it_is_told(hand_in, source):
    names = "{'QLAgent', 'kernels', 'q_learning', 'DynaQAgent', 'tabular'}"
    sheet = hand_in(source, f"def judged(item):\n    return [name for name in {names} if globals().get(name)]")
    assert sheet["loads"].points == 0 and "asks for the model answer" in sheet["loads"].seen
    assert sheet["end"].seen == "[]"


def test_lakes_plots_and_exact_values_are_within_reach(hand_in):
    source = """
import td_helpers as td
lake = td.FrozenLakeEnv(map_name="Dangerous Hallway")
optimum = td.value_iteration(lake.table)[0].max()
td.start_ray()
"""
    sheet = hand_in(
        AGENT, source, "import pickle\ndef judged(item):\n    pickle.loads(pickle.dumps(lake))\n    return int(optimum)"
    )
    assert sheet["end"].seen == "960" and sheet["loads"].points == 10


def test_nothing_else_of_td_helpers_is_offered_whatever_is_added_to_it():
    tried = []
    offers = offered.Offers(tried)
    public = {name for name in vars(offers) if not name.startswith("_")}
    assert public == {*offered.OFFERED, "start_ray"} and set(offers.__all__) == set(offered.OFFERED)
    assert set(offered.OFFERED) <= set(td.__all__)
    others = {name for name in {*dir(td), *td.__all__} if not name.startswith("_")} - public
    assert {"QLAgent", "SARSAAgent", "DistributedQLAgent"} <= others
    for name in others:
        with pytest.raises(AttributeError, match="offers lakes, plots and exact values here"):
            getattr(offers, name)
    learns = [name for name in public if name != "start_ray" and hasattr(getattr(td, name), "learn")]
    assert tried and not learns


# What is hostile, by accident or not ------------------------------------------------------------------

LOOPS = "while True:\n        print('again', flush=True)"
HOSTILE = {
    "prints without end": LOOPS,
    "loops in silence": "while True:\n        pass",
    "catches all": "while True:\n        try:\n            while True: pass\n        except BaseException: pass",
    "exits": "import sys; sys.exit(0)",
    "exits at once": "os._exit(0)",
    "ends itself": "import signal; signal.raise_signal(signal.SIGKILL)",
    "aborts": "os.abort()",
    "raises BaseException": "raise BaseException('no')",
    "raises KeyboardInterrupt": "raise KeyboardInterrupt",
    "has an error without a text": "class E(Exception):\n        def __str__(self): return 1 / 0\n    raise E",
    "eats memory": "x = []\n    while True: x.append(bytearray(50_000_000))",
    "asks for input": "input('go on? ')",
    "recurses": "f = lambda: f() + f()\n    f()",
    "forks": "os.fork()",
    "starts a program": "import subprocess; subprocess.run(['touch', TARGET])",
    "starts a shell": "os.system('touch ' + TARGET)",
    "starts a process": "import multiprocessing; multiprocessing.Process(target=print).start()",
    "signals its parent": "os.kill(os.getppid(), 9)",
    "signals all": "os.kill(-1, 15)",
    "signals its group": "os.killpg(0, 9)",
    "deletes": "import shutil; shutil.rmtree(os.path.dirname(TARGET))",
    "deletes a file": "os.remove(TARGET)",
    "writes a file": "open(TARGET, 'w')",
    "renames a file": "os.rename(TARGET, 'here')",
    "moves by a link": "os.symlink(os.path.dirname(TARGET), 'there'); open('there/precious.txt', 'a')",
    "fills the disk": "f = open('big', 'wb')\n    while True: f.write(b'x' * 1_000_000); f.flush()",
    "writes many files": "for i in range(10_000): open(f'{i}', 'w').close()",
    "asks for the network": "import socket; socket.create_connection(('127.0.0.1', 9), 0.1)",
    "asks for a page": "import urllib.request; urllib.request.urlopen('http://localhost:9/')",
    "closes all files": "os.closerange(0, 256)",
    "writes to all files": "[os.write(i, b'{\"key\": 1}' * 99) for i in range(1, 20) if i not in (0,)]",
    "starts threads": "import threading\n    while True: threading.Thread(target=threading.Event().wait).start()",
}
TAKES = {"eats memory", "recurses", "exits", "raises KeyboardInterrupt", "forks", "deletes", "signals all"}
DIES = {"exits at once", "ends itself", "aborts", "closes all files"}
LOOP = {"prints without end", "loops in silence", "catches all"}
REFUSED = {
    "forks": "start a process", "starts a program": "start a process", "starts a shell": "start a process",
    "starts a process": "start a process", "signals its parent": "send a signal", "signals all": "send a signal",
    "signals its group": "send a signal", "deletes": "change files outside", "deletes a file": "change files outside",
    "writes a file": "write outside", "renames a file": "change files outside", "moves by a link": "write outside",
    "writes many files": "write more than", "asks for the network": "use the network",
    "asks for a page": "use the network",
}  # fmt: skip


@posix
@pytest.mark.parametrize("kind", HOSTILE)
def test_whatever_an_item_does_the_others_are_judged_and_nothing_is_harmed(hand_in, fenced, tmp_path, kind):
    target = tmp_path / "home" / "precious.txt"
    target.parent.mkdir()
    target.write_text("precious", encoding="utf-8")
    judged = f"def judged(item):\n    if item != 'sarsa': return 'fine'\n    {HOSTILE[kind]}"
    sheet = hand_in(AGENT, f"import os\nTARGET = {str(target)!r}", judged)
    assert [sheet[item].seen for item in ("policies", "end")] == ["fine", "fine"]
    assert sheet["sarsa"].seen not in ("fine", "None") or kind in ("writes to all files", "closes all files")
    assert target.read_text(encoding="utf-8") == "precious" and len(list(target.parent.iterdir())) == 1
    if kind in LOOP:
        assert "did not come to an end" in sheet["sarsa"].seen and sheet["sarsa"].points == 0
    if kind in TAKES:
        assert sheet["sarsa"].judged and sheet["sarsa"].points == 0
    if kind in DIES:
        assert "the process ended" in sheet["sarsa"].seen and sheet["sarsa"].points == 0
    if kind in REFUSED:
        assert REFUSED[kind] in sheet["loads"].seen
    assert hand_in(AGENT, "def judged(item):\n    return 'fine'")["sarsa"].seen == "fine"  # nothing is left of it


@posix
@pytest.mark.parametrize("kind", ["loops in silence", "exits", "exits at once", "deletes", "forks", "eats memory"])
def test_a_statement_that_does_so_costs_itself_alone(hand_in, tmp_path, kind):
    target = tmp_path / "home" / "precious.txt"
    target.parent.mkdir()
    target.touch()
    does = f"import os\nTARGET = {str(target)!r}\ndef begin():\n    {HOSTILE[kind]}\nx = begin()\ny = 7"
    sheet = hand_in(AGENT, does, "def judged(item):\n    return y")
    assert [sheet[item].seen for item in QUICK] == ["7"] * 3
    assert sheet["loads"].points == 5 and "x = begin()" in sheet["loads"].seen
    assert target.exists()


def test_what_one_replaces_no_other_finds(hand_in):
    source = """
import builtins, json, os, random, sys, time, numpy
for module in (json, os, random, time, numpy, builtins):
    for name in ("dumps", "write", "random", "time", "argmax", "print", "len", "open", "isinstance"):
        if hasattr(module, name):
            setattr(module, name, None)
def judged(item):
    return "replaced"
"""
    hand_in(AGENT, source)
    again = "import json, random\ndef judged(item):\n    return json.dumps([len('abc'), random.random() < 1])"
    assert hand_in(AGENT, again)["end"].seen == "[3, true]"


@posix
def test_only_the_network_of_no_one_is_left(hand_in):
    source = "def judged(item):\n    return len(open('/proc/net/dev').read().splitlines())"
    seen = hand_in(AGENT, source)["end"].seen
    assert sys.platform != "linux" or os.geteuid() or seen == "3"  # two lines of a head, and a loopback that is down


def test_a_text_of_a_submission_is_shown_without_its_control_characters_and_cut(hand_in):
    seen = hand_in(AGENT, "def judged(item):\n    return '\\x1b[2J\\x07\\n<b>' + 'x' * 10**6")["end"].seen
    assert seen.isprintable() and len(seen) < 2000


def test_lines_of_what_was_seen_stay_lines_and_are_not_too_many(hand_in):
    mark = hand_in(
        AGENT, "def judged(item):\n    return 'first: \\x07\\n' + '\\n'.join(f'call  {i}' for i in range(99))"
    )["end"]
    assert mark.seen.split("\n")[:3] == ["first:", "call 0", "call 1"] and mark.seen.count("\n") == 39
    text = sheets.as_text(marks.Sheet("hw", (mark,)))
    assert re.search(r"10 of 10 +first:\n {34}call 0\n {34}call 1\n", text)


def test_what_is_another_one_every_time_is_left_out(hand_in):
    seen = hand_in(AGENT, "import os\ndef judged(item):\n    return object(), os.path.abspath('data.csv')")["end"].seen
    assert seen == "(<object object>, 'data.csv')"


def test_what_ends_the_process_again_and_again_is_given_up(hand_in, monkeypatch):
    monkeypatch.setattr(fence, "MOST_ENDINGS", 3)
    sheet = hand_in(AGENT, "import os\ndef judged(item):\n    os._exit(1)", items=ITEMS[:6])
    assert sum(mark.points for mark in sheet.values()) == 10
    assert ["not reached" in mark.seen for mark in sheet.values()] == [False] * 3 + [True] * 3 + [False]


@posix
def test_after_a_hang_what_follows_gets_a_part_of_the_time(tmp_path):
    judged = "def judged(item):\n    while item in ('policies', 'sarsa'): pass\n    return 'fine'"
    path = notebook(tmp_path / "hw.ipynb", AGENT, judged)
    with Fence(LIMITS) as made:
        _, findings = made.judge(path, 0, QUICK)
    assert "within 0.3 s" in findings["policies"].seen and "within 0.075 s" in findings["sarsa"].seen
    assert findings["end"].seen == "fine"


def test_a_grader_that_fails_costs_no_points(hand_in):
    sheet = hand_in(AGENT, "def judged(item):\n    raise RuntimeError('our fault')")
    assert not sheet["end"].judged and sheet["end"].points == 10 and "our fault" in sheet["end"].seen


@pytest.mark.long
def test_a_process_that_only_waits_is_ended_too(tmp_path):
    path = notebook(tmp_path / "hw.ipynb", AGENT, "import threading\ndef judged(item):\n    threading.Event().wait()")
    with Fence(Limits(seconds=0.5, patience=4)) as made:
        _, findings = made.judge(path, 0, ("sarsa",))
    assert "did not come to an end" in findings["sarsa"].seen


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process does")
def test_one_that_computes_or_is_stopped_is_told_from_one_that_waits():
    assert fence._seconds_computed(os.getpid(), 7.0) > 0
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as waits:
        os.kill(waits.pid, signal.SIGSTOP)
        os.waitpid(waits.pid, os.WUNTRACED)
        assert fence._seconds_computed(waits.pid, 7.0) == 7.0
        waits.kill()
    assert fence._seconds_computed(waits.pid, 7.0) == 0.0


@pytest.mark.long
def test_without_forks_all_is_the_same(tmp_path):
    path = notebook(
        tmp_path / "hw.ipynb",
        AGENT,
        "import os\ndef judged(item):\n    return item if item != 'sarsa' else os._exit(1)",
    )
    with Fence(LIMITS, forks=False) as whole, Fence(LIMITS) as forked:
        ours, theirs = whole.judge(path, 0, QUICK), forked.judge(path, 0, QUICK)
        assert ours[1]["end"] == theirs[1]["end"] and ours[1]["end"].seen == "end"
        assert ours[1]["sarsa"].share == 0 and "the process ended" in ours[1]["sarsa"].seen
        assert ours[0] == theirs[0]


def test_a_submission_finds_an_empty_folder_and_no_secrets_and_leaves_nothing(tmp_path, monkeypatch):
    for name in ("GITHUB_TOKEN", "HTTPS_PROXY", "SSH_AUTH_SOCK", "PYTHONPATH"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setattr(fence.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    judged = """
import os
def judged(item):
    assert os.getcwd() == os.path.expanduser("~") == os.environ["TMPDIR"]
    open("left", "w").close()
    return f'[{os.getpid()}, {os.getppid()}, {len(os.listdir("."))}, {str("secret" in str(dict(os.environ))).lower()}]'
"""
    path = notebook(tmp_path / "hw.ipynb", AGENT, judged)
    with Fence(LIMITS) as made:
        _, findings = made.judge(path, 0, ("sarsa",))
    *processes, files, secret = json.loads(findings["sarsa"].seen)
    assert files == 1 and not secret
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    assert list((tmp_path / "tmp").iterdir()) == []


# Points ---------------------------------------------------------------------------------------------


def test_points_are_whole_and_only_what_is_all_right_gets_all():
    findings = {item: Finding(item, 0.999, True, "seen", "hint") for item in ITEMS}
    loaded = fence.Loaded(cells=1, executed=1, statements=1, defined=("QLAgent",))
    sheet = marks.sheet_of("hw", loaded, findings, marks.read_points())
    assert all(type(mark.points) is int for mark in sheet.marks)
    assert sheet.of == 100 and all(mark.points == mark.of - 1 for mark in sheet.marks[:-1])


def test_what_was_not_judged_counts_in_full_and_is_said():
    findings = {item: Finding(item, 0.0, item != "end", "seen", "hint") for item in ITEMS}
    sheet = marks.sheet_of("hw", fence.Loaded(unreadable="x"), findings, marks.read_points())
    assert sheet.points == sheet.unjudged == 8
    assert "8 of 100 points, 8 of which were not judged" in sheets.as_text(sheet)
    assert next(csv.DictReader(io.StringIO(sheets.as_csv([sheet]))))["end"] == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "must hold an object"),
        ('{"sarsaa": 3}', "is it 'sarsa'?"),
        ('{"sarsa": 3, "sarsa": 4}', "sarsa stands there twice"),
        ('{"sarsa": 3.5}', "sarsa must be a whole number"),
        ('{"sarsa": true}', "sarsa must be a whole number"),
        ('{"sarsa": -1}', "sarsa must be a whole number"),
        ('{"sarsa": 1}', "says nothing of policies, q_learning"),
        (json.dumps(dict.fromkeys(ITEMS, 0)), "no points at all"),
        ("\udcff", "not text"),
    ],
)
def test_points_that_make_no_sense_are_refused_in_a_line(tmp_path, capsys, text, problem):
    path = tmp_path / "points.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(SystemExit) as ended:
        grade.main([str(notebook(tmp_path / "hw.ipynb", AGENT)), "--points", str(path)])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and problem in told and told.count("\n") == 1


def test_points_that_do_not_sum_to_a_hundred_are_told(tmp_path, capsys):
    path = tmp_path / "points.json"
    path.write_text(json.dumps(dict.fromkeys(ITEMS, 10)), encoding="utf-8")
    command = [str(notebook(tmp_path / "hw.ipynb", "x = 1")), "--only", "loads"]
    assert grade.main([*command, "--points", str(path)]) == 0
    assert capsys.readouterr().err == f"{path}: the points sum to 120, not 100\n"
    assert grade.main(command) == 0 and capsys.readouterr().err == ""


def test_what_is_not_answered_is_said_in_the_first_line():
    findings = {item: Finding(item, 0.0, True, "Not answered: learn raises NotImplementedError.", "") for item in ITEMS}
    loaded = fence.Loaded(cells=2, executed=2, statements=2, defined=("QLAgent",))
    sheet = marks.sheet_of("hw", loaded, findings, marks.read_points())
    assert sheets.total(sheet) == "4 of 100 points; nothing is answered"
    assert "nothing is answered" in pages.student_page(sheet)
    findings |= {item: Finding(item, 1.0, True, "Fine.", "") for item in ITEMS[:9]}
    sheet = marks.sheet_of("hw", loaded, findings, marks.read_points())
    assert sheets.total(sheet) == "92 of 100 points; not answered: traffic, arguments"


@pytest.mark.parametrize(("defined", "seen"), [((), "Not found: see the file."), (("agent",), "X (see the file).")])
def test_what_a_failing_file_lacks_is_said_once(defined, seen):
    findings = {item: Finding(item, 0.0, True, "Not found: X.", "hint") for item in ITEMS}
    loaded = fence.Loaded(cells=2, statements=1, broken=((1, "no"),), defined=defined)
    sheet = marks.sheet_of("hw", loaded, findings, marks.read_points())
    assert all(mark.seen.endswith(seen) and not mark.hint for mark in sheet.marks[:-1])
    assert "Code cell 1 does not compile" in sheet.marks[-1].seen and sheet.marks[-1].hint


def test_who_kept_a_name_is_not_told_to_keep_it():
    halves = Finding("episodes", 0.5, True, "One of the two agents is missing. All.", KEEP_NAMES)
    findings = {item: halves._replace(item=item) for item in ITEMS}
    loaded = fence.Loaded(
        cells=2, statements=1, raised=(("cell 1", "class QLAgent(td.QLAgent)", "x"),), defined=("QLAgent",)
    )
    sheet = marks.sheet_of("hw", loaded, findings, marks.read_points())
    assert all(
        mark.seen.startswith("One of the two agents is missing (see the file). All") for mark in sheet.marks[:-1]
    )
    assert not any(mark.hint for mark in sheet.marks[:-1])
    sheet = marks.sheet_of("hw", loaded._replace(raised=()), findings, marks.read_points())
    assert all(mark.hint == KEEP_NAMES for mark in sheet.marks[:-1])


@pytest.mark.parametrize(
    "cell",
    [
        "class QLAgent(td.QLAgent):\n    pass",
        "class QLAgent(:",
        "import nothing\nclass QLAgent(nothing.Agent):\n    pass",
    ],
)
def test_a_training_cell_is_not_executed_where_its_class_could_not_be_defined(hand_in, cell):
    training = "epsilon = 0.3\nql_agent = QLAgent(epsilon)\nrewards, table = ql_agent.learn_and_evaluate()"
    seen = hand_in(AGENT.replace("QLAgent", "SARSAagent"), cell, training)["loads"].seen
    assert "ell 2" in seen and "ell 3" not in seen


# The command ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A folder of three submissions, one of which is no notebook."""
    for name in ("ann", "bob"):
        (tmp_path / "in" / name).mkdir(parents=True)
    notebook(tmp_path / "in" / "ann" / "=hw.ipynb", AGENT)
    notebook(
        tmp_path / "in" / "bob" / "<b>hw&.ipynb", AGENT, "def judged(item):\n    return '<script>alert(1)</script>'"
    )
    (tmp_path / "in" / "carl.ipynb").write_text("nothing", encoding="utf-8")
    (tmp_path / "in" / ".ipynb_checkpoints").mkdir()
    notebook(tmp_path / "in" / ".ipynb_checkpoints" / "hw.ipynb", AGENT)
    return tmp_path / "in"


def test_a_folder_is_graded_the_same_every_time(folder, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    results = []
    for jobs in ("1", "2"):
        out = tmp_path / f"out{jobs}"
        out.mkdir()
        arguments = ["--csv", str(out / "m.csv"), "--json", str(out / "m.json"), "--html", str(out / "pages")]
        assert grade.main([".", *arguments, "--jobs", jobs]) == 0
        printed = capfd.readouterr()
        assert printed.err == ""
        files = {path.name: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
        results.append((printed.out, files))
    assert results[0] == results[1]
    entries = json.loads(results[0][1]["m.json"])
    assert [entry["file"] for entry in entries] == ["ann/=hw.ipynb", "bob/<b>hw&.ipynb", "carl.ipynb"]
    assert [entry["points"] for entry in entries] == [100, 100, 0] and all(entry["of"] == 100 for entry in entries)
    for entry in entries:
        assert list(entry) == ["file", "points", "of", "items"]
        assert [item["item"] for item in entry["items"]] == list(ITEMS)
        assert all(list(item) == ["item", "points", "of", "judged", "seen", "hint"] for item in entry["items"])
    rows = list(csv.DictReader(io.StringIO(results[0][1]["m.csv"].decode("utf-8"))))
    assert [row["file"] for row in rows] == ["'=hw.ipynb", "<b>hw&.ipynb", "carl.ipynb"]
    assert [row["points"] for row in rows] == ["100", "100", "0"] and rows[0]["sarsa"] == "12"
    assert sorted(results[0][1]) == ["b-hw.html", "carl.html", "hw.html", "index.html", "m.csv", "m.json"]
    for name, page in results[0][1].items():
        if name.endswith(".html"):
            assert not any(text in page for text in (b"<script>", b"http", b"<b>hw"))


def test_a_file_name_is_no_formula():
    sheet = marks.Sheet("=1+1.ipynb", ())
    assert sheets.as_csv([sheet]).splitlines()[1].startswith("'=1+1")


def test_pages_of_alike_names_are_apart():
    names = pages.page_names(["a/hw.ipynb", "a-hw.ipynb", "A hw.ipynb", "index.ipynb", "ö.ipynb", "ü.ipynb"])
    assert len({name.lower() for name in names} | {"index.html"}) == 7
    assert all(name.isascii() for name in names)


def test_names_are_bare_and_those_that_clash_are_told_apart_by_their_folders():
    short = marks.short_names
    assert short(["in/ann.ipynb", "in/bob.ipynb", "x/carl.ipynb"]) == ["ann.ipynb", "bob.ipynb", "carl.ipynb"]
    assert short(["in/ann/hw.ipynb", "in/bob/hw.ipynb"]) == ["ann/hw.ipynb", "bob/hw.ipynb"]
    assert short(["a/x/hw.ipynb", "b/x/hw.ipynb", "c/y/hw.ipynb", "hw.ipynb"]) == [
        "a/x/hw.ipynb", "b/x/hw.ipynb", "y/hw.ipynb", "hw.ipynb"
    ]  # fmt: skip
    assert short(["C:\\in\\hw.ipynb"]) == ["hw.ipynb"] and short([]) == []


def test_a_last_line_sums_up_several_sheets_and_quiet_shows_no_bar(folder, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert grade.main([".", "--quiet", "--only", "loads", "--html", "../pages"]) == 0
    told = capfd.readouterr()
    assert told.err == "" and told.out.endswith("\n\n3 graded: median 4\n")
    assert grade.main(["carl.ipynb"]) == 0 and "graded" not in capfd.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert grade.main([".", "--quiet", "--html", "../pages"]) == 0
    assert re.search(r"3 graded: median 100, slowest \d+\.\d s: .*index\.html\n$", capfd.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["missing.ipynb"], "missing.ipynb is not there"),
        (["empty"], "empty holds no notebooks"),
        (["notes.txt"], "notes.txt is not called .ipynb"),
        (["in", "--csv", "nowhere/m.csv"], "--csv must be a file that can be written"),
        (["in", "--json", "in"], "--json must be a regular file"),
        (["in", "--html", "in/carl.ipynb"], "--html must be a folder"),
        (["in", "--points", "none.json"], "none.json cannot be read"),
        (["in", "--only", "sarsaa"], "invalid choice: 'sarsaa'"),
        (["in", "--seed", "-1"], "--seed must be from 0"),
        (["in", "--jobs", "0"], "--jobs must be 1 or more"),
        (["in", "--seconds", "nan"], "--seconds must be from"),
        ([], "FILE"),
    ],
)
def test_a_wrong_command_ends_with_status_2_and_a_line(folder, monkeypatch, capsys, arguments, problem):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "empty").mkdir()
    (folder.parent / "notes.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        grade.main(arguments)
    told = capsys.readouterr()
    assert ended.value.code == 2 and problem in told.err and told.err.count("\n") == 1 and not told.out


@posix
def test_a_pipe_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "hw.ipynb")
    with pytest.raises(SystemExit):
        grade.main([str(tmp_path / "hw.ipynb")])
    assert "is not a regular file" in capsys.readouterr().err


def test_what_is_no_notebook_is_left_out_named_or_in_a_folder(folder, capsys):
    inside = grade.notebooks([folder])
    (folder / "notes.txt").write_text("hello", encoding="utf-8")
    assert grade.notebooks([folder]) == inside and capsys.readouterr().err == ""
    assert grade.notebooks([folder / "notes.txt", folder / "carl.ipynb"]) == [folder / "carl.ipynb"]
    assert capsys.readouterr().err == f"{folder / 'notes.txt'} is left out: it is not called .ipynb\n"


def test_one_item_alone_is_judged_where_it_is_asked_for():
    options = grade.parser().parse_args(["hw.ipynb", "--only", "sarsa", "--only", "policies"])
    assert grade.checked(options) == {"policies": 10, "sarsa": 12}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, RuntimeError, BrokenPipeError])
def test_what_was_judged_is_written_however_the_command_ends(folder, tmp_path, monkeypatch, capfd, stop):
    judge = grade.grade

    def ends(*arguments):
        yield next(judge(*arguments))
        raise stop

    monkeypatch.setattr(grade, "grade", ends)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    command = [str(folder), "--csv", str(tmp_path / "m.csv"), "--html", str(tmp_path / "pages"), "--quiet"]
    try:
        status = grade.main(command)
    except (SystemExit, RuntimeError):
        status = None
    assert status == {KeyboardInterrupt: 130, BrokenPipeError: 1}.get(stop)
    assert len((tmp_path / "m.csv").read_text(encoding="utf-8").splitlines()) == 2
    assert len(list((tmp_path / "pages").iterdir())) == 2
    said = "after 1 of 3 submissions, which are in the files that you asked for\n"
    assert capfd.readouterr().err.endswith(said if stop is not BrokenPipeError else "")


def test_where_nothing_was_judged_files_stay_as_they_are(folder, tmp_path, monkeypatch, capfd):
    def ends(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(grade, "grade", ends)
    (tmp_path / "m.csv").write_text("old", encoding="utf-8")
    assert grade.main([str(folder), "--csv", str(tmp_path / "m.csv"), "--quiet"]) == 130
    assert (tmp_path / "m.csv").read_text(encoding="utf-8") == "old"
    assert capfd.readouterr().err == "interrupted after 0 of 3 submissions\n"


@posix
@pytest.mark.long
def test_ctrl_c_ends_the_command_in_a_line_and_leaves_no_process(tmp_path):
    path = notebook(tmp_path / "hw.ipynb", AGENT, "import threading\ndef judged(item):\n    threading.Event().wait()")
    code = "import sys; from course import fence, grade; fence.JUDGE = 'stub_judge'; sys.exit(grade.main(sys.argv[1:]))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    command = [sys.executable, "-c", code, str(notebook(tmp_path / "a.ipynb", AGENT)), str(path), "--jobs", "1"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        while "the file" not in run.stdout.readline():  # of the first one
            pass
        run.send_signal(signal.SIGINT)
        _, told = run.communicate(timeout=60)
    assert run.returncode == 130 and "interrupted after 1 of 2" in told and told.count("\n") <= 2


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes there are")
def test_a_command_that_is_terminated_leaves_no_process(tmp_path):
    paths = [
        notebook(tmp_path / "a.ipynb", "x = 1"),
        notebook(tmp_path / "b.ipynb", "class QLAgent:\n    while 1: pass"),
    ]
    command = [sys.executable, "-m", "course.grade", *map(str, paths), "--jobs", "1", "--seconds", "600"]
    with subprocess.Popen(command, cwd=TESTS.parent, stdout=subprocess.PIPE, text=True) as run:
        while "the file" not in run.stdout.readline():
            pass
        started = [int(child) for task in Path(f"/proc/{run.pid}/task").iterdir()
                   for child in (task / "children").read_text(encoding="ascii").split()]  # fmt: skip
        run.terminate()
        run.communicate(timeout=60)
    assert run.returncode == 143 and started
    assert not [process for process in started if Path(f"/proc/{process}").exists()]
