"""Un filtre enregistré : une fonction, son réglage, et toutes les portes le connaissent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from decoding_helpers import LETTERS

from gpt_architecture.decoding import settings
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.named_settings import config_of, make_config
from gpt_architecture.decoding.pipeline import STAGE_ORDERS, build_pipeline
from gpt_architecture.decoding.settings import (
    SETTINGS,
    Sampler,
    Setting,
    SettingsRegistry,
    register_sampler,
)
from gpt_architecture.errors import ConfigurationError

HERE = Path(__file__).resolve().parent
ALLOWED = set(LETTERS[20:])


@pytest.fixture(scope="module")
def found():
    """Ce que dit `toy_sampler`, dans un processus où son filtre est enregistré d'abord."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(HERE / "toy_sampler.py")],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(HERE.parent), "COLUMNS": "120", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.process
class TestEndToEnd:
    def test_help(self, found):
        lines = [line for line in found["help"].splitlines() if "--keep-after" in line]
        assert len(lines) == 1
        assert "ENTIER" in lines[0]
        assert "Retire les identifiants inférieurs à celui-ci. [défaut : 0]" in lines[0]

    def test_python(self, found):
        """Le filtre suppose un tirage, et le texte le suit."""
        text = found["api"].removeprefix("le lac")
        assert text
        assert set(text) <= ALLOWED
        assert found["settings"] == {
            "strategy": "sample",
            "max_tokens": 8,
            "seed": 1,
            "keep_after": 20,
        }

    def test_trace(self, found):
        stages = {each["name"]: each for each in found["trace"]["steps"][0]["stages"]}
        assert list(stages) == ["modèle", "keep_after"]
        assert stages["keep_after"]["kept"] == len(LETTERS) + 1 - 20
        assert found["trace"]["config"]["keep_after"] == 20

    def test_server(self, found):
        """Le schéma l'annonce, une requête le porte, ses bornes y sont celles du réglage."""
        for body in ("CompletionBody", "ChatBody"):
            field = found["schema"]["components"]["schemas"][body]["properties"]["keep_after"]
            bounded = {"type": "integer", "minimum": 0, "maximum": 25}
            assert field["anyOf"] == [bounded, {"type": "null"}]
        text = found["server"]["choices"][0]["text"]
        assert text == found["api"].removeprefix("le lac")
        status, refusal = found["refused"]
        assert (status, refusal["error"]["param"]) == (400, "keep_after")

    def test_remote(self, found):
        text = found["api"].removeprefix("le lac")
        assert found["remote"] == f"le lac{text}\n"


@pytest.fixture
def registry(monkeypatch):
    """Un registre à soi, où ajouter."""
    mine = SettingsRegistry()
    mine.declare(GenerationConfig)
    for module in ("settings", "config", "named_settings", "pipeline"):
        monkeypatch.setattr(f"gpt_architecture.decoding.{module}.SETTINGS", mine)
    return mine


def sampler(name="toy", **options):
    """Un filtre qui ajoute sa valeur aux logits."""
    bounds = Setting(help="Essai.", minimum=0, maximum=1)
    build = lambda value: lambda token_ids, logits: logits + value  # noqa: E731
    return Sampler(name=name, build=build, setting=bounds, **options)


def stages(config):
    """Les noms des étapes d'une configuration."""
    found = build_pipeline(
        config,
        prompt_length=0,
        eos_ids=(),
        encode=lambda text: [0],
        generator=torch.Generator(),
        vocab_size=5,
    )
    return [stage.name for stage in found]


@pytest.mark.parametrize("order", STAGE_ORDERS)
def test_its_place_follows_the_order(registry, order):
    register_sampler(sampler(after="top_k"))
    asked = {"strategy": "sample", "k": 3, "p": 0.5, "min_p": 0.1, "toy": 0.5, "order": order}
    names = stages(make_config(asked))
    assert names[names.index("top_k") + 1] == "toy"


def test_its_default_builds_nothing(registry):
    register_sampler(sampler())
    assert stages(make_config({"strategy": "sample", "toy": 0.0, "k": 3})) == ["top_k"]
    assert make_config({"toy": 0.0}).to_dict() == {}


def test_an_open_bound_of_integers_is_kept(registry):
    bounds = Setting(help="Essai.", above=0)
    register_sampler(
        Sampler(name="toy", build=sampler().build, setting=bounds, kind=int, default=1)
    )
    assert make_config({"toy": 2, "strategy": "sample"}).samplers == {"toy": 2}
    with pytest.raises(ConfigurationError, match="toy vaut 0"):
        make_config({"toy": 0, "strategy": "sample"})


def test_it_is_checked_like_the_others(registry):
    register_sampler(sampler())
    assert config_of({"toy": 0.5}).strategy == "sample"
    assert config_of({"toy": 0.5}) == GenerationConfig(strategy="sample", samplers={"toy": 0.5})
    with pytest.raises(ConfigurationError, match=r"toy vaut 2"):
        config_of({"toy": 2})
    with pytest.raises(ConfigurationError, match=r"toy est donné avec la stratégie greedy"):
        make_config({"toy": 0.5, "strategy": "greedy"})
    with pytest.raises(ConfigurationError, match=r"réglage inconnu : toyy.*essayez `toy`"):
        config_of({"toyy": 0.5})
    with pytest.raises(ConfigurationError, match="réglage inconnu : autre"):
        GenerationConfig(samplers={"autre": 1.0})


@pytest.mark.parametrize("name", ["min_p", "top_k", "samplers", "deux mots", "toy"])
def test_its_name_is_its_own(registry, name):
    register_sampler(sampler())
    with pytest.raises(ConfigurationError, match="un filtre se nomme"):
        register_sampler(sampler(name))


def test_its_stage_exists(registry):
    register_sampler(sampler(after="nulle part"))
    with pytest.raises(ConfigurationError, match="nulle part"):
        stages(make_config({"strategy": "sample", "toy": 0.5}))


def test_too_late_is_refused(registry):
    """Les options d'une commande déjà importée ne l'auraient pas."""
    registry.close("cli.sampling")
    with pytest.raises(ConfigurationError, match=r"après l'import de cli.sampling"):
        register_sampler(sampler())
    assert "toy" not in registry.declared


def test_every_default_is_permitted():
    """Chaque réglage a une aide, et un défaut de son type, dans ses bornes."""
    for each in SETTINGS.declared.values():
        assert each.setting.help.endswith("."), each.name
        assert each.setting.help[0].isupper(), each.name
        each.check(each.default)
    assert set(settings.ALIASES.values()) <= SETTINGS.declared.keys()
