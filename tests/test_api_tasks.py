"""Préparer, mesurer, comparer, convertir, quantifier en Python : ce que fait la commande."""

import html
import json
import logging
import re
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from cli_helpers import TINY

import gpt_architecture
from gpt_architecture import (
    GenerationConfig,
    compare,
    convert,
    evaluate,
    load,
    prepare,
    quantize,
    train,
    visualize,
)
from gpt_architecture.data.hygiene.config import HygieneConfig, QualityRules
from gpt_architecture.errors import (
    ConfigurationError,
    DataError,
    MissingDependencyError,
    ModelFileError,
    OutputError,
)
from gpt_architecture.evaluation.comparison import SIX_VARIANTS
from gpt_architecture.evaluation.reliability import calibrate
from gpt_architecture.formats.journal import JOURNAL
from gpt_architecture.reports.console import PaceProgress
from gpt_architecture.scripts.prepare import HygieneOptions

SETTINGS = {name.replace("-", "_"): value for name, value in TINY.items()}
TEXT = "Le passeur leva la lampe deux fois, puis il détacha le bateau. " * 6


@pytest.fixture
def model(trained):
    return trained / "gpt-model.pt"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "texte.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def record_of(outcome):
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def without_times(record):
    return {name: value for name, value in record.items() if name != "seconds"}


class TestLikeTheCommand:
    """Le même objet que le JSON de la commande, et les mêmes fichiers."""

    def test_evaluate(self, cli, model, text):
        said = record_of(cli("evaluate", "--model", model, "--data", text, "--json"))
        found = evaluate(model, text)
        assert without_times(json.loads(json.dumps(found.record))) == without_times(said)
        assert found.loss == said["text"]["loss"]
        assert (found.last_word, found.choices, found.lm_eval, found.memorisation) == (None,) * 4

    @pytest.mark.slow
    def test_evaluate_studies_too(self, cli, model, text, tmp_path):
        page, other = tmp_path / "a.html", tmp_path / "b.html"
        options = ("--data", text, "--memorisation", "la-lampe-du-passeur", "--length", 8)
        said = record_of(cli("evaluate", "--model", model, *options, "--report", page, "--json"))
        found = evaluate(
            model, [text], memorisation="la-lampe-du-passeur", length=8, report=str(other)
        )
        assert found.record["memorisation"] == said["memorisation"]
        assert other.read_text("utf-8") == page.read_text("utf-8")
        assert "Récitent" in found._repr_html_()

    def test_compare(self, cli, model, tmp_path):
        options = ("--prompt", "La lampe", "--max-tokens", 5, "--seed", 1, 2)
        outcome = cli("demo", "--model", model, *options, "--json")
        said = [json.loads(line) for line in outcome.out.splitlines()]
        found = compare(model, "La lampe", max_tokens=5, seeds=(1, 2))
        assert [*map(without_times, found.records)] == [*map(without_times, said)]
        assert [each.label for each in found.summaries] == [label for label, _ in SIX_VARIANTS]
        path = found.save(tmp_path / "page.html")
        assert path.read_text("utf-8") == found.page()
        assert found.table["seed"] == [1, 2] * 6

    def test_visualize(self, cli, model, tmp_path):
        pytest.importorskip("matplotlib", reason="matplotlib n'est pas installé")
        outcome = cli("visualize", "--model", model, "--prompt", "La lampe")
        found = visualize(model, "La lampe", path=tmp_path / "figure.pdf")
        for label in found.labels:
            assert label in outcome.out
        assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
        visualize(model, "La lampe", path=tmp_path / "figure.pdf")  # la sienne
        (tmp_path / "autre.pdf").write_text("à quelqu'un", encoding="utf-8")
        with pytest.raises(OutputError, match="`force`"):
            visualize(model, "La lampe", path=tmp_path / "autre.pdf")

    @pytest.mark.slow
    def test_convert(self, cli, model, tmp_path):
        said = record_of(cli("convert", model, tmp_path / "m.pt", "--to", "pt", "--json"))
        ours = tmp_path / "python" / "m.pt"
        found = convert(model, ours, to="pt")
        assert found.record | {"output": ""} == said | {"output": ""}
        assert ours.read_bytes() == (tmp_path / "m.pt").read_bytes()
        assert "pt" in repr(found)
        assert "m.pt" in found._repr_html_()

    @pytest.mark.slow
    def test_quantize(self, cli, model, text, tmp_path):
        options = ("--output", tmp_path / "a.safetensors", "--text", text, "--tokens", 32)
        said = record_of(cli("quantize", "--model", model, *options, "--json"))
        found = quantize(model, output=tmp_path / "b.safetensors", text=text, tokens=32)
        assert found.record | {"output": ""} == said | {"output": ""}
        texts = [load(tmp_path / f"{name}.safetensors").generate("La lampe") for name in "ab"]
        assert texts[0] == texts[1]
        assert "perplexité" in repr(found)
        assert "int8" in found._repr_html_()

    @pytest.mark.slow
    def test_prepare(self, cli, text, tmp_path):
        assert cli("prepare", text, "--out", tmp_path / "a", "--val-fraction", 0.2).code == 0
        found = prepare(text, tmp_path / "b", val_fraction=0.2)
        shards = [sorted((tmp_path / name).glob("*.bin")) for name in "ab"]
        assert [each.read_bytes() for each in shards[0]] == [
            each.read_bytes() for each in shards[1]
        ]
        assert (found.folder, found.outcome) == (tmp_path / "b", "new")
        assert prepare([text], tmp_path / "b", val_fraction=0.2).outcome == "present"
        assert str(tmp_path / "b") in repr(found)
        assert "Fragments" in found._repr_html_()


