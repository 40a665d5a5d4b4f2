# `make demo` and `make test` do everything on a fresh machine: a virtual environment, pinned packages, the work.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= 2.13.0
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test types faults extras models docs lint clean
CODE := src tests benchmarks docs examples
.DELETE_ON_ERROR:

# Real text to a plan that comes true, in about three minutes on two cores; the report is quickstart/report.html.
demo: $(VENV)/.core
	$(BIN)/allometry quickstart --yes

test: $(VENV)/.test
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# What `make test` tries a few times, tried often enough to count: crashes, damage, full disks, late wakers. Ten minutes.
faults: $(VENV)/.test
	ALLOMETRY_FAULTS=long OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s tests/faults

# The wheel, installed by pip into bare environments: laws alone, nn alone, training. A few minutes.
extras: $(VENV)/.test
	ALLOMETRY_EXTRAS=pip $(BIN)/python -m pytest tests/test_packaging.py

# Export, scoring, fine-tuning and distillation against transformers, llama.cpp and lm-eval themselves, which `make test` does without.
MODELS := $(addprefix tests/lm/test_,$(addsuffix .py,hugging_face_folder gguf_file stock_weights evaluate sampling)) \
  tests/nn/test_scale_pretrained.py $(addprefix tests/workflow/test_,finetune_model.py distill_study.py)
models: $(VENV)/.test
	$(PIP) install -q -c constraints.txt -e ".[gguf,evaluation]" xllamacpp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs $(MODELS)

# The site, in build/site: every page, link and anchor is checked. build/site/index.html opens offline.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/.test
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)
	$(BIN)/pyright

types: $(VENV)/.test
	$(BIN)/pyright

clean:
	rm -rf $(VENV) build/site

# The CPU build of PyTorch first, wherever pip can find it: the default build for Linux brings gigabytes of CUDA.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt "torch==$(TORCH)+cpu" \
	  || $(PIP) install -q "torch==$(TORCH)+cpu" --index-url https://download.pytorch.org/whl/cpu \
	  || $(PIP) install -q -c constraints.txt "torch==$(TORCH)"
	@touch $@

$(VENV)/.core: $(VENV)/.torch pyproject.toml
	$(PIP) install -q -c constraints.txt -e ".[train]"
	@touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml
	$(PIP) install -q -c constraints.txt -e ".[test]"
	@touch $@ $(VENV)/.core

# Beside the others, or alone: pages need no torch.
$(VENV)/.docs: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt -e ".[docs]"
	@touch $@
