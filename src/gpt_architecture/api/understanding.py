"""Comprendre un modèle : ce que croit chaque couche, ce que fait chaque tête, chaque neurone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gpt_architecture.api.options import checked_options
from gpt_architecture.api.writer import Writer
from gpt_architecture.config import check_int

if TYPE_CHECKING:
    from gpt_architecture.api.insights import (
        Ablation,
        EmbeddingMap,
        Heads,
        Lens,
        Neighbours,
        Neuron,
    )
    from gpt_architecture.api.views import Table

_MAP_NEIGHBOURS = 12
_PEAKS = 50


@dataclass(frozen=True, kw_only=True, repr=False)
class Explained(Writer):
    """Un modèle dont l'intérieur se regarde ; couches, têtes et neurones se comptent depuis 1.

    Un modèle quantifié ne laisse pas voir le sien : chaque méthode le refuse.
    """

    @checked_options
    def lens(self, text: str | Sequence[int], *, top: int = 5) -> Lens:
        """Ce que chaque couche croit : les tokens que le modèle écrirait en s'arrêtant là.

        La norme finale et la tête de sortie lisent le flux résiduel de chaque couche, à chaque
        position ; rien n'est appris (*logit lens*).

        Args:
            text: le texte, ou ses identifiants.
            top: tokens gardés à chaque place, au plus 20.

        Raises:
            ConfigurationError: texte vide ou trop long, ou modèle quantifié.

        Examples:
            >>> from gpt_architecture import load
            >>> found = load("modele").lens("Un soir")
            >>> best = found.candidates(layer=1, position=len(found.tokens))[0]
            >>> best.id == int(found.top_ids[-1, -1, 0])
            True
        """
        from gpt_architecture.api.insights import Lens
        from gpt_architecture.evaluation.inside.lens import read_layers

        found = read_layers(self.measured, self._ids(text), top=top, window=self.window)
        return Lens(**vars(found), tokenizer=self.tokenizer)

    @checked_options
    def ablate(
        self,
        text: str | Sequence[int],
        *,
        follow: str | int | None = None,
        mode: Literal["mean", "zero"] = "mean",
    ) -> Ablation:
        """Retire tour à tour chaque tête, attention, perceptron et bloc ; mesure le prochain token.

        Args:
            text: l'invite, ou ses identifiants.
            follow: token dont suivre la probabilité, ou son identifiant ; None : le plus probable.
            mode: `mean` : une pièce rend sa moyenne sur l'invite ; `zero` : elle ne rend rien.

        Raises:
            ConfigurationError: invite vide ou trop longue, `follow` de plusieurs tokens, ou modèle
                quantifié.

        Examples:
            >>> from gpt_architecture import load
            >>> found = load("modele").ablate("Un soir", mode="zero")
            >>> effect = found.without(layer=1, head=2)
            >>> effect.divergence >= 0
            True
        """
        from gpt_architecture.api.insights import Ablation
        from gpt_architecture.evaluation.inside.ablation import study_ablation

        target = None if follow is None else self._token(follow, "follow")
        found = study_ablation(
            self.measured, self._ids(text), mode=mode, target=target, window=self.window
        )
        return Ablation(**vars(found), tokenizer=self.tokenizer)

    @checked_options
    def heads(
        self, *, length: int | None = None, rows: int = 8, seed: int = 0, checked: int = 3
    ) -> Heads:
        """Note chaque tête sur des suites au hasard, répétées : laquelle recopie ?

        Args:
            length: tokens d'une suite ; None : 24, ou la moitié du contexte d'entraînement.
            rows: suites.
            seed: graine des suites.
            checked: têtes dont l'absence est mesurée, au plus, les mieux notées d'abord.

        Raises:
            ConfigurationError: réglage hors bornes, ou modèle quantifié.

        Examples:
            >>> from gpt_architecture import load
            >>> found = load("modele").heads(length=8, rows=2)
            >>> layer, head, share = found.best("induction")[0]
            >>> 0 <= share <= 1
            True
        """
        from gpt_architecture.api.insights import Heads
        from gpt_architecture.evaluation.inside.heads import find_heads

        found = find_heads(
            self.measured,
            length=length,
            rows=rows,
            seed=seed,
            checked=checked,
            vocab_size=self._named,
            window=self.window,
        )
        return Heads(**vars(found))

    @checked_options
    def neurons(self, text: str | Sequence[int], layer: int) -> Table:
        """Les neurones d'une couche les plus tranchés sur un texte : par où commencer à regarder.

        Un neurone est tranché quand sa plus forte activation dépasse de beaucoup sa moyenne, en
        écarts-types.

        Args:
            text: le texte, ou ses identifiants ; aussi long qu'on veut.
            layer: la couche.

        Raises:
            ConfigurationError: couche hors bornes, texte vide, ou modèle quantifié.

        Examples:
            >>> from gpt_architecture import load
            >>> found = load("modele").neurons("La nuit tombe, la nuit passe.", layer=1)
            >>> found.rows[0]["sharpness"] >= found.rows[1]["sharpness"]
            True
        """
        from gpt_architecture.api.views import Table, token_text
        from gpt_architecture.evaluation.inside.neurons import neuron_peaks

        ids, at = self._ids(text), self._layer(layer)
        peaks = neuron_peaks(self.measured, ids, at, window=self.window)[:_PEAKS]
        columns: dict[str, list[Any]] = {
            "neuron": [each.neuron + 1 for each in peaks],
            "sharpness": [each.sharpness for each in peaks],
            "maximum": [each.maximum for each in peaks],
            "mean": [each.mean for each in peaks],
            "token": [token_text(self.tokenizer, ids[each.position]) for each in peaks],
            "position": [each.position + 1 for each in peaks],
        }
        return Table(columns, title=f"Neurones de la couche {layer}, du plus tranché au moins")

    @checked_options
    def neuron(
        self, text: str | Sequence[int], layer: int, neuron: int | None = None, *, top: int = 10
    ) -> Neuron:
        """Les passages d'un texte où un neurone est le plus actif, et les tokens qu'il pousse.

        Args:
            text: le texte, ou ses identifiants ; aussi long qu'on veut.
            layer: sa couche.
            neuron: son rang ; None : le plus tranché de la couche (voir `neurons`).
            top: passages, au plus 100.

        Raises:
            ConfigurationError: numéro hors bornes, texte vide, ou modèle quantifié.

        Examples:
            >>> from gpt_architecture import load
            >>> found = load("modele").neuron("La nuit tombe, la nuit passe.", layer=1, neuron=3)
            >>> found.examples[0].activation >= found.examples[-1].activation
            True
        """
        from gpt_architecture.api.insights import Neuron
        from gpt_architecture.evaluation.inside.neurons import neuron_peaks, study_neuron

        ids, at = self._ids(text), self._layer(layer)
        if neuron is None:
            chosen = neuron_peaks(self.measured, ids, at, window=self.window)[0].neuron
        else:
            check_int("neuron", neuron, minimum=1, maximum=self.config.inner_width)
            chosen = neuron - 1
        found = study_neuron(
            self.measured, ids, at, chosen, top=top, window=self.window, vocab_size=self._named
        )
        return Neuron(**vars(found), tokenizer=self.tokenizer)

    @checked_options
    def neighbours(self, token: str | int, *, top: int = 10) -> Neighbours:
        """Les tokens dont l'embedding est le plus proche de celui d'un autre, par le cosinus.

        Args:
            token: son texte, un seul token, ou son identifiant.
            top: voisins, au plus 200.

        Raises:
            ConfigurationError: plusieurs tokens, identifiant hors bornes, ou modèle quantifié.

        Examples:
            >>> from gpt_architecture import load
            >>> found = load("modele").neighbours("a", top=3)
            >>> len(found.found)
            3
        """
        from gpt_architecture.api.insights import Neighbours
        from gpt_architecture.evaluation.inside.embeddings import nearest_tokens

        chosen = self._token(token, "token")
        found = nearest_tokens(self.measured, chosen, top=top, vocab_size=self._named)
        return Neighbours(token=chosen, found=tuple(found), tokenizer=self.tokenizer)

    @checked_options
    def embedding_map(self, tokens: str | Sequence[int]) -> EmbeddingMap:
        """Une carte d'embeddings : leurs deux axes principaux, par une analyse exacte.

        Args:
            tokens: un texte, dont les tokens différents sont placés, ou des identifiants. Le texte
                d'un seul token est placé parmi ses voisins.

        Raises:
            ConfigurationError: trop peu ou trop de tokens, ou modèle quantifié.

        Examples:
            >>> from gpt_architecture import load
            >>> found = load("modele").embedding_map("La nuit tombe, la nuit passe.")
            >>> found.points.shape == (len(found.tokens), 2)
            True
        """
        from gpt_architecture.api.insights import EmbeddingMap
        from gpt_architecture.evaluation.inside.embeddings import embedding_plane, nearest_tokens

        ids = self._ids(tokens)
        if len(ids) == 1:
            near = nearest_tokens(
                self.measured, ids[0], top=_MAP_NEIGHBOURS, vocab_size=self._named
            )
            ids = [*ids, *(each.token for each in near)]
        return EmbeddingMap(**vars(embedding_plane(self.measured, ids)), tokenizer=self.tokenizer)

    @property
    def _named(self) -> int:
        """Les tokens qui ont un texte : un modèle peut avoir des logits de plus."""
        return min(self.tokenizer.vocab_size, self.config.vocab_size)

    def _ids(self, text: str | Sequence[int]) -> list[int]:
        return self.tokenizer.encode(text) if isinstance(text, str) else list(text)

    def _layer(self, layer: int) -> int:
        check_int("layer", layer, minimum=1, maximum=self.config.n_layers)
        return layer - 1

    def _token(self, token: str | int, name: str) -> int:
        """L'identifiant d'un token, donné par lui ou par son texte."""
        if isinstance(token, int):
            check_int(name, token, minimum=0, maximum=self._named - 1)
            return token
        from gpt_architecture.evaluation.inside.sentence import single_token

        return single_token(self.tokenizer.encode(token), token, self.tokenizer.encode)