class TestLoadedModels:
    """Ce qui prend un chemin prend aussi un modèle déjà chargé, ou l'entraînement qui l'a fait."""

    @pytest.mark.slow
    def test_a_run_a_model_a_path(self, text, tmp_path):
        run = train(**{**SETTINGS, "max_steps": 2, "engine": "autograd"}, output_dir=tmp_path / "m")
        losses = [evaluate(each, text).loss for each in (run, run.model, run.path)]
        assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
        lines = (run.output_dir / JOURNAL).read_text("utf-8").splitlines()
        told = [json.loads(line)["kind"] for line in lines]
        assert told.count("measures") == 3  # son journal, à chaque fois
        texts = [compare(each, "La", variants=["greedy"], max_tokens=3).results[0].text
                 for each in (run, run.model)]  # fmt: skip
        assert texts[0] == texts[1]
        convert(run.model, tmp_path / "copie.pt", to="pt")
        convert(run, tmp_path / "autre.pt", to="pt")
        ours = load(tmp_path / "copie.pt").model.state_dict()
        theirs = load(tmp_path / "autre.pt").model.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert quantize(run).output == str(tmp_path / "m" / "gpt-model-int8.safetensors")
        with pytest.raises(ConfigurationError, match="`output`"):
            quantize(run.model)
        small = load(quantize(run.model, output=tmp_path / "q.safetensors").output)
        with pytest.raises(ConfigurationError, match="quantifié"):
            convert(small, tmp_path / "c.pt", to="pt")

    def test_loading_options_are_for_paths(self, model):
        gpt = load(model)
        for name, value in {"device": "cuda", "quant": "int8"}.items():
            with pytest.raises(ConfigurationError, match=f"`{name}`.*déjà chargé"):
                compare(gpt, "La lampe", **{name: value})

    @pytest.mark.slow
    def test_what_was_quantized_when_loaded_is_measured_so(self, model, text):
        by_path, loaded = (
            evaluate(model, text, quant="int4"),
            evaluate(load(model, quant="int4"), text),
        )
        assert loaded.loss == by_path.loss != evaluate(model, text).loss
        assert loaded.record["quant"] == "int4"

    @pytest.mark.slow
    def test_a_page_of_what_was_quantized_shows_no_attention(
        self, model, text, tmp_path, monkeypatch
    ):
        """Et sa calibration est celle de ce qui calcule, non du réseau d'origine."""
        measured = []

        def measure(found, *args, **options):
            measured.append(found)
            return calibrate(found, *args, **options)

        monkeypatch.setattr("gpt_architecture.api.study.calibrate", measure)
        whole, quantized = load(model), load(model, quant="int4")
        for gpt, shown in ((whole, True), (quantized, False)):
            path = tmp_path / f"{gpt.quant}.html"
            evaluate(gpt, text, length=4, report=path)
            assert ("Ce qu'il regarde" in html.unescape(path.read_text("utf-8"))) is shown
        assert measured == [whole.model, quantized.runner]
        with pytest.raises(ConfigurationError, match="non quantifié"):
            evaluate(quantized, text, length=4, report=tmp_path / "c.html", sentence="Un soir")

    def test_something_else(self):
        with pytest.raises(ConfigurationError, match=r"`model` vaut 3"):
            evaluate(3, "texte.txt")
        with pytest.raises(ModelFileError, match=r"absent\.pt"):
            visualize("absent.pt", "La lampe")
        with pytest.raises(ModelFileError, match=r"gpt-model\.pt"):
            compare()  # celui d'ici


