# Everything starts from `make install`, which the other targets run when it is needed. VENV and PYTHON may be given.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.autoslim-installed
DEMO_OUTPUT ?= runs/demo
CLUSTER_DIR ?= runs/cluster
CLUSTER_PORT ?= 8400
CLUSTER := PYTHONPATH=deploy $(BIN)/python -m loopback --folder $(CLUSTER_DIR) --port $(CLUSTER_PORT)

.PHONY: help install demo cluster cluster-stop test test-models test-rest test-all lint docs clean

help:
	@echo "make install   set up $(VENV)"
	@echo "make demo      search on scikit-learn's digits: real data, local Ray, SQLite, local MLflow"
	@echo "make cluster   the service with PostgreSQL, MLflow and two Ray nodes on this machine; Ctrl-C or make cluster-stop ends it"
	@echo "make test      the tests, at most ten minutes on two cores"
	@echo "make test-all  the rest of the tests, too"
	@echo "make lint      style, types, layers, insecure code"
	@echo "make docs      the documents as a site in site/, strictly"
	@echo "VENV=DIR and PYTHON=python3.x choose the environment and what makes it"

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "autoslim needs Python 3.11 or newer; give one with PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	@rm -rf $(DEMO_OUTPUT)
	$(BIN)/autoslim search --model deit_tiny_patch16_224 --from-scratch \
	  --model-args patch_size=4,embed_dim=64,depth=6,num_heads=4 --image-size 24 --data digits \
	  --flops 70% --flops 50% --flops 40% --trials 12 --epochs 5 --base-epochs 40 --base-lr 3e-3 --batch-size 32 \
	  --space smoke --concurrency 2 --speed eager,onnxruntime --output $(DEMO_OUTPUT)

cluster: $(STAMP)
	@$(CLUSTER) up

cluster-stop: $(STAMP)
	@$(CLUSTER) stop

# Two processes for two cores: the models on one side, the service and the search on the other.
MODEL_TESTS := $(addprefix tests/,benchmarks core cost data export methods models report training)

test: $(STAMP)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-models test-rest

test-models: $(STAMP)
	$(BIN)/python -m pytest -p no:cacheprovider -m 'not slow and not cluster' $(MODEL_TESTS)

test-rest: $(STAMP)
	$(BIN)/python -m pytest -p no:cacheprovider -m 'not slow and not cluster' $(MODEL_TESTS:%=--ignore=%)

test-all: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml autoslim workers

docs: $(STAMP)  ## the documents as a site in site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf build dist *.egg-info runs/demo
