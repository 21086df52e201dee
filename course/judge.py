"""What submitted code does, item by item: run on recorders and on the simulated Ray, and compared with the rules."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

from . import arguments, distributed, schedules, single, snapshots, updates
from .account import DEFAULT_BETA
from .errors import is_blank
from .findings import ITEMS, Finding, failed
from .plays import Play
from .records import Problem, Record, elsewhere
from .roles import Missing
from .runs import Run

KINDS = ("q_learning", "sarsa")
WITHOUT_TESTS = ("server", "collectors", "end", "traffic")  # what is judged without tests, too, if these are at fault
CALLED = {"q_learning": "QLAgent", "sarsa": "SARSAagent", "distributed": "The distributed agent"}
FEWEST = tuple({kind: 1, "most_events": schedules.MOST_EVENTS} for kind in ("ew_num", "cw_num"))  # workers of a kind
LONG = (8, 10, 7)  # batches within which a test is due; of the last two sizes the last batch is too long
SCHEDULES = 6  # under which each distributed item is looked at


def judge(names: dict[str, object], seed: int = 0, items: Sequence[str] = ITEMS) -> Iterator[Finding]:
    """Yield a finding of each item but "loads", in the order of ITEMS, as soon as it is known.

    `names` is the namespace that the defining cells have made, which is changed. Everything random follows from
    `seed`. Nothing that the submission raises comes out.
    """
    submission = Submission(names, seed)
    for item in ITEMS:
        if item in items and item != "loads":
            try:
                yield submission.better_of_two(item) if item in WITHOUT_TESTS else submission.finding(item)
            except Missing as missing:
                yield Finding(item, 0.0, True, f"Not found: {missing}.", missing.hint)
            except Unjudged as why:
                yield Finding(item, 0.0, False, str(why), "")


class Unjudged(Exception):
    """An item cannot be told."""


class Fruitless(Exception):
    """A run comes to no result."""


class Submission:
    """A submission and its runs, each of which is made when it is first asked for."""

    def __init__(self, names: dict[str, object], seed: int):
        self.names, self.seed = names, seed
        names.setdefault("__name__", "__main__")
        self.run = functools.cache(self._run)
        self._play_once = functools.cache(self._play)
        self.always: dict[str, object] = {}  # settings of all plays

    def finding(self, item: str) -> Finding:
        """What is found about an item."""
        error = self.stops_at_once(item)
        if error:
            return failed(item, error)
        return getattr(self, item)()

    def better_of_two(self, item: str) -> Finding:
        """An item of the distributed part; where the run with tests is broken, it may be right without them."""
        finding = self.finding(item)
        if finding.share == 1 or not any(record.broken for record in self.plays()):
            return finding
        self.always = {"do_test": False}
        try:
            other = self.finding(item)
        finally:
            self.always = {}
        share = min(other.share, 0.5) if item == "end" else other.share  # a run that breaks has no good end
        if not other.judged or share <= finding.share:
            return finding
        between = "\n" if "\n" in other.seen else " "  # after a story
        seen = f"Without tests: {other.seen}{between}With tests: {finding.seen}"
        return Finding(item, share, True, seen, other.hint or finding.hint)

    def play(self, schedule: int = 0, **settings) -> Record:
        """A play, which is made when it is first asked for."""
        return self._play_once(schedule, **(self.always | settings))

    def _run(self, kind: str, **settings) -> Run:
        return Run(self.names, kind, self.seed, **settings)

    def _play(self, schedule: int = 0, **settings) -> Record:
        record = Record(Play(self.names, self.seed, schedule=schedule, **settings))
        if record.unjudged:
            raise Unjudged(record.unjudged)
        return record

    def stops_at_once(self, item: str) -> str:
        """The error with which all runs of an item end before anything is learned; "" where something is."""
        errors = []
        if item in ("policies", "episodes", "tests"):
            errors = [run.error if not run.learning else "" for run in self.both()]
        elif item in ("server", "collectors", "snapshots", "end", "traffic"):
            errors = [record.play.error if not record.account.learned else "" for record in self.plays()]
        elif item == "arguments":
            with contextlib.suppress(Missing, Unjudged):
                return self.stops_at_once("episodes") and self.stops_at_once("server")
        return errors[0] if errors and all(errors) else ""

    def both(self, **settings) -> list[Run]:
        """The same run of Q-learning and of SARSA, of which one may be missing, or not come to its end."""
        runs, endless, missing = [], [], None
        for kind in KINDS:
            try:
                plain = self.run(kind)
                if settings and plain.log.exhausted:
                    endless.append(plain)
                else:
                    runs.append(self.run(kind, **settings))
            except Missing as problem:
                missing = problem
        if not runs and not endless:
            raise missing
        return runs or endless

    def plays(self, **settings) -> list[Record]:
        """The same run under several schedules; two that come to no result are enough."""
        records: list[Record] = []
        for schedule in range(SCHEDULES):
            if sum(record.broken is not None for record in records) < 2:
                records.append(self.play(schedule, **settings))
        return records

    def over_schedules(
        self,
        item: str,
        problems: Callable[[Record], list[Problem]],
        right: str,
        extra: Sequence[Problem] = (),
        again: Callable[[Record], list[Problem]] | None = None,
    ) -> Finding:
        """A finding of what is wrong under any schedule, with the smallest run that shows it.

        `extra` are problems that were found in other ways, and `again` finds them in a single run, where that can be.
        """
        found = []
        for record in self.plays():
            if not (record.broken and found):
                kinds = {one.kind for one in found}
                found += [problem for problem in problems(record) if problem.kind not in kinds]
        found += extra
        story = ""
        if found and found[0].under is not None:
            settings = self.always | dict(found[0].under)
            story = schedules.smallest(self.names, self.seed, found[0].kind, again or problems, **settings)
        return distributed.finding(item, found, right, story)

    # One core

    def policies(self) -> Finding:
        """Greedy and exploring."""
        settings = {"learning_episodes": 80, "test_interval": 20, "do_test": False}
        return single.judge_policies({epsilon: self.both(epsilon=epsilon, **settings) for epsilon in (0.0, 0.3, 1.0)})

    def q_learning(self) -> Finding:
        """Its update."""
        return updates.judge_update(self.learning_run("q_learning"), "q_learning")

    def sarsa(self) -> Finding:
        """Its update."""
        return updates.judge_update(self.learning_run("sarsa"), "sarsa")

    def episodes(self) -> Finding:
        """Their number, beginnings and ends."""
        runs = [self.learning_run(kind) for kind in self.there()]
        return single.halved(single.judge_episodes(runs), len(runs))

    def learning_run(self, kind: str) -> Run:
        """A run to look at learning in: the one without tests where tests raise."""
        run = self.run(kind)
        if not run.error:
            return run
        without = self.run(kind, do_test=False)
        return run if without.error else without

    def there(self) -> list[str]:
        """Which of the two agents of one core there are; Missing where there is none."""
        kinds, missing = [], None
        for kind in KINDS:
            try:
                self.run(kind)
                kinds.append(kind)
            except Missing as problem:
                missing = problem
        if missing is not None and not kinds:
            raise missing
        return kinds

    def tests(self) -> Finding:
        """Of which policy, when, and what they return."""
        if all(is_blank(run.error) for run in self.both()):
            return failed("tests", self.both()[0].error)
        limited = {"learning_episodes": 4, "test_interval": 4, "longest": 5_000}
        tried = self.both(trials=3)
        finding = single.judge_tests(self.both(), self.both(do_test=False), self.both(**limited), tried)
        return single.halved(finding, len(self.there()))

    # Distributed

    def server(self) -> Finding:
        """What it learns from batches."""
        if not any(record.account.known for record in self.plays()) and not any(r.broken for r in self.plays()):
            raise Unjudged("No actor was found that holds a table of action values.")
        batches = sum(len(record.account.learned) for record in self.plays())
        right = f"All {batches} batches under {SCHEDULES} schedules are learned once and whole, by the own maximum."
        return self.over_schedules("server", distributed.server_problems, right)

    def collectors(self) -> Finding:
        """Their number, exploring, batches, tables and random numbers."""
        shares = {0.3: self.plays(), 0.0: [self.play(0, epsilon=0.0)], 1.0: [self.play(0, epsilon=1.0)]}
        problems = distributed.collector_problems(self.plays(), shares)
        wanted = self.play().settings["cw_num"]
        right = f"{wanted} collectors explore as epsilon says, on new tables, with batches and numbers of their own."
        return self.over_schedules("collectors", lambda record: [], right, problems, distributed.in_one_run)

    def snapshots(self) -> Finding:
        """Which tables are tested, and where the results are."""
        right = f"{len(self.play().due)} tests, each of the table at its episode, once, and all results in order."
        plain, problems, extra = self.play(), snapshots.snapshot_problems, snapshots.late(self.plays())
        within = lambda record: [*snapshots.crossing(plain, record), *snapshots.within(plain, record)]
        if not plain.broken:
            for size in LONG:
                extra += within(self.play(0, batch_size=size))
            extra += elsewhere(problems, plain, [self.play(**changed) for changed in ({"test_interval": 2}, *FEWEST)])
        again = lambda record: [*problems(record), *within(record)]
        return self.over_schedules("snapshots", problems, right, extra, again)

    def end(self) -> Finding:
        """What is learned and what is left when the result is there."""
        problems, without = distributed.end_problems, {"do_test": False}
        extra = [problem._replace(under=without) for problem in problems(self.play(**without))] + self.swallowed()[:1]
        others = [self.play(**changed) for changed in (*FEWEST, *({"batch_size": size} for size in LONG))]
        extra += elsewhere(problems, self.play(), [record for record in others if record.account.right])
        asked = self.play().settings["learning_episodes"]
        right = f"Under {SCHEDULES} schedules {asked} episodes are learned, nothing is left, and errors come out."
        again = lambda record: [*problems(record), *filter(None, [distributed.swallowed(record)])]
        return self.over_schedules("end", problems, right, extra, again)

    def swallowed(self) -> list[Problem]:
        """Errors that nobody notices, one kind of call after another."""
        record = self.play()
        if record.broken:
            return []
        methods = {call.method for call in record.play.calls} | {a.name for a in record.play.actors if a.is_task}
        found = [distributed.swallowed(self.play(0, failing=method)) for method in sorted(methods)]
        return [problem for problem in found if problem]

    def traffic(self) -> Finding:
        """Calls per batch."""
        broken = [record.broken for record in self.plays() if record.broken]
        if len(broken) == len(self.plays()):
            return distributed.finding("traffic", broken[:1], "")
        right = f"{len(self.play().play.calls)} calls for {self.play().account.episodes} episodes and their tests."
        problems = lambda record: [] if record.broken else distributed.traffic_problems(record)
        return self.over_schedules("traffic", problems, right)

    # Both

    def arguments(self) -> Finding:
        """Whether arguments are used as given: of each agent a third, and of those that come to no result none."""
        runs: dict[str, Callable] = {kind: functools.partial(self._repeatable_run, kind) for kind in KINDS}
        runs["distributed"] = self._repeatable_play
        found, judged, lacking, missing = [], [], [], []
        for kind, run in runs.items():
            try:
                names = arguments.read_globals(run)
            except (Missing, Fruitless) as problem:
                missing += [problem] if isinstance(problem, Missing) else []
                lacking.append(CALLED[kind])
                continue
            except Unjudged:
                continue
            if names is not None:
                judged.append(CALLED[kind])
                found += arguments.problems_of(CALLED[kind], names)
        if len(missing) == len(runs):
            raise missing[0]
        if not judged and not lacking:
            raise Unjudged("The runs do not repeat with seeded random numbers, so that they cannot be compared.")
        if judged:
            found += self.without_effect()
            found += self.trials()
        right = "All classes use their arguments, whatever the notebook's variables are."
        finding = distributed.finding("arguments", found, right)
        return arguments.in_proportion(finding, judged, lacking)

    def _repeatable_run(self, kind: str, **settings) -> Run:
        plain = self.run(kind)
        if plain.log.exhausted or (plain.error and not plain.learning):
            raise Fruitless
        return self._run(kind, **settings)

    def _repeatable_play(self, **settings) -> Play:
        if not self.play().broken:
            return self._play(0, **settings).play
        if self.play(do_test=False).broken:
            raise Fruitless
        return self._play(0, **settings, do_test=False).play

    def trials(self) -> list[Problem]:
        """That evaluators run another number of episodes than they are told."""
        with contextlib.suppress(Missing, Unjudged):
            record = self.play()
            return [] if record.broken else snapshots.other_trials(record)
        return []

    def without_effect(self) -> list[Problem]:
        """Arguments of the distributed agent that are given and change nothing."""
        try:
            plain = self.play()
        except (Missing, Unjudged):
            return []
        if plain.broken:
            return []
        found = []
        for name, value, weight in (("beta", 0.9, 0.25), ("ew_num", 1, 0.5), ("do_test", False, 0.5)):
            if name not in plain.play.taken:
                continue
            changed = self.play(0, **{name: value})
            same = arguments.fingerprint(changed.play) == arguments.fingerprint(plain.play)
            same |= name == "do_test" and bool(changed.tests)
            same |= name == "beta" and any(one.rule == DEFAULT_BETA for one in changed.account.learned)
            if name == "beta":
                found += snapshots.other_discount(plain, changed)
            if same:
                seen = f"the distributed agent learns the same with {name}={value}; expected that it has an effect."
                found.append(Problem(f"no effect of {name}", seen, f"Follow {name} from your agent on.", weight))
        return found
