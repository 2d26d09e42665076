# Everything starts from here; `make` alone prints what there is.

PYTHON ?= python3
BIN := .venv/bin
TRANSOM := $(BIN)/transom
STACK = $(if $(PORT),--port $(PORT))

.DEFAULT_GOAL := help
.PHONY: help up status logs down clean call test lint format protos bench venv dev

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  make up PORT=9000 APP=../my-app    another app, on another port, beside the first"

up: venv ## the whole system on this machine, serving APP (examples/inspect) on PORT (8080)
	@$(TRANSOM) up $(STACK) $(if $(APP),--app $(APP))

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

lint: dev ## style, types, floors, protos
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(MAKE) -s third_party
	@$(BIN)/buf lint

format: dev ## the code put in shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

protos: dev third_party ## proto/gen made anew from proto/
	@$(BIN)/python -m grpc_tools.protoc -I proto -I .transom/third_party \
		--python_out=proto/gen --pyi_out=proto/gen --grpc_python_out=proto/gen $$(find proto/transom -name '*.proto')

bench: dev ## what a call costs, beside others
	@$(BIN)/python -m bench

.PHONY: third_party
third_party:
	@$(BIN)/python -c "from pathlib import Path; from server.schema.compilation import export_shared; \
		export_shared(Path('.transom/third_party'))"

# .venv follows pyproject.toml: nothing is done where it has not changed.
venv:
	@$(PYTHON) -m deploy.native.venv native,inspect

dev:
	@$(PYTHON) -m deploy.native.venv native,inspect,dev
