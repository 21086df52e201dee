"""Faulty solutions of the assignment, each with one fault: the solution with a few lines replaced."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from course.handout import converted, solved  # noqa: E402


class Change(NamedTuple):
    """Some lines of a cell in the place of others; "" stands for the whole cell."""

    cell: str  # its grade_id
    old: str
    new: str


class Fault(NamedTuple):
    """A solution with a fault, the item that it is named at, and those that are lost, too, since they follow."""

    name: str
    item: str
    changes: tuple[Change, ...]
    follows: frozenset[str] = frozenset()
    over_ray: str = ""  # what is seen of it over Ray; "schedules": under some alone; "": in the calls alone


@functools.cache
def solution() -> dict[str, str]:
    """The defining cells of the solution by their names, those without one by numbers."""
    cells = {}
    for number, cell in enumerate(converted(solved).cells):
        name = cell.metadata.get("nbgrader", {}).get("grade_id", str(number))
        defines = cell.source.startswith(("import", "map_DH", "class", "@ray"))
        if cell.cell_type == "code" and defines:
            cells[name] = cell.source.replace("%matplotlib inline", "") + "\n"
    return cells


def code_of(changes: tuple[Change, ...]) -> list[str]:
    """The cells of a changed solution; ValueError where something to be replaced is not there."""
    cells = dict(solution())
    for cell, old, new in changes:
        if old and old not in cells[cell]:
            raise ValueError(f"not in the cell {cell}: {old}")
        cells[cell] = cells[cell].replace(old, new) if old else new
    return list(cells.values())


def names_of(changes: tuple[Change, ...] = ()) -> dict[str, object]:
    """The namespace of a changed solution, defined before the simulated Ray."""
    from tabular.simulated_ray import simulated

    names: dict[str, object] = {"__name__": "__main__"}
    with simulated(0):
        for number, code in enumerate(code_of(changes)):
            exec(compile(code, f"cell {number}", "exec"), names)
    return names


EXPLORE = "            return random.randrange(self.action_space)\n"
ACTION = "                action = self.explore_or_exploit_policy(state)\n"
Q_TARGET = "                    target += self.beta * self.q_table[next_state].max()\n"
Q_UPDATE = (
    "                self.q_table[state, action] += self.learning_rate * (target - self.q_table[state, action])\n"
)
IF_GOES_ON = "                if not terminated:\n"
S_TARGET = "                    target += self.beta * self.q_table[next_state, next_action]\n"
S_NEXT = "                next_action = self.explore_or_exploit_policy(next_state)\n"
SERVER_TARGET = "                    target += self.beta * self.q_table[next_state].max()\n"
FETCH = "        q_table, learning_is_over = ray.get(server.learn.remote(experiences))\n"
SEED = "    simulator.reset(seed=random.randrange(2**31))\n"
CW = "            for _ in range(self.cw_num)\n"
STALE = (
    Change(
        "workers", "experience.append((state, action, reward, next_state, terminated))",
        "experience.append((state, action, reward, next_state, int(np.argmax(q_table[next_state]))))",
    ),
    Change(
        "server", "for state, action, reward, next_state, terminated in",
        "for state, action, reward, next_state, next_action in",
    ),
    Change(
        "server", "                target = reward\n                if not terminated:\n" + SERVER_TARGET,
        "                target = reward + self.beta * self.q_table[next_state, next_action]\n",
    ),
)  # fmt: skip


def one(name: str, item: str, cell: str, old: str, new: str, *follows: str, over_ray: str = "") -> Fault:
    """A fault of one replacement."""
    return Fault(name, item, (Change(cell, old, new),), frozenset(follows), over_ray)


def some(name: str, item: str, *changes: Change, follows: tuple = (), over_ray: str = "") -> Fault:
    """A fault of several replacements."""
    return Fault(name, item, changes, frozenset(follows), over_ray)


ONE_CORE = [
    # Policies
    one("never goes up", "policies", "agent", EXPLORE, EXPLORE.replace("action_space)", "action_space - 1)")),
    one("explores where it should exploit", "policies", "agent", "if random.random() <", "if random.random() >"),
    one("an epsilon of its own", "policies", "agent", "random.random() < self.epsilon", "random.random() < 0.1"),
    one("explores all but the greedy action", "policies", "agent", EXPLORE, """\
            greedy = self.greedy_policy(curr_state)
            return random.choice([one for one in range(self.action_space) if one != greedy])
