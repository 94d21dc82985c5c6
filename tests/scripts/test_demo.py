"""La commande demo : six variantes ou d'autres, leurs mesures, les conseils, la page."""

import json

import pytest
from page_helpers import read_page

from gpt_architecture.evaluation.comparison import SIX_VARIANTS


@pytest.fixture
def model(trained):
    return trained / "gpt-model.pt"


def records(outcome):
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


@pytest.mark.slow
def test_table_has_six_variants_measures_and_advice(cli, model):
    """Tout ce qui est promis est dans les tableaux."""
    outcome = cli("demo", "--model", model, "--max-tokens", 15)
    assert outcome.code == 0, outcome.err
    for label, _ in SIX_VARIANTS:
        assert outcome.out.count(label) == 3  # le texte, puis les deux tableaux de mesures
    for heading in ("Distinct-1", "Distinct-2", "Distinct-3", "Répétition", "log p moyen"):
        assert heading in outcome.out
    for heading in ("Perplexité", "Durée", "Tokens/s", "Pour"):
        assert heading in outcome.out
    assert "Self-BLEU" not in outcome.out  # une seule génération par variante
    assert "\x1b[" not in outcome.out


def test_json_lines_carry_the_measures(cli, model):
    """--json : un objet par variante, mesures dans leurs bornes."""
    found = records(cli("demo", "--model", model, "--json", "--max-tokens", 15))
    assert len(found) == 6
    assert [r["strategy"] for r in found] == [
        *("greedy", "temperature", "temperature", "temperature", "top_k", "top_p")
    ]
    for record in found:
        assert 0 < record["distinct_1"] <= 1
        assert 0 < record["distinct_2"] <= 1
        assert 0 <= record["repetition"] < 1
        assert record["mean_log_prob"] < 0
        assert record["perplexity"] > 1
        assert 1 <= record["tokens"] <= 15


def test_a_variant_asked_for_in_vain_is_named(cli, model):
    """Un filtre à température nulle : dit, sous le nom de sa variante."""
    lines = ("--variant", "top_k k=3 temperature=0 nom=Vaine", "--variant", "greedy")
    outcome = cli("demo", "--model", model, "--json", "--max-tokens", 2, *lines)
    assert len(records(outcome)) == 2
    assert "variante « Vaine » : à température 0" in outcome.err
    assert outcome.err.count("sans effet") == 1


@pytest.mark.slow
def test_same_seed_same_texts(cli, model):
    """La graine par défaut est fixe : deux démonstrations se ressemblent mot pour mot."""
    command = ("demo", "--model", model, "--json", "--max-tokens", 10)
    texts = [[record["text"] for record in records(cli(*command))] for _ in "ab"]
    other = [record["text"] for record in records(cli(*command, "--seed", 5))]
    assert texts[0] == texts[1]
    assert texts[0] != other


def test_chosen_variants_prompts_and_seeds(cli, model):
    found = records(
        cli(
            *("demo", "--model", model, "--json", "--max-tokens", 6, "--seed", 1, 2),
            *("--prompt", "La lampe", "--prompt", "-- L'eau"),
            *("--variant", "top_p p=0.5 nom=Sage", "--variant", "mirostat max_tokens=3"),
        )
    )
    assert [(r["variante"], r["prompt"], r["seed"]) for r in found] == [
        (variant, prompt, seed)
        for variant in ("Sage", "mirostat max_tokens=3")
        for prompt in ("La lampe", "-- L'eau")
        for seed in (1, 2)
    ]
    assert all(0 <= record["self_bleu"] <= 1 for record in found)
    assert all(record["tokens"] <= 3 for record in found[4:])


def test_tables_of_several_prompts_and_seeds(cli, model):
    outcome = cli(
        *("demo", "--model", model, "--max-tokens", 6, "--seeds", 1, 2),
        *("--prompt", "La lampe", "--prompt", "L'eau", "--variants", "greedy", "top_k k=3"),
    )
    assert outcome.code == 0, outcome.err
    for word in ("Invite : La lampe", "Invite : L'eau", "Graine", "Self-BLEU", "top_k k=3"):
        assert word in outcome.out


def test_configuration_file_and_environment(cli, model, monkeypatch, tmp_path):
    path = tmp_path / "demo.toml"
    path.write_text('[demo]\nvariant = ["top_k k=3", "greedy"]\nseed = [7]\n', encoding="utf-8")
    monkeypatch.setenv("GPT_ARCHITECTURE_PROMPT", "La lampe du passeur")
    found = records(cli("demo", "--model", model, "--json", "--max-tokens", 3, "--config", path))
    assert [(r["variante"], r["seed"]) for r in found] == [("top_k k=3", 7), ("greedy", 7)]
    assert {r["prompt"] for r in found} == {"La lampe du passeur"}


def test_page(cli, model, tmp_path):
    path = tmp_path / "rapport.html"
    outcome = cli("demo", "--model", model, "--max-tokens", 8, "--seed", 1, 2, "--html", path)
    assert outcome.code == 0, outcome.err
    assert str(path) in outcome.err
    reader = read_page(path.read_text(encoding="utf-8"))
    for label, _ in SIX_VARIANTS:
        assert label in reader.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--variant", "nucleus"), ("nucleus", "top_p")),
        (("--variant", "top_p p=2"), ("p vaut 2",)),
        (("--variant", "sample minp=0.1"), ("'minp'", "essayez min_p.")),
        (("--variant", "greedy", "--variant", "greedy"), ("greedy",)),
        (("--seed", -1), ("seed",)),
        (("--max-tokens", 0), ("--max-tokens vaut 0",)),
    ],
)
def test_bad_options_give_one_line(cli, model, options, words):
    cli("demo", "--model", model, *options).check_one_line_error(2, *words)


def test_unwritable_page_gives_one_line(cli, model):
    cli(
        "demo", "--model", model, "--max-tokens", 2, "--html", "/dev/null/x.html"
    ).check_one_line_error(1, "/dev/null")


def test_missing_model_gives_one_line(cli):
    """Sans modèle, on dit comment en avoir un."""
    cli("demo").check_one_line_error(1, "gpt-model.pt", "make train")
