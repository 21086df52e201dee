"""Correct solutions of the assignment, each written in another way: the solution with cells or lines replaced."""

from __future__ import annotations

import re

from faults import CW, EXPLORE, FETCH, Q_UPDATE, S_NEXT, SEED, Change, Fault, solution


def old_gym(code: str) -> str:
    """The code as for the gym of 2019: a reset returns the state, a step four fields."""
    code = re.sub(r"state, _ = (\w+)\.reset\(", r"state = \1.reset(", code)
    code = code.replace("reward, terminated, truncated, _ =", "reward, terminated, _ =")
    code = code.replace("if terminated or truncated:", "if terminated:")
    return code.replace(SEED, "    simulator.seed(random.randrange(2**31))\n")


def everywhere(change, *cells: str) -> tuple[Change, ...]:
    """The same change of the code of several cells."""
    return tuple(Change(cell, "", change(solution()[cell])) for cell in cells)


ALL = ("agent", "q_learning", "sarsa", "server", "workers", "distributed")
SINGLE = ("agent", "q_learning", "sarsa")

HEAD = """
    def __init__(self, epsilon, learning_rate, learning_episodes, map_size,
                 test_interval=100, action_space=4, beta=0.999, do_test=True):
        self.epsilon, self.alpha, self.gamma = epsilon, learning_rate, beta
        self.tests, self.every = learning_episodes // test_interval, test_interval
        self.n, self.do_test = action_space, do_test
        self.q_table = {TABLE}
        self.rng = {RNG}

    def best(self, s):
        {BEST}

    def pick(self, s):
        {PICK}

    def play_greedily(self):
        s, _ = simulator.reset()
        value, weight = 0.0, 1.0
        for _ in range(1000):
            s, r, over, cut, _ = simulator.step(self.best(s))
            value, weight = value + weight * r, weight * self.gamma
            if over or cut:
                break
        return value

    def learn_and_evaluate(self):
        results = []
        for _ in range(self.tests):
            for _ in range(self.every):
                self.episode()
            if self.do_test:
                results.append(sum(self.play_greedily() for _ in range(10)) / 10)
        return results, self.q_table
"""
Q_EPISODE = """
    def episode(self):
        s, _ = simulator.reset()
        over = cut = False
        while not (over or cut):
            a = self.pick(s)
            s2, r, over, cut, _ = simulator.step(a)
            after = 0 if over else max(self.q_table[s2][b] for b in range(self.n))
            self.q_table[s][a] = (1 - self.alpha) * self.q_table[s][a] + self.alpha * (r + self.gamma * after)
            s = s2
"""
S_EPISODE = """
    def episode(self):
        s, _ = simulator.reset()
        a, before = self.pick(s), None
        while True:
            s2, r, over, cut, _ = simulator.step(a)
            if before is not None:  # learned from once the next step is taken
                s0, a0, r0 = before
                self.q_table[s0][a0] += self.alpha * (r0 + self.gamma * self.q_table[s][a] - self.q_table[s0][a0])
            if over or cut:
                self.q_table[s][a] += self.alpha * (r - self.q_table[s][a])
                return
            before = s, a, r
            s, a = s2, self.pick(s2)
"""
PLAIN_BEST = "return max(range(self.n), key=lambda b: self.q_table[s][b])"
PLAIN_PICK = "return self.rng.choice(range(self.n)) if self.rng.random() < self.epsilon else self.best(s)"


def standalone(table: str, rng: str = "random.Random()", best: str = PLAIN_BEST, pick: str = PLAIN_PICK) -> tuple:
    """Both agents of one core without a base class."""
    head = HEAD.replace("{TABLE}", table).replace("{RNG}", rng).replace("{BEST}", best).replace("{PICK}", pick)
    return (
        Change("q_learning", "", "import collections\n\nclass QLAgent:\n" + head + Q_EPISODE),
        Change("sarsa", "", "class SARSAagent:\n" + head + S_EPISODE),
    )


