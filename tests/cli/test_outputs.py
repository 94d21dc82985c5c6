"""Les sorties des commandes : jamais une entrée, jamais le fichier d'autrui, signées, en JSON."""

import json
import os

import pytest
from cli_helpers import tiny

from gpt_architecture.cli.app import COMMANDS, SUBCOMMANDS, build_app, with_json_file
from gpt_architecture.formats.model_file import read_model

PRECIOUS = "précieux"


@pytest.fixture
def model(trained, tmp_path):
    """Une copie du modèle, qu'un test peut perdre."""
    path = tmp_path / "gpt-model.pt"
    path.write_bytes((trained / "gpt-model.pt").read_bytes())
    return path


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "texte.txt"
    path.write_text("Le passeur leva la lampe deux fois. " * 30, encoding="utf-8")
    return path


def evaluate(model, text):
    return ("evaluate", model, "--data", text, "--tokens", 30, "--device", "cpu")


def writers(model, text):
    """Chaque commande qui écrit un fichier : ses arguments, son option, ce qu'elle lit."""
    infer = ("infer", model, "--prompt", "La lampe", "--max-tokens", 2)
    view = ("tokenizer", "view", text)
    return {
        "evaluate --json-file": (evaluate(model, text), "--json-file", (model, text)),
        "evaluate --report": ((*evaluate(model, text), "--length", 4), "--report", (model, text)),
        "infer --json-file": (infer, "--json-file", (model,)),
        "infer --trace-file": ((*infer, "--trace"), "--trace-file", (model,)),
        "infer --trace-format html": (
            (*infer, "--trace-format", "html"),
            "--trace-file",
            (model,),
        ),
        "infer --trace-format json": (
            (*infer, "--trace-format", "json"),
            "--trace-file",
            (model,),
        ),
        "demo --html": (("demo", model, "--max-tokens", 2), "--html", (model,)),
        "demo --json-file": (("demo", model, "--max-tokens", 2), "--json-file", (model,)),
        "inspect --json-file": (("inspect", model), "--json-file", (model,)),
        "tokenizer view --html": (view, "--html", (text,)),
        "tokenizer view --json-file": (view, "--json-file", (text,)),
        "tokenizer compare --json-file": (("tokenizer", "compare", text), "--json-file", (text,)),
        "convert --json-file": (
            ("convert", model, "copie.pt", "--to", "pt", "--force"),
            "--json-file",
            (model,),
        ),
        "quantize --json-file": (
            ("quantize", model, "--output", "q.safetensors", "--force"),
            "--json-file",
            (model,),
        ),
    }


QUICK = ("inspect --json-file", "tokenizer view --html")
NAMES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in writers(None, None)
]


@pytest.mark.parametrize("name", NAMES)
def test_an_input_is_never_replaced(cli, model, text, tmp_path, name):
    """Ni par son nom, ni par un lien physique ou symbolique, ni avec --force."""
    command, option, inputs = writers(model, text)[name]
    for source in inputs:
        before = source.read_bytes()
        hard, soft = tmp_path / "physique", tmp_path / "symbolique"
        os.link(source, hard)
        soft.symlink_to(source)
        for target in (source, hard, soft):
            force = () if "--force" in command else ("--force",)
            outcome = cli(*command, option, target, *force)
            outcome.check_one_line_error(1, "entrée de cette commande", option)
            assert outcome.out == ""
        assert source.read_bytes() == before
        hard.unlink()
        soft.unlink()


@pytest.mark.parametrize("name", NAMES)
def test_the_file_of_another_needs_force(cli, model, text, tmp_path, name):
    """Refusé sans --force avant tout travail ; sa propre sortie, elle, se réécrit."""
    command, option, _ = writers(model, text)[name]
    plain = [part for part in command if part != "--force"]
    if "--force" in command:  # une autre sortie, libre
        plain = [
            f"neuf-{part}" if part in ("copie.pt", "q.safetensors") else part for part in plain
        ]
    target = tmp_path / "sortie"
    target.write_text(PRECIOUS, encoding="utf-8")
    outcome = cli(*plain, option, target)
    outcome.check_one_line_error(1, "existe déjà", "--force", option)
    assert outcome.out == ""
    assert target.read_text(encoding="utf-8") == PRECIOUS
    assert cli(*command, option, target, *(() if "--force" in command else ("--force",))).code == 0
    assert PRECIOUS not in target.read_text(encoding="utf-8")
    if "--force" not in command:
        again = cli(*command, option, target)
        assert again.code == 0, again.err


