"""`gpt-architecture train` : d'un texte à un modèle entraîné."""

from __future__ import annotations

import sys

if __package__ in (None, ""):  # lancé par son chemin : python3 train.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])

import os
import shlex
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from gpt_architecture import __version__
from gpt_architecture.config import GPT_CONFIG_124M, GPTConfig, TrainingConfig, check_int
from gpt_architecture.errors import (
    ConfigurationError,
    TokenizerError,
)
from gpt_architecture.scripts._cli import (
    MODEL_NAME,
    CommonOptions,
    french_duration,
    french_size,
    read_prompt,
    say,
)
from gpt_architecture.scripts._options import Prompt
from gpt_architecture.scripts._outputs import (
    PLOT_NAME,
    check_output,
    free_name,
    plot,
    run_identity,
    save,
)
from gpt_architecture.scripts._signals import graceful_stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt_architecture.data.corpus import Corpus
    from gpt_architecture.data.tokenizer import Tokenizer

SEED_PROMPT = "Every effort moves you"
STORY_PROMPT = "Un soir d'octobre, la cloche"


def _split_paths(_type: Any, value: str, *, delimiter: str | None = None) -> list[str]:
    """Chemins d'une variable d'environnement, séparés comme ceux de PATH."""
    return value.split(delimiter or os.pathsep)