"""),
    one("explores the likeliest action more often", "policies", "agent", EXPLORE, """\
            return random.choice([0, 0, 1, 2, 3])
"""),
    one("greedy takes the smallest value", "policies", "agent", "np.argmax", "np.argmin", "tests"),
    some(
        "explores at the first step only", "policies",
        Change("q_learning", "for _ in range(self.max_step)", "for step in range(self.max_step)"),
        Change("q_learning", ACTION, ACTION.replace("state)", "state) if step == 0 else self.greedy_policy(state)")),
    ),
    some(
        "never explores at the first step", "policies",
        Change("q_learning", "for _ in range(self.max_step)", "for step in range(self.max_step)"),
        Change("q_learning", ACTION, ACTION.replace("state)", "state) if step else self.greedy_policy(state)")),
    ),
    some(
        "an episode begins with the last one's next action", "policies",
        Change("sarsa", "            action = self.explore_or_exploit_policy(state)\n            for",
               "            action = getattr(self, 'kept', 0)\n            for"),
        Change("sarsa", "state, action = next_state, next_action\n",
               "state, action = next_state, next_action\n                self.kept = next_action\n"),
    ),
    # Q-learning
    some(
        "bootstraps from the action then taken", "q_learning",
        Change("q_learning", "            for _ in range(self.max_step):\n" + ACTION, """\
            next_action = self.explore_or_exploit_policy(state)
            for _ in range(self.max_step):
                action = next_action
"""),
        Change("q_learning", "                target = reward\n", """\
                next_action = self.explore_or_exploit_policy(next_state)
                target = reward
"""),
        Change("q_learning", "self.q_table[next_state].max()", "self.q_table[next_state, next_action]"),
    ),
    one("bootstraps from the minimum", "q_learning", "q_learning", "[next_state].max()", "[next_state].min()"),
    one("bootstraps from the mean", "q_learning", "q_learning", "[next_state].max()", "[next_state].mean()"),
    one("bootstraps from the state it left", "q_learning", "q_learning", "[next_state].max()", "[state].max()"),
    one("no discount", "q_learning", "q_learning", "self.beta * self", "self"),
    one("a discount of its own", "q_learning", "q_learning", "self.beta * self", "0.999 * self"),
    one("a rate of its own", "q_learning", "q_learning", "self.learning_rate *", "0.1 *"),
    some(
        "rate and discount exchanged", "q_learning",
        Change("q_learning", "self.beta * self", "self.learning_rate * self"),
        Change("q_learning", "+= self.learning_rate * (", "+= self.beta * ("),
    ),
    some(
        "the discount of the step for a rate", "q_learning",
        Change("q_learning", "for _ in range(self.max_step)", "for step in range(self.max_step)"),
        Change("q_learning", "self.learning_rate *", "self.beta**step *"),
    ),
    some(
        "the rate decays", "q_learning",
        Change("q_learning", "for _ in range(self.max_step)", "for step in range(self.max_step)"),
        Change("q_learning", "self.learning_rate *", "self.learning_rate / (1 + 0.01 * step) *"),
    ),
    some(
        "beta to the power of the step", "q_learning",
        Change("q_learning", "for _ in range(self.max_step)", "for step in range(self.max_step)"),
        Change("q_learning", "self.beta * self", "self.beta**step * self"),
    ),
    one("bootstraps at the end", "q_learning", "q_learning", IF_GOES_ON, "                if True:\n"),
    one("the old value does not shrink", "q_learning", "q_learning", "(target - self.q_table[state, action])",
        "target"),
    one("updates the next state", "q_learning", "q_learning", "self.q_table[state, action] +=",
        "self.q_table[next_state, action] +="),
    one("updates all actions of a state", "q_learning", "q_learning", "self.q_table[state, action] +=",
        "self.q_table[state] +="),
    one("updates twice", "q_learning", "q_learning", Q_UPDATE, Q_UPDATE + Q_UPDATE),
    one("updates every other step", "q_learning", "q_learning", Q_UPDATE,
        "                if action % 2:\n    " + Q_UPDATE),
    one("never updates", "q_learning", "q_learning", Q_UPDATE, "", "episodes", "tests", "policies"),
    # SARSA
    one("draws a second next action for its target", "sarsa", "sarsa", S_TARGET,
        S_TARGET.replace("next_action]", "self.explore_or_exploit_policy(next_state)]")),
    one("takes the maximum", "sarsa", "sarsa", S_TARGET, Q_TARGET),
    one("takes the greedy action's value", "sarsa", "sarsa", S_TARGET,
        S_TARGET.replace("next_action]", "self.greedy_policy(next_state)]")),
    one("acts otherwise than it learned", "sarsa", "sarsa", "                state, action = next_state, next_action\n",
        "                state, action = next_state, self.explore_or_exploit_policy(next_state)\n"),
    one("Expected SARSA", "sarsa", "sarsa", S_TARGET, """\
                    row = self.q_table[next_state]
                    target += self.beta * ((1 - self.epsilon) * row.max() + self.epsilon * row.mean())
