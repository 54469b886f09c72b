# Two commands do everything on a fresh machine: `make demo` and `make test`. The rest is for developers.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= .demo

.PHONY: demo test test-slow torture check lint types build bench clean

demo: $(VENV)/.core  ## synthesise songs, pretrain on them without labels, probe, report; under 10 minutes on 2 cores
	rm -rf $(DEMO)
	$(BIN)/birdjepa doctor
	$(BIN)/birdjepa data synth $(DEMO)/songs
	$(BIN)/birdjepa pretrain demo --data $(DEMO)/songs/metadata.csv --out $(DEMO)/run
	$(BIN)/birdjepa probe $(DEMO)/run/encoder --data $(DEMO)/songs/metadata.csv --folds fold
	$(BIN)/birdjepa report $(DEMO)/run
	$(BIN)/birdjepa embed $(DEMO)/run/encoder $(DEMO)/songs --out $(DEMO)/embeddings.parquet
	@echo "open $(DEMO)/run/report.html in a browser"

test: $(VENV)/.dev  ## the fast suite
	$(BIN)/python -m pytest -m "not slow" -n 2

test-slow: $(VENV)/.dev  ## what takes minutes
	$(BIN)/python -m pytest -m slow

torture: $(VENV)/.dev  ## kills, full disks, damage, dying workers, bad numbers and signals by the hundred (docs/reliability.md)
	$(BIN)/python benchmarks/torture.py

check: lint types build test  ## everything that CI runs

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

build: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

bench: $(VENV)/.dev  ## every benchmark script, appending to benchmarks/RESULTS.md
	for script in sigreg source_loss train_step objectives loader scan embed real_audio metrics waveform; do $(BIN)/python benchmarks/$$script.py || exit 1; done

clean:
	rm -rf $(VENV) $(DEMO) dist build .pytest_cache .ruff_cache .hypothesis

# torch goes first and pinned: an open range would pull gigabytes of CUDA where a CPU build is on offer.
$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

# DeepSpeed comes as source and imports torch while it is built: beside it, then, and without its compiled operators.
$(VENV)/.dev: $(VENV)/.core
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation deepspeed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
