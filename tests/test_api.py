"""La face de la bibliothèque : charger un modèle, générer, et n'importer que le nécessaire."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from cli_helpers import TINY, tiny
from conftest import FRENCH_TEXT

import gpt_architecture
from gpt_architecture.api import GPT, load, train
from gpt_architecture.config import END_OF_TEXT, GPTConfig
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import SimpleTokenizerV1, SimpleTokenizerV2
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import (
    generate_text_simple,
    generate_text_temperature,
    generate_text_top_k,
    generate_text_top_p,
)
from gpt_architecture.errors import (
    ConfigurationError,
    DataError,
    ModelFileError,
    OutputError,
    TokenizerError,
)
from gpt_architecture.formats.model_file import read_model, save_model
from gpt_architecture.training.callbacks import Callback

TOKENIZER = SimpleTokenizerV2.from_text(FRENCH_TEXT)
METADATA = {"graine": 123, "pertes": [3.5, 2.25], "corpus": {"nom": "essai"}}
PROMPT = "Le passeur leva"
STRATEGIES = ("greedy", "temperature", "top_k", "top_p")


def config(vocab_size=TOKENIZER.vocab_size):
    return GPTConfig(
        vocab_size=vocab_size, context_length=16, emb_dim=24, n_heads=3, n_layers=2, drop_rate=0.1
    )


def save(path, model=None, tokenizer=TOKENIZER, vocab_size=TOKENIZER.vocab_size):
    """Un petit modèle enregistré ; rend le modèle."""
    if model is None:
        torch.manual_seed(0)
        model = GPTModel(config(vocab_size))
    save_model(path, model, model.cfg, tokenizer=tokenizer.to_dict(), metadata=METADATA)
    return model


@pytest.fixture
def gpt():
    save("modèle.pt")
    return load("modèle.pt", device="cpu")


class ScriptedModel:
    """Dicte des mots, l'un après l'autre."""

    def __init__(self, words):
        self.cfg = config()
        self.tokens = iter(TOKENIZER.encode(words, allowed_special="all"))
        self.calls = 0

    def __call__(self, in_idx, cache=None, *, at=None):
        self.calls += 1
        cache.advance_(in_idx.size(1))
        logits = torch.zeros(1, 1 if at is not None else in_idx.size(1), self.cfg.vocab_size)
        logits[0, -1, next(self.tokens)] = 100.0
        return logits

    @property
    def device(self):
        return torch.device("cpu")

    def new_cache(self, batch_size, capacity=None):
        return KVCache(self.cfg, batch_size, capacity=capacity)


def scripted(words):
    return GPT(model=ScriptedModel(words), tokenizer=TOKENIZER, device=torch.device("cpu"))


def script(*lines):
    """Lance un Python neuf ; rend sa sortie."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestLoad:
    def test_everything_comes_back(self, gpt):
        assert isinstance(gpt, GPT)
        assert gpt.config == config()
        assert gpt.metadata == METADATA
        assert gpt.tokenizer.to_dict() == TOKENIZER.to_dict()
        assert gpt.device == torch.device("cpu")

    def test_weights_are_those_saved(self):
        original = save("m.pt").state_dict()
        loaded = load("m.pt", device="cpu").model.state_dict()
        assert original.keys() == loaded.keys()
        assert all(torch.equal(original[name], loaded[name]) for name in original)

    def test_model_is_ready_to_evaluate(self, gpt):
        assert not any(module.training for module in gpt.model.modules())

    def test_default_path_and_device(self):
        save("gpt-model.pt")
        gpt = load()
        assert gpt.generate("Le", max_tokens=2).startswith("Le ")
        assert gpt.device.type == next(gpt.model.parameters()).device.type

    def test_path_objects(self, tmp_path):
        save(tmp_path / "m.pt")
        assert load(tmp_path / "m.pt", device="cpu").metadata == METADATA

    def test_tokenizer_smaller_than_the_vocabulary_is_fine(self):
        """Un vocabulaire arrondi à un multiple commode garde des places vides."""
        save("m.pt", vocab_size=TOKENIZER.vocab_size + 7)
        assert load("m.pt", device="cpu").config.vocab_size == TOKENIZER.vocab_size + 7

    def test_tokenizer_larger_than_the_vocabulary_is_refused(self):
        save("m.pt")
        payload = torch.load("m.pt", weights_only=True)
        payload["tokenizer"]["vocab"].append("trop")
        torch.save(payload, "m.pt")
        with pytest.raises(ModelFileError, match=f"tokenizer de {TOKENIZER.vocab_size + 1} tokens"):
            load("m.pt", device="cpu")

    def test_missing_file_is_named(self):
        with pytest.raises(ModelFileError, match=r"absent\.pt"):
            load("absent.pt")

    def test_something_else_than_a_model(self, tmp_path):
        (tmp_path / "notes.pt").write_text("bonjour", encoding="utf-8")
        with pytest.raises(ModelFileError, match=r"notes\.pt"):
            load(tmp_path / "notes.pt")

    def test_unknown_device(self):
        save("m.pt")
        with pytest.raises(ConfigurationError, match="abaque"):
            load("m.pt", device="abaque")