class TestCompare:
    def test_variants_as_lines_or_configurations(self, model):
        sage = GenerationConfig(strategy="top_k", k=2, max_tokens=2)
        found = compare(model, ["La lampe", "L'eau"], variants=["greedy", ("Sage", sage)],
                        max_tokens=3, seeds=5)  # fmt: skip
        assert [(each.label, each.prompt) for each in found.results] == [
            ("greedy", "La lampe"),
            ("greedy", "L'eau"),
            ("Sage", "La lampe"),
            ("Sage", "L'eau"),
        ]
        assert [len(each.tokens) for each in found.results][2:] == [2, 2]
        assert {each.config.seed for each in found.results} == {5}
        assert "2 variantes, 4 textes" in repr(found)

    def test_refusals(self, model):
        with pytest.raises(ConfigurationError, match="nucleus"):
            compare("absent.pt", variants=["nucleus"])  # avant de chercher le modèle
        with pytest.raises(ConfigurationError, match="deux fois"):
            compare(model, "La lampe", variants=["greedy", "greedy"])
        with pytest.raises(ConfigurationError, match="invite vide"):
            compare(model, " ")
        with pytest.raises(ConfigurationError, match="au moins une invite"):
            compare(model, [])


class TestRefusals:
    def test_an_unknown_option_names_the_nearest(self):
        calls = {
            "max_token": lambda name: compare(**{name: 3}),
            "batchsize": lambda name: evaluate(**{name: 3}),
            "temperature": lambda name: visualize(**{name: 3}),
            "shards_size": lambda name: convert("a", "b", to="hf", **{name: 3}),
            "schem": lambda name: quantize(**{name: "int4"}),
            "worker": lambda name: prepare("a", "b", **{name: 3}),
            "epoch": lambda name: train(**{name: 3}),
        }
        wanted = ("max_tokens", "batch_size", "temperatures", "shard_size", "scheme", "workers",
                  "epochs")  # fmt: skip
        for (name, call), close in zip(calls.items(), wanted, strict=True):
            with pytest.raises(ConfigurationError, match=f"inconnu : {name} .*essayez `{close}`"):
                call(name)
        with pytest.raises(ConfigurationError, match=r"help\(compare\)"):
            compare(zzz=1)

    @pytest.mark.parametrize(
        ("settings", "steps"),
        [
            ({"near_duplicates": 0.9}, {"near": 0.9}),
            ({"hygiene": "doublons", "repeated_lines": 5}, {"lines": 5}),
            ({"personal_data": "mask"}, {"personal": "mask"}),
            ({"languages": "fr"}, {"languages": ("fr",)}),
            ({"decontaminate": ["a.txt", "b.txt"]}, {"evaluation": ("a.txt", "b.txt")}),
            ({"quality": True}, {"quality": QualityRules()}),
            ({"min_words": 20}, {"quality": QualityRules(min_words=20)}),
            ({"nfc": True}, {"nfc": True}),
        ],
        ids=lambda each: "-".join(map(str, each)),
    )
    def test_a_step_of_hygiene_is_told_how_to_be_asked(self, settings, steps, text, tmp_path):
        """Une option d'hygiène de la commande : le remède, en Python, fait ce qu'elle dit."""
        with pytest.raises(ConfigurationError, match="réglage inconnu : ") as refusal:
            prepare(text, tmp_path / "f", **settings)
        written = re.search(r"HygieneConfig\.preset\(.*\)(?=, de )", str(refusal.value))[0]
        assert str(refusal.value).endswith(f", de {HygieneConfig.__module__}.")
        names = {"HygieneConfig": HygieneConfig, "QualityRules": QualityRules}
        made = eval(written, names)  # noqa: S307 — c'est le nôtre
        assert made == HygieneConfig.preset(settings.get("hygiene", "aucune"), **steps)

    def test_every_step_of_the_command_is_told(self, text, tmp_path):
        """Aucune option d'hygiène de `prepare` n'est oubliée ; celles que l'on éteint le sont."""
        for option in fields(HygieneOptions):
            if option.name != "hygiene":
                with pytest.raises(ConfigurationError, match=r"HygieneConfig\.preset\("):
                    prepare(text, tmp_path / "f", **{option.name: ["near"]})

    def test_values(self, model, text, tmp_path):
        with pytest.raises(ConfigurationError, match="rien à mesurer"):
            evaluate(model)
        with pytest.raises(ConfigurationError, match="`stride` vaut 0"):
            evaluate(model, text, stride=0)
        with pytest.raises(ConfigurationError, match="`sentence`"):
            evaluate(model, text, sentence="Le passeur")
        with pytest.raises(ConfigurationError, match=r"`to` vaut 'ggu'.*essayez `gguf`"):
            convert(model, tmp_path / "m", to="ggu")
        with pytest.raises(ConfigurationError, match=r"`dtype` vaut f16 avec `to=onnx`"):
            convert(model, tmp_path / "m", to="onnx", dtype="f16")
        with pytest.raises(ConfigurationError, match="`group_size`"):
            quantize(model, group_size=7)
        with pytest.raises(ConfigurationError, match=r"\.safetensors"):
            quantize(model, output=tmp_path / "q.bin")
        with pytest.raises(ConfigurationError, match="aucune source"):
            prepare([], tmp_path / "f")
        with pytest.raises(DataError, match=r"absent\.txt"):
            evaluate(model, "absent.txt")

    def test_a_taken_destination(self, model, tmp_path):
        (tmp_path / "m.pt").write_text("à quelqu'un", encoding="utf-8")
        with pytest.raises(OutputError, match="`force`"):
            convert(model, tmp_path / "m.pt", to="pt")
        assert convert(model, tmp_path / "m.pt", to="pt", force=True).bytes > 1000

    def test_a_model_is_not_written_over_itself(self, model):
        """Déjà chargé, il n'est plus lu, mais son fichier reste le sien."""
        before = model.read_bytes()
        with pytest.raises(OutputError):
            convert(load(model), model, to="gguf", force=True)
        assert model.read_bytes() == before

    def test_a_missing_library(self, model, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "gguf", None)
        with pytest.raises(MissingDependencyError, match="gguf"):
            convert(model, tmp_path / "m.gguf", to="gguf")

    def test_a_wrong_measure(self, model, tmp_path):
        found = evaluate(model, memorisation="la-lampe-du-passeur", length=4)
        with pytest.raises(ConfigurationError, match="`data`"):
            _ = found.loss