@Parameter(name="*", group=Group("Données et sorties", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """D'où vient le texte, où va le modèle."""

    data: Annotated[
        list[str],
        Parameter(consume_multiple=True, env_var_split=_split_paths),
    ] = field(default_factory=lambda: ["the-verdict"])
    """Texte : fichiers, dossiers, ou les noms the-verdict et la-lampe-du-passeur."""

    tokenizer: str = "gpt2"
    """Tokenizer : gpt2, simple-v1, simple-v2, ou le fichier JSON d'un tokenizer enregistré."""

    output_dir: Path = Path()
    """Dossier où écrire gpt-model.pt et loss-plot.pdf."""

    prompt: Prompt = None
    """Début des exemples générés à chaque époque ; sans lui, celui qui convient au texte."""

    device: str = "auto"
    """Périphérique : auto, cpu, cuda, cuda:N ou mps."""

    force: bool = False
    """Écrase un modèle existant, même d'un autre entraînement."""

    offline: bool = False
    """Interdit tout téléchargement."""


@Parameter(name="*", group=Group("Modèle", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Forme du modèle ; la taille du vocabulaire vient du tokenizer."""

    context_length: int = 256
    """Longueur du contexte appris, en tokens : celle des fenêtres d'entraînement."""

    positions: int = GPT_CONFIG_124M["context_length"]
    """Positions du modèle, au moins le contexte ; celles qui le dépassent n'apprennent rien."""

    emb_dim: int = GPT_CONFIG_124M["emb_dim"]
    """Largeur du modèle, multiple du nombre de têtes."""

    n_heads: int = GPT_CONFIG_124M["n_heads"]
    """Nombre de têtes d'attention."""

    n_layers: int = GPT_CONFIG_124M["n_layers"]
    """Nombre de blocs."""

    drop_rate: float = GPT_CONFIG_124M["drop_rate"]
    """Probabilité d'abandon (dropout)."""

    qkv_bias: bool = GPT_CONFIG_124M["qkv_bias"]
    """Biais sur les projections requête, clé et valeur."""

    tie_weights: bool = False
    """Lie la tête de sortie à l'embedding (mode GPT-2)."""


@Parameter(name="*", group=Group("Entraînement", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """Réglages de l'apprentissage."""

    epochs: int = TrainingConfig.epochs
    """Nombre de passages sur le texte."""

    batch_size: int = TrainingConfig.batch_size
    """Séquences par lot."""

    stride: int | None = TrainingConfig.stride
    """Décalage entre deux fenêtres, en tokens ; sans lui, la longueur du contexte."""

    lr: float = TrainingConfig.lr
    """Taux d'apprentissage d'AdamW."""

    weight_decay: float = TrainingConfig.weight_decay
    """Décroissance des poids d'AdamW."""

    train_ratio: float = TrainingConfig.train_ratio
    """Part du texte gardée pour l'entraînement."""

    eval_freq: int = TrainingConfig.eval_freq
    """Étapes entre deux évaluations."""

    eval_iter: int = TrainingConfig.eval_iter
    """Lots lus à chaque évaluation."""

    seed: int = TrainingConfig.seed
    """Graine des poids, de l'ordre des données et du dropout."""


def train(
    *,
    run: RunOptions = RunOptions(),
    shape: ModelOptions = ModelOptions(),
    learning: LearningOptions = LearningOptions(),
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> int:
    """Entraîne un modèle sur un texte et écrit gpt-model.pt et loss-plot.pdf.

    Les valeurs par défaut refont l'entraînement de référence : GPT-124M sur The Verdict.
    """
    del common  # lues par le lanceur
    training = TrainingConfig(**asdict(learning))
    window = shape.context_length
    config = _model_config(shape)  # refuse les formes impossibles avant tout travail

    import torch

    from gpt_architecture.core.device import describe_device, resolve_device
    from gpt_architecture.core.memory import return_freed_memory
    from gpt_architecture.core.model import GPTModel
    from gpt_architecture.data.corpus import load_corpus
    from gpt_architecture.data.loader import create_train_val_loaders, split_text
    from gpt_architecture.data.tokenizer import get_tokenizer
    from gpt_architecture.training.simple import train_model_simple

    return_freed_memory()
    device = resolve_device(run.device)
    corpus = load_corpus(run.data, offline=run.offline)
    # Un vocabulaire de mots vient des parts déjà coupées : la coupe peut tomber dans un mot.
    parts = split_text(corpus.text, training.train_ratio)
    tokenizer = get_tokenizer(run.tokenizer, text="\n".join(parts))
    config = GPTConfig.from_dict({**config.to_dict(), "vocab_size": tokenizer.vocab_size})
    train_loader, val_loader = create_train_val_loaders(
        corpus.text, tokenizer, context_length=window, training=training
    )
    prompt = _choose_prompt(run.prompt, corpus, tokenizer)
    identity = run_identity(config, window, training, corpus, tokenizer)
    check_output(run.output_dir, identity, config, force=run.force)

    steps = len(train_loader)
    sizes = [len(loader.dataset.token_ids) for loader in (train_loader, val_loader)]  # type: ignore[attr-defined]
    _announce(config, training, window, steps, f"{corpus.name} ({tokenizer.name})", sizes)
    say(f"Périphérique {describe_device(device)}\n")

    torch.manual_seed(training.seed)
    model = GPTModel(config).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.lr, weight_decay=training.weight_decay, fused=True
    )
    from gpt_architecture.scripts._progress import TrainingProgress

    start = time.perf_counter()
    with graceful_stop() as stop:
        with TrainingProgress() as progress:
            train_losses, val_losses, tokens_seen = train_model_simple(
                model,
                train_loader,
                val_loader,
                optimizer,
                device,
                training.epochs,
                training.eval_freq,
                training.eval_iter,
                prompt,
                tokenizer,
                reporter=progress,
                should_stop=stop,
            )
        seconds = time.perf_counter() - start
        interrupted = progress.steps_done < progress.total_steps
        metadata = {
            **identity,
            "prompt": prompt,
            "train_losses": train_losses,
            "val_losses": val_losses,
            "tokens_seen": tokens_seen,
            "steps": progress.steps_done,
            "seconds": seconds,
            "complete": not interrupted,
            "versions": {"gpt-architecture": __version__, "torch": str(torch.__version__)},
        }
        model_path = run.output_dir / MODEL_NAME
        plot_path = run.output_dir / PLOT_NAME
        if interrupted:  # rien de ce qui existe n'est écrasé par un travail inachevé
            model_path, plot_path = free_name(model_path), free_name(plot_path)
        save(model_path, model, config, tokenizer, metadata)
    say("\nInterrompu." if interrupted else f"\nTerminé en {french_duration(seconds)}.")
    say(f"Modèle : {model_path} ({french_size(model_path.stat().st_size)})")
    if plot(plot_path, metadata, training, steps):
        say(f"Courbes : {plot_path}")
    chosen = [] if model_path == Path(MODEL_NAME) else ["--model", str(model_path)]
    command = ["gpt-architecture", "infer", *chosen, "--strategy", "top_p", "--prompt"]
    say(f"Ensuite : {shlex.join(command)} {_quoted(prompt)}")
    return stop.exit_code if interrupted else 0


def _announce(
    config: GPTConfig,
    training: TrainingConfig,
    window: int,
    steps: int,
    text: str,
    sizes: Sequence[int],
) -> None:
    """Dit ce qui va être entraîné, et sur quoi."""
    say(
        f"Texte        {text} : {_spaced(sizes[0])} tokens d'entraînement, "
        f"{_spaced(sizes[1])} de validation"
    )
    say(
        f"Modèle       {_spaced(config.num_parameters())} paramètres, "
        f"contexte appris {window} sur {_spaced(config.context_length)} positions"
    )
    say(
        f"Entraînement {training.epochs} époque(s) de {steps} étape(s), "
        f"lots de {training.batch_size} × {window} tokens"
    )


def _model_config(shape: ModelOptions) -> GPTConfig:
    """La forme du modèle, vocabulaire mis à part.

    Raises:
        ConfigurationError: valeur hors bornes, ou moins de positions que de contexte.
    """
    values = asdict(shape)
    window = values.pop("context_length")
    positions = values.pop("positions")
    check_int("context_length", window, minimum=1)
    if positions < window:
        raise ConfigurationError(
            f"--positions vaut {positions} et --context-length {window}",
            expected="au moins autant de positions que de contexte",
            remedy=f"ajoutez --positions {window}",
        )
    return GPTConfig(**values, context_length=positions)


def _quoted(text: str) -> str:
    """Le texte entre guillemets pour un terminal, protégé s'il contient de quoi l'abuser."""
    return shlex.quote(text) if set(text) & set('"$`\\!\n') else f'"{text}"'


def _choose_prompt(prompt: str | None, corpus: Corpus, tokenizer: Tokenizer) -> str:
    """Le début des exemples : celui demandé, sinon le premier que le tokenizer sait coder."""
    if prompt is None:
        from gpt_architecture.data.corpus import SHORT_STORY, VERDICT

        first_words = " ".join(corpus.text.split(maxsplit=4)[:4])[:60]
        preferred = {VERDICT: SEED_PROMPT, SHORT_STORY: STORY_PROMPT}.get(corpus.name, first_words)
        prompt = preferred if _knows(tokenizer, preferred) else first_words
    else:
        prompt = read_prompt(prompt)
    if not tokenizer.encode(prompt):  # un mot inconnu est dit maintenant, pas après une époque
        raise ConfigurationError(
            f"le début d'exemple {prompt!r} ne donne aucun token",
            expected="au moins un mot",
            remedy="changez --prompt",
        )
    return prompt


def _knows(tokenizer: Tokenizer, text: str) -> bool:
    """Vrai si chaque mot de `text` est dans le vocabulaire."""
    from gpt_architecture.data.tokenizer import UNKNOWN

    try:
        return UNKNOWN not in tokenizer.decode(tokenizer.encode(text))
    except TokenizerError:
        return False


def _spaced(number: int) -> str:
    """Milliers séparés par une espace : « 163 009 536 »."""
    return f"{number:,}".replace(",", " ")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["train", *sys.argv[1:]])