"""),
    one("SARSA bootstraps at the end", "sarsa", "sarsa", IF_GOES_ON, "                if True:\n"),
    one("SARSA without a discount", "sarsa", "sarsa", "self.beta * self", "self"),
    one("SARSA learns from the action that it took", "sarsa", "sarsa", "[next_state, next_action]",
        "[next_state, action]"),
    one("SARSA raises", "sarsa", "sarsa", "target = reward\n", "target = rewards\n", "episodes", "tests",
        "arguments"),
    # Episodes
    one("an episode too many", "episodes", "q_learning", "range(self.test_interval)", "range(self.test_interval + 1)",
        "tests"),
    one("the interval is counted in steps", "episodes", "q_learning", "range(self.max_step)",
        "range(self.test_interval)"),
    one("gives up after twenty steps", "episodes", "sarsa", "range(self.max_step)", "range(20)"),
    some(
        "no reset after an end", "episodes",
        Change("q_learning", """\
        for _ in range(self.test_interval):
            state, _ = simulator.reset()
""", """\
        state, _ = simulator.reset()
        for _ in range(self.test_interval):
"""),
        follows=("q_learning", "tests", "policies"),
    ),
    # Tests
    one("tested while exploring", "tests", "agent", "self.evaluate(self.greedy_policy",
        "self.evaluate(self.explore_or_exploit_policy"),
    one("undiscounted", "tests", "agent", "self.beta**step * reward", "reward"),
    one("discounts the first reward", "tests", "agent", "self.beta**step * reward", "self.beta ** (step + 1) * reward"),
    one("the sum over trials", "tests", "agent", "total_reward / trials", "total_reward"),
    one("a total reset within the loop", "tests", "agent", "            state, _ = simulator.reset()\n",
        "            state, _ = simulator.reset()\n            total_reward = 0.0\n"),
    one("tested in spite of do_test", "tests", "agent", "if self.do_test:", "if True:"),
    one("never tested", "tests", "agent", "if self.do_test:", "if False:"),
    one("no limit of steps", "tests", "agent", "for step in range(max_steps):", "for step in range(10**9):"),
    one("tested before it learns", "tests", "agent",
        "            self.learn()\n            if self.do_test:\n"
        "                total_rewards.append(self.evaluate(self.greedy_policy, self.test_interval))\n",
        "            if self.do_test:\n"
        "                total_rewards.append(self.evaluate(self.greedy_policy, self.test_interval))\n"
        "            self.learn()\n"),
    one("a test too many", "tests", "agent", "        total_rewards = []\n", """\
        total_rewards = [self.evaluate(self.greedy_policy, self.test_interval)] if self.do_test else []
