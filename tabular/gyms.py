"""gym and gymnasium: what an env is that both packages take for their own, if both are installed."""

from __future__ import annotations

import contextlib
import io

try:
    with contextlib.redirect_stderr(io.StringIO()):  # gym prints a notice that no warning filter stops
        import gym
except ImportError:
    import gymnasium as gym
try:
    import gymnasium
except ImportError:
    gymnasium = gym

if gymnasium is gym:
    Env, Discrete = gym.Env, gym.spaces.Discrete
else:
    # gymnasium comes first, since its wrappers ask more of an env and of a space: the seed, or samples by probability.
    class Env(gymnasium.Env, gym.Env):  # type: ignore[no-redef]
        """An env of gymnasium and of gym, which the wrappers of both take."""

    class Discrete(gymnasium.spaces.Discrete, gym.spaces.Discrete):  # type: ignore[no-redef]
        """The numbers from 0 to n - 1, a space of gymnasium and of gym."""

        def __eq__(self, other: object) -> bool:
            return gymnasium.spaces.Discrete.__eq__(self, other) or gym.spaces.Discrete.__eq__(self, other)
