"""Report.md and what it rests on: a module for each question, from its experiment to its numbers.

make_figures.py    the command line
study.py           finds what the questions' modules mark, and runs an experiment's cases side by side
rows.py            an experiment's rows, and the csv file that keeps them
summaries.py       means, intervals, and how numbers are written
report.py          fills in report_template.md, and checks the claims beside its sentences
assignment.py      the assignment's settings, and what its questions share
slow.py            a simulator whose steps take time

All others are questions. A new experiment is one file: it marks its generator with @experiment and its pictures with
@picture, and the template sees its functions by the module's name.
"""
