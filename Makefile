# make walk | make lift | make test | make env. A Linux machine without an NVIDIA GPU can save two gigabytes:
#   make walk PIP_EXTRA="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
PIP_EXTRA ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_EXTRA) -c constraints.txt

.PHONY: help env dev walk play lift test
help:
	@echo 'make walk   install what is needed into $(VENV) and walk: walk.mp4, walk.png'
	@echo '            (make walk ARGS="photo.jpg --frames 256" passes arguments to loci walk)'
	@echo 'make play   the same, with your own hands, in a browser'
	@echo 'make lift   the same, and lift an object out of a picture: lifted/'
	@echo 'make test   install the development tools too; lint, check types, run the tests'
	@echo 'make env    only make the environment;  make dev  only the environment of make test'
	@echo 'Linux without an NVIDIA GPU: add PIP_EXTRA="--extra-index-url https://download.pytorch.org/whl/cpu"'

env: $(VENV)/.env
dev: $(VENV)/.dev

walk: env
	$(BIN)/loci walk $(ARGS)

play: $(VENV)/.play
	$(BIN)/loci play $(ARGS)

lift: env
	$(BIN)/loci lift $(ARGS)

test: dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/pytest -n 2 --dist loadfile

# A stamp each, so that the second time costs nothing.
$(VENV)/.env: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else \
	  "loci needs Python 3.11 or newer, and $(PYTHON) is %d.%d: make env PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	@echo 'Installing into $(VENV): some minutes the first time ...'
	$(INSTALL) -e .
	@touch $@

$(VENV)/.play: $(VENV)/.env
	$(INSTALL) -e '.[play]'
	@touch $@

$(VENV)/.dev: $(VENV)/.env
	$(INSTALL) -e '.[dev]'
	@touch $@
