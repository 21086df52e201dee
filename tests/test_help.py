"""What a student types and sees: `td.QLAgent?`, a name on its own in a cell, `td.` and the tabulator, a wrong word."""

import inspect
import pickle

import gymnasium
import numpy as np
import pytest
from helpers import NO_SLIP, Ring
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import beyond
import td_helpers as td
from tabular.arguments import WORDS
from tabular.checks import setting_names

AGENTS = [
    td.TDAgent,
    td.QLAgent,
    td.SARSAAgent,
    td.DistributedQLAgent,
    *(getattr(beyond, name) for name in beyond.__all__),
]
DISTRIBUTED = [kind for kind in AGENTS if issubclass(kind, td.DistributedQLAgent)]
kinds = pytest.mark.parametrize("kind", [*AGENTS, td.FrozenLakeEnv])


@pytest.fixture(scope="module")
def shell():
    """A shell as a notebook's, with the module imported."""
    shell = InteractiveShell()
    shell.user_ns |= {"td": td, "beyond": beyond}
    return shell


def lines_of(docstring: str) -> dict[str, str]:
    """Return the lines of a docstring's arguments."""
    _, _, rest = inspect.cleandoc(docstring).partition("Arguments:\n")
    lines = rest.partition("\n\n")[0].splitlines()
    return dict(line.strip().split(": ", 1) for line in lines if not line.startswith(8 * " "))


# Question marks -------------------------------------------------------------------------------


@kinds
def test_a_question_mark_shows_every_argument_with_its_default_and_a_line(shell, kind):
    info = shell.inspector.info(kind, kind.__name__)
    parameters = inspect.signature(kind).parameters
    lines = lines_of(info["docstring"])
    assert list(lines) == list(parameters) and all(lines.values())
    for parameter in parameters.values():
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        assert parameter.name in info["init_definition"]
    assert "see TDAgent" not in info["docstring"]
    assert not any(line.startswith("        ") and len(line) > 116 for line in info["docstring"].splitlines())


@pytest.mark.parametrize("kind", AGENTS)
def test_the_signature_shown_is_the_one_that_holds(kind):
    """Each argument is accepted, and each default is what the agent has without it."""
    settings = {"workers": td.InProcess(), "test_interval": 500} if kind in DISTRIBUTED else {}
    agent = kind(td.FrozenLakeEnv(), **settings)
    parameters = inspect.signature(kind).parameters
    for name, parameter in parameters.items():
        if name in ("simulator", "compiled", "trace", *settings) or parameter.default is None:
            continue
        if hasattr(agent, name):
            assert getattr(agent, name) == parameter.default, name
    defaults = {name: parameter.default for name, parameter in parameters.items() if name != "simulator"}
    assert repr(kind(td.FrozenLakeEnv(), **(defaults | settings))) == repr(agent)


@pytest.mark.parametrize("kind", AGENTS)
def test_a_question_mark_shows_what_comes_out(kind):
    attributes = kind.__doc__.partition("Attributes:\n")[2]
    agent = kind(td.FrozenLakeEnv(), **({"test_interval": 500} if kind in DISTRIBUTED else {}))
    names = [line.split(":")[0].strip() for line in attributes.splitlines() if line.strip()]
    assert {"q_table", "episode", "steps", "rewards", "compiled"} <= set(names)
    assert all(hasattr(agent, name) for name in names)


def test_a_subclass_of_ones_own_shows_its_own_arguments_too():
    class Decaying(td.DistributedQLAgent):
        """Epsilon decays.

        Arguments:
            decay: how fast
            epsilon: where it begins
        """

        def __init__(self, *arguments, decay=0.9, epsilon=1.0, **settings):
            super().__init__(*arguments, epsilon=epsilon, **settings)

    class Plain(td.QLAgent):
        def __init__(self, env):
            super().__init__(env)

    class Turned(td.QLAgent):
        def __init__(self, seed, simulator, *rest, **settings):
            super().__init__(simulator, *rest, seed=seed, **settings)

    class ByWord(td.QLAgent):
        def __init__(self, **settings):
            super().__init__(**settings)

    for kind, first in ((Turned, "(seed, simulator, *, "), (ByWord, "(*, simulator, epsilon=0.3, ")):
        assert str(inspect.signature(kind)).startswith(first)
    lines = lines_of(Decaying.__doc__)
    assert (lines["decay"], lines["epsilon"]) == ("how fast", "where it begins")
    assert lines["cw_num"] == lines_of(td.DistributedQLAgent.__doc__)["cw_num"]
    parameters = inspect.signature(Decaying).parameters
    assert list(lines) == list(parameters) and parameters["epsilon"].default == 1.0
    assert str(inspect.signature(Plain)) == "(env)" and Plain.__doc__ is None


