"""beyond/Report.md and what it rests on: a module for each question about planning and federated agents.

make_figures.py    the command line
until.py           how long until a policy is good, and good to stay
variants.py        other ways to merge what workers learned, and to work in rounds
pays.py            the README's table of what distributing gains

All others are questions. The rest of the machinery is that of figures/, whose experiments these are compared with.
"""
