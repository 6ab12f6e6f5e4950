# flashboot: every target installs what it needs by itself on a fresh Debian 12 (root, package registries).
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
SETUP := tests/rig/setup.sh
INPUTS := setup.cfg pyproject.toml $(SETUP)

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: .cache/installed-base ## .venv with .venv/bin/flashboot and .venv/bin/happycache
demo: .cache/installed-rig ## the main job for real: a running instance gets another image in place
	@$(BIN)/python -m tests.rig demo $(if $(FIRMWARE),--firmware $(FIRMWARE))
rig: .cache/installed-rig ## a shell in an EC2-like instance on this computer
	@$(BIN)/python -m tests.rig shell $(if $(FIRMWARE),--firmware $(FIRMWARE))
check: .cache/installed-test ## the quick loop: format, lint, types, layers, unit tests
	@bash tests/check.sh
test: .cache/installed-test .cache/installed-rig ## every test, the ones in virtual machines included
	@bash tests/check.sh
	@$(BIN)/pytest --durations=15 tests/contract tests/root tests/vm
ramos: .cache/installed-rig ## the RAM OS's kernel and initramfs into build/ramos
	@$(BIN)/python live-initramfs/build.py --output build/ramos
bench: .cache/installed-test .cache/installed-rig ## the figures: publish, RAM OS
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done
clean: ## forget everything that was installed or built here
	rm -rf .venv .cache build *.egg-info

.cache/installed-%: $(INPUTS)
	@bash $(SETUP) $*

.PHONY: help install demo rig check test ramos bench clean
