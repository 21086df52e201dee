"""How do values travel back from the goal, and which way does each algorithm go? The film at the top of the README.

`python figures/learning.py` writes figures/learning.gif, the same bytes every time.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # search the project's folder for modules, not the script's
    sys.path[0] = str(ROOT)

import td_helpers as td  # noqa: E402

EPISODES = [*range(100, 1_000, 300), *range(1_000, 10_000, 600), *range(10_000, 30_001, 1_000)]


def film() -> td.Film:
    """Dangerous Hallway with the assignment's settings: learning rate 0.001, epsilon 0.3, 30,000 episodes."""
    tables = {}
    for label, kind in (("Q-learning", td.QLAgent), ("SARSA", td.SARSAAgent)):
        agent = kind(td.FrozenLakeEnv(map_name="Dangerous Hallway"), epsilon=0.3, learning_rate=0.001, seed=0)
        tables[label] = []
        for episode in EPISODES:
            agent.learn(episode - agent.episode)
            tables[label].append(agent.q_table)
    return td.animate(tables, "Dangerous Hallway", EPISODES)


if __name__ == "__main__":
    film().save(ROOT / "figures" / "learning.gif")
