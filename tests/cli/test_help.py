"""L'aide et les refus : l'ordre, les noms, les nombres, et des options que la commande a."""

import ast
import inspect
import re
import sys
from pathlib import Path

import docstring_parser
import pytest
from cli_helpers import run_process

import gpt_architecture
from gpt_architecture.cli import field_help
from gpt_architecture.cli.app import COMMANDS, SUBCOMMANDS, build_app
from gpt_architecture.cli.field_help import documented_fields
from gpt_architecture.cli.usage import (
    COMMON_OPTIONS,
    COMMON_TITLE,
    HIDDEN_NAMES,
    as_typed,
    memory_message,
)
from gpt_architecture.config import PRESET_NOTES, TRAINING_PRESETS
from gpt_architecture.main import main

SOURCE = Path(gpt_architecture.__file__).resolve().parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]+")
WHOLE_COMMAND = re.compile(r"gpt-architecture [a-z][^;»]*|chat --server|infer --trace")
"""Une commande citée entière : ses options sont les siennes."""

PATHS = [
    *((name,) for name in COMMANDS if name not in SUBCOMMANDS),
    *((name, each) for name, group in SUBCOMMANDS.items() for each in group),
]
ABSENT = {
    "train": ("--data", "absent.txt"),
    "prepare": ("absent.txt", "--out", "sortie"),
    "plan": ("absent.txt", "--hours", "1"),
    "merge": ("absent.pt", "absent.safetensors", "--out", "m.pt"),
    "convert": ("absent.pt", "m", "--to", "pt"),
    "models": ("absent",),
    "push": ("absent.pt", "m"),
    "pull": ("absent", "m"),
    "tokenizer train": ("absent.txt",),
    "tokenizer compare": ("absent.txt",),
    "tokenizer view": ("absent.txt",),
}
"""De quoi arrêter une commande avant tout travail : ce qu'elle doit lire n'existe pas."""


def arguments_of(path):
    app = build_app()
    for name in path:
        app = app[name]
    return app.assemble_argument_collection()


def options_of(path):
    """Les options de cette commande, orthographes cachées comprises."""
    names = {name for each in arguments_of(path) for name in each.names}
    return {name for name in names if name.startswith("--")} | {"--help", "--version"}


def frames(text):
    """Titre de chaque cadre d'une aide → ses options, dans l'ordre."""
    found = {}
    for line in text.splitlines():
        if line.startswith("╭"):
            options = found[line.strip("╭╮─ ")] = []
        elif match := re.match(r"│ (?:MODÈLE )?(--[a-z0-9-]+)", line):
            options.append(match[1])
    return found


@pytest.fixture(scope="module")
def helps():
    """L'aide de chaque commande, dans un terminal large."""
    import contextlib
    import io

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "300")
        for path in PATHS:
            with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
                main([*path, "--help"])
            found[path] = out.getvalue()
    return found


def test_infer_begins_with_the_prompt(helps):
    """Ce qu'on écrit, puis le modèle, puis la façon de choisir ; le calcul vient après."""
    found = frames(helps["infer",])
    titles = list(found)
    assert titles[:3] == ["Invite", "Modèle", "Décodage"]
    assert found["Invite"][0] == "--prompt"
    assert titles.index("Calcul") > titles.index("Filtres")
    assert "Options" not in titles


def test_train_begins_with_ten_options(helps):
    """Les dix options courantes, dans leur ordre ; toutes les autres sont dites avancées."""
    found = frames(helps["train",])
    assert next(iter(found)) == COMMON_TITLE
    assert found[COMMON_TITLE] == list(COMMON_OPTIONS)
    assert len(COMMON_OPTIONS) == 10
    for title in list(found)[1:-1]:
        assert title.startswith("Avancé : "), title
    assert list(found)[-1] == "Général"


