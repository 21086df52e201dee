"""The experiments, pictures and numbers of beyond/Report.md, and of a table in README.md.

python beyond/figures/make_figures.py       as figures/make_figures.py, which says more
"""

import sys
from pathlib import Path

if not __package__:  # run as a script: search the project's folder for modules, not the script's
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import beyond.figures
import figures
from beyond.figures import pays
from figures.make_figures import main
from figures.study import Study

if __name__ == "__main__":
    main(Study.of(beyond.figures, Study.of(figures), pays.in_readme))
