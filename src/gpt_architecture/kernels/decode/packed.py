"""Le modèle compacté : mêmes logits que `GPTModel`, poids rangés pour le décodage sur processeur.

Formes : B lot, T tokens, D largeur, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig, check_choice
from gpt_architecture.core.grouped_codes import (
    GroupedCodes,
    Scheme,
    bits_of,
    is_matrix,
    quantize,
)
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.model import GPTModel, blank_model
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.kernels.decode.passes import Passes
from gpt_architecture.kernels.decode.weights import (
    DenseMatrix,
    GroupedMatrix,
    IntegerStrips,
    PackedMatrix,
)

if TYPE_CHECKING:
    from gpt_architecture.kernels.decode.step import DecodeStep

PackingName = Literal["fp32", "int8", "int4"]
"""Format des poids d'un modèle compacté."""

PACKINGS: tuple[PackingName, ...] = ("fp32", "int8", "int4")

Choose = Callable[[Tensor], list[int]]
"""Logits (M, V) → le token de chaque séquence."""


class PackedModel:
    """Un modèle prêt à décoder ; satisfait `core.model.CausalLM`.

    Un passage est un pas compilé (`step`) : toujours, si ses poids sont entiers ; jusqu'à 32
    activations, s'ils sont en fp32. Au-delà, ou sans numba, ce sont les produits de PyTorch sur les
    mêmes poids. Plusieurs threads peuvent s'en servir : un pas n'a qu'un jeu de tampons et sert
    l'un puis l'autre, passage par passage.

    Args:
        cfg: forme du modèle.
        matrices: poids, par nom de module ; une tête de sortie liée est la matrice même de
            `tok_emb`.
        vectors: positions, normes et biais, par nom du `state_dict`.
        scheme: comment les matrices ont été quantifiées ; None : elles sont en fp32.
    """

    def __init__(
        self,
        cfg: GPTConfig,
        matrices: Mapping[str, PackedMatrix],
        vectors: Mapping[str, Tensor],
        *,
        scheme: Scheme | None = None,
    ) -> None:
        self.cfg, self.scheme, self.vectors = cfg, scheme, vectors
        self._passes = Passes(cfg, matrices, vectors)

    @classmethod
    def from_codes(
        cls,
        cfg: GPTConfig,
        scheme: Scheme,
        codes: Mapping[str, GroupedCodes],
        vectors: Mapping[str, Tensor],
    ) -> PackedModel:
        """Le modèle de matrices déjà quantifiées, par nom de module.

        Les noyaux en veulent une copie rangée en bandes ; sans eux, rien n'est copié. Une tête de
        sortie liée n'y est pas : c'est la matrice de `tok_emb`.
        """
        matrices: dict[str, PackedMatrix] = {
            name: GroupedMatrix(each) for name, each in codes.items()
        }
        if cfg.tie_weights:
            matrices["out_head"] = matrices["tok_emb"]
        return cls(cfg, matrices, vectors, scheme=scheme)

    def codes(self) -> dict[str, GroupedCodes]:
        """Les matrices quantifiées, telles que `from_codes` les reprend ; vide en fp32."""
        skipped = {"out_head"} if self.cfg.tie_weights else set()
        return {
            name: matrix.grouped
            for name, matrix in self.matrices.items()
            if not isinstance(matrix, DenseMatrix) and name not in skipped
        }

    def settle(self) -> None:
        """Range des poids fp32 en grandes pages (voir `gather`), sauf ceux qu'on lit peu.

        Des poids entiers y sont dès leur construction.

        Un passage en est un cinquième plus court, mais la copie dure autant que quelques dizaines
        d'entre eux : elle attend le passage SETTLE_AFTER, pour qu'un texte court n'attende pas.
        """
        self._passes.settle()

    @property
    def matrices(self) -> Mapping[str, PackedMatrix]:
        """Les poids, par nom de module."""
        return self._passes.matrices

    @property
    def nbytes(self) -> int:
        """Octets des poids ; une matrice partagée compte une fois."""
        matrices, vectors = dict.fromkeys(self.matrices.values()), self.vectors.values()
        return sum(matrix.nbytes for matrix in matrices) + sum(v.nbytes for v in vectors)

    @property
    def compiled(self) -> bool:
        """Vrai si le pas compilé sert ; faux si numba manque."""
        return self._passes.compiled

    @property
    def device(self) -> torch.device:
        """Le processeur."""
        return torch.device("cpu")

    def new_cache(self, batch_size: int, capacity: int | None = None) -> KVCache:
        """Un cache vide, en fp32."""
        return KVCache(self.cfg, batch_size, capacity=capacity)

    def __call__(
        self, in_idx: Tensor, cache: KVCache | None = None, *, at: Tensor | None = None
    ) -> Tensor:
        """Logits du token suivant ; voir `GPTModel.forward`.

        Raises:
            ValueError: positions passées et nouvelles dépassent `context_length`.
            GenerationError: un autre thread se sert de `cache`.
        """
        count = in_idx.size(1)
        with nullcontext() if cache is None else cache.alone:
            end = count + (0 if cache is None else cache.length)
            if end > self.cfg.context_length:
                raise ValueError(
                    f"{end} positions demandées, le modèle en accepte {self.cfg.context_length} ; "
                    "gardez les derniers tokens"
                )
            if cache is not None:
                cache.end_of(count)  # la place y est
            logits = self._passes(in_idx, cache, at)
            if cache is not None:
                cache.advance_(count)
        return logits

    @property
    def uniform_rows(self) -> int:
        """Activations au plus de `read_uniform` ; 0 sans pas compilé.

        La première fois, des poids fp32 sont recopiés par bandes, en grandes pages.
        """
        step = self._passes.uniform()
        return 0 if step is None else step.height

    def read_uniform(
        self,
        parts: Sequence[Sequence[int]],
        cache: KVCache,
        *,
        wanted: Sequence[int] | None = None,
    ) -> Tensor:
        """Lit des parts de toutes longueurs ; leurs logits ne dépendent que de leur séquence.

        Ils sont les mêmes au bit près quelles que soient les autres parts et la découpe : un
        serveur rend donc le même texte quelle que soit sa charge.

        Args:
            parts: tokens nouveaux de chaque séquence du cache.
            cache: en fp32, contigu.
            wanted: (W,), rangs des logits voulus, parts mises bout à bout ; None : le dernier de
                chaque part ; aucun : la tête, un tiers des poids, n'est pas lue.

        Returns:
            Logits (W, V).

        Raises:
            ValueError: trop d'activations, ou trop de positions.
            GenerationError: un autre thread se sert de `cache`.
        """
        counts = [len(part) for part in parts]
        with cache.alone, self._passes.turn:
            step, limit = self._passes.uniform(), self.uniform_rows
            last = max(past + count for past, count in zip(cache.lengths, counts, strict=True))
            if step is None or sum(counts) > limit or last > self._positions(cache):
                raise ValueError(f"{sum(counts)} activations pour {limit}, positions {last}")
            if wanted is None:
                wanted = [end - 1 for end in accumulate(counts)]
            return self._read(step, parts, cache, wanted)

    def read_apart(self, tokens: Sequence[int], cache: KVCache) -> Tensor | None:
        """Lit la suite de la seule séquence du cache, avec les bits d'une lecture token par token.

        Il en lit 8 au plus si les poids sont en fp32, 128 s'ils sont entiers : au-delà il ne lit
        rien, et l'appel ordinaire du modèle n'a pas ces bits en fp32.

        Args:
            tokens: T nouveaux tokens.
            cache: d'une séquence, en fp32, contigu.

        Returns:
            Logits (T, V) ; None : trop de tokens, ou pas de pas compilé, et rien n'est lu.

        Raises:
            ValueError: trop de positions.
            GenerationError: un autre thread se sert de `cache`.
        """
        with cache.alone, self._passes.turn:
            step = self._passes.apart()
            if step is None or not step.fits(len(tokens), cache):
                return None
            end = cache.end_of(len(tokens))
            if end > self.cfg.context_length:
                raise ValueError(f"{end} positions pour {self.cfg.context_length}")
            logits = self._read(step, [tokens], cache, range(len(tokens)))
            self._passes.count_step()
        return logits

    @property
    def can_draft(self) -> bool:
        """Vrai si le modèle sait proposer : ses poids sont en fp32 et son pas, compilé."""
        return self.scheme is None and self.compiled

    def draft(
        self,
        last: Sequence[int],
        cache: KVCache,
        count: int,
        choose: Choose | None = None,
    ) -> list[list[int]]:
        """Les `count` tokens que choisirait une copie des poids sur 8 bits.

        Lire les poids fixe la durée d'un token : la copie, du quart des poids, va deux à trois
        fois plus vite et choisit presque toujours le même token. Ce qu'elle propose est à vérifier
        d'une seule lecture des vrais poids (décodage spéculatif : Leviathan et al., 2023). Elle est
        faite la première fois, et n'a pas de cache à elle : elle voit les clés et valeurs exactes
        du passé, écrit les siennes à la suite, et la vérification les remplace.

        Args:
            last: dernier token de chaque séquence, qui n'est pas dans le cache.
            cache: en fp32, contigu ; ses longueurs sont les mêmes au retour.
            count: combien.
            choose: choisit les tokens, une fois par rang ; None : les plus probables.

        Raises:
            ValueError: trop de séquences, ou il ne reste pas `count` positions.
            GenerationError: un autre thread se sert de `cache`.
        """
        with cache.alone, self._passes.turn:
            step, room = self._passes.draft(), self._positions(cache) - cache.length
            if len(last) > step.height or count > room:
                raise ValueError(
                    f"{count} propositions à {len(last)} séquences pour {room} positions"
                )
            before, everyone = cache.lengths, range(len(last))
            found: list[list[int]] = [[token] for token in last]
            for _ in range(count):
                logits = self._read(step, [each[-1:] for each in found], cache, everyone)
                tokens = choose(logits) if choose else logits.numpy().argmax(axis=1).tolist()
                for each, token in zip(found, tokens, strict=True):
                    each.append(token)
            cache.rewind_(before)
        return [each[1:] for each in found]

    def _positions(self, cache: KVCache) -> int:
        """Positions qu'une séquence de ce cache peut atteindre."""
        return min(cache.capacity, self.cfg.context_length)

    def _read(
        self,
        step: DecodeStep,
        parts: Sequence[Sequence[int]],
        cache: KVCache,
        wanted: Sequence[int],
    ) -> Tensor:
        """Logits (W, V) voulus de parts qui suivent les séquences du cache ; il est avancé."""
        logits = step.ragged(parts, cache, wanted)
        cache.advance_each_([len(part) for part in parts])
        return logits

    def stored_weights(self) -> dict[str, Tensor]:
        """Les poids qui calculent, par nom : d'eux seuls dépend l'empreinte du modèle.

        Ceux qui sont quantifiés y sont en bandes, avec ou sans noyaux ; une matrice partagée y est
        une fois, et des poids fp32 y ont les noms du `state_dict`.
        """
        found = dict(self.vectors)
        named = {each: name for name, each in reversed(list(self.matrices.items()))}
        for matrix, name in named.items():
            if isinstance(matrix, DenseMatrix):
                found[f"{name}.weight"] = matrix.weight
                continue
            strips = IntegerStrips(matrix.grouped) if isinstance(matrix, GroupedMatrix) else matrix
            found[f"{name}.codes"], found[f"{name}.scales"] = strips.tensors()
        return found

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Les poids en virgule flottante, ou les échelles de ceux qui sont quantifiés."""
        yield from self.vectors.items()
        for name, matrix in self.matrices.items():
            yield f"{name}.weight", matrix.tensors()[-1]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse de copier ou de sérialiser un modèle compilé.

        Raises:
            TypeError: il l'est.
        """
        if self.compiled:
            raise TypeError(
                "un modèle compacté ne se copie ni ne se sérialise : ses noyaux lisent les poids "
                "là où ils sont en mémoire ; rechargez-le depuis son fichier, ou compactez de "
                "nouveau le modèle d'origine avec `pack`"
            )
        return super().__reduce_ex__(protocol)

    def dequantize(self) -> GPTModel:
        """Un `GPTModel` ordinaire aux mêmes poids, arrondis compris."""
        model = blank_model(self.cfg)
        state = dict(self.vectors)
        for name, matrix in self.matrices.items():
            state[f"{name}.weight"] = matrix.dense()
        model.load_state_dict(state, assign=True)
        if self.cfg.tie_weights:
            model.tie_weights_()
        return model.eval()


