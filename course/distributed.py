"""What a distributed agent does: its server, its collectors, its end and its traffic, under many schedules."""

from __future__ import annotations

import collections

from . import chance
from .account import NOTHING, RIGHT, Account
from .findings import Finding
from .plays import STATES, tables_in
from .records import STUCK_HINT, Problem, Record
from .runs import greedy_actions
from .snapshots import snapshot_problems

HINTS = {
    "rule": "Which table does the bootstrapped value come from, and when was its action chosen?",
    "whole": "Does the server learn from every step of a batch, up to its last episode?",
    "fewer": "What becomes of a batch that has more episodes than are left to be learned?",
    "count": "Which of two collectors notices that learning is over, and what happens to the other's batch?",
}


# Server ------------------------------------------------------------------------------------------


def server_problems(record: Record) -> list[Problem]:
    """Each batch learned once and whole, by the server's own maximum."""
    account, found = record.account, []
    if record.broken and not account.learned:
        return [record.broken]
    asked = record.settings["learning_episodes"]
    rules = collections.Counter(one.rule for one in account.learned if one.rule not in RIGHT | {NOTHING})
    batches = sum(one.rule != NOTHING for one in account.learned)
    if rules:
        rule, count = rules.most_common(1)[0]
        what = RULES.get(rule, f"are learned with {rule}")
        seen = f"of {batches} batches {count} {what}; expected the maximum of the server's table at s'."
        found.append(Problem("rule", seen, HINTS["rule"]))
    partly = [
        one for one, episodes in zip(account.learned, ends_so_far(account), strict=True)
        if 0 < one.learned < one.steps and episodes < asked
    ]  # fmt: skip
    if partly:
        seen = f"of a batch of {partly[0].steps} steps {partly[0].learned} were learned; expected all."
        found.append(Problem("whole", seen, HINTS["whole"]))
    dropped = [one for one in account.learned if one.rule == NOTHING]
    if dropped and account.episodes < asked:
        seen = f"{len(dropped)} batches that reached the server changed nothing; expected each to be learned."
        found.append(Problem("whole", seen, HINTS["whole"]))
    carried = collections.Counter(number for call in account.calls for number, _ in call.steps)
    twice = sum(count > 1 for count in carried.values())
    if twice:
        seen = f"{twice} steps reached the server twice; expected once."
        hint = "What does a collector put into a batch, and what is still in it when the next one begins?"
        found.append(Problem("twice", seen, hint))
    if not account.learned and not found:
        found.append(Problem("nothing", "no step reached the server's table.", "What does the server get?"))
    return found


def ends_so_far(account: Account) -> list[int]:
    """The episodes that were learned after each call that carried some."""
    by_call = dict(zip(map(id, account.calls), account.after_call, strict=True))
    return [by_call[id(one.call)] for one in account.learned]


RULES = {
    "carried": "bootstrap from an action that came with the batch",
    "taken": "bootstrap from the action that the collector took next",
    "reward alone": "take the reward alone",
    "another rule": "change the table in a way that no rule explains",
    "twice": "are learned twice",
    "last episode alone": "are learned by their last episode alone",
}


# Collectors --------------------------------------------------------------------------------------


def collector_problems(records: list[Record], shares: dict[float, list[Record]]) -> list[Problem]:
    """As many as asked for; their exploring, batches, tables and random numbers."""
    broken = [record.broken for record in records if record.broken]
    if broken and not any(record.account.learned for record in records):
        return broken[:1]
    found = [how_many(records)]
    found += [exploring(epsilon, of_one) for epsilon, of_one in shares.items()]
    found += [batches(records), fresh_tables(records), same_numbers(records)]
    return [problem for problem in found if problem]


def in_one_run(record: Record) -> list[Problem]:
    """What a single run shows of its collectors: not how often they explore, nor that one is too few."""
    if record.broken:
        return [record.broken]
    found = [how_many([record]), batches([record]), fresh_tables([record]), same_numbers([record])]
    return [problem for problem in found if problem and problem.under is not None]


def how_many(records: list[Record]) -> Problem | None:
    """As many collectors at once as were asked for."""
    wanted = records[0].settings["cw_num"]
    counts = [at_once(record, record.account.collectors) for record in records]
    if max(counts) == wanted:
        return None
    seen = f"{max(counts)} collectors worked at once; expected {wanted}, as cw_num says."
    alone = {} if max(counts) > wanted else None  # in a short run one may come too late
    return Problem("count", seen, "Where does the number of collectors come from?", under=alone)


def at_once(record: Record, processes: set[int]) -> int:
    """How many of these processes lived at the same time, at the most."""
    actors = [actor for actor in record.play.actors if actor.number in processes]
    times = sorted([(actor.born, 1) for actor in actors] + [(actor.ended, -1) for actor in actors if actor.ended])
    most = now = 0
    for _, change in times:
        now += change
        most = max(most, now)
    return most


