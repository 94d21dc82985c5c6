"""Les exemples des docstrings de la face Python, exécutés sur un modèle minuscule."""

import doctest
import json
import shutil
from importlib import import_module
from inspect import isfunction

import pytest
from conftest import FRENCH_TEXT

import gpt_architecture
from gpt_architecture import GPT, train

MODULES = (
    *("chats", "comparisons", "conversions", "dossiers", "forgetting", "gpt", "inspection"),
    *("labels", "learning", "listing", "loading", "measures", "merging", "plans"),
    *("preparation", "quantization", "receipts", "runs", "service", "sharing", "sources"),
    *("understanding", "verification", "vocabularies"),
)
SHOWN = (
    *("ablate", "attention", "classify", "complete", "distribution", "embedding_map", "heads"),
    *("lens", "neighbours", "neuron", "neurons", "tokens", "trace"),
)
"""Méthodes d'un modèle qui rendent ce qu'un carnet affiche."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Un dossier d'entraînement minuscule."""
    folder = tmp_path_factory.mktemp("exemples") / "modele"
    text = folder.with_name("texte.txt")
    text.write_text(FRENCH_TEXT, encoding="utf-8")
    said = [{"role": "user", "content": "La nuit ?"}, {"role": "assistant", "content": "Oui."}]
    talks = f"{json.dumps({'messages': said})}\n" * 12
    text.with_name("dialogues.jsonl").write_text(talks, encoding="utf-8")
    train(
        "la-lampe-du-passeur",
        **{
            "tokenizer": "bpe-300",
            "context_length": 128,
            "emb_dim": 32,
            "n_heads": 2,
            "n_layers": 1,
        },
        **{"max_steps": 4, "eval_freq": 2, "engine": "autograd", "device": "cpu"},
        output_dir=folder,
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_examples(name, model, monkeypatch, tmp_path):
    shutil.copytree(model, tmp_path / "modele")
    for file in ("texte.txt", "dialogues.jsonl"):
        shutil.copy(model.with_name(file), tmp_path)
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(import_module(f"gpt_architecture.api.{name}"), report=True)
    assert found.attempted > 0
    assert found.failed == 0


def test_each_function_has_one():
    functions = [
        value
        for name in gpt_architecture._NAMES["api"].split()
        if isfunction(value := getattr(gpt_architecture, name))
    ]
    assert {each.__name__ for each in functions} >= {"train", "chat", "merge", "inspect_model"}
    for each in (*functions, *(getattr(GPT, name) for name in SHOWN)):
        assert ">>> " in (each.__doc__ or ""), each
