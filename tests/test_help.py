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
from tabular.arguments import OURS, WORDS

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


@kinds
def test_no_word_of_the_table_is_one_of_ours(kind):
    assert not OURS.keys() & inspect.signature(kind).parameters.keys()


def test_every_word_of_the_table_leads_to_an_argument():
    known = set().union(*(inspect.signature(kind).parameters for kind in [*AGENTS, td.FrozenLakeEnv]))
    assert set(WORDS) <= known and len(OURS) == sum(len(words.split()) for words in WORDS.values())


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