# Names on their own ---------------------------------------------------------------------------

GRID = "a 1x2 map"
LAKES = {
    "FrozenLakeEnv(4x4, transition_prob=(0.97, 0.01, 0.01, 0.01))": td.FrozenLakeEnv,
    "FrozenLakeEnv(Dangerous Hallway, transition_prob=(1.0, 0.0, 0.0, 0.0))": lambda: td.FrozenLakeEnv(
        td.MAPS["Dangerous Hallway"], transition_prob=NO_SLIP
    ),
    "FrozenLakeEnv(a 2x3 map, transition_prob=(0.97, 0.01, 0.01, 0.01), render_mode='ansi')": lambda: td.FrozenLakeEnv(
        ["SFF", "HFG"], render_mode="ansi"
    ),
}


@pytest.mark.parametrize("expected, make", LAKES.items(), ids=LAKES)
def test_a_lake_says_what_it_is(expected, make):
    lake = make()
    assert repr(lake) == str(lake) == repr(pickle.loads(pickle.dumps(lake))) == expected
    assert expected in str(gymnasium.wrappers.TimeLimit(lake, 5))


def test_a_table_says_what_it_is():
    assert repr(td.FrozenLakeEnv().table) == "TransitionTable(17 states, 4 actions, 4 outcomes)"


SIMULATORS = {
    "16x16": lambda: td.FrozenLakeEnv(map_name="16x16"),
    "a 1x2 map": lambda: gymnasium.wrappers.TimeLimit(td.FrozenLakeEnv(["SG"]), 5),
    "CliffWalking-v1": lambda: gymnasium.make("CliffWalking-v1"),
    "Ring": Ring,
    "4x4 in TransformReward": lambda: gymnasium.wrappers.TransformReward(td.FrozenLakeEnv(), abs),
}


@pytest.mark.parametrize("expected, make", SIMULATORS.items(), ids=SIMULATORS)
def test_an_agent_names_its_simulator(expected, make):
    agent = td.QLAgent(make(), seed=3)
    stepped = "" if agent.compiled else ", stepped"
    settings = "epsilon=0.3, learning_rate=0.001, seed=3"
    assert repr(agent) == f"QLAgent({expected}, {settings}{stepped}, 0 of 30,000 episodes learned)"


@pytest.mark.parametrize("kind", AGENTS[1:])
def test_an_agent_says_what_it_is_and_how_far_it_is(kind):
    settings = {"workers": td.InProcess(), "cw_num": 2, "ew_num": 1, "batch_size": 25} if kind in DISTRIBUTED else {}
    agent = kind(td.FrozenLakeEnv(), 0.25, learning_episodes=2000, max_step=50, **settings)
    agent.learn(1500)
    shown = repr(agent)
    assert shown.startswith(f"{kind.__name__}(4x4, epsilon=0.25, ") and "max_step=50" in shown and "beta" not in shown
    assert shown.endswith(", 1,500 of 2,000 episodes learned)")
    assert ("cw_num=2" in shown and "batch_size=25" in shown) == (kind in DISTRIBUTED)
    agent.learn(1000)
    assert repr(agent).endswith(", 2,500 episodes learned)")


# The tabulator --------------------------------------------------------------------------------


@pytest.mark.parametrize("jedi", [True, False], ids=["jedi", "IPython"])
def test_the_tabulator_offers_the_public_names_alone(shell, jedi):
    shell.Completer.use_jedi = jedi
    with provisionalcompleter():
        offered = {found.text.lstrip(".") for found in shell.Completer.completions("td.", 3)}
    assert offered == set(td.__all__)
    assert {"__doc__", "__file__", "__name__"} <= set(dir(td))


