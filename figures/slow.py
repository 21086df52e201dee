"""Simulators whose steps take time: alone, as an env for any agent, or many that are stepped together."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np

import td_helpers as td


class Delay:
    """Makes steps take `seconds` longer on average: it waits, as for a robot, or computes.

    Delays are added up and made in portions of a millisecond or more, since shorter sleeps are inaccurate.
    """

    def __init__(self, seconds: float, computes: bool = False):
        self.seconds = seconds
        self.computes = computes
        self.owed = 0.0
        self.clock = time.thread_time if computes else time.perf_counter  # thread_time counts this thread alone

    def of_a_step(self) -> None:
        """Let the time of one step pass."""
        self.owed += self.seconds
        if self.owed >= 0.001:
            start = self.clock()
            if self.computes:
                while self.clock() - start < self.owed:
                    pass
            else:
                time.sleep(self.owed)
            self.owed -= self.clock() - start


class Slow(td.gym.Wrapper):
    """A simulator whose steps take `seconds` longer on average; see `Delay`."""

    def __init__(self, env, seconds: float, computes: bool = False):
        super().__init__(env)
        self.delay = Delay(seconds, computes)

    def step(self, action):
        self.delay.of_a_step()
        return self.env.step(action)


class Together:
    """Q-learning in one process on `count` lakes that are stepped together, so that their waits overlap.

    Each round every lake makes one step of its own episode, and the round waits once. All learn on one table, step by
    step. `learn_and_evaluate` does what an agent's does, with as many trials as a test interval has episodes.
    """

    def __init__(
        self, map: str, count: int, seconds: float, *, epsilon: float, learning_rate: float, learning_episodes: int,
        test_interval: int, max_step: int, do_test: bool, seed: int, beta: float = 0.999,
    ):  # fmt: skip
        self.lakes = [td.FrozenLakeEnv(map_name=map) for _ in range(count)]
        self.delay = Delay(seconds)
        self.epsilon, self.learning_rate, self.beta = epsilon, learning_rate, beta
        self.episodes, self.test_interval = learning_episodes, test_interval
        self.max_step, self.do_test = max_step, do_test
        self.random = random.Random(seed)
        for number, lake in enumerate(self.lakes):
            lake.reset(seed=1_000 * seed + number)
        self.rows = np.zeros(self.lakes[0].table.shape).tolist()
        self.steps = 0

    @property
    def q_table(self) -> np.ndarray:
        return np.array(self.rows)

    def learn_and_evaluate(self, progress: bool = True) -> tuple[list[float], np.ndarray]:
        """Learn all episodes, with a test after each interval; return (total_rewards, q_table)."""
        total_rewards = []
        for _ in range(self.episodes // self.test_interval):
            self.steps += self.play(self.test_interval, self.explore_or_exploit, self.update)
            if self.do_test:
                total_rewards.append(self.mean_return())
        return total_rewards, self.q_table

    def mean_return(self) -> float:
        """Return the mean discounted return of the greedy policy."""
        rewards = []
        self.play(self.test_interval, self.greedy, lambda t, state, action, reward, *_: rewards.append((t, reward)))
        return sum(self.beta**t * reward for t, reward in rewards) / self.test_interval

    def play(self, episodes: int, choose: Callable[[int], int], note: Callable[..., None]) -> int:
        """Play episodes on all lakes at once; tell `note` every step, and return the number of steps."""
        left, steps = episodes, 0
        playing = []
        for lake in self.lakes[:episodes]:
            playing.append((lake, lake.reset()[0], 0))
            left -= 1
        while playing:
            self.delay.of_a_step()
            steps += len(playing)
            going_on = []
            for lake, state, t in playing:
                action = choose(state)
                next_state, reward, terminated, _, _ = lake.step(action)
                note(t, state, action, reward, next_state, terminated)
                if not terminated and t + 1 < self.max_step:
                    going_on.append((lake, next_state, t + 1))
                elif left:
                    going_on.append((lake, lake.reset()[0], 0))
                    left -= 1
            playing = going_on
        return steps

    def greedy(self, state: int) -> int:
        """Return the action with the highest value; ties go to the lowest action."""
        row = self.rows[state]
        return row.index(max(row))

    def explore_or_exploit(self, state: int) -> int:
        """Return a random action with probability epsilon, else the greedy one."""
        if self.random.random() < self.epsilon:
            return self.random.randrange(len(self.rows[state]))
        return self.greedy(state)

    def update(self, t, state, action, reward, next_state, terminated) -> None:
        """Q-learning."""
        target = reward if terminated else reward + self.beta * max(self.rows[next_state])
        self.rows[state][action] += self.learning_rate * (target - self.rows[state][action])
