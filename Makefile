# make help says what there is. Everything installs what it needs first, and skips what is already there.
.PHONY: help setup demo test test-all coverage lint types layers peers qemu-next clean
.DEFAULT_GOAL := help
bin := .venv/bin

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: ## install Debian packages, .venv, the project and the guest helper
	@host/setup/install.sh run demo

demo: ## set up, then the main job: a VM and a container of the same image, measured and reported in out/demo
	@host/setup/install.sh run demo
	@$(bin)/vmm bench run demo --out out/demo
	@$(bin)/vmm report build out/demo --out out/demo

test: ## set up, then lint, types, layering and the tests (the slow ones: make test-all)
	@host/setup/install.sh run demo test
	@$(MAKE) --no-print-directory lint types layers
	$(bin)/python -m pytest -m "not slow" $(PYTEST)

test-all: ## all tests, the slow ones too
	@host/setup/install.sh run demo test
	@$(MAKE) --no-print-directory lint types layers
	$(bin)/python -m pytest $(PYTEST)

coverage: ## the tests once more, counting branches in forked children too
	@host/setup/install.sh run demo test
	$(bin)/coverage run -m pytest -m "not slow" $(PYTEST)
	$(bin)/coverage combine -q
	$(bin)/coverage report --skip-covered

lint: ## ruff: form and faults
	$(bin)/ruff format --check .
	$(bin)/ruff check .

types: ## mypy, strict
	$(bin)/mypy

layers: ## import-linter: which room imports which
	$(bin)/lint-imports

peers: ## install the engines that the bench compares with (docker, podman, runc, ...)
	@host/setup/install.sh peers

qemu-next: ## newer QEMUs beside the host's own, in build/qemu/SUITE/bin, for tests and trials; nothing is installed
	@host/setup/qemu-next.sh

clean: ## remove what make made here (not VMM_HOME)
	rm -rf .venv build out .pytest_cache .mypy_cache .ruff_cache
