"""The source of Report.md: one module per question, from its experiment to its numbers.

make_figures.py    the command line
study.py           finds the questions' experiments and pictures, and runs an experiment's cases in parallel
rows.py            an experiment's rows, and the csv file that keeps them
summaries.py       means, intervals and number formats
report.py          fills in report_template.md and checks the claims beside its sentences
assignment.py      the assignment's settings, and what its questions share: evaluating a table
slow.py            a simulator whose steps take time

All other modules are questions. A new experiment is one file: decorate its generator with @experiment and its pictures
with @picture; the template calls its functions by the module's name.
"""