CHOICE = "        if random.random() < self.epsilon:\n" + EXPLORE + "        return self.greedy_policy(curr_state)\n"
STATES = "map_size * map_size + 1"
NUMPY_PICK = "return int(self.rng.integers(self.n)) if self.rng.uniform() < self.epsilon else self.best(s)"
TIES = "row = self.q_table[s]; return self.rng.choice([b for b in range(self.n) if row[b] == max(row)])"

ACTING = """
def acted(q_table, simulator, epsilon, count):
    episodes = []
    for _ in range(count):
        state, _ = simulator.reset()
        episode, over = [], False
        while not over:
            if np.random.rand() < epsilon:
                action = np.random.randint(4)
            else:
                action = np.argmax(q_table[state])
            new, reward, over, _, _ = simulator.step(action)
            episode.append((state, action, reward, new, over))
            state = new
        episodes.append(episode)
    return episodes
"""
TESTING = """
def tested(q_table, simulator, trials, beta):
    returns = []
    for _ in range(trials):
        state, _ = simulator.reset()
        rewards, over = [], False
        while not over and len(rewards) < 1000:
            state, reward, over, _, _ = simulator.step(int(np.argmax(q_table[state])))
            rewards.append(reward)
        returns.append(np.dot(rewards, beta ** np.arange(len(rewards))))
    return float(np.mean(returns))
"""
ACTORS = (
    ACTING
    + TESTING
    + """

@ray.remote
class CollectingWorker:
    def __init__(self, simulator, epsilon, batch_size, number):
        self.simulator, self.epsilon, self.batch_size = simulator, epsilon, batch_size
        self.simulator.reset(seed=1000 + number)

    def collect(self, q_table):
        return acted(q_table, self.simulator, self.epsilon, self.batch_size)


@ray.remote
class EvaluationWorker:
    def __init__(self, simulator, beta):
        self.simulator, self.beta = simulator, beta

    def evaluate(self, q_table, trials):
        return tested(q_table, self.simulator, trials, self.beta)
"""
)
TASKS = (
    ACTING
    + TESTING
    + """

@ray.remote
def collect(q_table, desc, epsilon, count):
    return acted(q_table, td.FrozenLakeEnv(desc=desc), epsilon, count)


@ray.remote
def evaluate(q_table, desc, trials, beta):
    return tested(q_table, td.FrozenLakeEnv(desc=desc), trials, beta)
"""
)
INIT = """
class distributed_QL_agent:
    def __init__(self, epsilon, learning_rate, learning_episodes, map_size,
                 cw_num=4, ew_num=4, test_interval=100, batch_size=100,
                 action_space=4, beta=0.999, do_test=True):
        self.server = QLAgent_server.remote(epsilon, learning_rate, learning_episodes, map_size,
                                            test_interval=test_interval, batch_size=batch_size,
                                            action_space=action_space, beta=beta, do_test=do_test)
        self.epsilon, self.cw_num, self.ew_num, self.batch_size = epsilon, cw_num, ew_num, batch_size
        self.test_interval, self.do_test, self.beta = test_interval, do_test, beta
"""
WINDOW = (
    INIT
    + """
    def learn_and_evaluate(self):
        START
        table, over = ray.get(self.server.get_q_table.remote())
        collecting = {COLLECT(i, table): i for i in range(self.cw_num)}
        testing, free = {}, list(range(self.ew_num))
        while True:
            if self.do_test and free:
                to_test, _, number = ray.get(self.server.ask_evaluation.remote())
                if number is not None:
                    i = free.pop()
                    testing[TEST(i, to_test)] = i, number
                    continue
            if not over:
                waiting = list(collecting) + list(testing)
            elif testing:
                waiting = list(testing)
            else:
                break
            (done,), _ = ray.wait(waiting, num_returns=1)
            if done in testing:
                i, number = testing.pop(done)
                ray.get(self.server.add_result.remote(ray.get(done), number))
                free.append(i)
            else:
                i = collecting.pop(done)
                table, over = ray.get(self.server.learn.remote(ray.get(done)))
                if not over:
                    collecting[COLLECT(i, table)] = i
        return ray.get(self.server.get_results.remote())
"""
)