def exploring(epsilon: float, records: list[Record]) -> Problem | None:
    """Collectors act greedily by the table that they got, and explore as often as epsilon says."""
    steps = others = 0
    counts = collections.Counter()
    for record in records:
        events = record.play.log.events
        for call in record.account.calls:
            for number, _ in call.steps:
                event = events[number]
                counts[event.action] += 1
                if event.table is None or event.state == STATES - 1:
                    continue
                best = greedy_actions(event.table[event.state])
                if len(best) == 1:
                    steps, others = steps + 1, others + (event.action not in best)
    drawn = counts.total()
    rare = [action for action in range(4) if not chance.likely(counts[action], drawn, 0.25)] if epsilon == 1 else []
    if rare:
        name = ("left", "down", "right", "up")[rare[0]]
        seen = f"at epsilon 1 {counts[rare[0]]} of {drawn} actions were {name}; expected about {drawn // 4}."
        return Problem("exploring", seen, "From how many actions does a collector draw?", under=None)
    if not steps or chance.likely(others, steps, 0.75 * epsilon):
        return None
    seen = (
        f"at epsilon {epsilon:g} {others} of {steps} steps were not greedy by the table that the collector had got "
        f"last; expected {f'about {0.75 * epsilon * steps:.0f}' if epsilon else 'none'}."
    )
    return Problem("exploring", seen, "Which epsilon, which actions and which table does a collector use?", under=None)


def batches(records: list[Record]) -> Problem | None:
    """Batches are of as many episodes, or steps, as batch_size says."""
    wanted, sizes = records[0].settings["batch_size"], []
    for record in records:
        events = record.play.log.events
        for call in record.account.calls:
            if call.steps:
                sizes.append((sum(events[number].done for number, _ in call.steps), len(call.steps)))
    if not sizes:
        return None
    by_episodes = sum(ends == wanted for ends, _ in sizes)
    by_steps = sum(steps == wanted for _, steps in sizes)
    if max(by_episodes, by_steps) >= 0.6 * len(sizes):
        return None
    common = collections.Counter(sizes).most_common(1)[0][0]
    ends = collections.Counter(ends for ends, _ in sizes).most_common(1)[0][0]
    what = f"{ends} episodes" if ends else f"{common[1]} steps"
    seen = f"most calls bring {what}; expected batches of {wanted}, as batch_size says."
    return Problem("batches", seen, "When does a collector send what it has?")


def fresh_tables(records: list[Record]) -> Problem | None:
    """Collectors go on with a new table after a batch."""
    for record in records:
        sent = collections.Counter()
        for call in record.account.calls:
            makers = {record.play.log.events[number].process for number, _ in call.steps}
            sent.update(makers)
        for process, count in sent.items():
            got = len(record.play.got.get(process, ()))
            if count >= 3 and got < count / 2:
                seen = f"a collector sent {count} batches and got {got} tables; expected a new one for each batch."
                return Problem("tables", seen, "Which table does a collector act by in its second batch?")
    return None


def same_numbers(records: list[Record]) -> Problem | None:
    """No two collectors have the same random numbers."""
    for record in records:
        log, own = record.play.log, collections.defaultdict(list)
        for event in log.events:
            if event.process in record.account.collectors and event.action is not None:
                own[event.process].append((event.state, event.action, event.next_state))
        lists = [steps[:60] for steps in own.values() if len(steps) >= 60]
        if any(one == other for i, one in enumerate(lists) for other in lists[:i]):
            seen = "two collectors took the same 60 steps; expected random numbers of their own for each."
            return Problem("numbers", seen, "Where does each collector's first random number come from?", 0.5)
        first = [log.drawn[process][1:2] for process in own if len(log.drawn.get(process, ())) > 1]
        streams = collections.Counter(stream for ((stream, _),) in first)
        if not log.old_style and streams and streams.most_common(1)[0][1] > 1:
            seen = "two collectors' lakes slip at the same steps; expected random numbers of their own for each."
            return Problem("numbers", seen, "What does a copy of a simulator share with the original?", 0.5)
    return None


# The end -----------------------------------------------------------------------------------------


