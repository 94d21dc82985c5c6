"""Ce qu'un entraînement lit : ses données, et l'invite de ses exemples."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt_architecture.config import (
    TrainingConfig,
    TrainingRequest,
)
from gpt_architecture.data.canaries import draw_canaries, plant
from gpt_architecture.data.datasets import TrainingData, load_training_data
from gpt_architecture.data.dialogues import load_chat_data
from gpt_architecture.data.labelling import load_labelled_data
from gpt_architecture.data.masking import without
from gpt_architecture.data.mixtures import MixtureTokens, load_mixture
from gpt_architecture.data.preferences import load_preferences
from gpt_architecture.data.removal import Removal, read_removal
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.data.texts.chat import check_template, render_chat
from gpt_architecture.data.texts.corpus import SHORT_STORY
from gpt_architecture.data.texts.recipes import VERDICT
from gpt_architecture.data.tokenizer import UNKNOWN, Tokenizer, tokenizer_from_dict
from gpt_architecture.data.tokenizers.marked_text import encode_text
from gpt_architecture.errors import ConfigurationError, TokenizerError
from gpt_architecture.storage import read_text
from gpt_architecture.storage.chain import Chain
from gpt_architecture.training.checkpoint import Checkpoint
from gpt_architecture.training.saved import own_removal, resumable
from gpt_architecture.training.starting import StartingPoint

SEED_PROMPT = "Every effort moves you"
STORY_PROMPT = "Un soir d'octobre, la cloche"

_MAX_TEMPLATE_FILE = 1 << 20
_LEARNED_TOKENIZER = re.compile(r"simple-v2|char|bpe-[0-9]+")  # simple-v1 ignore les mots nouveaux


@dataclass(kw_only=True)
class Origins:
    """D'où part un entraînement : chaque fichier n'est lu qu'une fois.

    Attributes:
        start: modèle de départ ; None : des poids tirés au hasard.
        teacher: professeur d'une distillation ; None : aucun.
        checkpoint: point à reprendre ; None : le début.
        learned: vocabulaire à employer, quel que soit celui que la demande nomme ; None : aucun.
        removal: ce qui est retiré des données, au lieu de ce que la demande nomme ; None : elle.
        chain: le certificat à continuer d'un oubli ; None : celui du dossier de sortie.
    """

    start: StartingPoint | None = None
    teacher: StartingPoint | None = None
    checkpoint: Checkpoint | None = None
    learned: Tokenizer | None = None
    removal: Removal | None = None
    chain: Chain | None = None

    def implied(self, *, resume: Path | str | None, start: Path | str | None) -> Mapping[str, Any]:
        """Les réglages qu'apporte le point à reprendre, sinon le modèle de départ.

        Raises:
            ConfigurationError: rien à reprendre.
            ModelFileError: modèle de départ illisible.
        """
        if resume is not None:
            self.checkpoint = resumable(resume)
            options: Mapping[str, Any] = self.checkpoint.state["options"]
            own = own_removal(resume)
            return options if own is None else {**options, "forget": str(own)}
        if start is not None:
            self.start = StartingPoint.read(start)
            return self.start.shape()
        return {}

    def of_request(self, request: TrainingRequest) -> Origins:
        """Complète de ce que la demande désigne et qui n'est pas encore lu."""
        run, start = request.run, request.finetuning.start
        if self.start is None and start is not None:
            self.start = StartingPoint.read(start)
        if self.teacher is None and request.objective.distill is not None:
            self.teacher = StartingPoint.read(request.objective.distill)
        if self.checkpoint is None and run.resume is not None:
            self.checkpoint = resumable(run.resume)
        return self

    def vocabulary(self, tokenizer: str) -> Tokenizer | None:
        """Le vocabulaire que les poids de départ ont appris, si c'est lui qui est demandé.

        L'apprendre de nouveau, sur un texte qui a changé, donnerait d'autres tokens à des poids qui
        ont appris ceux-là.
        """
        if self.start is not None:
            return self.start.tokenizer
        if self.learned is not None:
            return self.learned
        if self.teacher is not None:
            return self.teacher.tokenizer
        if self.checkpoint is None or not _LEARNED_TOKENIZER.fullmatch(tokenizer):
            return None
        state = self.checkpoint.state
        is_same = state["options"].get("tokenizer") == tokenizer
        return tokenizer_from_dict(state["tokenizer"]) if is_same else None


def load_data(request: TrainingRequest, training: TrainingConfig, origins: Origins) -> TrainingData:
    """Des conversations, un mélange, ou du texte suivi, sans ce qui en est retiré.

    Args:
        request: d'où ils viennent.
        training: voir `TrainingRequest.learning`.
        origins: d'où vient le vocabulaire, si des poids l'ont appris ; ce qui est retiré.

    Raises:
        DataError: données absentes, abîmées ou trop courtes, ou d'un autre retrait.
        ConfigurationError: le retrait est illisible.
    """
    removal = origins.removal
    if removal is None and request.run.forget is not None:
        removal = read_removal(request.run.forget)
    data = whole_data(request, training, origins)
    if removal is not None and request.objective.preferences is not None:
        raise ConfigurationError.together("`preferences`", "`forget`")
    return data if removal is None else without(data, removal)