"""),
    some(
        "the curve is of exploring returns", "tests",
        Change("agent", "            self.learn()\n", "            returns = self.learn()\n"),
        Change("agent", "self.evaluate(self.greedy_policy, self.test_interval)", "sum(returns) / len(returns)"),
        *(Change(cell, "        for _ in range(self.test_interval):\n", """\
        returns = []
        for _ in range(self.test_interval):
            returns.append(0.0)
""") for cell in ("q_learning", "sarsa")),
        *(Change(cell, "                if terminated or truncated:\n                    break\n", """\
                returns[-1] += reward
                if terminated or truncated:
                    break
        return returns
""") for cell in ("q_learning", "sarsa")),
    ),
    one("trials are ignored", "tests", "agent", "        total_reward = 0.0\n",
        "        trials, total_reward = 7, 0.0\n"),
    one("trials that are cut do not count", "tests", "agent", """\
        total_reward = 0.0
        for _ in range(trials):
            state, _ = simulator.reset()
            for step in range(max_steps):
                state, reward, terminated, truncated, _ = simulator.step(policy_func(state))
                total_reward += self.beta**step * reward
                if terminated or truncated:
                    break
        return total_reward / trials
""", """\
        returns = []
        for _ in range(trials):
            state, _ = simulator.reset()
            total_reward = 0.0
            for step in range(max_steps):
                state, reward, terminated, truncated, _ = simulator.step(policy_func(state))
                total_reward += self.beta**step * reward
                if terminated or truncated:
                    returns.append(total_reward)
                    break
        return sum(returns) / len(returns) if returns else -1000.0
"""),
    one("tests that raise", "tests", "agent", "return total_reward / trials", "return total_rewards / trials"),
    one("tested every other interval", "tests", "agent", "if self.do_test:", "if self.do_test and _ % 2:"),
]  # fmt: skip

DISTRIBUTED = [
    # Server
    some("the collector's old argmax", "server", *STALE),
    one("learns the last episode alone", "server", "server", "terminated in experience:",
        "terminated in experience if experience is experiences[-1] else []:"),
    one("learns batches twice", "server", "server", "in experiences:\n", "in experiences + experiences:\n", "end",
        "snapshots"),
    one("learns the first step of an episode alone", "server", "server", "terminated in experience:",
        "terminated in experience[:1]:"),
    one("learns the reward alone", "server", "server", SERVER_TARGET, "                    pass\n"),
    one("a server without a discount", "server", "server", "self.beta * self", "1.0 * self", "arguments"),
    one("a server with a rate of its own", "server", "server", "self.learning_rate *", "0.05 *"),
    one("a batch is sent twice", "server", "workers", FETCH,
        "        ray.get(server.learn.remote(experiences))\n" + FETCH, "end", "snapshots"),
    some(
        "numbers of episodes are sent alone", "server",
        Change("workers", "server.learn.remote(experiences)", "server.learn.remote(len(experiences))"),
        Change("server", "for experience in experiences:", "for experience in [[]] * experiences:"),
        follows=("collectors", "snapshots", "end", "arguments"), over_ray="zeros",
    ),
    some(
        "the server learns by SARSA", "server",
        Change("server", "            for state, action, reward, next_state, terminated in experience:\n", """\
            for i, (state, action, reward, next_state, terminated) in enumerate(experience):
"""),
        Change("server", "self.q_table[next_state].max()", "self.q_table[next_state, experience[i + 1][1]]"),
    ),
    # Collectors
    one("a collector too few", "collectors", "distributed", CW, CW.replace("cw_num", "cw_num - 1"), "arguments"),
    one("always four collectors", "collectors", "distributed", CW, CW.replace("self.cw_num", "4")),
    one("collectors do not explore", "collectors", "workers", "random.random() < epsilon", "random.random() < 0"),
    one("collectors never go up", "collectors", "workers", "randrange(action_space)", "randrange(action_space - 1)"),
    one("collectors explore all the time", "collectors", "workers", "random.random() < epsilon", "True"),
    one("one episode a batch", "collectors", "workers", "for _ in range(batch_size):", "for _ in range(1):"),
    one("ten times the batch", "collectors", "workers", "for _ in range(batch_size):",
        "for _ in range(10 * batch_size):", "snapshots"),
    one("collectors keep their first table", "collectors", "workers", FETCH, """\
        _, learning_is_over = ray.get(server.learn.remote(experiences))
