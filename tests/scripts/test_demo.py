"""La commande demo : six variantes, leurs mesures, les conseils."""

import json

from gpt_architecture.evaluation.comparison import SIX_VARIANTS


def test_table_has_six_variants_measures_and_advice(cli, trained):
    """Tout ce qui est promis est dans le tableau."""
    outcome = cli("demo", "--model", trained / "gpt-model.pt", "--max-tokens", 15)
    assert outcome.code == 0, outcome.err
    for label, _ in SIX_VARIANTS:
        assert outcome.out.count(label) == 2  # le texte, puis les mesures
    for heading in ("Distinct-1", "Distinct-2", "Répétition", "log p moyen", "Durée", "Pour"):
        assert heading in outcome.out
    assert "\x1b[" not in outcome.out


def test_json_lines_carry_the_measures(cli, trained):
    """--json : un objet par variante, mesures dans leurs bornes."""
    outcome = cli("demo", "--model", trained / "gpt-model.pt", "--json", "--max-tokens", 15)
    records = [json.loads(line) for line in outcome.out.splitlines()]
    assert len(records) == 6
    assert [r["strategy"] for r in records] == [
        *("greedy", "temperature", "temperature", "temperature", "top_k", "top_p")
    ]
    for record in records:
        assert 0 < record["distinct_1"] <= 1
        assert 0 < record["distinct_2"] <= 1
        assert 0 <= record["repetition"] < 1
        assert record["mean_log_prob"] < 0
        assert 1 <= record["tokens"] <= 15


def test_same_seed_same_texts(cli, trained):
    """La graine par défaut est fixe : deux démonstrations se ressemblent mot pour mot."""
    command = ("demo", "--model", trained / "gpt-model.pt", "--json", "--max-tokens", 10)
    texts = [[json.loads(line)["text"] for line in cli(*command).out.splitlines()] for _ in "ab"]
    other = [json.loads(line)["text"] for line in cli(*command, "--seed", 5).out.splitlines()]
    assert texts[0] == texts[1]
    assert texts[0] != other


def test_missing_model_gives_one_line(cli):
    """Sans modèle, on dit comment en avoir un."""
    cli("demo").check_one_line_error(1, "gpt-model.pt", "make train")
