# Everything starts from `make install`, which the other targets run when it is needed. VENV and PYTHON may be given.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.autoslim-installed
DEMO_OUTPUT ?= runs/demo
DEMO := --model deit_tiny_patch16_224 --from-scratch \
  --model-args patch_size=4,embed_dim=64,depth=4,num_heads=4 --image-size 24 --data digits \
  --flops 50% --flops 40% --trials 9 --epochs 4 --base-epochs 24 --base-lr 3e-3 --batch-size 32 \
  --space smoke --concurrency 2 --speed onnxruntime --output $(DEMO_OUTPUT)
FAULTS_DIR ?= runs/faults
SOAK_DIR ?= runs/soak
CLUSTER_DIR ?= runs/cluster
CLUSTER_PORT ?= 8400
CLUSTER := PYTHONPATH=deploy $(BIN)/python -m loopback --folder $(CLUSTER_DIR) --port $(CLUSTER_PORT)
# Of the extras whose packages deploy/requirements.txt has; tests/deploy holds the two together.
BILL_OF_IMAGE := $(BIN)/python deploy/bill_of_materials.py --extras search,service,client --constraints deploy/constraints.txt

.PHONY: help install client demo demo-about cluster cluster-stop manifests constraints bill bill-image test test-all test-faults soak lint style types layers unused insecure docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "VENV=DIR and PYTHON=python3.x choose the environment and what makes it"

install: $(STAMP) ## set up the environment with everything

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "autoslim needs Python 3.11 or newer; give one with PYTHON=python3.x")'
	@echo 'autoslim and its packages are installed into $(VENV), once: some 8 GB, which takes'
	@echo 'about ten minutes on two slow cores. pip says little meanwhile.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(STAMP)

client: $(STAMP) ## write the synchronous client, autoslim/client/sync_client.py, from async_client.py
	$(BIN)/python autoslim/client/generate_sync.py

manifests: $(STAMP) ## write service.yaml, storage.yaml and mlflow.yaml of deploy/kuberay from the Helm chart, and hold it against the schemas
	$(BIN)/python deploy/helm/render.py
	PYTHONPATH=deploy $(BIN)/python -m helm.validate

constraints: $(STAMP) ## write deploy/constraints.txt: the version of everything that deploy/requirements.txt brings into the image
	$(BIN)/uv pip compile deploy/requirements.txt --python-version 3.12 --python-platform x86_64-manylinux_2_28 \
	  --no-annotate --custom-compile-command 'make constraints' --upgrade --quiet --output-file deploy/constraints.txt

bill: $(STAMP) ## print the bill of materials of this environment, CycloneDX 1.6, once every licence was looked at
	@$(BIN)/python deploy/bill_of_materials.py --check
	@$(BIN)/python deploy/bill_of_materials.py

bill-image: $(STAMP) ## print the bill of materials of the image: its packages at the versions that deploy/constraints.txt pins
	@$(BILL_OF_IMAGE) --check
	@$(BILL_OF_IMAGE)

demo: demo-about $(STAMP) ## search on scikit-learn's digits: real data, local Ray, SQLite, local MLflow
	@rm -rf $(DEMO_OUTPUT)
	$(BIN)/autoslim search $(DEMO)
	@echo
	@echo 'source $(VENV)/bin/activate'
	@echo 'autoslim evaluate $(DEMO_OUTPUT)/models/50% --data digits'
	@echo 'autoslim plan --model deit_small_patch16_224 --data ./your-images --flops 50%'

# Before anything is installed or loaded.
demo-about: ## say what the demo does, and how long it takes
	@echo 'The demo trains a small vision transformer on handwritten digits, and searches for the best'
	@echo 'slimmed model at 50 % and at 40 % of its FLOPs. It takes about six minutes on two slow cores'
	@echo 'without AVX-512, and less on others. The results come to $(DEMO_OUTPUT).'

cluster: $(STAMP) ## the service, PostgreSQL, MLflow and two Ray nodes on this machine, until Ctrl-C or cluster-stop
	@$(CLUSTER) up

cluster-stop: $(STAMP) ## end what `make cluster` started
	@$(CLUSTER) stop

# A file's tests stay in one of the two processes, so that what they share is made once.
test: $(STAMP) ## the tests, at most eight minutes on two cores
	$(BIN)/python -m pytest -p no:cacheprovider -m 'not slow and not cluster' --numprocesses 2 --dist loadfile --durations 25

test-all: $(STAMP) ## the tests marked `slow` and `cluster`, too, and every example of the properties
	AUTOSLIM_TEST_THOROUGH=1 $(BIN)/python -m pytest

# A second start goes on with the cases that have no result in FAULTS_DIR yet. The table is also printed where a test failed; not
# where pytest was interrupted.
test-faults: $(STAMP) ## the tests of single faults, and every fault beside a real job, with a table: an hour or two on two quiet cores
	AUTOSLIM_FAULTS_DIR=$(FAULTS_DIR) $(BIN)/python -m pytest -p no:cacheprovider -m faults; failed=$$?; \
	  [ $$failed -gt 1 ] || $(BIN)/python benchmarks/service_faults.py --folder $(FAULTS_DIR) || exit 1; exit $$failed

# A second start goes on after the last round in SOAK_DIR.
soak: $(STAMP) ## 200 small jobs through the service, a third of them with a fault: an hour or two
	$(BIN)/python benchmarks/soak.py --folder $(SOAK_DIR)

lint: style types layers unused insecure ## everything that reads the code: the five targets below, and the hooks of pre-commit

style: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

layers: $(STAMP) ## imports go down only
	$(BIN)/lint-imports

unused: $(STAMP) ## code that nothing uses, without the tests and with them; exceptions and reasons in pyproject.toml
	$(BIN)/vulture
	$(BIN)/vulture autoslim workers deploy/loopback benchmarks tests

insecure: $(STAMP) ## bandit
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml autoslim workers deploy/loopback

docs: $(STAMP) ## the documents as a site in site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean: ## remove what builds and the demo left
	rm -rf build dist *.egg-info runs/demo