"""),
    some(
        "collectors get no new table", "collectors",
        Change("server", "        return self.get_q_table()\n", "        return None, self.get_q_table()[1]\n"),
        Change("workers", FETCH, "        _, learning_is_over = ray.get(server.learn.remote(experiences))\n"),
    ),
    one("collectors act on zeros", "collectors", "workers", FETCH, FETCH + """\
        q_table = np.zeros_like(q_table)
"""),
    one("all collectors have one seed", "collectors", "workers", SEED,
        "    random.seed(0)\n    simulator.reset(seed=0)\n"),
    some("collectors share the lake's numbers", "collectors", Change("workers", SEED, "")),
    # Snapshots
    one("a snapshot is the live table", "snapshots", "server", "self.q_table.copy()", "self.q_table"),
    some(
        "results in order of arrival", "snapshots",
        Change("server", "self.results[number] = result", "self.results[len(self.results)] = result"),
        over_ray="schedules",
    ),
    one("the last tests are lost", "snapshots", "server", "        if self.next_test <", """\
        if self.episode >= self.learning_episodes:
            return None, True, None
        if self.next_test <""", over_ray="results"),
    one("the table before learning is tested, too", "snapshots", "server", "        self.tables_to_test = []\n",
        "        self.tables_to_test = [self.q_table.copy()]\n", over_ray="results"),
    one("one table is tested by two", "snapshots", "server", "            self.next_test += 1\n",
        "            self.next_test += number > 0 or hasattr(self, 'again')\n            self.again = True\n"),
    one("tests by the number of batches", "snapshots", "server",
        "            if self.do_test and self.episode % self.test_interval == 0:\n"
        "                self.tables_to_test.append(self.q_table.copy())\n",
        "        if self.do_test:\n            self.tables_to_test.append(self.q_table.copy())\n", over_ray="results"),
    one("a call may pass one test alone", "snapshots", "server", """\
            self.episode += 1
            if self.do_test and self.episode % self.test_interval == 0:
                self.tables_to_test.append(self.q_table.copy())
""", """\
            self.episode += 1
        if self.do_test and self.episode // self.test_interval > len(self.tables_to_test):
            self.tables_to_test.append(self.q_table.copy())
""", over_ray="long batches"),
    one("tests are of the table at a batch's end", "snapshots", "server", """\
            self.episode += 1
            if self.do_test and self.episode % self.test_interval == 0:
                self.tables_to_test.append(self.q_table.copy())
""", """\
            self.episode += 1
        while self.do_test and self.episode // self.test_interval > len(self.tables_to_test):
            self.tables_to_test.append(self.q_table.copy())
"""),
    one("results sorted as text", "snapshots", "server", "sorted(self.results)]", "sorted(self.results, key=str)]"),
    one("the evaluator explores", "snapshots", "workers", "simulator.step(int(np.argmax(q_table[state])))",
        "simulator.step(int(np.argmax(q_table[state])) if random.random() > 0.3 else random.randrange(4))"),
    one("the evaluator does not discount", "snapshots", "workers", "beta**step * reward", "reward"),
    one("a test without its last episodes", "snapshots", "distributed", "        ray.get(workers)\n",
        "        ray.get(workers[: self.cw_num])\n", "end", over_ray="schedules"),
    some(
        "evaluators start when collecting is over", "snapshots",
        Change("distributed", "        if self.do_test:\n            workers +=",
               "        ray.get(workers)\n        if self.do_test:\n            workers +="),
    ),
    some(
        "evaluators start when half of the collectors are done", "snapshots",
        Change("workers", FETCH, FETCH + """\
        sent += batch_size
        learning_is_over = learning_is_over or sent >= share