@pytest.mark.parametrize("jedi", [True, False], ids=["jedi", "IPython"])
def test_the_tabulator_offers_arguments(shell, jedi):
    shell.Completer.use_jedi = jedi
    for name, arguments in (("td.QLAgent", {"learning_rate", "beta"}), ("td.DistributedQLAgent", {"cw_num", "beta"})):
        with provisionalcompleter():
            line = f"{name}("
            offered = {found.text.rstrip("=") for found in shell.Completer.completions(line, len(line))}
        assert arguments <= offered


# Wrong words ----------------------------------------------------------------------------------

WRONG = [
    (td.QLAgent, "alpha", "learning_rate"),
    (td.SARSAAgent, "lr", "learning_rate"),
    (td.QLAgent, "gamma", "beta"),
    (td.DistributedQLAgent, "num_episodes", "learning_episodes"),
    (td.DistributedQLAgent, "num_workers", "cw_num"),
    (beyond.DynaQAgent, "planing_steps", "planning_steps"),
    (beyond.FederatedQLAgent, "Alpha", "learning_rate"),
    (beyond.DistributedDynaQAgent, "discount", "beta"),
    (td.FrozenLakeEnv, "is_slippery", "transition_prob"),
    (td.FrozenLakeEnv, "slippery", "transition_prob"),
    (td.FrozenLakeEnv, "TransitionProb", "transition_prob"),
    (td.FrozenLakeEnv, "mapname", "map_name"),
    (td.FrozenLakeEnv, "render_modes", "render_mode"),
]


def refused(kind, **settings) -> str:
    """Return the message with which a class refuses arguments."""
    arguments = () if kind is td.FrozenLakeEnv else (Ring(),)
    with pytest.raises(TypeError) as caught:
        kind(*arguments, **settings)
    return str(caught.value)


@pytest.mark.parametrize("kind, wrong, right", WRONG)
def test_a_wrong_word_is_answered_by_the_right_one_and_its_meaning(kind, wrong, right):
    message = refused(kind, **{wrong: 0.1})
    line = lines_of(kind.__doc__)[right]
    start = f"{kind.__name__}() got an unexpected keyword argument {wrong!r}: {wrong} is called {right} here ({line}"
    assert message.startswith(start) and "\n" not in message


@kinds
def test_a_word_that_is_known_to_nobody_is_answered_by_the_list(kind):
    arguments = ", ".join(inspect.signature(kind).parameters)
    assert refused(kind, wooden=1) == (
        f"{kind.__name__}() got an unexpected keyword argument 'wooden': its arguments are {arguments}"
    )


def parameters(call) -> list[str]:
    """Return the names of a callable's parameters without `self`."""
    return [name for name in inspect.signature(call).parameters if name != "self"]


METHODS = [td.TDAgent.learn, td.TDAgent.evaluate, td.TDAgent.learn_and_evaluate]
METHODS += [td.DistributedQLAgent.learn, td.DistributedQLAgent.learn_in_batches]
ROOMS = "explore", "pictures", "plots", "displays", "grids", "exact", "simulators"  # whose functions are checked
FUNCTIONS = [
    thing
    for thing in map(vars(td).get, td.__all__)
    if inspect.isfunction(thing) and thing.__module__.partition(".")[2] in ROOMS and len(parameters(thing)) > 1
]


def test_every_word_of_the_table_leads_to_an_argument():
    known = {"q_table"}.union(*map(parameters, [*AGENTS, td.FrozenLakeEnv, *METHODS, *FUNCTIONS]))
    assert set(WORDS) <= known
    for ours, words in WORDS.items():
        assert len({*words.split(), ours}) == len(words.split()) + 1