def end_problems(record: Record) -> list[Problem]:
    """All episodes learned, none more; nothing goes on afterwards; the last table comes back."""
    if record.broken:
        return [record.broken]
    found, account, play = [], record.account, record.play
    asked = record.settings["learning_episodes"]
    if account.known:
        before = {id(call) for call in play.calls[: play.returned_at]}
        done = sum(id(call) in before for call in account.calls)
        at_return = account.after_call[done - 1] if done else 0
        if at_return < asked and account.episodes > at_return:
            seen = f"it returned when {at_return} of {asked} episodes were learned, and learning went on."
            found.append(Problem("early", seen, "For whom does your agent wait, and for what calls?"))
        elif account.episodes != asked:
            fewer = account.episodes < asked
            seen = f"only {account.episodes} of {asked}" if fewer else f"{account.episodes}"
            seen += f" episodes were learned; expected {'all' if fewer else asked}."
            found.append(Problem("episodes", seen, HINTS["fewer" if fewer else "count"]))
        found += wrong_table(record, at_return)
    if play.running:
        names = collections.Counter(process.name.rpartition(" ")[0] for process in play.running)
        who = ", ".join(f"{count} {name}" for name, count in names.items())
        seen = f"half a minute after the result was there, {who} still ran; expected that they end."
        found.append(Problem("running", seen, STUCK_HINT))
    return found


def wrong_table(record: Record, at_return: int) -> list[Problem]:
    """That another table came back than the one that was learned."""
    tables = tables_in(record.play.returned)
    if not tables:
        return [Problem("table", "no table came back; expected (total_rewards, q_table).", "What do your cells plot?")]
    episode = record.account.episode_of(tables[-1])
    if episode == record.account.episodes or (episode == at_return and episode != 0):
        return []
    what = f"that after {episode} episodes" if episode is not None else "one that the server never had"
    what = "all zeros" if not tables[-1].any() else what
    seen = f"the table that came back is {what}; expected that after all {record.account.episodes}."
    return [Problem("table", seen, "When is the table fetched, and from whom?")]


def swallowed(record: Record) -> Problem | None:
    """That an error in a call went unnoticed, and something is missing for it."""
    play = record.play
    if not play.raised or play.error or play.not_simulated:
        return None
    if play.stuck:
        seen = f"where {play.failing} raises an error, the run hangs; expected the error to come out."
        return Problem("swallowed", seen, "Who fetches the result of that call?", 0.5, {"failing": play.failing})
    complete = not end_problems(record) and not snapshot_problems(record)
    if complete:
        return None
    seen = f"an error in {play.failing} was not noticed, and what came back was not complete; expected it to come out."
    return Problem("swallowed", seen, "Who fetches the result of that call?", 0.5, {"failing": play.failing})


# Traffic -----------------------------------------------------------------------------------------


def traffic_problems(record: Record) -> list[Problem]:
    """Few calls for a batch, and nobody asks a thousand times meanwhile."""
    play, settings = record.play, record.settings
    asked_at: dict[int, tuple] = {}
    work, polls, most = 0, collections.Counter(), 0
    steps_by = collections.Counter()
    seen_events = 0
    for call in play.calls:
        for event in play.log.events[seen_events : call.taken]:
            steps_by[event.process] += event.action is not None
        seen_events = max(seen_events, call.taken)
        key = (call.method, steps_by[call.caller])
        if not call.steps and asked_at.get(call.caller) == key:
            polls[call.caller] += 1
            most = max(most, polls[call.caller])
        else:
            work += 1
        asked_at[call.caller] = key
        if call.steps:
            polls.clear()
    if most > 1000:
        seen = f"one process asked {most} times between two batches; expected fewer than 1,000."
        return [Problem("polls", seen, "How long does one who waits pause between two questions?")]
    events = play.log.events
    taken = sum(event.action is not None and event.process in record.account.collectors for event in events)
    sizes = [len(call.steps) for call in play.calls if call.steps]
    size = settings["batch_size"]
    by_steps = bool(sizes) and sum(one == size for one in sizes) >= 0.6 * len(sizes)
    due = taken / size if by_steps else settings["learning_episodes"] / size + settings["cw_num"]
    allowed = 6 * due + 4 * len(record.due) + 6 * (settings["cw_num"] + settings["ew_num"])
    if work > allowed:
        episodes = max(1, record.account.episodes)
        seen = f"{work / episodes:.0f} calls per episode, and {work / max(1, taken):.1f} per step; expected some "
        seen += f"{max(1, round(2 * due / episodes))} per episode, a few for each batch."
        return [Problem("calls", seen, "What could travel together?")]
    return []


# Findings ----------------------------------------------------------------------------------------


def finding(item: str, problems: list[Problem], right: str, story: str = "") -> Finding:
    """One finding of all problems: each kind costs once."""
    kinds = {problem.kind: problem for problem in reversed(problems)}
    if not kinds:
        return Finding(item, 1.0, True, right, "")
    share = max(0.0, 1.0 - sum(problem.weight for problem in kinds.values()))
    first = problems[0]
    others = [problem for kind, problem in kinds.items() if kind != first.kind]
    seen = first.seen[0].upper() + first.seen[1:]
    if others:
        seen += f" Also, {others[0].seen}"
    return Finding(item, share, True, seen + story, first.hint)
