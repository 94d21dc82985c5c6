"""La page d'un modèle : seule, complète, sans danger, et chaque partie facultative."""

import math
import re

import pytest
import torch
from decoding_helpers import ByteTokenizer, LetterTokenizer, sharp_model
from page_helpers import HOSTILE, read_page

from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.errors import OutputError
from gpt_architecture.evaluation.attention_maps import AttentionMaps, attention_maps
from gpt_architecture.evaluation.comparison import compare_strategies, summarize
from gpt_architecture.evaluation.memorisation import measure_memorisation
from gpt_architecture.evaluation.reliability import Bin, Calibration, calibrate
from gpt_architecture.reports.curves import LossCurves
from gpt_architecture.reports.model_page import (
    MAX_ATTENTION_TOKENS,
    ModelPage,
    TextScore,
    model_page,
    overfitting,
    tiles,
    verdict,
    write_model_page,
)

SECTIONS = ("pertes", "perplexites", "memoire", "textes", "calibration", "attention")
VARIANTS = [
    ("Glouton", GenerationConfig(max_tokens=20)),
    ("Top-k", GenerationConfig(strategy="top_k", k=5, max_tokens=20)),
]


@pytest.fixture(scope="module")
def page():
    model, tokenizer = sharp_model(), LetterTokenizer()
    results = list(
        compare_strategies(Generator(model, tokenizer), ["abc", "le mot"], VARIANTS, seeds=[1])
    )
    learned = TokenArray(tokenizer.encode("le mot") + list(results[1].tokens) + [3] * 30)
    ids = torch.randint(0, 32, (60,), generator=torch.Generator().manual_seed(0))
    calibration = calibrate(model, ids, window=24)
    return ModelPage(
        name="gpt-model.pt",
        facts=[("paramètres", "12 345")],
        curves=LossCurves(
            steps=((10, 3.0), (20, 2.0)),
            train=((10, 2.5), (20, 1.5)),
            validation=((10, 2.75), (20, 2.9)),
        ),
        scores=[
            TextScore(label="entraînement", tokens=500, nll=1.0),
            TextScore(
                label="inédit", tokens=50, nll=6.0, bits_per_byte=2.34, interval=(300.0, 500.0)
            ),
        ],
        memorisation=measure_memorisation(results, learned, unseen=TokenArray(ids.tolist())),
        samples=summarize(results),
        calibrations=[("inédit", calibration)],
        sentence=attention_maps(model, tokenizer, "le mot juste"),
    )


def ids_of(reader):
    return {value for name, value in reader.attributes if name == "id"}


def test_page_is_alone_and_complete(page):
    content = model_page(page, LetterTokenizer())
    reader = read_page(content)
    assert set(SECTIONS) <= ids_of(reader)
    assert ("lang", "fr") in reader.attributes
    for text in ("12 345", "300 à 500", "2,34", "403", "texte inédit", "couche 2, tête 3"):
        assert text in content.replace("\u00a0", " "), text
    for summary in page.samples:
        for result in summary.results:
            assert result.text.strip() in re.sub(r"</?mark>", "", content)
    assert content.count('class="head"') == 6


def test_recited_passages_are_marked(page):
    """Le texte d'entraînement contient la suite gloutonne de « le mot » : elle est surlignée."""
    recited = page.memorisation.variants[0].texts[1].result.text
    content = model_page(page, LetterTokenizer())
    assert f"<mark>{recited}</mark>" in content
    assert "invite connue" in content
    some, total = page.memorisation.recited
    assert 1 <= some <= total == 4
    assert f"{some} texte" in content


def test_only_what_was_measured_is_shown():
    reader = read_page(model_page(ModelPage(name="nu"), LetterTokenizer()))
    assert not set(SECTIONS) & ids_of(reader)
    assert "nu" in reader.text


def test_texts_without_memorisation(page):
    alone = ModelPage(name="m", samples=page.samples)
    content = model_page(alone, LetterTokenizer())
    assert "<mark>" not in content
    assert page.samples[0].results[0].text in content


def test_without_unseen_text(page):
    results = [text.result for each in page.memorisation.variants for text in each.texts]
    memory = measure_memorisation(results, TokenArray([1, 2, 3]))
    content = model_page(ModelPage(name="m", memorisation=memory), LetterTokenizer())
    assert "arbitraire" in content
    assert "texte inédit</span>" not in content


def test_hostile_names_and_texts_are_shown_not_run(page):
    summary = page.samples[0]
    hostile = ModelPage(
        name=HOSTILE,
        facts=[("données", HOSTILE)],
        scores=[TextScore(label=HOSTILE, tokens=1, nll=1.0)],
        calibrations=[(HOSTILE, page.calibrations[0][1])],
        sentence=AttentionMaps(pieces=(HOSTILE, "b"), weights=torch.eye(2).expand(1, 1, 2, 2)),
        samples=[summary],
    )
    content = model_page(hostile, ByteTokenizer())
    reader = read_page(content)
    assert reader.tags.count("script") == 1  # le nôtre, dont la page porte l'empreinte
    assert "\x00" not in content
    assert "\u202e" not in content


def test_a_long_sentence_is_cut_and_said():
    size = MAX_ATTENTION_TOKENS + 5
    maps = AttentionMaps(pieces=tuple("x" * size), weights=torch.eye(size).expand(1, 2, size, size))
    content = model_page(ModelPage(name="m", sentence=maps), LetterTokenizer())
    assert "Les 5 derniers tokens" in content
    assert f'viewBox="0 0 {MAX_ATTENTION_TOKENS} {MAX_ATTENTION_TOKENS}"' in content


def test_the_most_telling_head_is_chosen():
    size = 6
    first = torch.zeros(size, size)
    first[:, 0] = 1.0
    far = torch.diag(torch.ones(size - 2), -2) + torch.diag(torch.tensor([1.0, 1, 0, 0, 0, 0]))
    weights = torch.stack([first, torch.eye(size), far]).unsqueeze(0)
    maps = AttentionMaps(pieces=tuple("abcdef"), weights=weights)
    content = model_page(ModelPage(name="m", sentence=maps), LetterTokenizer())
    assert '<figcaption id="chosen" aria-live="polite">couche 1, tête 3<' in content


def test_tiles(page):
    found = {title: value for title, value, _ in tiles(page)}
    assert found["Meilleure perte de validation"] == "2,75"
    assert found["Perplexité, inédit"] == "403"
    assert found["Textes qui récitent"].endswith("sur 4")
    assert "Erreur de calibration, inédit" in found


@pytest.mark.parametrize(
    ("confidence", "words"),
    [(0.51, "confiance juste"), (0.9, "trop sûr"), (0.1, "pas assez")],
)
def test_verdict(confidence, words):
    bins = (Bin(low=0.0, high=1.0, count=9, confidence=confidence, accuracy=0.5),)
    assert words in verdict(Calibration(bins=bins, tokens=9, nll=1.0))


def test_overfitting():
    scores = [TextScore(label=str(nll), tokens=1, nll=nll) for nll in (1.0, 6.0)]
    assert overfitting(scores) == pytest.approx(math.exp(5))
    assert overfitting(scores[:1]) is None
    assert overfitting([*scores, TextScore(label="∞", tokens=1, nll=1e6)]) == math.inf


def test_writing(tmp_path, page):
    path = tmp_path / "page.html"
    write_model_page(path, page, LetterTokenizer())
    assert path.read_text("utf-8") == model_page(page, LetterTokenizer())
    with pytest.raises(OutputError):
        write_model_page(path / "sous" / "page.html", page, LetterTokenizer())
