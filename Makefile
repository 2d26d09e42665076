# Everything starts from here; `make` alone prints what there is.

PYTHON ?= python3
BIN := .venv/bin
TRANSOM := $(BIN)/transom
STACK = $(if $(PORT),--port $(PORT))

# Dozens of processes of one program start here: it is compiled once, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up status logs down clean call test check format protos released bench conformance venv dev

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  make up PORT=9000 APP=../my-app    another app, on another port, beside the first"
	@echo "  make up HOST=0.0.0.0               for phones in the same network, too (all but files)"

up: venv ## the whole system on this machine, serving APP (examples/inspect) on PORT (8080)
	@$(TRANSOM) up $(STACK) $(if $(APP),--app $(APP)) $(if $(HOST),--host $(HOST))

status: venv ## what runs, and how it is
	@$(TRANSOM) status $(STACK) || true

logs: venv ## what the processes say, followed
	@$(TRANSOM) logs $(STACK) -f

down: venv ## all of it stopped; data stays
	@$(TRANSOM) down $(STACK)

clean: venv ## all of it stopped and its data removed, without asking
	@$(TRANSOM) clean $(STACK) --yes

test: dev ## every test, on real servers of its own
	@$(BIN)/pytest

check: dev third_party ## style, types, floors, protos, generated code, containers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/buf lint
	@$(BIN)/buf build --exclude-source-info -o .transom/protos.binpb
	@$(BIN)/buf breaking .transom/protos.binpb --against proto/released.binpb --path transom --path inspect \
		--config '{"version": "v2", "breaking": {"use": ["WIRE_JSON"]}}'
	@rm -rf .transom/gen && mkdir -p .transom/gen && $(call generate,.transom/gen) && diff -r -x __pycache__ proto/gen .transom/gen
	@$(BIN)/python -m edge --app examples/inspect -o .transom/envoy.yaml && diff envoy.yaml .transom/envoy.yaml
	@$(BIN)/transom check --strict examples/inspect >/dev/null
	@$(BIN)/hadolint Dockerfile
	@npx --yes dclint@3.1.0 -c deploy/compose/dclint.yaml --max-warnings 0 compose.yaml

format: dev ## the code put in shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

protos: dev third_party ## proto/gen and envoy.yaml made anew from the protos
	@$(call generate,proto/gen)
	@$(BIN)/python -m edge --app examples/inspect -o envoy.yaml

released: dev third_party ## the protos as they are: what later ones must not break
	@$(BIN)/buf build --exclude-source-info -o proto/released.binpb

bench: ## what a call costs, beside others (ARGS="--quick")
	@$(PYTHON) -m deploy.native.venv native,inspect,dev,bench
	@$(BIN)/python -m bench $(ARGS)

conformance: ## Google's own APIs, served unchanged, through Google's own clients (ARGS="--only kms --no-survey")
	@$(PYTHON) -m deploy.native.venv native,inspect,dev,conformance
	@$(BIN)/python -m tests.conformance $(ARGS)

generate = $(BIN)/python -m grpc_tools.protoc -I proto -I .transom/third_party \
	--python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) $$(find proto/transom -name '*.proto')

.PHONY: third_party
third_party:
	@rm -rf .transom/third_party
	@$(BIN)/python -c "from pathlib import Path; from server.schema.compilation import export_shared; \
		export_shared(Path('.transom/third_party'))"

# .venv follows pyproject.toml: nothing is done where it has not changed.
venv:
	@$(PYTHON) -m deploy.native.venv native,inspect

dev:
	@$(PYTHON) -m deploy.native.venv native,inspect,dev
