"""The wrappers of gym and gymnasium around a lake: each is honoured, or refused in one line."""

import gym
import gymnasium
import numpy as np
import pytest
from helpers import learned

import td_helpers as td
from beyond import DynaQAgent

OLD, NEW = gym.wrappers, gymnasium.wrappers


def lake(**settings):
    return td.FrozenLakeEnv(["HFSFG"], transition_prob=(0.7, 0.1, 0.1, 0.1), **settings)


def learned_on(env, compiled=None, max_step=1000):
    """Return what 200 random episodes teach: the last reward of each pair, and the number of steps."""
    agent = td.QLAgent(env, 1.0, 1.0, beta=0.0, max_step=max_step, compiled=compiled)
    agent.learn(200)
    return agent.q_table, agent.steps


def compiled():
    return learned_on(lake())


def limited():
    return learned_on(lake(), max_step=3)


def stepped(change=lambda rewards: rewards):
    """Return what is learned on a lake that is stepped, if its rewards are changed."""
    q_table, steps = learned_on(lake(), compiled=False)
    return change(q_table), steps


def halved():
    return stepped(lambda rewards: rewards / 2)


def clipped():
    return stepped(lambda rewards: np.clip(rewards, -1.0, 1.0))


# The wrapper, and how to learn the same without it.
HONOURED = {
    "gymnasium TimeLimit": (lambda env: NEW.TimeLimit(env, 3), limited),
    "gymnasium OrderEnforcing": (NEW.OrderEnforcing, compiled),
    "gymnasium PassiveEnvChecker": (NEW.PassiveEnvChecker, compiled),
    "gymnasium RecordEpisodeStatistics": (NEW.RecordEpisodeStatistics, stepped),
    "gymnasium Autoreset": (NEW.Autoreset, stepped),
    "gymnasium TransformReward": (lambda env: NEW.TransformReward(env, lambda reward: reward / 2), halved),
    "gymnasium ClipReward": (lambda env: NEW.ClipReward(env, -1.0, 1.0), clipped),
    "gymnasium TransformObservation": (
        lambda env: NEW.TransformObservation(env, lambda state: np.int64(state), env.observation_space), stepped
    ),
    "gym TimeLimit": (lambda env: OLD.TimeLimit(env, 3), limited),
    "gym OrderEnforcing": (OLD.OrderEnforcing, compiled),
    "gym PassiveEnvChecker": (OLD.env_checker.PassiveEnvChecker, compiled),
    "gym RecordEpisodeStatistics": (OLD.RecordEpisodeStatistics, stepped),
    "gym AutoResetWrapper": (OLD.AutoResetWrapper, stepped),
    "gym TransformReward": (lambda env: OLD.TransformReward(env, lambda reward: reward / 2), halved),
    "gym TransformObservation": (lambda env: OLD.TransformObservation(env, lambda state: np.int64(state)), stepped),
    "gymnasium TimeLimit in gym TimeLimit": (lambda env: OLD.TimeLimit(NEW.TimeLimit(env, 5), 3), limited),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.* changes nothing that is learned")
@pytest.mark.parametrize("wrap, expected", HONOURED.values(), ids=HONOURED)
def test_a_wrapper_is_honoured(wrap, expected):
    env = wrap(lake())
    (q_table, steps), (expected_table, expected_steps) = learned_on(env), expected()
    assert q_table.tobytes() == expected_table.tobytes() and steps == expected_steps
    assert td.QLAgent(env).compiled == (expected in (compiled, limited))


DISCRETE = "simulator must have a Discrete observation_space that starts at 0, got "
REFUSED = {
    "gymnasium FlattenObservation": (NEW.FlattenObservation, DISCRETE + r"Box\(0, 1, \(6,\), int64\)"),
    "gymnasium FrameStackObservation": (lambda env: NEW.FrameStackObservation(env, 2), DISCRETE + "MultiDiscrete"),
    "gymnasium NormalizeObservation": (NEW.NormalizeObservation, DISCRETE + "Box"),
    "gym FlattenObservation": (OLD.FlattenObservation, DISCRETE + "Box"),
    "gym NormalizeObservation": (OLD.NormalizeObservation, "the simulator's state must be from 0 to 5, got np.float64"),
    "gym StepAPICompatibility": (
        lambda env: OLD.StepAPICompatibility(env, output_truncation_bool=False),
        r"the simulator's step must return \(state, reward, terminated, truncated, info\), as in gym since 0.26, got",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrap, message", REFUSED.values(), ids=REFUSED)
def test_a_wrapper_whose_observations_are_no_states_is_refused(wrap, message):
    with pytest.raises(ValueError, match=message):
        td.QLAgent(wrap(lake())).learn(1)


RECORDERS = [NEW.RecordEpisodeStatistics, NEW.Autoreset, NEW.RenderCollection]
RECORDERS += [OLD.RecordEpisodeStatistics, OLD.AutoResetWrapper, OLD.RenderCollection]


@pytest.mark.parametrize("kind", [td.QLAgent, td.SARSAAgent, td.DistributedQLAgent, DynaQAgent])
@pytest.mark.parametrize("limited", [False, True], ids=["bare", "in TimeLimit"])
@pytest.mark.parametrize("record", RECORDERS, ids=lambda kind: f"{kind.__module__.partition('.')[0]} {kind.__name__}")
def test_a_wrapper_that_only_records_is_named_once_with_the_way_out(record, limited, kind):
    env = record(NEW.TimeLimit(lake(render_mode="rgb_array"), 50))
    if limited:
        env = (NEW if isinstance(env, gymnasium.Env) else OLD).TimeLimit(env, 9)
    with pytest.warns(UserWarning) as warned:
        agents = [kind(env, initial_value=0.0, **more) for more in ({}, {"epsilon": 0.1}, {"compiled": False})]
    assert not any(agent.compiled for agent in agents)
    returns = " with keep_returns=True" if record.__name__ == "RecordEpisodeStatistics" else ""
    assert [str(warning.message) for warning in warned] == [
        f"{record.__name__} changes nothing that is learned, but makes the simulator hundreds of times slower, since "
        f"it is then stepped and not compiled: pass the env inside (simulator.env){returns}, or compiled=False to step "
        "it nevertheless"
    ]
    assert warned[0].filename == __file__


class Counting(gymnasium.Wrapper):
    """A user's wrapper, of which nobody can tell what it does."""


class RecordEpisodeStatistics(NEW.RecordEpisodeStatistics):
    """A subclass that changes the reward, with its base's name."""

    def step(self, action):
        state, reward, *rest = super().step(action)
        return state, 2 * reward, *rest


UNKNOWN = {
    "a user's": Counting,
    "a namesake": RecordEpisodeStatistics,
    "a recorder in a user's": lambda env: Counting(NEW.RecordEpisodeStatistics(env)),
    "a recorder of another reward": lambda env: OLD.RecordEpisodeStatistics(NEW.TransformReward(env, abs)),
    "a recorder of what has no table": lambda env: NEW.RecordEpisodeStatistics(Counting(env)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wrap", UNKNOWN.values(), ids=UNKNOWN)
def test_a_wrapper_that_may_change_what_is_learned_is_stepped_without_a_word(wrap):
    assert not td.QLAgent(wrap(lake())).compiled


def test_episode_statistics_are_recorded():
    env = NEW.RecordEpisodeStatistics(lake())
    td.QLAgent(env, 1.0, compiled=False).learn(50)
    assert len(env.return_queue) == 50 and set(env.length_queue) != {0}


@pytest.mark.filterwarnings("ignore:.* changes nothing that is learned")
def test_a_wrapped_lake_is_learned_by_workers_too():
    runs = []
    for env in (lake(), NEW.RecordEpisodeStatistics(lake())):
        agent = td.DistributedQLAgent(
            env, 0.3, 0.1, 40, test_interval=20, trials=3, cw_num=2, ew_num=1, batch_size=5, workers=td.InProcess(),
            compiled=False, max_step=50,
        )  # fmt: skip
        agent.learn_and_evaluate(progress=False)
        runs.append(learned(agent))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("package", [gym, gymnasium], ids=lambda package: package.__name__)
def test_a_lake_that_is_registered_is_made_and_compiled(package):
    package.register("Lake-v0", td.FrozenLakeEnv, max_episode_steps=3)
    try:
        made = package.make("Lake-v0", desc=["HFSFG"], transition_prob=(0.7, 0.1, 0.1, 0.1))
    finally:
        del package.envs.registry["Lake-v0"]
    assert made is not made.unwrapped and learned_on(made)[0].tolist() == limited()[0].tolist()
    assert learned_on(made, compiled=False)[1] <= 200 * 3


def test_lakes_are_stepped_side_by_side_by_gymnasiums_vector_envs():
    lakes = gymnasium.vector.SyncVectorEnv([lake, lake])
    assert lakes.reset(seed=0)[0].tolist() == [2, 2] and lakes.single_action_space == gymnasium.spaces.Discrete(4)
    lakes.action_space.seed(0)
    for _ in range(5):
        states, rewards, *_ = lakes.step(lakes.action_space.sample())
        assert states.shape == rewards.shape == (2,)