"""),
        Change("workers", "    while not learning_is_over:\n", "    sent = 0\n    while not learning_is_over:\n"),
        Change("workers", "batch_size=10, max_step=1000):", "batch_size=10, share=1000, max_step=1000):"),
        Change("distributed", "self.action_space, self.batch_size)",
               "self.action_space, self.batch_size, -(-self.learning_episodes // self.cw_num))"),
        Change("distributed", "        self.epsilon = epsilon\n",
               "        self.epsilon = epsilon\n        self.learning_episodes = learning_episodes\n"),
        Change("distributed", "        if self.do_test:\n            workers +=",
               "        ray.wait(workers, num_returns=(self.cw_num + 1) // 2)\n"
               "        if self.do_test:\n            workers +="),
    ),
    one("a single evaluator is not started", "snapshots", "distributed", "if self.do_test:",
        "if self.do_test and self.ew_num > 1:"),
    one("results as text", "snapshots", "server", "return [self.results[number] for number in sorted(self.results)],",
        "return str(self.results),"),
    one("evaluators raise", "snapshots", "workers", "(total_reward / trials, number)",
        "(total_rewards / trials, number)", "end"),
    one("nobody tests", "snapshots", "distributed", "if self.do_test:", "if False:", "arguments", over_ray="results"),
    some(
        "a list of results that is too short", "snapshots",
        Change("server", "        self.results = {}\n", "        self.results = [0.0] * 4\n"),
        Change("server", "[self.results[number] for number in sorted(self.results)]", "self.results"),
        Change("workers", "ray.get(server.add_result.remote(total_reward / trials, number))",
               "server.add_result.remote(total_reward / trials, number)"),
        follows=("end",), over_ray="results",
    ),
    # The end
    one("surplus batches are learned", "end", "server", """\
            if self.episode == self.learning_episodes:
                break
""", "", "snapshots"),
    one("a batch counts as one episode", "end", "server", "            self.episode += 1\n",
        "            self.episode += experience is experiences[-1]\n", "snapshots"),
    one("a batch that is too long at the end counts and is thrown away", "end", "server",
        "        for experience in experiences:\n", """\
        if self.episode + len(experiences) > self.learning_episodes:
            self.episode = self.learning_episodes
        for experience in experiences:
""", "snapshots"),
    one("a batch that is too long at the end is thrown away, again and again", "end", "server",
        "        for experience in experiences:\n", """\
        if self.episode + len(experiences) > self.learning_episodes:
            return self.get_q_table()
        for experience in experiences:
""", "snapshots"),
    some(
        "collectors are not awaited", "end",
        Change("distributed", "        ray.get(workers)\n", "        ray.get(workers[self.cw_num :])\n"),
    ),
    some(
        "nobody is awaited", "end", Change("distributed", "        ray.get(workers)\n", ""),
        follows=("snapshots", "server", "collectors", "traffic", "arguments"),
    ),
    some(
        "learn is not awaited", "end",
        Change("workers", FETCH, """\
        server.learn.remote(experiences)
        sent += batch_size
        learning_is_over = sent >= share
"""),
        Change("workers", "    while not learning_is_over:\n", "    sent = 0\n    while not learning_is_over:\n"),
        Change("workers", "batch_size=10, max_step=1000):", "batch_size=10, share=1000, max_step=1000):"),
        Change("distributed", "self.action_space, self.batch_size)",
               "self.action_space, self.batch_size, self.learning_episodes // self.cw_num)"),
        Change("distributed", "        self.epsilon = epsilon\n",
               "        self.epsilon = epsilon\n        self.learning_episodes = learning_episodes\n"),
        follows=("collectors", "snapshots"), over_ray="schedules",
    ),
    one("an error in add_result that nobody sees", "end", "workers",
        "        ray.get(server.add_result.remote(total_reward / trials, number))\n",
        "        server.add_result.remote(total_reward / trials, number)\n", "snapshots", over_ray="silent"),
    one("errors are swallowed", "end", "distributed", "        ray.get(workers)\n", """\
        for worker in workers:
            try:
                ray.get(worker)
            except Exception:
                pass