@pytest.mark.parametrize("call", [*METHODS, *FUNCTIONS], ids=lambda call: call.__qualname__)
def test_a_wrong_word_for_a_function_is_answered_by_the_right_one(call):
    """Capitals, a plural, a letter too many, and every word of the table."""
    names = parameters(call)
    for ours in names:
        wrong = {ours.title(), ours + "s", (ours + "x") * (len(ours) > 3) or ours, *WORDS.get(ours, "").split()}
        for word in wrong - {*names}:
            means = [name for name in names if word in WORDS.get(name, "").split()] or [ours]
            with pytest.raises(TypeError) as caught:
                call(None, **{word: 1}) if call in METHODS else call(**{word: 1})
            problem = f"{call.__qualname__}() got an unexpected keyword argument {word!r}: {word} is called "
            assert str(caught.value).startswith(tuple(f"{problem}{name} here" for name in means))
    with pytest.raises(TypeError, match=f"'wooden': its arguments are {', '.join(names)}$"):
        call(wooden=1)
    assert not hasattr(call, "__self__") and call.__doc__ and names[0] in str(inspect.signature(call))


# Wrong words that are assigned ------------------------------------------------------------------


def made(kind):
    """Return an agent that needs no Ray."""
    return kind(
        td.FrozenLakeEnv(), **({"workers": td.InProcess(), "test_interval": 500} if kind in DISTRIBUTED else {})
    )


def variants(name: str) -> set[str]:
    """Return what someone may type for a name: other capitals, no underscores, a plural, a letter left out."""
    camel = name.title().replace("_", "")
    found = {name.upper(), name.title(), camel, camel[0].lower() + camel[1:], name.replace("_", "")}
    found |= {name + "s", name.rstrip("s")} | ({name[:3] + name[4:], name + "l"} if len(name) > 6 else set())
    return found - {name}


@pytest.mark.parametrize("kind", AGENTS)
def test_what_reads_like_a_setting_cannot_be_assigned(kind):
    """Every setting under every word of the table and every variant."""
    agent = made(kind)
    before, accepted = vars(agent).copy(), []
    for ours in [*setting_names(kind), "q_table", "initial_value", "simulator"]:
        for wrong in {*variants(ours), *WORDS.get(ours, "").split()}:
            if hasattr(agent, wrong):
                continue
            with pytest.raises(AttributeError) as caught:
                setattr(agent, wrong, 0.1)
                accepted.append(wrong)
            assert str(caught.value).startswith(f"{kind.__name__} has no attribute {wrong!r}: {wrong} is called ")
    assert not accepted and vars(agent).keys() == before.keys()


@pytest.mark.parametrize("wrong, right", [
    ("alpha", "learning_rate"), ("eps", "epsilon"), ("episodes", "learning_episodes"), ("max_steps", "max_step"),
    ("Q", "q_table"), ("seeds", "seed"), ("learnin_rate", "learning_rate"), ("initial_q", "initial_value"),
])  # fmt: skip
def test_an_assigned_wrong_word_is_answered_by_the_right_one_and_its_meaning(wrong, right):
    agent = td.SARSAAgent(Ring())
    with pytest.raises(AttributeError) as caught:
        setattr(agent, wrong, 0.1)
    start = f"SARSAAgent has no attribute {wrong!r}: {wrong} is called {right} here ("
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)


def test_an_argument_of_the_constructor_alone_cannot_be_assigned():
    agent = td.QLAgent(Ring())
    with pytest.raises(AttributeError, match="'initial_value': it is an argument of the constructor, and cannot be"):
        agent.initial_value = 5.0


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("name", [
    "note", "history", "best", "label", "color", "started", "epsilon_0", "epsilon0", "min_epsilon", "learning_rate_now",
    "epsilon_history", "my_q_table", "score", "times", "_alpha", "wooden", "curve", "test_results",
])  # fmt: skip
def test_a_name_that_resembles_nothing_may_be_assigned(kind, name):
    agent = made(kind)
    setattr(agent, name, 1)
    assert getattr(agent, name) == 1 and getattr(pickle.loads(pickle.dumps(agent)), name) == 1