def test_train_tells_what_each_preset_sets(helps):
    """Chaque préréglage, ce à quoi il sert, et chacune de ses options."""
    text = " ".join(helps["train",].partition("Préréglages")[2].split())
    assert set(PRESET_NOTES) == set(TRAINING_PRESETS)
    for name, options in TRAINING_PRESETS.items():
        assert f"{name} : {PRESET_NOTES[name]}." in text
        for option in options:
            assert f"--{option.replace('_', '-')}" in text
    for given in ("--drop-rate 0 --lr 0.0005", "--data la-lampe-du-passeur --output-dir eclair"):
        assert given in text
    assert "--qkv-bias --tie-weights --epochs" in text


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_numbers_have_one_form(helps, path):
    """Un point décimal comme on le tape, pas de zéro inutile, aucune espace insécable."""
    text = helps[path]
    assert not re.search(r"\d,\d", text)
    assert not re.search(r"[\u00a0\u202f]", text)
    for default in re.findall(r"\[défaut : ([^\]]+)\]", text):
        assert not re.search(r"^\d+\.0$|e-0|[,'()]", default), default
    for english in ("INT", "FLOAT", "STR", "PATH", "CHOICE", "..."):
        assert not re.search(rf"--[a-z0-9-]+ {re.escape(english)}", text), english


@pytest.mark.parametrize(
    ("written", "typed"),
    [
        ("5.0", "5"),
        ("0.1", "0.1"),
        ("1e-08", "1e-8"),
        ("(0.3, 0.7, 1.0, 2.0)", "0.3 0.7 1 2"),
        ("('query', 'value')", "query value"),
        ("la-lampe-2.0", "la-lampe-2.0"),
        ("[]", ""),
    ],
)
def test_a_default_is_written_as_it_is_typed(written, typed):
    """Une valeur de Python devient ce qu'on taperait ; un nom reste tel quel."""
    assert as_typed(written) == typed


def test_other_spellings_are_hidden_but_work(helps):
    """Une seule langue dans l'aide ; l'autre orthographe est lue comme avant."""
    known = {name for path in PATHS for name in options_of(path)}
    assert known >= HIDDEN_NAMES
    for text in helps.values():
        assert not HIDDEN_NAMES & set(OPTION.findall(text))
    for old, new, value in (
        ("--ordre", "--order", "llama.cpp"),
        ("--choix", "--choices", "oui"),
        ("--interdit", "--banned", "non"),
    ):
        bounds = [
            build_app().parse_args(["infer", name, value], exit_on_error=False)[1].kwargs
            for name in (old, new)
        ]
        assert bounds[0] == bounds[1]


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_usage_and_values_agree(helps, path):
    """Ce que la ligne d'usage demande porte le même nom dans les cadres."""
    usage, _, rest = helps[path].partition("\n")
    for option, value in re.findall(r"(--[a-z-]+) ([A-Z]+)", usage):
        assert f" {option} {value} " in rest
    for name in re.findall(r"(?<!-)\b([A-ZÈ]{5,})\b", usage):
        assert name == "OPTIONS" or f" {name}" in rest


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_usage_asks_for_what_is_required(helps, path):
    """Une option de la ligne d'usage est obligatoire, et toute option obligatoire y est."""
    usage = helps[path].partition("\n")[0]
    required = {each.names[0] for each in arguments_of(path) if each.required}
    if path == ("prepare",):  # sauf pour --corpus et --dry-run, que la commande vérifie elle-même
        required.add("--out")
    if path == ("plan",):
        required.add("--hours")
    assert set(OPTION.findall(usage)) == {name for name in required if name.startswith("--")}


