"""La commande infer : stratégies, flux, JSON, refus."""

import json

import pytest

from gpt_architecture import load


@pytest.fixture
def model(trained):
    return trained / "gpt-model.pt"


@pytest.mark.parametrize(
    "options",
    [
        ["--strategy", "greedy"],
        ["--strategy", "temperature", "--temperature", "0.7"],
        ["--strategy", "top_k", "--k", "5"],
        ["--strategy", "top_p", "--p", "0.9"],
    ],
)
def test_four_strategies(cli, model, options):
    """Les quatre lignes du document d'origine, sur un modèle entraîné."""
    outcome = cli(
        *("infer", "--model", model, "--prompt", "Le passeur", "--max_tokens", 12, "--seed", 1),
        *options,
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("Le passeur")
    assert len(outcome.out) > len("Le passeur\n")
    assert outcome.err.startswith(f"{model} chargé sur ")
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "ignored"),
    [
        (["--k", "5", "--min-p", "0.1"], "--k, --min-p"),
        (["--strategy", "mirostat"], "--strategy mirostat"),
        (["--repetition-penalty", "1.2"], None),
    ],
)
def test_what_a_null_temperature_ignores_is_said(cli, model, options, ignored):
    """Une ligne sur stderr, rien de plus : le texte s'écrit."""
    outcome = cli("infer", "--model", model, "--max-tokens", 2, "--temperature", 0, *options)
    assert outcome.code == 0, outcome.err
    assert outcome.out
    said = [line for line in outcome.err.splitlines() if "sans effet" in line]
    assert [line.partition("sans effet : ")[2] for line in said] == ([ignored] if ignored else [])


def test_text_is_the_library_text(cli, model):
    """La commande écrit exactement ce que rend la bibliothèque en trois lignes."""
    options = ("--strategy", "top_p", "--p", 0.8, "--max-tokens", 20, "--seed", 4)
    outcome = cli("infer", "--model", model, "--prompt", "La lampe", *options)
    expected = load(model).generate("La lampe", strategy="top_p", p=0.8, max_tokens=20, seed=4)
    assert outcome.out == expected + "\n"


def test_seed_is_told_and_reproduces(cli, model):
    """Sans graine, celle qui a servi est dite ; la redonner redonne le texte."""
    base = ("infer", "--model", model, "--prompt", "La lampe", "--strategy", "temperature")
    first = cli(*base)
    seed = first.err.split("graine ")[1].split(" ")[0]
    assert cli(*base, "--seed", seed).out == first.out


def test_json_is_one_object(cli, model):
    """--json : un objet lisible par un programme, rien d'autre."""
    outcome = cli("infer", "--model", model, "--prompt", "La lampe", "--json", "--seed", 3)
    record = json.loads(outcome.out)
    assert record["prompt"] == "La lampe"
    assert record["strategy"] == "greedy"
    assert record["completion"]


def test_default_prompt_is_the_training_prompt(cli, model):
    """Sans --prompt, le début est celui des exemples de l'entraînement."""
    assert cli("infer", "--model", model).out.startswith("Un soir d'octobre, la cloche")


def test_prompt_from_standard_input(cli, model, monkeypatch):
    """« --prompt - » lit l'entrée standard."""
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("La lampe\n"))
    assert cli("infer", "--model", model, "--prompt", "-").out.startswith("La lampe")


def test_model_is_found_in_a_parent_folder(cli, trained, tmp_path, monkeypatch):
    """Depuis scripts/, on trouve le modèle de la racine."""
    deep = tmp_path / "src" / "gpt_architecture" / "scripts"
    deep.mkdir(parents=True)
    (tmp_path / "gpt-model.pt").write_bytes((trained / "gpt-model.pt").read_bytes())
    monkeypatch.chdir(deep)
    assert cli("infer", "--prompt", "La lampe").code == 0


def test_model_from_environment(cli, model, monkeypatch):
    """GPT_ARCHITECTURE_MODEL désigne le modèle."""
    monkeypatch.setenv("GPT_ARCHITECTURE_MODEL", str(model))
    assert cli("infer", "--prompt", "La lampe").code == 0


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--strategy", "magique"], 2, ["magique", "top_p"]),
        (["--max-tokens", "0"], 2, ["--max-tokens vaut 0"]),
        (["--temperature", "-1"], 2, ["temperature"]),
        (["--temperature", "nan"], 2, ["temperature"]),
        (["--k", "0"], 2, ["k vaut 0"]),
        (["--p", "1.5"], 2, ["p vaut 1.5"]),
        (["--seed", "-4"], 2, ["seed"]),
        (["--strategy", "greedy", "--top-k", "5"], 2, ["k est donné", "greedy"]),
        (["--strategy", "greedy", "--temperature", "0.7"], 2, ["temperature est donné"]),
        (["--strategy", "beam", "--min-p", "0.1"], 2, ["--min-p est donné"]),
        (["--dry-base", "2"], 2, ["--dry-base", "--dry-multiplier"]),
        (["--prompt", ""], 2, ["--prompt"]),
        (["--prompt", "   "], 2, ["--prompt"]),
        (["--device", "abaque"], 2, ["abaque"]),
        (["--model", "absent.pt"], 1, ["absent.pt", "gpt-architecture train"]),
    ],
)
def test_bad_option_gives_one_line(cli, model, options, code, words):
    """Chaque mauvaise option : une ligne et le bon code."""
    base = [] if "--model" in options else ["--model", model]
    outcome = cli("infer", *base, *options)
    outcome.check_one_line_error(code, *words)
    assert outcome.out == ""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("--chat", "Qui ?"), ("--prompt", "La lampe")),
        (("--prompt", "La lampe"), ("--prompts", "débuts.txt")),
        (("--score",), ("--trace",)),
        (("--trace",), ("--prompts", "débuts.txt")),
        (("--trace",), ("--n", "2")),
        (("--trace",), ("--lookup", "4")),
        (("--trace",), ("--draft", "petit.pt")),
        (("--trace",), ("--json",)),
    ],
)
def test_what_does_not_go_together_is_refused(cli, model, first, second):
    """Avant de charger le modèle, et plutôt que d'en ignorer un."""
    outcome = cli("infer", model, *first, *second)
    outcome.check_one_line_error(2, f"{first[0]} et {second[0]}", "sont donnés ensemble")
    assert outcome.out == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--regex", "["),
        ("--json-schema", "{"),
        ("--logit-bias", "99999999=1"),
    ],
)
def test_nothing_is_written_before_a_refusal(cli, model, options):
    """Le début n'est pas repris quand ce qui le suit ne peut pas être écrit."""
    outcome = cli("infer", model, "--prompt", "La lampe", *options)
    assert outcome.code != 0
    assert outcome.out == ""
    variant = "sample logit_bias={99999999=1}"
    outcome = cli("demo", model, "--prompt", "La lampe", "--variant", variant)
    outcome.check_one_line_error(2, "logit_bias")
    assert outcome.out == ""


@pytest.mark.slow
def test_bad_model_files_give_one_line(cli, model, tmp_path):
    """Fichier tronqué, vide ou étranger."""
    content = model.read_bytes()
    for name, data in (("tronque", content[: len(content) // 2]), ("vide", b""), ("texte", b"abc")):
        path = tmp_path / f"{name}.pt"
        path.write_bytes(data)
        cli("infer", "--model", path).check_one_line_error(1, name)


def test_unexpected_words_are_refused(cli, model):
    """Un argument sans option est une erreur d'usage."""
    cli("infer", "bonjour", "--model", model).check_one_line_error(2, "bonjour")
