"""beyond/Report.md and what it rests on: a module for each question about planning and federated agents.

The machinery is that of figures/, as are the experiments that these are compared with; until.py says when a policy is
good to stay.
"""