def test_an_option_without_effect_is_not_offered():
    """Une conversation n'a qu'une réponse, sans log-probabilités ; une figure n'écrit rien."""
    assert not {"--n", "--logprobs"} & options_of(("chat",))
    assert options_of(("infer",)) - options_of(("chat",)) >= {"--n", "--logprobs"}
    assert "--drafts" not in options_of(("visualize",))
    assert "--drafts" in options_of(("infer",))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("train", "texte.txt"), "essayez --data texte.txt."),
        (("evaluate", "m.pt", "a.txt", "b c.txt"), "essayez --data a.txt 'b c.txt'."),
        (("infer", "m.pt", "il", "était"), "essayez --prompt 'il était'."),
        (("serve", "m.pt", "texte.txt"), "voyez --help."),
        (("chat", "--n", "2"), "option inconnue : --n ; voyez --help."),
        (("infer", "--min-token", "2"), "essayez --min-tokens."),
        (("plan", "a.txt", "--hours", "0,5"), "écrivez 0.5, avec un point."),
        (("train", "--lr", "1,5e-3"), "écrivez 1.5e-3, avec un point."),
        (("plan", "a.txt", "--hours", "0,5x"), "(attendu : un nombre) ; corrigez --hours."),
    ],
)
def test_a_usage_error_says_what_to_type(cli, command, said):
    """La phrase dit quoi taper : le texte d'une commande ne se donne pas sans nom, par exemple."""
    outcome = cli(*command)
    outcome.check_one_line_error(2)
    assert outcome.err.strip().endswith(said)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("train", "--batch-size", 0), ("--batch-size vaut 0", "corrigez --batch-size.")),
        (("infer", "--p", 3), ("--p vaut 3.0", "corrigez --p.")),
        (("infer", "--strategy", "beam", "--n", 9), ("--n vaut 9 et --beams 4", "--n ≤ --beams")),
        (("infer", "--lookup-ngram", 4), ("sans --lookup,", "(attendu : --lookup)")),
        (("infer", "--regex", "a", "--choices", "b"), ("--regex et --choices", "--choices.")),
        (("infer", "--strategy", "greedy", "--min-p", 0.1), ("--min-p est donné avec",)),
        (("serve", "--max-waiting", 0), ("--max-waiting vaut 0",)),
    ],
)
def test_a_refused_setting_has_the_name_that_was_typed(cli, command, words):
    """« batch_size » est un nom de Python : qui a tapé --batch-size lit --batch-size."""
    cli(*command).check_one_line_error(2, *words)


@pytest.mark.slow
def test_help_imports_only_what_it_shows():
    """Chaque aide attend ce qu'elle importe : ni PyTorch, ni ce qu'un refus rare demanderait."""
    unused = ("torch", "numpy", "email", "zipfile", "hmac", "uuid", "html", "concurrent.futures")
    unused += ("tomllib", "difflib", "shutil")
    decoding = "gpt_architecture.decoding.config"
    script = (
        "import sys, contextlib\nfrom gpt_architecture.main import main\n"
        "with contextlib.suppress(SystemExit): main([*sys.argv[1:], '--help'])\n"
        f"print('importés :', *(set(sys.modules) & {{*{unused!r}, {decoding!r}}}))"
    )
    for path, more in ((("train",), []), (("inspect",), []), (("infer",), [decoding])):
        done = run_process(sys.executable, "-c", script, *path)
        assert done.code == 0, done.err
        assert done.out.splitlines()[-1].split()[2:] == more, path


def groups_of(path):
    """Les classes dont les champs sont des options de cette commande, bases comprises."""
    found = (argument.resolved_hint for argument in arguments_of(path) if argument.children)
    return {base for each in found for base in each.__mro__[:-1]}


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_the_help_of_a_field_is_its_docstring(path):
    """Lues une fois par module, les docstrings sont celles que `docstring_parser` y lit."""
    for each in groups_of(path):
        read, wanted = documented_fields(each), docstring_parser.parse_from_object(each)
        assert [(p.arg_name, p.description) for p in read.params] == [
            (p.arg_name, p.description) for p in wanted.params
        ], each


def test_what_is_not_a_class_is_read_by_the_parser():
    """Une fonction a la sienne ; une classe sans code source n'en a aucune."""

    def sample(size):
        """Exemple.

        Args:
            size: une taille.
        """
        return size

    assert [each.description for each in documented_fields(sample).params] == ["une taille."]
    assert documented_fields(type("Nulle", (), {"__module__": "absent"})).params == []
    assert documented_fields(int).params == []