def window(start: str, collect: str, test: str) -> str:
    """A driver that hands out work, as much as there are workers, and takes what is done first."""
    code = WINDOW.replace("START", start)
    return code.replace("COLLECT(i, table)", collect).replace("TEST(i, to_test)", test)


ACTOR_WINDOW = window(
    "collectors = [CollectingWorker.remote(simulator, self.epsilon, self.batch_size, i) for i in range(self.cw_num)]\n"
    "        evaluators = [EvaluationWorker.remote(simulator, self.beta) for _ in range(self.ew_num)]",
    "collectors[i].collect.remote(table)", "evaluators[i].evaluate.remote(to_test, self.test_interval)",
)  # fmt: skip
TASK_WINDOW = window(
    "desc = MAP[0]", "collect.remote(table, desc, self.epsilon, self.batch_size)",
    "evaluate.remote(to_test, desc, self.test_interval, self.beta)",
)  # fmt: skip

STEPS_COLLECTOR = """\
    simulator.reset(seed=random.randrange(2**31))
    q_table, learning_is_over = ray.get(server.get_q_table.remote())
    state, steps = simulator.reset()[0], []
    while not learning_is_over:
        action = random.randrange(action_space) if random.random() < epsilon else int(np.argmax(q_table[state]))
        next_state, reward, terminated, truncated, _ = simulator.step(action)
        steps.append((state, action, reward, next_state, terminated))
        state = simulator.reset()[0] if terminated else next_state
        if len(steps) == batch_size:
            q_table, learning_is_over = ray.get(server.learn.remote(steps))
            steps = []
"""
STEPS_SERVER = """\
        for state, action, reward, next_state, terminated in experiences:
            if self.episode == self.learning_episodes:
                break
            target = reward
            if not terminated:
                target += self.beta * self.q_table[next_state].max()
            self.q_table[state, action] += self.learning_rate * (target - self.q_table[state, action])
            if terminated:
                self.episode += 1
                if self.do_test and self.episode % self.test_interval == 0:
                    self.tables_to_test.append(self.q_table.copy())
        return self.get_q_table()
"""


def between(code: str, first: str, last: str) -> str:
    """The part of a text from one line to before another."""
    start = code.index(first)
    return code[start : code.index(last, start)]


COLLECTOR_BODY = between(solution()["workers"], SEED, "\n\n@ray.remote\ndef evaluation_worker")
LEARN_BODY = between(solution()["server"], "        for experience in experiences:\n", "\n    def get_q_table")
ROW = "experience.append((state, action, reward, next_state, terminated))"
READ = "for state, action, reward, next_state, terminated in experience:"


def rows(written: str, read: str, *more: Change) -> tuple[Change, ...]:
    """Another form of a step, as the collector writes it and the server reads it."""
    return (Change("workers", ROW, written), Change("server", READ, read), *more)


COLUMNS = """\
            for state, action, reward, next_state, terminated in zip(*experience):
"""


def right(name: str, *changes: Change) -> Fault:
    """A correct solution."""
    return Fault(name, "", changes)


