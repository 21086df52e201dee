"""What a submission may import: a td_helpers of lakes, plots and exact values alone, and modules of earlier years.

The model answer is kept out of reach: `class QLAgent(td.QLAgent)` is no answer. What was tried is noted.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import types

import numpy as np

import td_helpers as td
from tabular.simulated_ray import NotSimulated, simulated

OFFERED = (
    "LEFT", "DOWN", "RIGHT", "UP", "MAPS", "FrozenLakeEnv", "generate_row", "generate_map", "generate_random_map",
    "plot_image", "plot_result", "plot_timing", "greedy_path", "animate", "Film", "show", "COLORS", "color_of",
    "save_figure", "TransitionTable", "value_iteration", "policy_value",
)  # fmt: skip
PARTS_OF_RAY = ("ray.exceptions",)  # that a submission may import
REFUSED = {"tabular", "beyond", "course", "figures"}  # the project's other folders


class Offers(types.ModuleType):
    """td_helpers as a submission finds it."""

    def __init__(self, tried: list[str]):
        super().__init__("td_helpers", "Lakes, plots and exact values.")
        vars(self).update({name: getattr(td, name) for name in OFFERED}, __all__=list(OFFERED))
        self.start_ray = lambda *_, **__: None  # no Ray is started where submissions are judged
        self._tried = tried

    def __getattr__(self, name: str):
        if not name.startswith("__") and hasattr(td, name):
            _note(self._tried, f"td_helpers.{name}")
            raise AttributeError(f"td_helpers offers lakes, plots and exact values here, and not {name}")
        raise AttributeError(f"module 'td_helpers' has no attribute {name!r}")


def restrict(tried: list[str]) -> None:
    """Have imports from now on find what is offered; `tried` gets the names of what else was asked for.

    Modules that are imported still find all they need, and what is pickled is found by its name.
    """
    sys.modules["td_helpers"] = Offers(tried)
    with simulated(0):
        stand_in = sys.modules["ray"]
    sys.modules["ray"] = stand_in  # also where nothing is simulated, so that no Ray is started
    sys.modules.setdefault("gym.envs.toy_text.discrete", _discrete())
    for name, kind in {"int": int, "float": float, "object": object}.items():  # gone since numpy 1.24
        if name not in vars(np):
            setattr(np, name, kind)
    find, import_module, frame = builtins.__import__, importlib.import_module, sys._getframe

    def refuse(name: str, importer: dict | None) -> None:
        root = name.partition(".")[0]
        if root in REFUSED and (importer or {}).get("__name__", "__main__") == "__main__":
            _note(tried, name)
            raise ImportError(f"{root} is not part of the hand-out")

    def refuse_parts_of_ray(name: str, importer: dict | None, wanted: tuple) -> None:
        """The parts that were imported of the real Ray would start it."""
        if (importer or {}).get("__name__", "__main__") == "__main__" and name.partition(".")[0] == "ray":
            parts = [name] if name != "ray" else [f"ray.{part}" for part in wanted if f"ray.{part}" in sys.modules]
            for part in parts:
                if part not in ("ray", *PARTS_OF_RAY):
                    raise NotSimulated(f"{part} is not simulated")

    def guarded(name, globals=None, locals=None, fromlist=(), level=0):
        if level == 0 and type(name) is str and type(fromlist) is not list:  # as it is where a pickle is loaded
            refuse(name, globals)
            refuse_parts_of_ray(name, globals, fromlist or ())
        return find(name, globals, locals, fromlist, level)

    def guarded_module(name, package=None):
        if type(name) is str:
            refuse(name, frame(1).f_globals)
        return import_module(name, package)

    builtins.__import__, importlib.import_module = guarded, guarded_module


def _note(tried: list[str], name: str) -> None:
    if name not in tried and len(tried) < 20:
        tried.append(name)


def _discrete() -> types.ModuleType:
    """gym.envs.toy_text.discrete, which gym dropped: the base of the lakes of earlier years."""
    gym = td.gym

    def categorical_sample(prob_n, np_random):
        """An index, drawn by its probability."""
        chances = np.cumsum(prob_n)
        return min(int(np.searchsorted(chances, np_random.random(), side="right")), len(chances) - 1)

    class DiscreteEnv(gym.Env):
        """An env of a table P[state][action] of (probability, next_state, reward, done), stepped as in old gym."""

        def __init__(self, nS, nA, P, isd):
            self.P, self.isd, self.nS, self.nA, self.lastaction = P, isd, nS, nA, None
            self.action_space, self.observation_space = gym.spaces.Discrete(nA), gym.spaces.Discrete(nS)
            self.seed()
            self.s = categorical_sample(self.isd, self.np_random)

        def seed(self, seed=None):
            """Seed the draws."""
            self.np_random, seed = gym.utils.seeding.np_random(seed)
            return [seed]

        def reset(self):
            """Start: the state."""
            self.lastaction = None
            self.s = categorical_sample(self.isd, self.np_random)
            return self.s

        def step(self, action):
            """Act once: (state, reward, done, info)."""
            outcomes = self.P[self.s][action]
            k = categorical_sample([outcome[0] for outcome in outcomes], self.np_random)
            probability, self.s, reward, done = outcomes[k]
            self.lastaction = action
            return self.s, reward, done, {"prob": probability}

    module = types.ModuleType("gym.envs.toy_text.discrete")
    module.DiscreteEnv, module.categorical_sample = DiscreteEnv, categorical_sample
    return module
