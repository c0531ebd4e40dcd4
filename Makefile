# Every target sets up its own .venv first; only python3 (>= 3.11) and make are needed.
PYTHON ?= python3
BIN := .venv/bin
STEMS := $(filter-out common,$(basename $(notdir $(wildcard paper_figures/*.py))))

# Neighbours stay together, for modules compile once; an idle worker takes from the others.
TESTS = $(BIN)/python -m pytest -n logical --dist worksteal
QUICK := -m "not exhaustive and not benchmark and not slurm"
# Most of the time goes to compilers. What depends on how floats are compiled, such as
# compensated sums and the bits of the generator, is tested as users run it, and what
# trains hundreds of times; all else is as right unoptimised, by XLA's older emitter
# and one compiler thread, without the passes that rewrite loops or verify the others,
# which compile sooner. `test-all` optimises everything.
OPTIMISED := tests/test_pairs.py tests/test_random.py tests/dp/test_gradients.py \
  tests/dp/test_rdp.py tests/federated/test_short_floats.py \
  tests/models/test_conv.py tests/audit/test_runs.py
NO_PASSES := while-loop-invariant-code-motion,simplify-while-loops,$\
  while-loop-constant-sinking,while-loop-trip-count-annotator,hlo-verifier
UNOPTIMISED := XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=0 \
  --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 \
  --xla_disable_hlo_passes=$(NO_PASSES)"

.PHONY: run test test-all test-lowest test-slurm figures pages docs notebooks lint clean
.DELETE_ON_ERROR:

run: .venv/ready
	$(BIN)/python -m experiments.privacy_utility smoke
	$(BIN)/python -m paper_figures.privacy_utility results/privacy_utility/smoke

# The lowest releases that pyproject.toml allows: tests/README.md.
test-lowest: BIN := .venv-lowest/bin
test: .venv/ready
test-lowest: .venv-lowest/ready
test test-lowest:
	$(UNOPTIMISED) $(TESTS) $(QUICK) $(addprefix --ignore=,$(OPTIMISED))
	$(TESTS) $(QUICK) $(OPTIMISED)

test-all: .venv/ready
	$(TESTS) --hypothesis-profile thorough

# On a cluster, or on the one-node one that tests/slurm/start.sh starts.
test-slurm: .venv/ready
	$(BIN)/python -m pytest tests/test_slurm.py -m "not exhaustive"

figures: .venv/ready
	for stem in $(STEMS); do $(BIN)/python -m paper_figures.$$stem || exit 1; done

pages: .venv/ready
	$(BIN)/python -m ppml_lab pages

# The API reference, from docstrings, to read from files: docs/ppml_lab.html.
docs: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m pdoc ppml_lab --docformat google --output-directory docs

# The tutorials, to open in Jupyter: notebooks/*.ipynb.
notebooks: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[notebooks]'
	mkdir -p notebooks
	for path in experiments/tutorials/*.py; do $(BIN)/python -m jupytext \
	  --to ipynb --output notebooks/$$(basename $$path .py).ipynb $$path || exit 1; done

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyrefly check

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ppml_lab needs Python 3.11 or later; set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "this Python lacks venv; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[test]'
	touch $@

.venv-lowest/ready: pyproject.toml tests/lowest.py
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint .venv-lowest/constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-lowest
