"""Une valeur du mauvais genre est refusée en une phrase, où qu'elle soit donnée."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import gpt_architecture
from gpt_architecture import GPT, GenerationConfig, GPTConfig
from gpt_architecture.api.options import checked_options
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import ConfigurationError


@pytest.fixture(scope="module")
def gpt():
    torch.manual_seed(0)
    shape = {"context_length": 16, "emb_dim": 8, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0}
    model = GPTModel(GPTConfig(**shape)).eval()
    return GPT(model=model, tokenizer=get_tokenizer("gpt2"), device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda gpt: gpt.complete(3), r"`prompt` vaut 3 \(attendu : un texte\)"),
        (lambda gpt: gpt.generate(None), "`prompt` vaut None"),
        (lambda gpt: gpt.stream(["Un"]), "`prompt` vaut"),
        (lambda gpt: gpt.generate("Un", 3), "`config` vaut 3 .*GenerationConfig ou None"),
        (lambda gpt: gpt.generate("Un", stop_ids="13"), "stop_ids vaut '13'"),
        (lambda gpt: gpt.generate("Un", logit_bias=3), "logit_bias vaut 3 .*dictionnaire"),
        (lambda gpt: gpt.generate_batch(3), "`prompts` vaut 3 .*une suite"),
        (lambda gpt: gpt.tokens(3), "`text` vaut 3"),
        (lambda gpt: gpt.attention(None), "`text` vaut None .*un texte ou une suite"),
        (lambda gpt: gpt.attention([1, "a"]), "`text` vaut"),
        (lambda gpt: gpt.lens(3), "`text` vaut 3"),
        (lambda gpt: gpt.ablate("Un", mode="rien"), "`mode` vaut 'rien' .*mean, zero"),
        (lambda gpt: gpt.neighbours(2.5), "`token` vaut 2.5"),
        (lambda gpt: gpt.score("Un", top="deux"), "`top` vaut 'deux'"),
        (lambda gpt: gpt.trace(2.5), "`prompt` vaut 2.5"),
        (lambda gpt: gpt.distribution("Un", temperatures=1), "`temperatures` vaut 1"),
        (lambda gpt: gpt.distribution("Un", p="0,9"), "`p` vaut '0,9' .*un nombre"),
        (lambda gpt: gpt.distribution("Un", temperature=1), "essayez `temperatures`"),
        (lambda gpt: gpt.chat_prompt(3), "`messages` vaut 3"),
        (lambda gpt: gpt_architecture.compare(gpt, "Un", variants=[{"k": 1}]), "`variants` vaut"),
        (lambda gpt: gpt_architecture.compare(gpt, 3), "`prompt` vaut 3"),
        (lambda gpt: gpt_architecture.evaluate(gpt, tokens="a"), "`tokens` vaut 'a'"),
        (lambda _: gpt_architecture.load(3), r"`path` vaut 3 \(attendu : un chemin ou un texte"),
        (lambda _: gpt_architecture.load("m.pt", engine="packd"), "essayez `packed`"),
        (lambda _: gpt_architecture.load("m.pt", device=0), "`device` vaut 0"),
        (lambda _: gpt_architecture.train(resume=3), "`resume` vaut 3 .*un chemin"),
        (lambda _: gpt_architecture.train(positions="zzz"), "positions vaut 'zzz'"),
        (lambda _: gpt_architecture.train(callbacks=3), "`callbacks` vaut 3"),
        (lambda _: gpt_architecture.prepare("t.txt", "f", tokenizer=3), "`tokenizer` vaut 3"),
        (lambda _: gpt_architecture.inspect_model(None), "`path` vaut None"),
        (lambda _: gpt_architecture.merge("a", "b", 3), "`out` vaut 3"),
        (lambda _: gpt_architecture.chat("m.pt", n=2), "`n` vaut 2"),
        (lambda _: gpt_architecture.train_tokenizer([]), "aucune source"),
        (lambda _: gpt_architecture.compare_tokenizers("Un", []), "aucun tokenizer"),
    ],
)
def test_a_wrong_type_is_told_in_one_sentence(gpt, call, said):
    with pytest.raises(ConfigurationError, match=said):
        call(gpt)


def test_an_unknown_quantisation_has_the_name_that_was_given(tmp_path, gpt):
    """Et non celui d'un réglage des noyaux."""
    from gpt_architecture.formats.model_file import save_model

    path = tmp_path / "m.pt"
    save_model(path, gpt.model, gpt.config, tokenizer=gpt.tokenizer.to_dict(), metadata={})
    with pytest.raises(ConfigurationError, match=r"`quant` vaut 'int3'.*int8, int4"):
        gpt_architecture.load(path, quant="int3")


def test_a_single_token_stops_as_a_single_text_does():
    assert GenerationConfig(stop_ids=13).stop_ids == (13,)
    assert GenerationConfig(stop="fin").stop == ("fin",)


@checked_options
def sample(
    path: Path | str = "",
    *,
    count: int = 1,
    share: float = 0.5,
    flag: bool | None = None,
    name: Literal["un", "deux"] = "un",
    pair: tuple[str, int] = ("a", 1),
    many: Sequence[str | tuple[str, int]] = (),
    table: Mapping[str, int] | None = None,
    hook: Callable[[], None] | None = None,
    unknown: Absent | None = None,  # noqa: F821 — jamais importé
    anything: Any = None,
) -> str:
    """Une fonction de chaque genre de réglage."""
    return f"{path}"


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("path", ["a", Path("a")], [3, None, ["a"]]),
        ("count", [0, -3], [True, 1.0, "1", None]),
        ("share", [1, 0.5], [True, "1", None]),
        ("flag", [True, None], [1, "oui"]),
        ("name", ["deux"], ["trois", None, 2]),
        ("pair", [("a", 2)], [("a",), ["a", 2], ("a", "b"), "ab"]),
        ("many", [[], ("a",), ["a", ("b", 2)], "abc"], [3, [3], [("a",)], {1, 2}]),
        ("table", [{}, None], [[("a", 1)], "a"]),
        ("hook", [print, None], [3, "print"]),
        ("unknown", [3, None, "a"], []),
        ("anything", [3, None, "a"], []),
    ],
)
def test_each_kind_of_setting(name, good, bad):
    """Un genre que le module n'a pas vraiment importé n'est pas vérifié."""
    for value in good:
        sample(**{name: value})
    for value in bad:
        with pytest.raises(ConfigurationError, match=f"`{name}` vaut"):
            sample(**{name: value})


def test_python_says_what_is_missing(gpt):
    """Un argument oublié reste une erreur de Python, qui le nomme."""
    with pytest.raises(TypeError, match="prompt"):
        gpt.generate()


def test_a_device_of_torch_is_a_device(tmp_path, gpt):
    from gpt_architecture.formats.model_file import save_model

    path = tmp_path / "m.pt"
    save_model(path, gpt.model, gpt.config, tokenizer=gpt.tokenizer.to_dict(), metadata={})
    loaded = gpt_architecture.load(path, device=torch.device("cpu"))
    assert loaded.device == torch.device("cpu")