CORRECT = [
    right("the solution"),
    right("the gym of 2019", *everywhere(old_gym, *ALL)),
    right("a state that is a pair", *everywhere(
        lambda code: re.sub(r"( +)state, _ = simulator\.reset\(\)", r"\1state = simulator.reset()\n"
                            r"\1if isinstance(state, tuple):\n\1    state = state[0]", code), *ALL)),
    right("fields by their places", *everywhere(
        lambda code: re.sub(r"( +)(\w+), reward, terminated, truncated, _ = (simulator\.step\(.*\))\n",
                            r"\1result = \3\n\1\2, reward, terminated, truncated = result[0], result[1], result[2], "
                            r"result[3]\n", code), *ALL)),
    right("lists, no base class", *standalone(f"[[0.0] * action_space for _ in range({STATES})]")),
    right("dicts of lists", *standalone(f"{{s: [0.0] * action_space for s in range({STATES})}}")),
    right("a defaultdict of arrays", *standalone("collections.defaultdict(lambda: np.zeros(action_space))")),
    right("dicts of dicts", *standalone(f"{{s: {{b: 0.0 for b in range(action_space)}} for s in range({STATES})}}")),
    right("numpy's Generator", *standalone(f"np.zeros(({STATES}, action_space))", "np.random.default_rng()",
                                           "return int(self.q_table[s].argmax())", NUMPY_PICK)),
    right("ties broken at random", *standalone(f"np.zeros(({STATES}, action_space))", best=TIES)),
    right("a table without the exit state", *standalone("np.zeros((map_size * map_size, action_space))")),
    right("single precision", Change("agent", "self.action_space))", "self.action_space), dtype=np.float32)")),
    right("a table of random numbers", Change("agent", "np.zeros((self.state_space, self.action_space))",
          "np.random.rand(self.state_space, self.action_space)")),
    right("other draws, in another order", Change("agent", "", solution()["agent"].replace(CHOICE, """\
        any_action = np.random.choice(self.action_space)
        return self.greedy_policy(curr_state) if np.random.uniform(0, 1) > self.epsilon else any_action
"""))),
    right("a choice with probabilities", Change("agent", "", solution()["agent"].replace(CHOICE, """\
        weights = np.full(self.action_space, self.epsilon / self.action_space)
        weights[self.greedy_policy(curr_state)] += 1 - self.epsilon
        return np.random.choice(self.action_space, p=weights)
"""))),
    right("the old and the new in parts", *(Change(cell, Q_UPDATE, """\
                old = self.q_table[state, action]
                self.q_table[state, action] = (1 - self.learning_rate) * old + self.learning_rate * target
""") for cell in ("q_learning", "sarsa"))),
    right("SARSA chooses after it knows of the end", Change("sarsa", S_NEXT, """\
                next_action = None if terminated else self.explore_or_exploit_policy(next_state)
""")),
    right("a copy of the lake for tests", Change("agent", "        total_reward = 0.0\n", """\
        import copy
        simulator = copy.deepcopy(globals()["simulator"])
        total_reward = 0.0
""")),
    right("the project's names", *everywhere(
        lambda code: code.replace("QLAgent_server", "QLAgentServer").replace("collecting_worker", "CollectingWorker")
        .replace("evaluation_worker", "EvaluationWorker").replace("distributed_QL_agent", "DistributedQLAgent")
        .replace("class agent:", "class TDAgent:").replace("(agent)", "(TDAgent)")
        .replace("SARSAagent", "SARSAAgent"), *ALL)),
    right("misspelled names", *everywhere(
        lambda code: code.replace("get_results", "get_reuslts").replace("learn_and_evaluate", "lern_and_evaluate")
        .replace("explore_or_exploit_policy", "explore_or_explot_policy").replace("SARSAagent", "SARSA_agent"), *ALL)),
    right("rewards and actions in other places", *rows(
        "experience.append((reward, terminated, next_state, action, state))",
        "for reward, terminated, next_state, action, state in experience:")),
    right("the collector's next action, unused", *rows(
        "experience.append((state, action, reward, next_state, int(np.argmax(q_table[next_state]))))",
        "for state, action, reward, next_state, _ in experience:",
        Change("server", "if not terminated:", "if next_state != self.state_space - 1:"))),
    right("steps as dicts", *rows(
        "experience.append({'s': state, 'a': action, 'r': reward, 's2': next_state, 'end': terminated})",
        "for state, action, reward, next_state, terminated in (one.values() for one in experience):")),
    right("steps as objects", *rows(
        "experience.append(Step(state, action, reward, next_state, terminated))",
        "for state, action, reward, next_state, terminated in (vars(one).values() for one in experience):",
        Change("agent", "class agent:", """\
import dataclasses


@dataclasses.dataclass
class Step:
    state: int
    action: int
    reward: float
    next_state: int
    terminated: bool


class agent:"""))),
    right("steps as arrays", *rows(
        "experience.append(np.array([state, action, reward, next_state, terminated]))",
        "for state, action, next_state, reward, terminated in (\n"
        "                (int(one[0]), int(one[1]), int(one[3]), one[2], one[4]) for one in experience\n"
        "            ):")),
    right("episodes as columns", Change("workers", "experiences.append(experience)",
          "experiences.append([list(column) for column in zip(*experience)])"),
          Change("server", "            " + READ + "\n", COLUMNS)),
    right("episodes as columns of arrays", Change("workers", "experiences.append(experience)",
          "experiences.append(tuple(np.array(column) for column in zip(*experience)))"),
          Change("server", "            " + READ + "\n", COLUMNS)),
    right("episodes as one array", Change("workers", "experiences.append(experience)",
          "experiences.append(np.array(experience, dtype=float))"),
          Change("server", "                target = reward\n",
                 "                state, action, next_state = int(state), int(action), int(next_state)\n"
                 "                target = reward\n")),
    right("batches of steps", Change("workers", COLLECTOR_BODY, STEPS_COLLECTOR),
          Change("server", LEARN_BODY, STEPS_SERVER)),
    right("learned from back to front",
          Change("server", "terminated in experience:", "terminated in experience[::-1]:")),
    right("batches put into the store", Change("workers", FETCH, """\
        q_table, learning_is_over = ray.get(server.learn.remote(ray.put(experiences)))
""")),
    right("references within a list", Change("workers", FETCH, """\
        q_table, learning_is_over = ray.get(server.learn.remote([ray.put(one) for one in experiences]))
"""), Change("server", "for experience in experiences:", "for experience in ray.get(experiences):")),
    right("the table fetched anew", Change("workers", FETCH, """\
        ray.get(server.learn.remote(experiences))
        q_table, learning_is_over = ray.get(server.get_q_table.remote())
""")),
    right("seeds from the process's number", Change("workers", SEED, """\
    import os
    random.seed(os.getpid())
    simulator.reset(seed=os.getpid())
""")),
    right("lakes made by the workers", Change("workers", SEED, "    simulator = td.FrozenLakeEnv(desc=MAP[0])\n")),
    right("a generator of each worker's own", Change("workers", SEED, """\
    rng = np.random.default_rng()
    simulator.reset(seed=int(rng.integers(2**31)))
""")),
    right("results in a list of their length", Change("server", "        self.results = {}\n",
          "        self.results = [None] * (learning_episodes // test_interval)\n"),
          Change("server", "[self.results[number] for number in sorted(self.results)]", "self.results")),
    right("actors and a window", Change("workers", "", ACTORS), Change("distributed", "", ACTOR_WINDOW)),
    right("tasks and a window", Change("workers", "", TASKS), Change("distributed", "", TASK_WINDOW)),
    right("workers made in a loop", Change("distributed", CW, "            for number in range(0, self.cw_num)\n"),
          Change("distributed", "        ray.get(workers)\n",
                 "        for worker in workers:\n            ray.get(worker)\n")),
    right("awaited by ray.wait", Change("distributed", "        ray.get(workers)\n", """\
        while workers:
            done, workers = ray.wait(workers)
            ray.get(done)
""")),
    right("evaluators that do not pause", Change("workers", "            time.sleep(0.05)\n", "")),
]  # fmt: skip