def test_a_class_of_ones_own_may_have_any_attribute():
    class Decaying(td.QLAgent):
        gamma = 0.5

        def __init__(self, simulator, alpha=0.1, **settings):
            self.alpha = alpha
            super().__init__(simulator, **settings)
            self.eps = [each := 0.5, *(self.keep(each) for _ in range(2))]

        def keep(self, each):
            self.lr = each
            return each

    agent = Decaying(td.FrozenLakeEnv())
    agent.alpha, agent.gamma, agent.eps, agent.lr = 0.2, 0.3, 0.4, 0.5
    agent.learn(10)
    assert (agent.alpha, agent.gamma, agent.eps, agent.lr) == (0.2, 0.3, 0.4, 0.5) and agent.learning_rate == 0.001
    with pytest.raises(AttributeError, match="Decaying has no attribute 'eta': eta is called learning_rate here"):
        agent.eta = 0.1

    def tuned(agent):
        agent.step_size = 0.1

    with pytest.raises(AttributeError, match="step_size is called learning_rate here"):
        tuned(agent)


# Names that the module has not ------------------------------------------------------------------


@pytest.mark.parametrize("name", td.__all__)
def test_a_public_name_with_other_capitals_or_underscores_is_answered_by_the_right_one(name):
    separated = "".join(f"_{letter}" if letter.isupper() and i else letter for i, letter in enumerate(name))
    for wrong in {name.lower(), name.upper(), name.title(), name.replace("_", ""), f"{name}s", separated} - {*vars(td)}:
        alike = {known for known in td.__all__ if known.lower().replace("_", "") == name.lower().replace("_", "")}
        with pytest.raises(AttributeError) as caught:
            getattr(td, wrong)
        answers = {f"module 'td_helpers' has no attribute {wrong!r}: did you mean {known}?" for known in alike}
        assert str(caught.value) in answers


@pytest.mark.parametrize("wrong, right", [
    ("SARSAagent", "SARSAAgent"), ("QLagent", "QLAgent"), ("QLAgent_server", "QLAgentServer"), ("agent", "TDAgent"),
    ("distributed_QL_agent", "DistributedQLAgent"), ("collecting_worker", "CollectingWorker"),
    ("evaluation_worker", "EvaluationWorker"), ("plotresults", "plot_result"), ("greedy_paths", "greedy_path"),
])  # fmt: skip
def test_a_name_of_the_assignment_is_answered_by_ours(wrong, right):
    with pytest.raises(AttributeError, match=f"'td_helpers' has no attribute '{wrong}': did you mean {right}"):
        getattr(td, wrong)


def test_a_name_that_is_like_none_gets_the_plain_message():
    for name in ("wooden", "__path__", "_repr_html_"):
        assert not hasattr(td, name)
        with pytest.raises(AttributeError, match=f"^module 'td_helpers' has no attribute '{name}'$"):
            getattr(td, name)


# Things in each other's place -------------------------------------------------------------------


def test_a_word_of_another_class_is_not_recommended():
    assert "its arguments are" in refused(td.QLAgent, num_workers=2)


@pytest.mark.parametrize("call", [td.plot_image, td.greedy_path], ids=lambda call: call.__name__)
@pytest.mark.parametrize("lake", [td.FrozenLakeEnv(), "4x4", td.MAPS["4x4"]], ids=["lake", "name", "map"])
@pytest.mark.parametrize("table", [np.zeros((17, 4)), np.zeros((17, 4), int), np.zeros((17, 4)).tolist()])
def test_a_lake_and_a_table_that_are_swapped_are_told_apart(call, lake, table):
    with pytest.raises(TypeError, match="lake must be a FrozenLakeEnv, a name of MAPS or a map, after the q_table"):
        call(lake, table)


@pytest.mark.parametrize("kind", AGENTS)
def test_a_class_in_the_place_of_an_env_is_told_to_be_called(kind):
    message = r"simulator must be an env, got the class FrozenLakeEnv: call it, FrozenLakeEnv\(\)"
    with pytest.raises(TypeError, match=message):
        kind(td.FrozenLakeEnv)


@pytest.mark.parametrize("name", td.MAPS)
def test_a_name_in_the_place_of_a_map_is_told_its_own(name):
    with pytest.raises(TypeError, match=f"desc must be a list of strings.*: a map of MAPS is map_name='{name}'"):
        td.FrozenLakeEnv(name)
