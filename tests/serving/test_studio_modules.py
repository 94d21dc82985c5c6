"""Les calculs de la page sont ceux du projet : mêmes filtres, mêmes mesures, exécutés par Node."""

import math
import re

import numpy as np
import pytest
import torch
from studio_helpers import WEB, needs_node, run_node

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.pipeline import build_pipeline
from gpt_architecture.evaluation.repetition import distinct_n, repetition

APPLY = """data.map(({ logits, ...settings }) => {
  const { kept, stages, probabilities } = found.applyFilters(Float32Array.from(logits), settings);
  return {
    kept,
    probabilities: Array.from(probabilities),
    stages: stages.map(({ name, kept, entropy, removed }) => [name, kept, entropy, removed]),
  };
})"""

SETTINGS = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.35},
    {"temperature": 1.7},
    {"k": 1},
    {"k": 40},
    {"k": 10_000},
    {"p": 0.0},
    {"p": 0.5},
    {"p": 0.9},
    {"p": 0.999},
    {"minP": 0.02},
    {"minP": 0.5},
    {"temperature": 1.3, "k": 60, "p": 0.95, "minP": 0.05},
    {"temperature": 0.7, "k": 300, "p": 0.8},
    {"temperature": 2.5, "p": 0.97, "minP": 0.004},
]


def cases():
    """Des logits de formes diverses : plats, pointus, avec des ex æquo."""
    generator = torch.Generator().manual_seed(0)
    peaked = 6 * torch.randn(2048, generator=generator)
    flat = 0.3 * torch.randn(700, generator=generator)
    tied = torch.randint(-6, 3, (500,), generator=generator).float()
    return [peaked, flat, tied, torch.zeros(64), torch.tensor([3.0])]


def python_stages(logits, *, temperature=1.0, k=None, p=None, minP=None):
    """(nom, gardés, entropie, masse retirée) de chaque étape de decoding/, et le dernier état."""
    if temperature == 0:
        best = torch.full_like(logits, -torch.inf)
        best[logits.argmax()] = 0.0
        rows = [("modèle", logits), ("temperature", best)]
    else:
        config = GenerationConfig(strategy="sample", temperature=temperature, k=k, p=p, min_p=minP)
        pipeline = build_pipeline(
            config,
            prompt_length=0,
            eos_ids=(),
            encode=lambda text: [],
            generator=torch.Generator(),
            vocab_size=len(logits),
        )
        rows, row = [("modèle", logits)], logits.unsqueeze(0)
        for stage in pipeline:
            row = stage.process(torch.empty(1, 0, dtype=torch.int64), row)
            rows.append((stage.name, row[0]))
    found, before = [], None
    for name, row in rows:
        kept = row > -torch.inf
        probabilities = row.double().softmax(-1)
        entropy = float(torch.special.entr(probabilities).sum()) / math.log(2)
        removed = 0.0 if before is None else float(before[~kept].sum())
        found.append((name, int(kept.sum()), entropy, removed))
        before = probabilities
    return found, rows[-1][1]


@needs_node
def test_page_filters_are_the_decoder_s(tmp_path):
    """Étape par étape : mêmes tokens gardés, mêmes masses, même distribution finale."""
    wanted, data = [], []
    for logits in cases():
        order = sorted(range(len(logits)), key=lambda each: (-float(logits[each]), each))
        for settings in SETTINGS:
            wanted.append((logits, order, settings))
            data.append({"logits": logits[order].tolist(), **settings})
    answers = run_node(tmp_path, "filters", APPLY, data)
    for (logits, order, settings), answer in zip(wanted, answers, strict=True):
        expected, last = python_stages(logits, **settings)
        found = answer["stages"]
        assert [(name, kept) for name, kept, *_ in found] == [each[:2] for each in expected]
        np.testing.assert_allclose(
            [each[2:] for each in found], [each[2:] for each in expected], rtol=1e-6, atol=1e-9
        )
        survivors = {place for place, value in enumerate(last.tolist()) if value > -math.inf}
        assert survivors == set(order[: answer["kept"]])
        final = last.double().softmax(-1)[order[: answer["kept"]]]
        np.testing.assert_allclose(answer["probabilities"], final.numpy(), rtol=1e-6, atol=1e-12)


@needs_node
def test_page_measures_are_the_evaluation_s(tmp_path):
    """Distinct-1, distinct-2 et répétition : les nombres d'evaluation/repetition."""
    texts = [[], [1], [1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 1, 2, 3, 4, 5], [12, 1, 2, 112, 1, 2]]
    program = (
        "data.map((tokens) => [found.distinct(tokens, 1), found.distinct(tokens, 2), "
        "found.repetition(tokens)])"
    )
    answers = run_node(tmp_path, "measures", program, texts)
    expected = [[distinct_n(t, 1), distinct_n(t, 2), repetition(t)] for t in texts]
    np.testing.assert_allclose(answers, expected, rtol=1e-12)


# --- Les couleurs --------------------------------------------------------------------------------


def palettes():
    """Les couleurs de la feuille de style : claires, sombres (qui complètent les claires)."""
    css = (WEB / "studio.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks)
    return {"clair": light, "sombre": light | dark}


def luminance(colour):
    """Luminance relative, d'après WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first, second):
    """Rapport de contraste de deux couleurs."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["clair", "sombre"])
def test_text_is_readable(mode):
    """Contraste d'au moins 4,5 pour tout texte ; l'échelle des probabilités se lit en gris."""
    colours = palettes()[mode]
    pairs = [
        (ink, paper) for ink in ("ink", "soft", "accent", "bad") for paper in ("paper", "sheet")
    ]
    pairs += [("ink", f"p{n}") for n in range(1, 6)] + [("ink", f"k{n}") for n in range(6)]
    pairs += [("on-accent", "accent"), ("ink", "faint"), ("soft", "faint")]
    weak = {
        pair: round(ratio, 2)
        for pair in pairs
        if (ratio := contrast(*(colours[name] for name in pair))) < 4.5
    }
    assert not weak
    scale = [luminance(colours[name]) for name in ("sheet", *(f"p{n}" for n in range(1, 6)))]
    assert scale == sorted(scale, reverse=mode == "clair")


@needs_node
def test_errors_are_one_french_sentence(tmp_path):
    """La seconde ligne d'une erreur, en anglais, n'est pas pour qui lit la page."""
    message = "le contexte compte 256 tokens\nThis model's maximum context length is 256 tokens."
    found = run_node(tmp_path, "api", "data.map(found.sentence)", [message, "trop de tokens"])
    assert found == ["Le contexte compte 256 tokens", "Trop de tokens"]
