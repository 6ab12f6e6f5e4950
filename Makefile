# flashboot: every target installs what it needs by itself on a fresh Debian 12 (root, package registries).
.DEFAULT_GOAL := help
SHELL := /bin/bash
# Debian's own interpreter: the RAM OS ships the same one, so its .pyc files fit.
PYTHON := /usr/bin/python3
BIN := .venv/bin
SETUP := tests/rig/setup.sh

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

install: .cache/installed-base ## .venv with flashboot and happycache
check: .cache/installed-test ## the quick loop: format, lint, types, layers, unit tests
	@bash tests/check.sh

.cache/installed-base: setup.cfg pyproject.toml $(SETUP)
	@bash $(SETUP) base
.cache/installed-test: .cache/installed-base
	@bash $(SETUP) test
.cache/installed-rig: .cache/installed-base
	@bash $(SETUP) rig

.PHONY: help install check