class TestGenerate:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("strategy", "oracle", "settings"),
        [
            ("greedy", generate_text_simple, {}),
            ("temperature", generate_text_temperature, {"temperature": 0.7}),
            ("top_k", generate_text_top_k, {"k": 3, "temperature": 0.7}),
            ("top_p", generate_text_top_p, {"p": 0.6, "temperature": 0.7}),
        ],
    )
    def test_is_the_text_of_the_oracle(self, gpt, strategy, oracle, settings):
        """De l'enregistrement au texte, la chaîne entière contre la boucle sans cache."""
        text = gpt.generate(PROMPT, strategy=strategy, max_tokens=30, seed=4, **settings)
        ids = torch.tensor([TOKENIZER.encode(PROMPT)])
        expected = oracle(
            gpt.model,
            ids,
            30,
            16,
            **settings,
            generator=torch.Generator().manual_seed(4),
            eos_id=TOKENIZER.eos_id,
        )[0].tolist()
        if TOKENIZER.eos_id in expected:
            expected = expected[: expected.index(TOKENIZER.eos_id)]
        assert text == TOKENIZER.decode(expected)

    @pytest.mark.slow
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_seed_makes_it_reproducible(self, gpt, strategy):
        def write(seed):
            return gpt.generate(PROMPT, strategy=strategy, max_tokens=20, seed=seed)

        assert write(1) == write(1)
        assert (write(1) == write(2)) is (strategy == "greedy")

    def test_default_is_greedy_and_needs_no_seed(self, gpt):
        assert gpt.generate(PROMPT) == gpt.generate(PROMPT, strategy="greedy", max_tokens=50)

    @pytest.mark.slow
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_is_the_prompt_and_the_stream(self, gpt, strategy):
        settings = {"strategy": strategy, "max_tokens": 25, "seed": 2, "ignore_eos": True}
        pieces = list(gpt.stream(PROMPT, GenerationConfig(**settings)))
        assert gpt.generate(PROMPT, **settings) == PROMPT + "".join(pieces)
        assert list(gpt.stream(PROMPT, **settings)) == pieces
        assert [piece.text for piece in gpt.pieces(PROMPT, **settings) if piece.text] == pieces
        assert len(pieces) > 5
        assert all(pieces)

    def test_the_prompt_is_kept_as_it_was_typed(self, gpt):
        """Le tokenizer simple perd les blancs ; le texte rendu garde ceux de la personne."""
        prompt = "  Le   passeur\n"
        assert gpt.generate(prompt, max_tokens=3).startswith(prompt)

    def test_prompt_longer_than_the_context(self, gpt):
        prompt = FRENCH_TEXT[:300]
        assert len(gpt.generate(prompt, max_tokens=5)) > len(prompt)

    def test_unknown_words_are_accepted_by_the_second_tokenizer(self, gpt):
        assert gpt.generate("Un zèbre", max_tokens=2).startswith("Un zèbre")

    def test_unknown_words_are_named_by_the_first(self):
        tokenizer = SimpleTokenizerV1.from_text(FRENCH_TEXT)
        save("m.pt", tokenizer=tokenizer, vocab_size=tokenizer.vocab_size)
        with pytest.raises(TokenizerError, match="'zèbre'"):
            load("m.pt", device="cpu").generate("Le zèbre")

    def test_the_global_generator_does_not_move(self, gpt):
        before = torch.get_rng_state()
        gpt.generate(PROMPT, strategy="temperature", max_tokens=5)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
    def test_empty_prompt(self, gpt, prompt):
        with pytest.raises(ConfigurationError, match="invite vide"):
            gpt.generate(prompt)
        with pytest.raises(ConfigurationError, match="invite vide"):
            next(gpt.stream(prompt))

    @pytest.mark.parametrize("method", ["generate", "generate_batch", "stream", "pieces"])
    def test_settings_are_given_one_way_by_every_method(self, gpt, method):
        """Une configuration ou des réglages nommés, jamais les deux."""
        prompt = [PROMPT] if method == "generate_batch" else PROMPT
        write, config = getattr(gpt, method), GenerationConfig(max_tokens=4, strategy="sample")
        with pytest.raises(ConfigurationError, match="config et seed sont donnés ensemble"):
            list(write(prompt, config, seed=1))
        with pytest.raises(ConfigurationError, match="couleur"):
            list(write(prompt, couleur="bleu"))
        named = [write(prompt, max_tokens=4, top_k=3, seed=2) for _ in range(2)]
        filtered = GenerationConfig(max_tokens=4, strategy="sample", k=3, seed=2)
        first, second, third = (list(each) for each in (*named, write(prompt, filtered)))
        assert first == second == third

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("strategy", "faisceau"),
            ("max_tokens", 0),
            ("couleur", "bleu"),
            ("temperature", -1),
            ("k", 0),
            ("p", 2),
            ("seed", -1),
        ],
    )
    def test_settings_out_of_bounds(self, gpt, name, value):
        with pytest.raises(ConfigurationError):
            gpt.generate(PROMPT, **{name: value})

    def test_encode_gives_a_batch_of_one(self, gpt):
        ids = gpt.encode("Le passeur")
        assert ids.tolist() == [TOKENIZER.encode("Le passeur")]
        assert ids.dtype == torch.int64


