# make demo   two simulated visits, the cookbook's command on them, a picture and the score against the truth
# make test   the tests (test-slow: those that take long too)
# Everything happens in .venv, which is made when it is needed and made anew when pyproject.toml or the
# pinned versions change.
# PYTHON=/path/to/python names the Python to make it with; otherwise one is looked for (etc/find-python).

SHELL = /bin/sh
VENV = .venv
BIN = $(VENV)/bin
READY = $(VENV)/.installed
WORKERS = 2
PYTEST = TWINKLES_DIFFIM_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
SOURCES = $(wildcard python tests bench bin.src)

.DEFAULT_GOAL = help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-slow bench quality pulls dipoles completeness reliability sources growth real gallery lint format package lock clean distclean

help:
	@echo "make demo       simulate two visits, subtract, show what was found (demo/difference.png)"
	@echo "make test       run the tests; test-slow runs the long ones too"
	@echo "make pulls      errors of the catalogue over what they claim; make sources: seconds for many sources"
	@echo "make dipoles    stars of a poor registration, and transients, that are called dipoles"
	@echo "make completeness  the catalogue beside the ideal matched filter; close pairs"
	@echo "make reliability  the curve of the reliability score anew, on pairs that it was not trained on"
	@echo "make quality    quality of the differences beside the truth; make bench: speed and memory"
	@echo "make real       figures of differences of real exposures, where there are some; make gallery: their pictures"
	@echo "make lint       ruff and mypy; make format: ruff format"
	@echo "make package    build wheel and sdist, install them with the locked dependencies into an empty environment, try"
	@echo "make lock       pin the dependencies anew (requirements.lock, requirements-test.lock, doc/licences.md)"
	@echo "make clean      remove what the other targets made; distclean: the environment too"

install: $(READY)

$(READY): pyproject.toml requirements-test.lock
	@rm -f $(READY)
	@python=$$(etc/find-python "$(PYTHON)") || exit 1; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then \
		echo "Making $(VENV) with $$python"; "$$python" -m venv --clear $(VENV) || exit 1; fi
	@echo "Installing the package and what it needs into $(VENV): a few minutes, once"
	@etc/install-locked $(BIN)/python
	@touch $(READY)

demo: $(READY)
	$(BIN)/python bench/demo.py

test: $(READY)
	$(PYTEST)

test-slow: $(READY)
	$(PYTEST) -m "slow or not slow"

bench: $(READY)
	$(BIN)/python bench/bench.py

quality: $(READY)
	$(BIN)/python bench/quality.py

pulls: $(READY)
	$(BIN)/python bench/pulls.py

sources: $(READY)
	$(BIN)/python bench/sources.py

dipoles: $(READY)
	$(BIN)/python bench/dipoles.py

completeness: $(READY)
	$(BIN)/python bench/completeness.py

reliability: $(READY)
	$(BIN)/python bench/reliability.py --test-only

growth: $(READY)
	TWINKLES_DIFFIM_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python bench/growth.py

real: $(READY)
	$(BIN)/python bench/real.py

gallery: $(READY)
	$(BIN)/python bench/gallery.py

lint: $(READY)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy python

format: $(READY)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

package: $(READY)
	etc/try-package $(BIN)/python

# Names, versions and hashes for every platform; whence they come is up to the configuration of pip. The first file
# has what an installation brings, the second also what tests and the other extras need.
LOCK = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.12 --generate-hashes \
	--no-emit-index-url --custom-compile-command 'make lock'

lock: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOCK) --upgrade $(addprefix --extra ,pipeline batch postgres) --output-file requirements.lock
	$(LOCK) --upgrade --all-extras --constraint requirements.lock --output-file requirements-test.lock
	$(BIN)/python etc/list-licences requirements-test.lock >doc/licences.md

clean:
	rm -rf demo quality pulls real build dist bin .cache .pytest_cache .hypothesis .mypy_cache .ruff_cache
	rm -rf .sconf_temp .sconsign.dblite config.log tests/.tests pytest_session.txt
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print | xargs rm -rf

distclean: clean
	rm -rf $(VENV) python/*.egg-info
