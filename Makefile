# Deux commandes font tout : « make train » et « make test ».
# ARGS passe des options : make train ARGS="--epochs 3 --data mon-texte.txt"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# auto : PyTorch sans CUDA là où il n'y a pas de pilote NVIDIA ; cuda : celui de PyPI
TORCH ?= auto

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev train test test-rapide infer demo visualize reproduce images cours bench lint format check docs build clean distclean

help: ## affiche cette aide
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: ## prépare .venv ; le refait si les versions épinglées changent, ou s'il est cassé
	@$(PYTHON) tools/setup.py --torch $(TORCH)

setup-dev: ## prépare .venv avec ce que demandent les tests, le style et les types
	@$(PYTHON) tools/setup.py --torch $(TORCH) --dev

train: setup ## entraîne sur The Verdict (ou la nouvelle embarquée) : gpt-model.pt, loss-plot.pdf
	$(BIN)/gpt-architecture train $(ARGS)

test: setup-dev ## lance tous les tests, deux fichiers à la fois
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-rapide: setup-dev ## ceux qui ne lancent ni processus ni navigateur, et ne durent pas
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not process and not browser and not slow" $(ARGS)

infer: setup ## écrit la suite d'un texte
	$(BIN)/gpt-architecture infer $(ARGS)

demo: setup ## compare six stratégies de décodage
	$(BIN)/gpt-architecture demo $(ARGS)

visualize: setup ## trace l'effet de la température : temperature-visualization.pdf
	$(BIN)/gpt-architecture visualize $(ARGS)

reproduce: setup ## refait le tableau de docs/mesures/resultats.md (quelques minutes)
	$(BIN)/python benchmarks/reproduce.py $(ARGS)

images: setup-dev ## refait les images de la documentation (docs/figures)
	$(BIN)/python tools/pictures/make.py $(ARGS)

bench: setup-dev ## compare le pas d'entraînement à la référence et à Transformers
	$(BIN)/python -m pip --disable-pip-version-check install --quiet -r requirements-bench.txt
	$(BIN)/python benchmarks/train_step.py $(ARGS)

cours: setup-dev ## remet d'accord les carnets, les figures et les nombres du cours
	$(BIN)/python tools/course.py $(ARGS)

lint: setup-dev ## style et types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup-dev ## met le code en forme
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test ## style, types et tests

docs: setup-dev ## écrit site/, la documentation : site/index.html s'ouvre tel quel, sans serveur
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --clean

build: setup-dev ## écrit dist/ : la roue et les sources, installables par pip
	rm -rf dist
	$(BIN)/python -m hatchling build

clean: ## retire les caches ; garde .venv et les modèles
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## retire aussi .venv
	rm -rf $(VENV)