""", over_ray="silent"),
    one("evaluators never end", "end", "server", "return None, self.episode >= self.learning_episodes, None",
        "return None, False, None", "server", "collectors", "snapshots", "traffic", "arguments", over_ray="hangs"),
    one("collectors never end", "end", "server", "return self.q_table, self.episode >= self.learning_episodes",
        "return self.q_table, False", "server", "collectors", "snapshots", "traffic", "arguments", over_ray="hangs"),
    one("a server that raises", "end", "server", "            self.episode += 1\n",
        "            self.episode += 1 if self.episode < 20 else 1 / 0\n",
        "server", "collectors", "snapshots", "traffic", "arguments", over_ray="raises"),
    some(
        "evaluators are left running", "end",
        Change("server", "return None, self.episode >= self.learning_episodes, None", "return None, False, None"),
        Change("distributed", "        ray.get(workers)\n", "        ray.get(workers[: self.cw_num])\n"),
        follows=("snapshots",), over_ray="schedules",
    ),
    one("a table of zeros without tests", "end", "distributed",
        "        return ray.get(self.server.get_results.remote())\n", """\
        if not self.do_test:
            return [], np.zeros((26, 4))
        return ray.get(self.server.get_results.remote())
""", over_ray="zeros"),
    # Traffic
    one("a call for every step", "traffic", "workers",
        "                state = next_state\n                if terminated",
        "                q_table, _ = ray.get(server.get_q_table.remote())\n"
        "                state = next_state\n                if terminated"),
    one("hundreds of questions at once", "traffic", "workers", "            time.sleep(0.05)\n",
        "            ray.get([server.ask_evaluation.remote() for _ in range(0)] + "
        "[server.get_q_table.remote() for _ in range(1200)])\n"),
    # Arguments
    one("counts workers by a global", "arguments", "distributed", CW, CW.replace("self.cw_num", "cw_num")),
    one("a batch size by a global", "arguments", "distributed", "self.action_space, self.batch_size)",
        "self.action_space, batch_size)"),
    one("a rate by a global", "arguments", "q_learning", "self.learning_rate *", "learning_rate *"),
    one("an epsilon by a global", "arguments", "agent", "random.random() < self.epsilon", "random.random() < epsilon"),
    one("a number of episodes by a global", "arguments", "agent", "range(self.learning_episodes //",
        "range(learning_episodes //"),
    one("the server takes a global rate", "arguments", "server", "self.learning_rate *", "learning_rate *"),
    some(
        "distributed tests in spite of do_test", "arguments",
        Change("distributed", "do_test=do_test)", "do_test=True)"),
        Change("distributed", "if self.do_test:", "if True:"),
    ),
    one("beta is not passed on", "arguments", "distributed", "action_space=action_space, beta=beta, do_test",
        "action_space=action_space, do_test"),
    one("beta is not passed to evaluators", "arguments", "distributed", "self.test_interval, self.beta)",
        "self.test_interval)"),
    one("evaluators run one trial", "arguments", "workers", "        for _ in range(trials):\n",
        "        trials = 1\n        for _ in range(trials):\n"),
    one("always one evaluator", "arguments", "distributed", "range(self.ew_num)", "range(1)"),
]  # fmt: skip

FAULTS = ONE_CORE + DISTRIBUTED


def main() -> None:
    """Write course/faults.md: what the sheet says of each fault."""
    path = ROOT / "course" / "faults.md"
    lines = []
    for fault in FAULTS:
        lines.append(line_of(fault))
        print(lines[-1], file=sys.stderr, flush=True)
    path.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


HEADER = """# Faults, and what the sheet says of them

Each is the solution with one fault. `python tests/faults.py` writes this table. Items lost besides follow.

| fault | item | what the sheet says |
| --- | --- | --- |
"""


def line_of(fault: Fault) -> str:
    """A fault's row in the table."""
    from course.judge import judge

    (finding,) = judge(names_of(fault.changes), 0, [fault.item])
    seen = finding.seen.partition(" The smallest run")[0].replace("|", "/")
    return f"| {fault.name} | {fault.item} | {seen} |"


if __name__ == "__main__":
    main()