@pytest.mark.parametrize("name", NAMES)
def test_no_device_no_folder_no_lost_place(cli, model, text, tmp_path, name):
    """Un périphérique, un dossier, un lieu qui n'existe pas : dits avant de lire le modèle."""
    command, option, _ = writers(model, text)[name]
    os.mkfifo(tmp_path / "tube")
    cli(*command, option, tmp_path / "tube").check_one_line_error(1, "c'est un tube")
    cli(*command, option, tmp_path).check_one_line_error(1, "est un dossier")
    cli(*command, option, text / "x").check_one_line_error(1, "pas un dossier")
    cli(*command, option, "x" * 300).check_one_line_error(1, "nom trop long")


def test_two_outputs_are_two_files(cli, model, text, tmp_path):
    outcome = cli(*evaluate(model, text), "--report", tmp_path / "a", "--json-file", tmp_path / "a")
    outcome.check_one_line_error(1, "le même fichier")
    for target, name in (("pt", "x.pt"), ("hf", "x")):
        inside = tmp_path / name if target == "pt" else tmp_path / name / "config.json"
        outcome = cli("convert", model, tmp_path / name, "--to", target, "--json-file", inside)
        assert outcome.code in (1, 2)
        assert "--json-file" in outcome.err
        assert not (tmp_path / name).exists()


def test_what_a_folder_holds_is_an_input(cli, model, tmp_path):
    """Un texte d'un dossier donné en entrée reste ce qu'il est, même avec --force."""
    texts = tmp_path / "textes"
    texts.mkdir()
    (texts / "a.txt").write_text("La lampe brûle. " * 40, encoding="utf-8")
    outcome = cli(*evaluate(model, texts), "--json-file", texts / "a.txt", "--force")
    outcome.check_one_line_error(1, "que cette commande lit")
    for _ in range(2):  # un fichier caché n'est pas lu : il se récrit
        assert cli(*evaluate(model, texts), "--json-file", texts / ".mesures.json").code == 0
    assert cli(*evaluate(model, texts), "--json-file", texts / "mesures.json").code == 0
    again = cli(*evaluate(model, texts), "--json-file", texts / "mesures.json")
    again.check_one_line_error(1, "mesures.json")


@pytest.mark.slow
def test_models_are_never_replaced_by_their_copies(cli, model, tmp_path):
    """convert, quantize, merge, tokenizer train, prepare : même avec --force."""
    before = model.read_bytes()
    cli("convert", model, model, "--to", "pt", "--force").check_one_line_error(1, "entrée")
    safe = tmp_path / "q.safetensors"
    assert cli("quantize", model, "--output", safe).code == 0
    link = tmp_path / "lien.safetensors"
    os.link(model, link)
    outcome = cli("quantize", model, "--output", link, "--force")
    outcome.check_one_line_error(1, "entrée", "--output")
    outcome = cli("merge", model, safe, "--out", safe, "--force")
    outcome.check_one_line_error(1, "entrée", "--out")
    assert model.read_bytes() == before
    weights = tmp_path / "hf" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"poids")
    (tmp_path / "hf" / "config.json").write_text("{}", encoding="utf-8")
    outcome = cli("convert", weights, tmp_path / "hf", "--to", "hf", "--force")
    outcome.check_one_line_error(1, "entrée")
    assert weights.is_file()


@pytest.mark.slow
def test_texts_are_never_replaced(cli, text):
    before = text.read_text(encoding="utf-8")
    outcome = cli("tokenizer", "train", text, "--out", text, "--force")
    outcome.check_one_line_error(1, "entrée", "--out")
    outcome = cli("prepare", text.parent, "--out", text.parent, "--force")
    outcome.check_one_line_error(1, "--out")
    assert text.read_text(encoding="utf-8") == before


def test_the_weights_beside_an_onnx_file(cli, model, tmp_path):
    """`x.onnx.data` d'autrui n'est ni écrasé ni effacé."""
    pytest.importorskip("onnx", reason="onnx n'est pas installé")
    beside = tmp_path / "x.onnx.data"
    beside.write_text(PRECIOUS, encoding="utf-8")
    cli("convert", model, tmp_path / "x.onnx", "--to", "onnx").check_one_line_error(1, "existe")
    assert beside.read_text(encoding="utf-8") == PRECIOUS


def test_training_keeps_what_it_reads(cli, model, tmp_path):
    """Le modèle de départ, par son nom ou par son dossier, survit à --force."""
    before = model.read_bytes()
    for start in (model, tmp_path):
        outcome = cli(
            *("train", "--from", start, "--data", "la-lampe-du-passeur", "--max-steps", 1),
            *("--output-dir", tmp_path, "--force", "--device", "cpu"),
        )
        outcome.check_one_line_error(1, "entrée", "--output-dir")
    assert model.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loss-plot.pdf", "journal.jsonl"])
