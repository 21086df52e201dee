# make          install, run the assignment's notebook in place, print its comparison
# make test     install, lint, check types, run pytest and nbval on two files at a time, first the notebooks
# make html     export both notebooks as HTML
# make test-long  run the tests that take half a minute or more each; its last lines name what was skipped, and why
# make handout  write the student's notebook, and grade the solved one
# make report   rerun the experiments of the report's nine items; make figures: rebuild both reports from the data
# make fresh    check the claims of both reports under other seeds, in all experiments that no clock decides
PYTHON ?= python3
BIN := .venv/bin
export PYTHONHASHSEED := 0

NOTEBOOKS := distributed_td.ipynb beyond/federated_and_dyna.ipynb

.PHONY: all test test-long lab html handout report figures fresh bench
all: .venv/installed
	$(BIN)/python tests/run_notebook.py distributed_td.ipynb

.venv/installed: requirements.txt requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c requirements.lock
	touch $@

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long" \
		--nbval --nbval-current-env --nbval-cell-timeout=600 $(NOTEBOOKS) tests

test-long: .venv/installed
	$(BIN)/python -m pytest -rs -m long tests

lab: .venv/installed
	$(BIN)/jupyter lab distributed_td.ipynb

html: .venv/installed
	$(BIN)/jupyter nbconvert --to html --config tests/nbconvert_config.py $(NOTEBOOKS)

handout: .venv/installed
	$(BIN)/python -m course.handout --check

report: .venv/installed
	$(BIN)/python figures/make_figures.py
	$(BIN)/python beyond/figures/make_figures.py --draw

figures: .venv/installed
	$(BIN)/python figures/make_figures.py --draw
	$(BIN)/python beyond/figures/make_figures.py --draw
	$(BIN)/python figures/learning.py

fresh: .venv/installed
	$(BIN)/python beyond/figures/make_figures.py --all --seeds-from 1000

bench: .venv/installed
	$(BIN)/python tests/benchmark.py
