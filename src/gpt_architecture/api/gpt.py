"""Un modèle prêt à écrire, et ce qu'il montre d'un texte."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gpt_architecture.api.options import checked_options
from gpt_architecture.api.understanding import Explained
from gpt_architecture.api.writer import config_or
from gpt_architecture.config import check_int
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizers.marked_text import plain, written
from gpt_architecture.decoding.config import MAX_ALTERNATIVES, GenerationConfig
from gpt_architecture.decoding.constraints import cut_warning
from gpt_architecture.decoding.sequence import TokenScore
from gpt_architecture.decoding.trace import MAX_STEPS
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.embeddings import Pooling, embed_all
from gpt_architecture.french import thousands

if TYPE_CHECKING:
    from gpt_architecture.api.labels import Judgements
    from gpt_architecture.api.views import (
        AttentionMap,
        Completion,
        Distribution,
        Tokenization,
        Trace,
    )

logger = logging.getLogger(__name__)

TEMPERATURES = (0.3, 0.7, 1.0, 2.0)
"""Températures qu'une distribution compare."""


@dataclass(frozen=True, kw_only=True, repr=False)
class GPT(Explained):
    """Un modèle prêt à écrire, avec son tokenizer ; `load` le construit.

    Il écrit, et montre : probabilités, découpage, attention, vecteurs, filtres, et ce qui se passe
    dans ses couches.

    Attributes:
        model: le réseau, en évaluation.
        tokenizer: celui de l'entraînement.
        device: où le modèle calcule.
        metadata: provenance et résultats de l'entraînement.
        runner: ce qui calcule pendant la génération ; None : `model` lui-même.
        draft: modèle auxiliaire du décodage spéculatif ; None : aucun.
        drafts: tokens que le modèle propose lui-même à un texte seul, au plus (poids fp32, noyaux
            compilés) ; 0 : aucun. Le texte reste le même.
        name: d'où il vient, pour l'affichage.
        quant: quantification demandée au chargement, que `runner` porte ; None : aucune.
    """

    @checked_options
    def score(self, text: str, *, top: int = 0) -> list[TokenScore]:
        """Probabilité de chaque token d'un texte (voir `Generator.score`)."""
        return self.generator.score(text, top=top)

    @checked_options
    def complete(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        *,
        top: int = 5,
        parse_special: bool = False,
        **settings: Any,
    ) -> Completion:
        """Continue `prompt`, et rend la probabilité de chaque token.

        Args:
            prompt: l'invite.
            config: comment générer ; voir `generate`.
            top: candidats rendus à chaque position, au plus 100.
            parse_special: voir `encode`.
            settings: réglages de `GenerationConfig`, à la place de `config`.

        Raises:
            ConfigurationError: réglage inconnu ou hors bornes, plusieurs textes, ou invite vide.

        Examples:
            >>> from gpt_architecture import load
            >>> found = load("modele").complete("Un soir", max_tokens=3, top_k=5, seed=1)
            >>> len(found.pieces), len(found.pieces[0].candidates)
            (3, 5)
        """
        from gpt_architecture.api.views import Completion, written_pieces

        check_int("top", top, minimum=0, maximum=MAX_ALTERNATIVES)
        config = config_or(config, settings)
        if config.n != 1:
            raise ConfigurationError.wrong(
                "n", config.n, expected="n = 1", remedy="utilisez generate_batch"
            )
        start = written(prompt) if parse_special else prompt
        ids, is_beam = self.generator.encode(start), config.strategy == "beam"
        scored = config if is_beam else replace(config, logprobs=top)
        ((found,),) = self.generator.generate([ids], scored)
        scores: Sequence[TokenScore] = found.scores
        if is_beam:  # le faisceau ne rend pas les probabilités
            scores = self.generator.score([*ids, *found.tokens], top=top)[len(ids) - 1 :]
        if warning := cut_warning(config, found.finish):
            logger.warning("%s", warning)
        return Completion(
            prompt=plain(prompt),
            text=found.text,
            pieces=tuple(written_pieces(self.tokenizer, ids, found, scores)),
            finish=found.finish,
            seed=found.seed,
        )

    @checked_options
    def tokens(self, text: str) -> Tokenization:
        """Le texte, découpé par le tokenizer du modèle.

        Raises:
            TokenizerError: le vocabulaire ne sait pas le coder.

        Examples:
            >>> from gpt_architecture import load
            >>> found = load("modele").tokens("Un soir")
            >>> "".join(found.pieces), len(found) == len(found.ids)
            ('Un soir', True)
        """
        from gpt_architecture.api.views import Tokenization, token_text
        from gpt_architecture.evaluation.fertility import split_text

        ids = self.tokenizer.encode(text)
        return Tokenization(
            text=text,
            ids=tuple(ids),
            pieces=tuple(token_text(self.tokenizer, token) for token in ids),
            segments=tuple(split_text(text, self.tokenizer)),
            tokenizer=self.tokenizer.name,
        )

    @checked_options
    def classify(self, texts: str | Sequence[str]) -> Judgements:
        """La classe de chaque texte et ses probabilités, ou sa valeur.

        Args:
            texts: un texte, ou plusieurs ; de chacun, le contexte d'entraînement est lu, au plus.

        Raises:
            ConfigurationError: ce modèle écrit : il n'a pas de tête qui classe ou note.
            DataError: un texte n'a aucun token.

        Examples:
            >>> from gpt_architecture import train
            >>> run = train(classify="messages-fr", tokenizer="char", context_length=16,
            ...             emb_dim=16, n_heads=2, n_layers=1, max_steps=2, output_dir="classes")
            >>> found = run.model.classify(["Où est mon colis ?", "Ma facture est fausse."])
            >>> len(found), found[0].label in found[0].probabilities
            (2, True)
        """
        from gpt_architecture.api.labels import Judgements
        from gpt_architecture.evaluation.judgement import judge

        given = [texts] if isinstance(texts, str) else list(texts)
        return Judgements(tuple(judge(self.model, self.tokenizer, given, window=self.window)))

    @checked_options
    def distribution(
        self,
        prompt: str | None = None,
        *,
        temperatures: Sequence[float] = TEMPERATURES,
        k: int = 5,
        p: float = 0.9,
        n_tokens: int = 10,
    ) -> Distribution:
        """Les probabilités du token suivant, sous chaque température et chaque filtre.

        Args:
            prompt: l'invite ; None : celle de l'entraînement.
            temperatures: celles à comparer.
            k: nombre de tokens gardés par top-k.
            p: masse de probabilité gardée par top-p.
            n_tokens: tokens suivis, les plus probables d'abord.

        Raises:
            ConfigurationError: réglage hors bornes, ou invite vide.

        Examples:
            >>> from gpt_architecture import load
            >>> found = load("modele").distribution("Un soir", temperatures=(0.5, 2.0), n_tokens=3)
            >>> cold, hot = (effect.entropy for effect in found.temperatures)
            >>> len(found.labels), cold < hot
            (3, True)
        """
        from gpt_architecture.api.views import Distribution, token_text
        from gpt_architecture.evaluation.distribution import next_token_logits, study_distribution
        from gpt_architecture.reports.terminal import visible_token

        prompt = self.opening(prompt)
        logits = next_token_logits(self.generator.model, self.encode(prompt)[:, -self.window :])
        study = study_distribution(logits, temperatures, k=k, p=p, n_tokens=n_tokens)
        labels = [visible_token(token_text(self.tokenizer, token)) for token in study.tokens]
        return Distribution(**vars(study), prompt=plain(prompt), labels=tuple(labels))

    @checked_options
    def attention(self, text: str | Sequence[int]) -> AttentionMap:
        """Les poids d'attention de toutes les têtes, sur un texte court ou ses identifiants.

        Raises:
            ConfigurationError: texte vide ou trop long, ou modèle quantifié.

        Examples:
            >>> from gpt_architecture import load
            >>> found = load("modele").attention("Un soir")
            >>> weights = found.head(layer=1, head=2)  # (T, T), chaque ligne de somme 1
            >>> bool((weights.sum(dim=1) - 1).abs().max() < 1e-5)
            True
        """
        from gpt_architecture.api.views import AttentionMap
        from gpt_architecture.evaluation.attention_maps import attention_maps

        maps = attention_maps(self.measured, self.tokenizer, text, window=self.window)
        return AttentionMap(**vars(maps))

    @checked_options
    def embed(
        self,
        texts: str | Sequence[str],
        *,
        pooling: Pooling = "mean",
        dimensions: int | None = None,
        parse_special: bool = False,
    ) -> Tensor:
        """Les vecteurs (N, D) de textes, ou celui (D) d'un texte seul ; leur norme vaut 1.

        Args:
            texts: un texte, ou plusieurs ; chacun est lu seul.
            pooling: `mean`, la moyenne des états cachés, ou `last`, celui du dernier token.
            dimensions: n'en garde que les premières ; None : toutes.
            parse_special: voir `encode`.

        Raises:
            ConfigurationError: texte vide ou plus long que le contexte, trop de dimensions, ou
                modèle quantifié.

        Examples:
            >>> from gpt_architecture import load
            >>> found = load("modele").embed(["Un soir", "Un matin"])
            >>> tuple(found.shape) == (2, load("modele").config.emb_dim)
            True
            >>> bool((found.norm(dim=1) - 1).abs().max() < 1e-6)  # leur produit est un cosinus
            True
        """
        alone = isinstance(texts, str)
        given = [texts] if isinstance(texts, str) else list(texts)
        found = embed_all(
            self.measured,
            [self.generator.encode(written(each) if parse_special else each) for each in given],
            pooling=pooling,
            dimensions=dimensions,
            window=self.window,
        )
        return found[0] if alone else found

    @checked_options
    def trace(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        *,
        top: int = 10,
        limit: int = MAX_STEPS,
        parse_special: bool = False,
        **settings: Any,
    ) -> Trace:
        """Continue `prompt`, et rend ce que chaque filtre a gardé, retiré, pesé.

        Args:
            prompt: l'invite.
            config: comment générer ; voir `generate`.
            top: candidats suivis à chaque place.
            limit: tokens tracés, au plus.
            parse_special: voir `encode`.
            settings: réglages de `GenerationConfig`, à la place de `config`.

        Raises:
            ConfigurationError: réglage inconnu ou hors bornes, invite vide, ou décodage dont les
                tokens ne sont pas choisis un par un.

        Examples:
            >>> from gpt_architecture import load
            >>> found = load("modele").trace("Un soir", max_tokens=2, top_k=3, seed=1)
            >>> [stage.kept for stage in found.steps[0].stages][-1]
            3
        """
        from gpt_architecture.api.views import Trace
        from gpt_architecture.decoding.trace import Tracer

        config = config_or(config, settings)
        ids = self.generator.encode(written(prompt) if parse_special else prompt)
        tracer = Tracer(ids, config, self.tokenizer, top=top, limit=limit)
        for _ in tracer.follow(self.generator.stream(ids, config, observer=tracer.observe)):
            pass
        return Trace(**vars(tracer.trace))

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Ce qu'il est, en quelques faits (nom, valeur)."""
        config, data, tokenizer = self.config, self.metadata.get("data"), self.tokenizer
        facts = [
            ("paramètres", thousands(config.num_parameters())),
            ("couches", str(config.n_layers)),
            ("têtes", str(config.n_heads)),
            ("largeur", thousands(config.emb_dim)),
            ("contexte d'entraînement", thousands(self.window)),
            (
                "vocabulaire",
                f"{tokenizer.name}, {thousands(tokenizer.vocab_size)} tokens",
            ),
        ]
        if config.head is not None:
            facts.append(("sortie", config.head.said))
        name = data.get("name") if isinstance(data, Mapping) else None
        return [*facts, ("données", str(name))] if name else facts

    @property
    def folder(self) -> Path | None:
        """Le dossier d'où il vient, s'il est ici ; None : inconnu."""
        from gpt_architecture.formats.card import model_folder

        return model_folder(self.name) if self.name else None

    @property
    def card(self) -> list[tuple[str, str]]:
        """Sa fiche (nom, valeur), celle d'une conversion vers Transformers ; ici en français.

        L'empreinte de ses poids n'y est que si un dossier de confidentialité la demande.
        """
        from gpt_architecture.formats.adapter_file import weights_sha256
        from gpt_architecture.formats.card import PRIVACY, card_of
        from gpt_architecture.formats.model_file import ModelFile

        folder, sha256 = self.folder, None
        if folder is not None and (folder / PRIVACY).is_file() and isinstance(self.model, GPTModel):
            content = ModelFile(
                config=self.config,
                state_dict=self.model.state_dict(),
                tokenizer=self.tokenizer.to_dict(),
                metadata=self.metadata,
            )
            sha256 = weights_sha256(content)
        return card_of(self.config, self.metadata, folder=folder, sha256=sha256).said(0)

    def __repr__(self) -> str:
        facts = [*self.facts, ("périphérique", str(self.device))]
        return f"GPT({', '.join(f'{name} : {value}' for name, value in facts)})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.curves import curves_from_metadata
        from gpt_architecture.reports.notebook import facts_cell

        return facts_cell(
            self.name or "Modèle",
            [*self.facts, ("périphérique", str(self.device))],
            curves=curves_from_metadata(self.metadata),
            notes=[f"{name} : {value}" for name, value in self.card],
        )