def whole_data(
    request: TrainingRequest, training: TrainingConfig, origins: Origins
) -> TrainingData:
    """Ce que `load_data` lit, sans rien en retirer."""
    run, finetuning, window = request.run, request.finetuning, request.shape.context_length
    vocabulary = origins.vocabulary(run.tokenizer)
    pairs = request.objective.preferences
    if pairs is not None and origins.start is not None:
        return load_preferences(
            pairs,
            origins.start.tokenizer,
            window=window,
            training=training,
            template=_own_template(finetuning.chat_template, origins.start),
        )
    if request.labels.classify is not None:
        return load_labelled_data(
            request.labels,
            run.tokenizer,
            window=window,
            training=training,
            field=run.field,
            vocabulary=vocabulary,
        )
    if finetuning.chat is not None:
        if training.canaries:
            raise ConfigurationError.together(
                "`canaries`", "`chat`", expected="du texte suivi, où planter des phrases"
            )
        return load_chat_data(
            finetuning.chat,
            run.tokenizer,
            window=window,
            training=training,
            template=_template(finetuning.chat_template, origins.start),
            vocabulary=vocabulary,
        )
    reading: dict[str, Any] = {
        **{"window": window, "training": training, "vocabulary": vocabulary},
        **{name: getattr(run, name) for name in ("field", "offline", "skip_bad")},
    }
    if run.mixture:
        data = load_mixture(run.mixture, run.tokenizer, **reading)
    else:
        data = load_training_data(list(run.data), run.tokenizer, **reading)
    data = with_canaries(data, training)
    planted = () if data.canaries is None else data.canaries.canaries
    longest = max((len(each.ids) for each in planted), default=0)
    if longest > window:
        raise ConfigurationError(
            f"un canari de {longest} tokens pour un contexte de {window}",
            expected="un contexte d'entraînement où une phrase entière tient",
            remedy="allongez `context_length`, ou retirez `canaries`",
        )
    return data


def with_canaries(data: TrainingData, training: TrainingConfig) -> TrainingData:
    """Les données, les canaris demandés plantés dans l'entraînement ; jamais dans la validation.

    D'un mélange, c'est la plus longue source qui les reçoit. L'identité des données change.

    Raises:
        ConfigurationError: le tokenizer ne sait pas les écrire, ou ils pèseraient trop.
    """
    if not training.canaries:
        return data
    seed, tokenizer = training.seed, data.tokenizer
    canaries = draw_canaries(tokenizer, training.canaries, seed)
    train: TokenSource
    if isinstance(data.train, MixtureTokens):
        parts = list(data.train.parts)
        longest = max(range(len(parts)), key=lambda place: parts[place].num_tokens)
        parts[longest] = plant(parts[longest], canaries, tokenizer, seed)
        train = MixtureTokens(parts, data.train.sources)
    else:
        train = plant(data.train, canaries, tokenizer, seed)
    whole = f"{data.sha256} {train.sha256}"
    return replace(
        data, train=train, sha256=hashlib.sha256(whole.encode()).hexdigest(), canaries=canaries
    )


def _template(path: Path | None, start: StartingPoint | None) -> str | None:
    """Le gabarit demandé, sinon celui du modèle de départ, sinon None.

    Raises:
        DataError: fichier illisible, ou gabarit mal écrit.
    """
    if path is not None:
        text = read_text(
            path,
            expected="un gabarit Jinja en UTF-8",
            remedy="corrigez `chat_template`",
            limit=_MAX_TEMPLATE_FILE,
        )
        return check_template(text)
    return None if start is None else start.chat_template


def _own_template(path: Path | None, start: StartingPoint) -> str | None:
    """Le gabarit du modèle ; celui demandé n'en est pas un autre.

    Raises:
        ConfigurationError: le modèle a appris un autre gabarit.
        DataError: fichier illisible, ou gabarit mal écrit.
    """
    asked, own = _template(path, start), start.chat_template
    if own is not None and asked is not None and asked.strip() != own.strip():
        raise ConfigurationError(
            f"le gabarit de {path} n'est pas celui de {start.name}",
            expected="le gabarit que le modèle a appris : ses réponses n'ont de sens que sous lui",
            remedy="retirez `chat_template`",
        )
    return asked


def choose_prompt(prompt: str | None, data: TrainingData) -> str:
    """L'invite des exemples : celle demandée, sinon la première que le tokenizer sait coder.

    Args:
        prompt: celui demandé, déjà lu ; avec des conversations, une question.
        data: les données.

    Raises:
        ConfigurationError: il ne donne aucun token.
    """
    if prompt is None:
        known = {VERDICT: SEED_PROMPT, SHORT_STORY: STORY_PROMPT}
        named = "" if isinstance(data.train, MixtureTokens) else data.name  # libre, au mélange
        preferred = known.get(named, data.opening)
        prompt = preferred if _knows(data.tokenizer, preferred) else data.opening
    elif data.chat_template is not None:
        asked = [{"role": "user", "content": prompt}]
        prompt = render_chat(
            asked, data.chat_template, tokenizer=data.tokenizer, add_generation_prompt=True
        )
    if not encode_text(prompt, data.tokenizer):  # un mot inconnu est dit avant toute étape
        raise ConfigurationError(
            f"l'invite d'exemple {prompt!r} ne donne aucun token",
            expected="au moins un mot",
            remedy="changez `prompt`",
        )
    return prompt


def _knows(tokenizer: Tokenizer, text: str) -> bool:
    """Vrai si chaque mot de `text` est dans le vocabulaire."""
    try:
        return UNKNOWN not in tokenizer.decode(tokenizer.encode(text))
    except TokenizerError:
        return False
