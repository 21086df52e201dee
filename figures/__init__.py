"""Report.md and what it rests on: one module for each question, from its experiment to its sentences.

make_figures.py is the command line, report.py fills in report_template.md. A question's module holds
    run         its experiment, which yields rows; the default arguments are its settings
    pictures    functions of the data that return a figure
    the rest    functions of the data that the template calls, for its tables and the numbers in its sentences
What questions share is in experiments.py, rows.py (rows and their csv files) and summaries.py (means, intervals, text).
"""
