"""Le modèle des captures : un entraînement d'une minute, et ce qu'on retient de lui.

Ce qui est retenu (`docs/figures/donnees/modele.json`) suffit à redessiner les figures, sans
entraîner ; l'empreinte dit si ce dont il dépend a changé : le texte, le préréglage, les demandes.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt_architecture.config import TRAINING_PRESETS

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "docs" / "figures" / "donnees" / "modele.json"
MODELS = ROOT / "outputs" / "images"
TEXT = ROOT / "src" / "gpt_architecture" / "data" / "assets" / "la-lampe-du-passeur.txt"

PRESET = "eclair"
TRAINING = (
    *("--preset", PRESET, "--emb-dim", "192", "--n-layers", "4", "--n-heads", "6"),
    *("--max-steps", "90", "--eval-freq", "5", "--device", "cpu"),
)
"""Plus large que le préréglage, sur la même nouvelle embarquée : ses phrases se lisent."""
PROMPT = "Un soir d'octobre, la cloche"
TRACED = f"{PROMPT} sonna"
TRACE = {
    "strategy": "top_p",
    "p": 0.9,
    "temperature": 0.8,
    "repetition_penalty": 1.1,
    "max_tokens": 2,
    "seed": 3,
}
STUDIED = f"{PROMPT} sonna un"
TEMPERATURES = (0.3, 0.7, 1.0, 2.0)
SHOWN = 10
"""Tokens de la figure des températures."""
COMPARED = {"max_tokens": 32, "seed": 123}


def inputs() -> str:
    """L'empreinte de ce dont dépend l'entraînement et ce qui en est retenu."""
    asked = (TRAINING, PROMPT, TRACED, TRACE, STUDIED, TEMPERATURES, COMPARED)
    content = json.dumps([TRAINING_PRESETS[PRESET], asked], ensure_ascii=False, default=list)
    return hashlib.sha256(TEXT.read_bytes() + content.encode()).hexdigest()


def recorded(path: Path = RECORDED) -> dict[str, Any]:
    """Ce qui a été retenu."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def is_current() -> bool:
    """Vrai si ce qui a été retenu vient bien de ces demandes."""
    return RECORDED.is_file() and recorded()["inputs"] == inputs()


def run_directory() -> Path:
    """Le dossier de l'entraînement, fait s'il manque ; hors de git."""
    folder = MODELS / inputs()[:12]
    if not (folder / "gpt-model.pt").is_file():
        command = [sys.executable, "-m", "gpt_architecture", "train", *TRAINING]
        subprocess.run([*command, "--output-dir", str(folder), "--force"], check=True)
    return folder


def record() -> None:
    """Entraîne au besoin, et retient les pertes, une trace, une comparaison, une distribution."""
    folder = run_directory()
    content = {"inputs": inputs(), "losses": _losses(folder / "journal.jsonl"), **_written(folder)}
    RECORDED.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, ensure_ascii=False, indent=1)
    RECORDED.write_text(text + "\n", encoding="utf-8")


def _losses(journal: Path) -> dict[str, list[float]]:
    """Les arguments de `plot_losses`, lus dans le journal."""
    records = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    per_epoch = next(each["step"] for each in records if each.get("epoch") == 2)
    found = [each for each in records if each["kind"] == "evaluation"]
    return {
        "epochs_seen": [(each["step"] + 1) / per_epoch for each in found],
        "tokens_seen": [each["tokens_seen"] for each in found],
        "train_losses": [each["train_loss"] for each in found],
        "val_losses": [each["val_loss"] for each in found],
    }


def _written(folder: Path) -> dict[str, Any]:
    """Ce que le modèle écrit, et ce qu'il aurait pu écrire."""
    from gpt_architecture.api import load
    from gpt_architecture.decoding.config import GenerationConfig
    from gpt_architecture.decoding.trace import Tracer
    from gpt_architecture.evaluation.comparison import SIX_VARIANTS, compare_strategies
    from gpt_architecture.evaluation.distribution import next_token_logits

    gpt = load(folder / "gpt-model.pt", device="cpu")
    config = GenerationConfig(**TRACE)  # type: ignore[arg-type]
    tracer = Tracer(gpt.generator.encode(TRACED), config, gpt.tokenizer)
    for _ in tracer.follow(gpt.pieces(TRACED, config, observer=tracer.observe)):
        pass
    variants = [
        (name, replace(each, max_tokens=COMPARED["max_tokens"])) for name, each in SIX_VARIANTS
    ]
    gpt.generate(PROMPT, max_tokens=COMPARED["max_tokens"])  # la première suite paie les autres
    results = compare_strategies(gpt.generator, [PROMPT], variants, seeds=[COMPARED["seed"]])
    logits = next_token_logits(gpt.generator.model, gpt.encode(STUDIED))
    words = {token: gpt.tokenizer.decode([token]) for token in logits.topk(SHOWN).indices.tolist()}
    return {
        "trace": tracer.trace.to_dict(),
        "comparison": [{**vars(each), "config": each.config.to_dict()} for each in results],
        "logits": " ".join(f"{logit:.4f}" for logit in logits.tolist()),
        "words": words,
    }


def trace_of(content: Mapping[str, Any]) -> Any:
    """La trace retenue, telle que `infer --trace` la montre."""
    from gpt_architecture.decoding.named_settings import config_of
    from gpt_architecture.decoding.trace import Candidate, StageSummary, Trace, TraceStep

    trace = content["trace"]
    steps = tuple(
        TraceStep(
            position=step["position"],
            token=step["token"],
            written=step["written"],
            rank=step["draw"]["rank"],
            stages=tuple(StageSummary(**stage) for stage in step["stages"]),
            candidates=tuple(
                Candidate(**{**each, "probabilities": tuple(each["probabilities"])})
                for each in step["candidates"]
            ),
        )
        for step in trace["steps"]
    )
    return Trace(
        prompt=trace["prompt"],
        config=config_of(trace["config"]),
        steps=steps,
        omitted=trace["omitted"],
        finish=trace["finish"],
    )


def comparison_of(content: Mapping[str, Any]) -> Any:
    """La comparaison retenue, telle que `demo` la montre."""
    from gpt_architecture.decoding.named_settings import config_of
    from gpt_architecture.evaluation.comparison import VariantResult, summarize

    return summarize(
        [
            VariantResult(
                **{
                    **each,
                    "config": config_of(each["config"]),
                    "prompt_ids": tuple(each["prompt_ids"]),
                    "tokens": tuple(each["tokens"]),
                }
            )
            for each in content["comparison"]
        ]
    )


def study_of(content: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """La distribution retenue, telle que `visualize` la trace, et le nom de ses tokens.

    Seuls les logits sont retenus, et relus en double précision : les probabilités sont celles
    d'aujourd'hui, les mêmes d'un processeur à l'autre.
    """
    import torch

    from gpt_architecture.evaluation.distribution import study_distribution
    from gpt_architecture.reports.terminal import visible_token

    logits = torch.tensor([*map(float, content["logits"].split())], dtype=torch.float64)
    study = study_distribution(logits, TEMPERATURES, k=5, p=0.9, n_tokens=SHOWN)
    return study, [visible_token(content["words"][str(token)]) for token in study.tokens]
