"""lm-eval : mêmes chiffres que son modèle `hf` sur le dossier exporté, et que nos épreuves."""

import json
import logging
import math
import os
import sys

import pytest
from parity_helpers import random_model, to_transformers

from gpt_architecture.config import GPTConfig
from gpt_architecture.data.tokenizer import GPT2Tokenizer, SimpleTokenizerV1, tokenizer_json
from gpt_architecture.errors import ConfigurationError, DataError, MissingDependencyError
from gpt_architecture.evaluation.lm_eval import (
    LOCAL_TASKS,
    evaluate_harness,
    local_folder,
    run_tasks,
)
from gpt_architecture.evaluation.minimal_pairs import measure_pairs, read_pairs
from gpt_architecture.evaluation.perplexity import TokenDocument, measure_documents
from gpt_architecture.evaluation.task_files import read_choices, read_last_words
from gpt_architecture.evaluation.tasks import measure_choices, measure_last_words

pytest.importorskip("lm_eval", reason="le paquet lm-eval n'est pas installé")

WINDOW = 64
SMALL_TASKS = [name for name in LOCAL_TASKS if name != "paires_fr"]
"""Celles qui se passent entières : les paires sont six mille."""


@pytest.fixture(scope="module")
def pair():
    """Un GPT-2 minuscule, au vocabulaire entier, et son tokenizer."""
    config = GPTConfig(
        vocab_size=50257,
        context_length=WINDOW,
        emb_dim=16,
        n_heads=2,
        n_layers=1,
        drop_rate=0.0,
        qkv_bias=True,
        tie_weights=True,
    )
    return random_model(config), GPT2Tokenizer()


@pytest.fixture(scope="module")
def ours(pair):
    """Toutes nos épreuves, passées par notre modèle."""
    return {each.name: each for each in run_tasks(SMALL_TASKS, *pair, window=WINDOW, max_rows=8)}


def values(result):
    return {(metric.name, metric.filter): metric.value for metric in result.metrics}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # ceux de Transformers et de ses dépendances
def test_the_hf_backend_agrees(pair, ours, tmp_path_factory):
    """Chaque mesure de chaque épreuve, par le modèle `hf` de lm-eval sur le dossier exporté."""
    transformers = pytest.importorskip("transformers", reason="transformers n'est pas installé")
    pytest.importorskip("accelerate", reason="le modèle hf de lm-eval demande accelerate")
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = pair
    folder = tmp_path_factory.mktemp("export")
    to_transformers(model).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokenizer)), "utf-8")
    end = "<|endoftext|>"
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token=end, eos_token=end
    ).save_pretrained(folder)
    backend = HFLM(pretrained=str(folder), device="cpu", batch_size=4, dtype="float32")
    theirs = evaluate_harness(backend, SMALL_TASKS)
    assert [each.name for each in theirs] == list(ours)
    for each in theirs:
        assert each.count == ours[each.name].count > 5
        assert values(ours[each.name]) == pytest.approx(values(each), rel=1e-4)


@pytest.mark.slow
def test_generations_are_the_hf_backend_s(pair, tmp_path):
    """Mêmes suites gloutonnes, arrêtées aux mêmes textes, et non seulement mêmes notes."""
    pytest.importorskip("transformers", reason="transformers n'est pas installé")
    from lm_eval.api.instance import Instance

    from gpt_architecture.evaluation.harness import HarnessModel

    model, tokenizer = pair
    settings = [{"until": ["\n"], "max_gen_toks": 6}, {"until": "e", "max_gen_toks": 9}]
    requests = [
        Instance("generate_until", {}, (prompt, kwargs), 0)
        for prompt in ("Le passeur leva", "", "mot " * 90)
        for kwargs in settings
    ]
    found = HarnessModel(model, tokenizer, window=WINDOW, max_rows=4).generate_until(requests)
    theirs = to_transformers(model)
    for request, text in zip(requests, found, strict=True):
        prompt, kwargs = request.args
        room = WINDOW - kwargs["max_gen_toks"]
        ids = (tokenizer.encode(prompt) or [tokenizer.eos_id])[-room:]
        assert text == slow_generation(theirs, tokenizer, ids, kwargs)


def slow_generation(theirs, tokenizer, ids, kwargs):
    """Le choix glouton de Transformers, coupé au premier texte d'arrêt."""
    import torch

    produced = []
    for _ in range(kwargs["max_gen_toks"]):
        with torch.no_grad():
            token = int(theirs(torch.tensor([ids + produced])).logits[0, -1].argmax())
        if token == tokenizer.eos_id:
            break
        produced.append(token)
    text = tokenizer.decode(produced)
    until = kwargs["until"]
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0]
    return text


@pytest.mark.slow
def test_native_measures_agree(pair, ours):
    """--lambada et --choices donnent les chiffres de lm-eval sur les mêmes fichiers."""
    words = read_last_words(local_folder() / "dernier_mot_fr.jsonl")
    found = measure_last_words(*pair, words, window=WINDOW)
    harness = values(ours["dernier_mot_fr"])
    assert found.accuracy == harness["acc", "none"]
    assert found.perplexity == pytest.approx(harness["perplexity", "none"], rel=1e-6)
    choices = read_choices(local_folder() / "suite_fr.jsonl")
    result = measure_choices(*pair, choices, window=WINDOW)
    harness = values(ours["suite_fr"])
    assert (result.acc, result.acc_norm) == (harness["acc", "none"], harness["acc_norm", "none"])
    assert 0 < result.acc < 1


