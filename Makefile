# Agito. `make` alone lists the targets.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup extras vllm train smoke check check-full gpu docs constraints clean
export TORCH PYTHON VLLM

BIN := .venv/bin
ONE_THREAD := OMP_NUM_THREADS=1

help: ## list the targets
	@sed -n 's/^\([a-zA-Z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@printf '  make bench-NAME   run benchmarks/NAME.py; ARGS=--short for the short form\n'

setup: ## make .venv from constraints.txt (TORCH=cuda for the CUDA build of torch)
	@scripts/setup.sh

extras: setup ## install what web and some tests need beside Python: Chromium and MCP servers (optional)
	@scripts/extras.sh

vllm: ## make an environment of its own for vLLM on the CPU (VLLM=.venv-vllm; optional)
	@scripts/vllm.sh

train: setup ## train an agent from random weights in a real shell, then evaluate it (RECIPE=quickstart)
	@$(BIN)/agito train $(or $(RECIPE),quickstart)

smoke: setup ## the same loop, about a minute: proves that it learns
	@$(BIN)/agito train smoke

check: setup ## format, lint, import contracts, types and fast tests (at most 8 minutes)
	@scripts/check.sh

check-full: setup ## check, and the long tests: attacks, kills, training over seeds
	@scripts/check.sh full

gpu: setup ## what needs a GPU: its tests and its benchmarks
	@$(BIN)/pytest -m gpu || [ $$? -eq 5 ] # 5: there is no such test
	@for script in $$(grep -l '^NEEDS_GPU = True' benchmarks/*.py 2>/dev/null); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

bench-%: setup
	@$(ONE_THREAD) $(BIN)/python benchmarks/$*.py $(ARGS)

docs: setup ## check that every link and every code block in README.md and docs/ holds
	@$(BIN)/pytest -q tests/test_docs.py

constraints: setup ## write constraints.txt from what is installed in .venv
	@$(BIN)/python scripts/constraints.py > constraints.new && mv constraints.new constraints.txt && git --no-pager diff --stat constraints.txt

clean: ## remove caches and build products; runs/ and .venv stay
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache src/*.egg-info
	@find src tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
