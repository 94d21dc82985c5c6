"""Ce qui se voit dans un modèle : lentille, ablation, têtes, neurones, embeddings.

Chaque objet se lit comme ceux de `views` : attributs, une ligne au terminal, une figure dans un
carnet ; `table` en est le tableau, celui que la commande écrit. Les calculs sont ceux
d'`evaluation.inside`, dont couches, têtes et neurones se comptent depuis 0 ; les méthodes d'ici les
comptent depuis 1, comme on les nomme.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpt_architecture.api.views import Choice, token_text
from gpt_architecture.config import check_int
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.evaluation.inside.ablation import AblationStudy, Effect
from gpt_architecture.evaluation.inside.embeddings import Neighbour, Plane
from gpt_architecture.evaluation.inside.heads import HeadPatterns
from gpt_architecture.evaluation.inside.lens import Reading
from gpt_architecture.evaluation.inside.neurons import NeuronExample, NeuronStudy
from gpt_architecture.french import decimal, percent, plural, significant, thousands

if TYPE_CHECKING:
    from gpt_architecture.reports.inside import Cell
    from gpt_architecture.reports.terminal import TableData

_SHOWN = 12  # lignes d'un tableau de terminal


@dataclass(frozen=True, kw_only=True)
class _Named:
    """De quoi nommer des tokens."""

    tokenizer: Tokenizer

    def name_of(self, token: int) -> str:
        """Un token, blancs visibles."""
        from gpt_architecture.reports.terminal import visible_token

        return visible_token(token_text(self.tokenizer, token))


@dataclass(frozen=True, kw_only=True, repr=False)
class Lens(_Named, Reading):
    """Ce que chaque couche croit ; voir `evaluation.inside.lens.Reading`."""

    @property
    def pieces(self) -> tuple[str, ...]:
        """Les tokens de la phrase, blancs visibles (T)."""
        return tuple(map(self.name_of, self.tokens))

    def candidates(self, layer: int, position: int) -> list[Choice]:
        """Les tokens les plus probables après une position, lus après une couche.

        Args:
            layer: de 0, l'embedding, au nombre de couches.
            position: rang du token, depuis 1.

        Raises:
            ConfigurationError: numéro hors bornes.
        """
        check_int("layer", layer, minimum=0, maximum=len(self.norms) - 1)
        check_int("position", position, minimum=1, maximum=len(self.tokens))
        ids = self.top_ids[layer, position - 1].tolist()
        shares = self.top_probabilities[layer, position - 1].tolist()
        return [
            Choice(text=token_text(self.tokenizer, token), id=token, probability=share)
            for token, share in zip(ids, shares, strict=True)
        ]

    @property
    def table(self) -> TableData:
        """Après le dernier token : le premier choix de chaque couche, et ce qui lui reste."""
        from gpt_architecture.reports.inside import layer_name

        rows = [
            (
                layer_name(layer),
                self.name_of(int(self.top_ids[layer, -1, 0])),
                percent(float(self.top_probabilities[layer, -1, 0])),
                decimal(float(self.entropies[layer, -1])),
                decimal(float(self.divergences[layer, -1])),
                significant(float(self.norms[layer, -1])),
            )
            for layer in range(len(self.norms))
        ]
        title = f"Après « {''.join(self.pieces)} », ce que chaque couche croit"
        headings = ("Couche", "Token", "Part", "Entropie (bits)", "Reste (bits)", "Norme du flux")
        return title, headings, rows

    def __repr__(self) -> str:
        last = self.candidates(len(self.norms) - 1, len(self.tokens))[0]
        layers, size = len(self.norms) - 1, len(self.tokens)
        return (
            f"Lens({layers} {plural(layers, 'couche')}, {size} {plural(size, 'token')} ; "
            f"à la fin {self.name_of(last.id)!r} à {percent(last.probability)})"
        )

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.inside import Cell, grids_cell, layer_name

        def cell(layer: int, position: int) -> Cell:
            found = self.candidates(layer, position)
            hint = "\n".join(f"{self.name_of(e.id)} : {percent(e.probability)}" for e in found)
            return Cell(text=self.name_of(found[0].id), share=found[0].probability, hint=hint)

        positions = range(1, len(self.tokens) + 1)
        rows = [
            (layer_name(layer), [cell(layer, position) for position in positions])
            for layer in range(len(self.norms))
        ]
        return grids_cell(
            "Ce que chaque couche croit",
            [("", ["Couche", *self.pieces], rows)],
            notes=[
                "Une colonne par token lu, une ligne par couche, de haut en bas : le token "
                "que le modèle écrirait en s'arrêtant là. La barre dit sa probabilité.",
                "La norme finale et la tête de sortie sont celles du modèle : rien n'est appris "
                "ici.",
            ],
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class Ablation(_Named, AblationStudy):
    """Le prochain token sans chaque pièce ; voir `evaluation.inside.ablation.AblationStudy`."""

    @property
    def table(self) -> TableData:
        """Les pièces dont l'absence change le plus le prochain token."""
        from gpt_architecture.reports.inside import part_name

        rows = [
            (
                part_name(each.part),
                percent(each.probability),
                self.name_of(each.token),
                percent(each.token_probability),
                decimal(each.divergence, 3),
            )
            for each in self.strongest[:_SHOWN]
        ]
        followed = self.name_of(self.target)
        title = f"Sans chaque pièce : « {followed} », {percent(self.probability)} au départ"
        return title, ("Sans", f"« {followed} »", "Le modèle écrirait", "Part", "KL (bits)"), rows

    def without(self, layer: int, head: int | None = None) -> Effect:
        """Ce que change l'absence d'une tête, ou d'un bloc entier ; numérotés depuis 1.

        Raises:
            ConfigurationError: numéro hors bornes.
        """
        layers = 1 + max(each.part.layer for each in self.effects)
        heads = 1 + max(each.part.head or 0 for each in self.effects)
        check_int("layer", layer, minimum=1, maximum=layers)
        if head is not None:
            check_int("head", head, minimum=1, maximum=heads)
        wanted = (layer - 1, None if head is None else head - 1)
        kind = "block" if head is None else "head"
        return next(
            each
            for each in self.effects
            if (each.part.layer, each.part.head) == wanted and each.part.kind == kind
        )

    def __repr__(self) -> str:
        from gpt_architecture.reports.inside import part_name

        most = self.strongest[0]
        return (
            f"Ablation({self.name_of(self.target)!r} à {percent(self.probability)} ; "
            f"sans {part_name(most.part)} : {percent(most.probability)})"
        )

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.inside import Cell, grids_cell, part_name

        largest = max((each.divergence for each in self.effects), default=0.0) or 1.0

        def cell(each: Effect) -> Cell:
            hint = (
                f"sans {part_name(each.part)} : {self.name_of(each.token)} à "
                f"{percent(each.token_probability)}, KL {decimal(each.divergence, 3)} bits"
            )
            share = each.divergence / largest
            return Cell(text=percent(each.probability), share=share, hint=hint)

        layers = dict[int, list[Cell]]()
        for each in self.effects:
            layers.setdefault(each.part.layer, []).append(cell(each))
        heads = len(next(iter(layers.values()))) - 3
        names = [*(f"tête {head + 1}" for head in range(heads)), "attention", "perceptron", "bloc"]
        followed = self.name_of(self.target)
        usual = "sa moyenne sur l'invite" if self.mode == "mean" else "zéro"
        return grids_cell(
            f"« {followed} », sans chaque pièce du modèle",
            [
                (
                    f"Probabilité de « {followed} » ; {percent(self.probability)} sous le modèle",
                    ["Couche", *names],
                    [(str(layer + 1), cells) for layer, cells in layers.items()],
                )
            ],
            notes=[
                f"Chaque pièce est tour à tour remplacée par {usual}. La barre dit combien toute "
                "la distribution change (KL) ; la plus longue est la pièce qui compte le plus."
            ],
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class Heads(HeadPatterns):
    """Ce que cherche chaque tête ; voir `evaluation.inside.heads.HeadPatterns`."""

    @property
    def table(self) -> TableData:
        """Les mieux notées pour chaque motif."""
        from gpt_architecture.reports.inside import PATTERNS

        rows = [
            (name, f"couche {layer + 1}, tête {head + 1}", percent(note))
            for pattern, name in PATTERNS.items()
            for layer, head, note in self.best(pattern, 3)
        ]
        title = (
            f"Ce que cherche chaque tête, sur {self.rows} suites de {self.length} tokens répétées"
        )
        return title, ("Motif", "Tête", "Part d'attention"), rows

    def __repr__(self) -> str:
        ((layer, head, note),) = self.best("induction", 1)
        return (
            f"Heads(recopie : couche {layer + 1}, tête {head + 1}, {percent(note)} ; perte "
            f"{decimal(self.first_loss)} puis {decimal(self.repeat_loss)} à la répétition)"
        )

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.inside import PATTERNS, Cell, grids_cell

        grids = []
        for pattern, name in PATTERNS.items():
            scores = getattr(self, pattern).tolist()
            rows = [
                (str(layer), [Cell(text=percent(note, 0), share=note) for note in notes])
                for layer, notes in enumerate(scores, start=1)
            ]
            columns = ["Couche", *(f"tête {head}" for head in range(1, len(scores[0]) + 1))]
            grids.append((f"Part d'attention : {name}", columns, rows))
        notes = [
            self.verdict,
            f"Mesuré sur {self.rows} suites de {self.length} tokens au hasard, chacune répétée : "
            "rien ne s'y devine, hors la répétition.",
        ]
        return grids_cell("Ce que cherche chaque tête", grids, notes=notes)


@dataclass(frozen=True, kw_only=True, repr=False)
class Neuron(_Named, NeuronStudy):
    """Ce qui allume un neurone ; voir `evaluation.inside.neurons.NeuronStudy`."""

    def passage(self, example: NeuronExample) -> str:
        """Un exemple, son token entre crochets."""
        before, after = (
            self.tokenizer.decode(list(ids)) for ids in (example.before, example.after)
        )
        return f"{before}[{token_text(self.tokenizer, example.token)}]{after}"

    @property
    def title(self) -> str:
        """Quel neurone, sur combien de tokens."""
        count = thousands(self.tokens)
        return f"Neurone {self.neuron + 1} de la couche {self.layer + 1}, sur {count} tokens"

    @property
    def table(self) -> TableData:
        """Ses meilleurs exemples."""
        rows = [
            (
                self.passage(each).replace("\n", "⏎"),
                thousands(each.position + 1),
                decimal(each.activation),
            )
            for each in self.examples
        ]
        return self.title, ("Passage", "Token n°", "Activation"), rows

    @property
    def notes(self) -> list[str]:
        """Sa moyenne, et ce qu'il pousse."""
        pushed, held = (
            ", ".join(self.name_of(token) for token, _ in each)
            for each in (self.raised, self.lowered)
        )
        return [
            f"Activation moyenne {decimal(self.mean)}, écart-type {decimal(self.deviation)}.",
            f"Actif, il pousse : {pushed}.",
            f"Il retient : {held}.",
        ]

    def __repr__(self) -> str:
        best = self.examples[0]
        return (
            f"Neuron(couche {self.layer + 1}, neurone {self.neuron + 1} ; au plus "
            f"{decimal(best.activation)} sur {self.name_of(best.token)!r}, moyenne "
            f"{decimal(self.mean)})"
        )

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import tables_cell

        return tables_cell([self.table], notes=self.notes)


@dataclass(frozen=True, kw_only=True, repr=False)
class Neighbours(_Named):
    """Les tokens dont l'embedding ressemble le plus à celui d'un autre.

    Attributes:
        token: son identifiant.
        found: ses voisins, du plus au moins proche.
    """

    token: int
    found: tuple[Neighbour, ...]

    @property
    def table(self) -> TableData:
        """Les voisins et leur cosinus."""
        rows = [
            (self.name_of(each.token), str(each.token), decimal(each.similarity, 3))
            for each in self.found
        ]
        title = f"Voisins de « {self.name_of(self.token)} »"
        return title, ("Token", "Identifiant", "Cosinus"), rows

    def __repr__(self) -> str:
        near = ", ".join(self.name_of(each.token) for each in self.found[:5])
        return f"Neighbours({self.name_of(self.token)!r} : {near})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import tables_cell

        return tables_cell([self.table])


@dataclass(frozen=True, kw_only=True, repr=False)
class EmbeddingMap(_Named, Plane):
    """Des tokens sur une carte ; voir `evaluation.inside.embeddings.Plane`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Les tokens, blancs visibles (n)."""
        return tuple(map(self.name_of, self.tokens))

    @property
    def table(self) -> TableData:
        """La place de chacun."""
        rows = [
            (label, decimal(x, 3), decimal(y, 3))
            for label, (x, y) in zip(self.labels, self.points.tolist(), strict=True)
        ]
        first, second = (percent(each, 0) for each in self.shares)
        return f"Carte : {first} puis {second} de la variance", ("Token", "Axe 1", "Axe 2"), rows

    def __repr__(self) -> str:
        first, second = (percent(each, 0) for each in self.shares)
        return f"EmbeddingMap({len(self.tokens)} tokens ; variance {first} et {second})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.inside import plane_cell

        return plane_cell(self, self.labels)