@pytest.mark.slow
def test_minimal_pairs_agree(pair):
    """lm-eval choisit les mêmes phrases que `measure_pairs`, sur les paires qu'il lit."""
    (theirs,) = run_tasks(["paires_fr"], *pair, window=WINDOW, limit=100)
    phenomena, pairs = read_pairs()
    first = [each for each in pairs if each.phenomenon == phenomena[0].name]
    found = measure_pairs(*pair, phenomena, first, window=WINDOW)
    assert theirs.count == len(first) == 100
    assert values(theirs)["acc", "none"] == found.total.accuracy
    assert 0 < found.total.accuracy < 1


@pytest.mark.slow
def test_rolling_is_our_disjoint_stride(pair, ours):
    """Bits par octet de lm-eval = les nôtres avec un pas égal à la fenêtre."""
    model, tokenizer = pair
    lines = (local_folder() / "prose_fr.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    documents = [
        TokenDocument(name="", tokens=tokenizer.encode(text), num_bytes=len(text.encode()))
        for text in texts
    ]
    assert any(len(each.tokens) > WINDOW for each in documents)
    found = measure_documents(
        model, documents, window=WINDOW, stride=WINDOW, prefix=tokenizer.eos_id
    )
    harness = values(ours["prose_fr"])
    assert found.total.bits_per_byte == pytest.approx(harness["bits_per_byte", "none"], rel=1e-6)


def test_local_examples_are_sound():
    """Rien n'est répété ; la bonne suite n'est pas toujours à la même place."""
    for name in LOCAL_TASKS:
        lines = (local_folder() / f"{name}.jsonl").read_text("utf-8").splitlines()
        assert len(set(lines)) == len(lines) > 5
    labels = [each.label for each in read_choices(local_folder() / "suite_fr.jsonl")]
    assert {labels.count(rank) for rank in range(4)} == {len(labels) // 4}


@pytest.mark.slow
def test_limit_and_progress(pair, capfd):
    """La limite vaut pour chaque épreuve ; lm-eval n'écrit rien, l'avancement si."""
    steps = []

    def note(kind, done, total):
        print(kind, file=sys.stderr)
        steps.append((kind, done, total))

    before = dict(os.environ)
    (found,) = run_tasks(["serie_fr"], *pair, window=WINDOW, limit=3, on_progress=note)
    assert found.count == 3
    assert steps == [("générations", 3, 3)]
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "générations\n")
    assert dict(os.environ) == before
    assert logging.getLogger("lm_eval").level != logging.ERROR


def test_a_vocabulary_without_end_of_text():
    """Sans début de texte, le premier mot est donné : tout se mesure encore."""
    examples = read_choices(local_folder() / "suite_fr.jsonl")
    text = " ".join(part for each in examples for part in (each.context, *each.choices))
    tokenizer = SimpleTokenizerV1.from_text(text)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, context_length=32, emb_dim=16, n_heads=2, n_layers=1
    )
    (found,) = run_tasks(["suite_fr"], random_model(config), tokenizer, window=32)
    assert all(math.isfinite(metric.value) for metric in found.metrics)


@pytest.mark.slow
def test_unknown_task(pair):
    with pytest.raises(DataError, match="épreuve inconnue : nulle_part"):
        run_tasks(["nulle_part"], *pair, window=WINDOW)


@pytest.mark.slow
def test_tasks_without_data_are_said(pair):
    """Une épreuve de lm-eval dont les données sont sur le hub, hors ligne : une phrase."""
    with pytest.raises(DataError, match="données de hellaswag") as caught:
        run_tasks(["hellaswag"], *pair, window=WINDOW, offline=True)
    assert "dernier_mot_fr" in str(caught.value)


@pytest.mark.slow
def test_without_lm_eval(pair, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingDependencyError, match="pip install lm-eval"):
        run_tasks(["suite_fr"], *pair, window=WINDOW)


def test_generation_settings():
    """Les réglages de lm-eval dans nos termes ; un réglage inconnu n'est pas ignoré."""
    from gpt_architecture.evaluation.harness import DEFAULT_NEW_TOKENS, generation_config

    plain = generation_config({"until": "\n"}, seed=3)
    assert (plain.strategy, plain.stop) == ("greedy", ("\n",))
    assert plain.max_tokens == DEFAULT_NEW_TOKENS
    greedy = generation_config({"do_sample": False, "temperature": 0.7, "max_tokens": 4}, seed=3)
    assert (greedy.strategy, greedy.max_tokens) == ("greedy", 4)
    drawn = generation_config({"temperature": 0.7, "top_k": 5, "top_p": 0.9}, seed=3)
    assert (drawn.strategy, drawn.temperature, drawn.k, drawn.p, drawn.seed) == (
        *("sample", 0.7, 5, 0.9, 3),
    )
    with pytest.raises(ConfigurationError, match="num_beams"):
        generation_config({"num_beams": 4}, seed=3)