def test_training_keeps_the_files_of_others(cli, tmp_path, name):
    (tmp_path / name).write_text(PRECIOUS, encoding="utf-8")
    command = ("train", *tiny(output_dir=tmp_path, max_steps=1))
    cli(*command).check_one_line_error(1, name, "--force")
    assert (tmp_path / name).read_text(encoding="utf-8") == PRECIOUS
    assert not (tmp_path / "gpt-model.pt").exists()
    assert cli(*command, "--force").code == 0
    again = cli(*command, "--force")  # les siens, cette fois, avec le reste
    assert again.code == 0, again.err
    assert (tmp_path / name).read_bytes()[:4] != PRECIOUS.encode()[:4]


@pytest.mark.slow
def test_the_figure_of_visualize(cli, model, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib n'est pas installé")
    figure = tmp_path / "temperature-visualization.pdf"
    figure.write_text(PRECIOUS, encoding="utf-8")
    command = ("visualize", model, "--prompt", "La lampe", "--output-dir", tmp_path)
    cli(*command).check_one_line_error(1, "existe déjà", "--force")
    assert cli(*command, "--force").code == 0
    assert cli(*command).code == 0  # la sienne


class TestJson:
    """--json : un drapeau, partout ; --json-file FICHIER : partout."""

    def test_every_command_means_the_same(self):
        app = build_app()
        commands = [(name,) for name in COMMANDS if name not in SUBCOMMANDS]
        commands += [(name, each) for name, inner in SUBCOMMANDS.items() for each in inner]
        for command in commands:
            target = app
            for part in command:
                target = target[part]
            names = {n: a for a in target.assemble_argument_collection() for n in a.names}
            assert ("--json" in names) == ("--json-file" in names), command
            if "--json" in names:
                assert names["--json"].hint is bool, command

    def test_a_flag_before_the_model(self, cli, model, text):
        """Le modèle qui suit --json reste le modèle, et n'est pas écrasé."""
        before = model.read_bytes()
        outcome = cli("evaluate", "--json", model, "--data", text, "--tokens", 30)
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["model"] == str(model)
        assert model.read_bytes() == before
        read_model(model)

    def test_the_old_form(self, cli, model, text, tmp_path):
        """`evaluate --json F` : F absent ou de sa façon."""
        target = tmp_path / "mesures.json"
        for _ in range(2):
            outcome = cli(*evaluate(model, text), "--json", target)
            assert outcome.code == 0, outcome.err
            assert json.loads(target.read_text(encoding="utf-8"))["generator"].endswith("evaluate")
        target.write_text('{"à": "moi"}', encoding="utf-8")
        outcome = cli(*evaluate(model, text), "--json", target)
        outcome.check_one_line_error(1, "existe déjà", "--json-file")

    @pytest.mark.parametrize(
        ("tokens", "expected"),
        [
            (["evaluate", "--json", "-"], ["evaluate", "--json"]),
            (["evaluate", "--json=-"], ["evaluate", "--json"]),
            (["evaluate", "--json", "neuf.pt"], ["evaluate", "--json", "neuf.pt"]),
            (["evaluate", "--json", "hub:gpt2"], ["evaluate", "--json", "hub:gpt2"]),
            (["evaluate", "--json", "--data", "x"], ["evaluate", "--json", "--data", "x"]),
            (["evaluate", "--json", "neuf"], ["evaluate", "--json-file", "neuf"]),
            (["inspect", "--json", "neuf"], ["inspect", "--json", "neuf"]),
            (["inspect", "--json=x.json"], ["inspect", "--json-file", "x.json"]),
            (["inspect", "--json=true"], ["inspect", "--json=true"]),
        ],
    )
    def test_old_forms(self, tokens, expected):
        assert with_json_file(tokens) == expected

    def test_file_and_screen_agree(self, cli, model, tmp_path):
        """Le fichier redit la sortie standard, et nomme la commande."""
        target = tmp_path / "suites.jsonl"
        command = ("infer", model, "--prompt", "La lampe", "--max-tokens", 3, "--n", 2)
        outcome = cli(*command, "--json", "--json-file", target)
        shown = [json.loads(line) for line in outcome.out.splitlines()]
        written = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
        assert [each.pop("generator") for each in written] == ["gpt-architecture infer"] * 2
        assert written == shown
        outcome = cli(*command, "--json-file", target)  # le texte reste à l'écran
        assert "---" in outcome.out
