"""The source of beyond/Report.md: one module per question about planning and federated agents.

make_figures.py    the command line
until.py           the time until a policy is near the optimum, and stays there
variants.py        other ways for federated workers to merge and to learn
worlds.py          the small worlds of the yardsticks
pays.py            the README's table of speed-ups

All other modules are questions. They use the machinery of figures/, and compare with its experiments.
"""