class TestEndOfText:
    def test_stops_there_and_does_not_write_it(self):
        gpt = scripted(f"la lampe, puis {END_OF_TEXT} le bateau")
        assert gpt.generate("Le passeur leva", max_tokens=20) == "Le passeur leva la lampe, puis"
        assert gpt.model.calls == 5

    def test_at_once(self):
        assert scripted(f"{END_OF_TEXT} la").generate(PROMPT, max_tokens=20) == PROMPT

    def test_at_once_for_a_real_model(self):
        """Le même refus, du fichier au texte."""
        torch.manual_seed(0)
        model = GPTModel(config())
        with torch.no_grad():
            model.final_norm.scale.zero_()
            model.final_norm.shift.fill_(1.0)
            model.out_head.weight[TOKENIZER.eos_id].fill_(10.0)
        save("m.pt", model)
        gpt = load("m.pt", device="cpu")
        for strategy in STRATEGIES:
            assert gpt.generate(PROMPT, strategy=strategy, seed=0) == PROMPT

    def test_without_end_of_text_max_tokens_decides(self):
        gpt = scripted("la lampe deux fois")
        assert gpt.generate(PROMPT, max_tokens=3) == f"{PROMPT} la lampe deux"

    def test_typed_in_a_prompt_it_is_text_unless_asked(self):
        gpt, prompt = scripted("la lampe"), f"Le {END_OF_TEXT}"
        assert TOKENIZER.eos_id not in gpt.encode(prompt)
        assert gpt.encode(prompt, parse_special=True)[0, -1] == TOKENIZER.eos_id
        assert gpt.generate(prompt, max_tokens=1) == f"{prompt} la"
        seen = gpt.generate_batch([prompt], parse_special=True, max_tokens=1)[0][0]
        assert seen.prompt_tokens == 2
        found = scripted("la lampe").generate(prompt, parse_special=True, max_tokens=1)
        assert (found, type(found)) == (f"{prompt} la", str)
        stream = scripted("la lampe").stream(prompt, parse_special=True, max_tokens=1)
        assert list(stream) == [" la"]

    def test_tokenizer_without_end_of_text(self):
        """Sans token de fin, seul `max_tokens` arrête."""
        tokenizer = SimpleTokenizerV1.from_text(FRENCH_TEXT)
        assert tokenizer.eos_id is None
        save("m.pt", tokenizer=tokenizer, vocab_size=tokenizer.vocab_size)
        gpt = load("m.pt", device="cpu")
        assert len(gpt.encode(gpt.generate("Le", max_tokens=12))[0]) == 13


