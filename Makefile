# `make demo` and `make test` need Python 3.10-3.13 and make, nothing else: they build .venv themselves.
#   make demo PYTHON=python3.12       another Python
#   make demo PIP_ARGS="..."          options for pip, such as where to find PyTorch's small build without CUDA
#   make test PYTEST_ARGS="-k fusion -x"
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=

SOURCE ?= assets/examples/source.jpg
DRIVING ?= assets/examples/driving.mp4
DEMO ?= demo/portrait.mp4

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-warn-script-location
# uv installs the same wheels as pip in a fraction of the time; where it cannot, or PIP_ARGS are given, pip does it.
UV := $(if $(PIP_ARGS),,$(BIN)/uv pip install --python $(BIN)/python)
pip_install = $(if $(UV),$(UV) $(1) || )$(PIP) $(PIP_ARGS) $(1)

.DEFAULT_GOAL := help
.PHONY: help demo test test-long lint types format check doctor install install-dev clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: install ## Animate the bundled portrait with the bundled clip
	@mkdir -p $(dir $(DEMO))
	$(BIN)/svdp animate --source $(SOURCE) --driving $(DRIVING) --output $(DEMO) --overwrite
	@echo "video:         $(abspath $(DEMO))"
	@echo "contact sheet: $(abspath $(DEMO:.mp4=.sheet.png))"

test: install-dev ## Run the tests
	$(BIN)/python -m pytest -m "not long" $(PYTEST_ARGS)

test-long: install-dev ## Run the tests that take minutes: runs killed again and again, hundreds of jobs
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

lint: install-dev ## Check style, formatting, and what the Comfy registry asks of a pack
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/comfy-test lint .
	@echo "comfy node validate"; said=$$($(BIN)/comfy --skip-prompt node validate 2>&1) || { echo "$$said"; exit 1; }; \
	case "$$said" in *"passed successfully"*) ;; *) echo "$$said"; exit 1;; esac  # it exits with 0 on warnings, too

types: install-dev ## Check the types of the layers
	$(BIN)/pyright --pythonpath $(BIN)/python

format: install-dev ## Format the code, sort imports
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

check: lint types test ## All three

install: $(VENV)/.installed ## Install the svdp command into .venv

install-dev: $(VENV)/.installed-dev ## The same with the tools for training and tests

doctor: ## Check Python and the system libraries that the face detector and OpenCV need
	@$(PYTHON) -c "$$CHECK_MACHINE"

clean: ## Remove .venv and everything that was generated
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c "$$CHECK_MACHINE"
	@$(PYTHON) -m venv $(VENV) || { echo "error: 'python -m venv' failed. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(if $(UV),-$(PIP) --quiet uv)
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.created
	$(call pip_install,--editable .)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.created
	$(call pip_install,--editable ".[dev]")
	@touch $@ $(VENV)/.installed

define CHECK_MACHINE
import ctypes, sys
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit("error: Python 3.10 to 3.13 is needed and " + sys.executable + " is " + sys.version.split()[0]
             + ". Name another one: make PYTHON=python3.12")
missing = []
for library in ("libEGL.so.1", "libGLESv2.so.2", "libGL.so.1", "libgthread-2.0.so.0"):
    try:
        sys.platform != "linux" or ctypes.CDLL(library)
    except OSError:
        missing.append(library)
if missing:
    sys.exit("error: MediaPipe and OpenCV need " + ", ".join(missing) + ". On Debian and Ubuntu: "
             "apt install libegl1 libgles2 libgl1 libglib2.0-0")
print("Python " + sys.version.split()[0] + " and the system libraries are fine")
endef
export CHECK_MACHINE
