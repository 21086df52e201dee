"""A wrapper that makes a simulator's steps take time."""

from __future__ import annotations

import time

import td_helpers as td


class Slow(td.gym.Wrapper):
    """A simulator whose steps take `seconds` longer on average: it waits, as for a robot, or computes.

    Delays are added up and made in portions of a millisecond or more, since shorter sleeps are inaccurate.
    """

    def __init__(self, env, seconds: float, computes: bool = False):
        super().__init__(env)
        self.seconds = seconds
        self.computes = computes
        self.owed = 0.0
        self.clock = time.thread_time if computes else time.perf_counter  # thread_time counts this thread alone

    def step(self, action):
        self.owed += self.seconds
        if self.owed >= 0.001:
            start = self.clock()
            if self.computes:
                while self.clock() - start < self.owed:
                    pass
            else:
                time.sleep(self.owed)
            self.owed -= self.clock() - start
        return self.env.step(action)