class TestPublicNames:
    def test_all_of_them_resolve(self):
        for name in gpt_architecture.__all__:
            assert getattr(gpt_architecture, name) is not None
        assert gpt_architecture.load is load
        assert gpt_architecture.GPTModel is GPTModel

    def test_lazy_table_and_list_agree(self):
        offered = " ".join(gpt_architecture._NAMES.values()).split()
        assert sorted(offered) == sorted(gpt_architecture.__all__)

    def test_unknown_name(self):
        with pytest.raises(AttributeError, match="inexistant"):
            _ = gpt_architecture.inexistant
        with pytest.raises(ImportError):
            exec("from gpt_architecture import inexistant")  # noqa: S102

    def test_version(self):
        assert gpt_architecture.__version__.count(".") == 2

    @pytest.mark.process
    def test_importing_the_package_does_not_import_torch(self):
        heavy = script(
            "import sys, gpt_architecture, gpt_architecture.config, gpt_architecture.errors",
            "from gpt_architecture import GPTConfig, GPT_CONFIG_124M, GPTArchitectureError",
            "names = ('torch', 'tiktoken', 'numpy', 'matplotlib', 'transformers')",
            "print([name for name in names if name in sys.modules])",
        )
        assert heavy == "[]"

    @pytest.mark.process
    def test_documented_import(self):
        found = script(
            "from gpt_architecture import load, GPTModel, GPTConfig, get_tokenizer",
            "print(load.__name__, GPTModel.__name__, GPTConfig().emb_dim)",
            "print(get_tokenizer('gpt2').encode('Hello, I am'))",
        )
        assert found.splitlines() == ["load GPTModel 768", "[15496, 11, 314, 716]"]

    @pytest.mark.process
    def test_loading_and_generating_needs_neither_matplotlib_nor_transformers(self):
        save("gpt-model.pt")
        found = script(
            "import sys, gpt_architecture",
            "text = gpt_architecture.load(device='cpu').generate('Le passeur', max_tokens=2)",
            "print([n for n in ('matplotlib', 'transformers', 'tiktoken') if n in sys.modules])",
        )
        assert found == "[]"


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba n'est pas installé")
def test_a_small_model_compiles_nothing(trained):
    """PyTorch suffit à un petit modèle ; qui veut les noyaux les demande."""
    path = trained / "gpt-model.pt"
    assert load(path, device="cpu").runner is None
    assert load(path, device="cpu", compile_from=0).runner is not None
    assert load(path, device="cpu", engine="packed").runner is not None
    assert load(path, device="cpu", quant="int8").runner is not None