class TestProgress:
    def test_nothing_is_written_unless_asked(self, model, text, capsys, caplog, monkeypatch):
        monkeypatch.setattr(logging.getLogger("gpt_architecture"), "handlers", [])
        with caplog.at_level(logging.WARNING):
            evaluate(model, text)
            compare(model, "La", variants=["greedy"], max_tokens=2)
        assert capsys.readouterr() == ("", "")
        assert not caplog.records

    def test_a_notebook_gets_a_bar_and_keeps_only_the_result(self, model, text, monkeypatch):
        shown = []

        class Handle:
            def update(self, content, raw):
                assert raw
                shown.append(content["text/html"])

        def display(content, raw, display_id):
            assert raw
            assert display_id
            shown.append(content["text/html"])
            return Handle()

        monkeypatch.setattr("gpt_architecture.reports.console.notebook_display", lambda: display)
        evaluate(model, text)
        assert "<progress" in shown[0]
        assert "Évaluation" in shown[0]
        assert shown[-1] == ""
        shown.clear()
        evaluate(model, text, progress=False)
        assert shown == []

    def test_a_pace_has_its_thousands(self, monkeypatch):
        """« 12 500 tokens/s » : les milliers sont séparés, comme partout."""
        clock = iter((0.0, 2.0))
        monkeypatch.setattr("gpt_architecture.reports.console.time.perf_counter", clock.__next__)
        said = []
        bar = SimpleNamespace(
            start=lambda *_: None, update=lambda _done, pace: said.append(pace), is_live=True
        )
        PaceProgress(bar, "a.txt")(25_000, 50_000)
        assert said == ["a.txt, 12 500 tokens/s, reste 2 s"]


def test_every_task_is_at_the_root():
    for name in ("load", "train", "prepare", "evaluate", "compare", "visualize", "convert"):
        assert callable(getattr(gpt_architecture, name))
    assert callable(gpt_architecture.serve)
    assert callable(gpt_architecture.quantize)