def test_help_reads_each_module_once(monkeypatch, capsys):
    """Ni tout un fichier par classe, ni rien qui reste changé après l'aide, réussie ou non."""
    parsed = docstring_parser.parse_from_object
    documented = field_help._documented
    documented.cache_clear()
    read, findsource = [], inspect.findsource
    with monkeypatch.context() as patch:
        patch.setattr(inspect, "findsource", lambda each: read.append(each) or findsource(each))
        with pytest.raises(SystemExit) as end:
            main(["train", "--help"])
    assert end.value.code == 0
    assert [each for each in read if inspect.isclass(each)] == []
    assert "Taux d'apprentissage" in capsys.readouterr().out
    modules = {each.__module__ for each in groups_of(("train",))}
    assert 0 < documented.cache_info().misses <= len(modules)
    assert docstring_parser.parse_from_object is parsed
    with pytest.raises(KeyboardInterrupt), field_help.modules_read_once():
        raise KeyboardInterrupt
    assert docstring_parser.parse_from_object is parsed


@pytest.mark.parametrize("path", [(), *PATHS, *((group,) for group in SUBCOMMANDS)], ids=" ".join)
def test_the_short_way_to_help_says_the_same(capsys, path):
    """L'aide sans analyse est, à la lettre, celle de cyclopts."""
    with pytest.raises(SystemExit):
        main([*path, "--help"])
    short = capsys.readouterr().out
    build_app()([*path, "--help"], exit_on_error=False, result_action="return_value")
    assert capsys.readouterr().out == short


def tried(path):
    """(option, valeur mauvaise ou qui ne mène à rien) de chaque option qui en prend une."""
    for argument in arguments_of(path):
        name = argument.names[0]
        is_shared = path == ("chat",) and name in options_of(("infer",))  # déjà essayées là
        if name.startswith("--") and argument.hint is not bool and not is_shared:
            number = {"int", "float"} & set(re.findall(r"\w+", str(argument.hint)))
            yield name, "-1" if number else "zzz"


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_a_refusal_names_options_of_its_command(cli, tmp_path, monkeypatch, path):
    """Toute option qu'un refus nomme est une option de la commande tapée."""
    monkeypatch.chdir(tmp_path)
    known, base = options_of(path), ABSENT.get(" ".join(path), ("--model", "absent.pt"))
    for option, value in tried(path):
        given = [each for each in base if option not in base or each not in (option, base[-1])]
        outcome = cli(*path, *given, option, value)
        errors = [line for line in outcome.err.splitlines() if line.startswith("erreur : ")]
        assert len(errors) == 1, (option, outcome.code, outcome.err)
        assert "`" not in errors[0]
        named = set(OPTION.findall(WHOLE_COMMAND.sub("", errors[0])))
        assert named <= known, errors[0]


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_out_of_memory_names_options_of_its_command(path):
    """Quand la mémoire manque, le remède aussi est une option de la commande."""
    named = set(OPTION.findall(memory_message(build_app(), [*path])))
    assert named <= options_of(path)
    assert ("--batch-size" in named) is (path in (("train",), ("evaluate",), ("dossier",)))


def test_messages_in_the_code_name_options_of_their_command():
    """Toute option qu'un texte du code nomme existe dans la commande qui l'écrit."""
    owners = {
        f"scripts/{name}.py": [each for each in PATHS if each[0] == name] for name in COMMANDS
    }
    for file in ("cli/launch.py", "cli/train/options.py"):
        owners[file] = [("train",)]
    owners["cli/train/run.py"] = [("train",), ("infer",), ("merge",)]  # dit quoi lancer ensuite
    owners["cli/remote.py"] = [("infer",), ("chat",)]
    checked = 0
    for file, paths in owners.items():
        known = {name for path in paths for name in options_of(path)}
        for node in ast.walk(ast.parse((SOURCE / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = re.sub(r"python sample\.py.*|vllm .*", "", node.value)
                named = set(OPTION.findall(WHOLE_COMMAND.sub("", text)))
                assert named <= known, (file, node.lineno, named - known)
                checked += len(named)
    assert checked > 60