class TestTrain:
    """`train` est la commande, en un appel."""

    SETTINGS = {name.replace("-", "_"): value for name, value in TINY.items()}  # noqa: RUF012
    SMALL = {"max_steps": 6, "engine": "autograd"}  # noqa: RUF012

    @classmethod
    def trained(cls, **settings):
        return train(**{**cls.SETTINGS, **cls.SMALL, **settings})

    @staticmethod
    def check_same(one, other):
        ours, theirs = read_model(one), read_model(other)
        assert all(torch.equal(w, theirs.state_dict[n]) for n, w in ours.state_dict.items())
        unlike = {"seconds"}
        assert {k: v for k, v in ours.metadata.items() if k not in unlike} == {
            k: v for k, v in theirs.metadata.items() if k not in unlike
        }

    @pytest.mark.slow
    def test_it_is_the_command(self, cli, tmp_path):
        assert cli("train", *tiny(output_dir=tmp_path / "a", **self.SMALL)).code == 0
        gpt, history = self.trained(output_dir=str(tmp_path / "b"))
        self.check_same(tmp_path / "a" / "gpt-model.pt", tmp_path / "b" / "gpt-model.pt")
        assert history.step == 6
        assert history.val_losses == gpt.metadata["val_losses"]
        assert {p.name for p in (tmp_path / "a").iterdir()} == {
            p.name for p in (tmp_path / "b").iterdir()
        }
        assert gpt.generate("Un soir", max_tokens=2).startswith("Un soir")

    @pytest.mark.slow
    def test_a_stop_then_a_resume_lose_nothing(self, tmp_path):
        straight, stopped = tmp_path / "d'un trait", tmp_path / "en deux fois"
        self.trained(output_dir=straight)

        class Steps(Callback):
            done = 0

            def on_step(self, record):
                self.done = record.step + 1

        steps = Steps()
        gpt, history = self.trained(
            output_dir=stopped, callbacks=[steps], should_stop=lambda: steps.done >= 3
        )
        assert history.step == steps.done == 3
        assert gpt.generate("Un soir", max_tokens=1)
        _, history = train(resume=stopped)
        assert history.step == 6
        self.check_same(straight / "gpt-model.pt", stopped / "gpt-model.pt")

    @pytest.mark.slow
    def test_a_stop_gives_the_checkpoint_even_beside_an_older_model(self, tmp_path):
        self.trained(output_dir=tmp_path, max_steps=2)
        gpt, history = self.trained(
            output_dir=tmp_path, force=True, seed=7, should_stop=lambda: True
        )
        reached = load(tmp_path / "checkpoints" / f"step-{history.step:06d}")
        older = load(tmp_path / "gpt-model.pt")
        weights = gpt.model.state_dict()["tok_emb.weight"]
        assert torch.equal(weights, reached.model.state_dict()["tok_emb.weight"])
        assert not torch.equal(weights, older.model.state_dict()["tok_emb.weight"])

    @pytest.mark.slow
    def test_adapters_need_not_find_their_model_again(self, tmp_path):
        self.trained(output_dir=tmp_path, max_steps=2)
        base = tmp_path / "gpt-model.pt"

        class Lost(Callback):
            def on_step(self, record):
                base.unlink(missing_ok=True)

        gpt, history = train(
            "la-lampe-du-passeur",
            start=base,
            lora_rank=2,
            max_steps=2,
            engine="autograd",
            context_length=self.SETTINGS["context_length"],
            output_dir=tmp_path / "a",
            callbacks=[Lost()],
        )
        assert history.step == 2
        assert gpt.generate("Un soir", max_tokens=1)
        with pytest.raises(ModelFileError, match="introuvable"):
            load(tmp_path / "a")

    @pytest.mark.slow
    def test_natural_values_are_taken_or_refused(self, tmp_path):
        device = torch.device("cpu")
        self.trained(output_dir=tmp_path / "a", max_steps=1, device=device, save_every=1)
        for name, value in {"force": "non", "data": 5, "output_dir": None, "prompt": 3}.items():
            with pytest.raises(ConfigurationError, match=f"`{name}`"):
                self.trained(**{"output_dir": tmp_path / "b", name: value})
        with pytest.raises(ConfigurationError, match="emb_dim"):
            self.trained(output_dir=tmp_path / "b", data=tmp_path / "absent.txt", emb_dim=0)
        assert not (tmp_path / "b").exists()

    @pytest.mark.slow
    def test_refusals_name_settings(self, tmp_path):
        with pytest.raises(ConfigurationError, match="réglage inconnu : epoch "):
            self.trained(epoch=2)
        with pytest.raises(ConfigurationError, match="`preset`"):
            self.trained(preset="petit", resume=tmp_path)
        self.trained(output_dir=tmp_path / "a", max_steps=1)
        with pytest.raises(OutputError, match="`force`"):
            self.trained(output_dir=tmp_path / "a", max_steps=1)


def test_one_prompt_is_not_a_batch(gpt):
    with pytest.raises(ConfigurationError, match="une suite d'invites"):
        gpt.generate_batch("Un soir")


@pytest.mark.parametrize("name", ["a" * 300, "Il était une fois un texte. " * 40])
def test_a_text_given_for_a_path_is_not_found(name, tmp_path):
    """Un texte trop long pour un nom de fichier : une phrase, pas une erreur du système."""
    with pytest.raises(ModelFileError, match="modèle introuvable"):
        load(name)
    with pytest.raises(DataError, match="source de texte introuvable"):
        train(name, output_dir=tmp_path)
