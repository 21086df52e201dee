"""What submitted code does, item by item: run on recorders and on the simulated Ray, and compared with the rules."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from . import single
from .findings import ITEMS, Finding
from .roles import Missing

KINDS = ("q_learning", "sarsa")


def judge(names: dict[str, object], seed: int = 0, items: Sequence[str] = ITEMS) -> Iterator[Finding]:
    """Yield a finding of each item but "loads", in the order of ITEMS, as soon as it is known.

    `names` is the namespace that the defining cells have made, which is changed. Everything random follows from
    `seed`. Nothing that the submission raises comes out.
    """
    submission = Submission(names, seed)
    for item in ITEMS:
        if item in items and item != "loads":
            try:
                yield getattr(submission, item)()
            except Missing as missing:
                hint = "Keep the names of the assignment."
                yield Finding(item, 0.0, True, f"Not found: {missing}.", hint)


class Submission:
    """A submission and its runs, each of which is made when it is first asked for."""

    def __init__(self, names: dict[str, object], seed: int):
        self.names, self.seed = names, seed
        names.setdefault("__name__", "__main__")
        self.run = functools.cache(self._run)

    def _run(self, kind: str, **settings) -> single.Run:
        return single.Run(self.names, kind, self.seed, **settings)

    def both(self, **settings) -> list[single.Run]:
        """The same run of Q-learning and of SARSA, of which one may be missing."""
        runs, missing = [], None
        for kind in KINDS:
            try:
                runs.append(self.run(kind, **settings))
            except Missing as problem:
                missing = problem
        if not runs:
            raise missing
        return runs

    # The items

    def policies(self) -> Finding:
        return single.judge_policies({
            epsilon: self.both(epsilon=epsilon, learning_episodes=80, test_interval=20, do_test=False)
            for epsilon in (0.0, 0.3, 1.0)
        })  # fmt: skip

    def q_learning(self) -> Finding:
        return single.judge_update(self.run("q_learning"), "q_learning")

    def sarsa(self) -> Finding:
        return single.judge_update(self.run("sarsa"), "sarsa")

    def episodes(self) -> Finding:
        return single.judge_episodes(self.both())

    def tests(self) -> Finding:
        limited = {"learning_episodes": 1, "test_interval": 1, "longest": 5_000}
        return single.judge_tests(self.both(), self.both(do_test=False), self.both(**limited))
