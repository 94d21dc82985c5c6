# Deux commandes font tout : « make train » et « make test ».
# ARGS passe des options : make train ARGS="--epochs 3 --data mon-texte.txt"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --progress-bar off
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup train test infer demo visualize reproduce bench lint format check clean distclean

help: ## affiche cette aide
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: ## prépare .venv ; le refait si les versions épinglées changent, ou s'il est cassé
	@if ! cmp -s requirements.txt $(VENV)/requirements.installed || \
			! $(BIN)/python -c '' 2>/dev/null || \
			[ "$$(cat $(VENV)/emplacement 2>/dev/null)" != "$(CURDIR)" ]; then \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
			{ echo "erreur : Python 3.11 ou plus récent est nécessaire (PYTHON=python3.12 make …)" >&2; exit 1; }; \
		echo "Installation dans $(VENV) (une fois, quelques minutes)…" >&2; \
		rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && \
		$(PIP) "$$(grep '^torch==' requirements.txt)" && \
		$(PIP) -r requirements.txt && \
		echo "$(CURDIR)" > $(VENV)/emplacement && \
		cp requirements.txt $(VENV)/requirements.installed; \
	fi
	@if ! cmp -s pyproject.toml $(VENV)/pyproject.installed; then \
		$(PIP) --no-deps --no-build-isolation --editable . && \
		cp pyproject.toml $(VENV)/pyproject.installed; \
	fi

train: setup ## entraîne sur The Verdict (ou la nouvelle embarquée) : gpt-model.pt, loss-plot.pdf
	$(BIN)/gpt-architecture train $(ARGS)

test: setup ## lance tous les tests
	$(BIN)/python -m pytest $(ARGS)

infer: setup ## écrit la suite d'un texte
	$(BIN)/gpt-architecture infer $(ARGS)

demo: setup ## compare six stratégies de décodage
	$(BIN)/gpt-architecture demo $(ARGS)

visualize: setup ## trace l'effet de la température : temperature-visualization.pdf
	$(BIN)/gpt-architecture visualize $(ARGS)

reproduce: setup ## refait le tableau de docs/resultats.md (quelques minutes)
	$(BIN)/python benchmarks/reproduce.py $(ARGS)

bench: setup ## compare le pas d'entraînement à la référence et à Transformers
	$(BIN)/python -m pip --disable-pip-version-check install --quiet -r requirements-bench.txt
	$(BIN)/python benchmarks/train_step.py $(ARGS)

lint: setup ## style et types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## met le code en forme
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test ## style, types et tests

clean: ## retire les caches ; garde .venv et les modèles
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## retire aussi .venv
	rm -rf $(VENV)