def pack(model: GPTModel, packing: PackingName | Scheme = "fp32") -> PackedModel:
    """Compacte un modèle pour le décodage sur processeur.

    En fp32, les poids sont d'abord ceux du modèle, partagés : rien n'est copié avant
    `PackedModel.settle`.

    Args:
        model: sur CPU.
        packing: format des poids, ou schéma de quantification complet.

    Raises:
        ConfigurationError: format inconnu, ou modèle sur un autre périphérique.
        ModelFileError: un poids est infini ou NaN (int8, int4).
    """
    device = model.tok_emb.weight.device
    if device.type != "cpu":
        raise ConfigurationError(
            f"modèle sur {device}",
            expected="un modèle sur processeur : les poids compactés y sont rangés",
            remedy="donnez `device=cpu`",
        )
    if isinstance(packing, Scheme):
        scheme: Scheme | None = packing
    else:
        check_choice("packing", packing, PACKINGS)
        scheme = None if packing == "fp32" else Scheme(name=packing)
    matrices: dict[str, PackedMatrix] = {}
    vectors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        module = name.removesuffix(".weight")
        if not is_matrix(name):
            vectors[name] = tensor.detach().float().contiguous()
        elif module == "out_head" and model.cfg.tie_weights:
            matrices[module] = matrices["tok_emb"]
        elif scheme is None:
            matrices[module] = DenseMatrix(tensor)
        else:
            codes = quantize(tensor, scheme, bits=bits_of(module, scheme))
            matrices[module] = GroupedMatrix(codes)
    return PackedModel(model.cfg, matrices, vectors, scheme=scheme)
