"""Le modèle compacté : mêmes logits que `GPTModel`, poids rangés pour le décodage sur processeur.

Formes : B lot, T tokens, D largeur, V vocabulaire.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig, check_choice
from gpt_architecture.core.grouped_codes import (
    GroupedCodes,
    Scheme,
    is_matrix,
    quantize,
    scheme_of,
)
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.machine import Turn
from gpt_architecture.core.model import GPTModel, blank_model
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.kernels import loading_obstacle, shape_obstacle
from gpt_architecture.kernels.decode.torch_pass import TorchPass
from gpt_architecture.kernels.decode.weights import (
    DenseMatrix,
    GroupedMatrix,
    KernelMatrix,
    PackedMatrix,
    StripMatrix,
    gather,
)

if TYPE_CHECKING:
    from gpt_architecture.kernels.decode.self_draft import Choose, LightCopy
    from gpt_architecture.kernels.decode.step import DecodeStep

logger = logging.getLogger(__name__)

PackingName = Literal["fp32", "int8", "int4"]
"""Format des poids d'un modèle compacté."""

PACKINGS: tuple[PackingName, ...] = ("fp32", "int8", "int4")
SETTLE_AFTER = 32
"""Pas compilés avant de ranger les poids en grandes pages."""


class PackedModel:
    """Un modèle prêt à décoder ; satisfait `core.model.CausalLM`.

    Jusqu'à 32 activations, un passage est un pas compilé (`step`) ; au-delà, ou sans numba,
    ce sont les produits de PyTorch sur les mêmes poids. Plusieurs fils peuvent s'en servir : le
    pas compilé, qui n'a qu'un jeu de tampons, sert l'un puis l'autre, token par token.

    Args:
        cfg: forme du modèle.
        matrices: poids, par nom de module ; une tête liée est la matrice même de `tok_emb`.
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
        self.cfg, self.scheme = cfg, scheme
        self.matrices, self.vectors = matrices, vectors
        self._compiles = _compiles(cfg)
        self._steps: tuple[DecodeStep, ...] = ()
        self._apart_step: DecodeStep | None = None
        self._uniform_step: DecodeStep | None = None
        self._self_draft: LightCopy | None = None
        self._passes, self._settled = 0, False
        self._turn = Turn()
        self._choose_passes()

    @classmethod
    def from_codes(
        cls,
        cfg: GPTConfig,
        scheme: Scheme,
        codes: Mapping[str, GroupedCodes],
        vectors: Mapping[str, Tensor],
    ) -> PackedModel:
        """Le modèle de matrices déjà quantifiées, par nom de module ; rien n'est copié.

        Une tête liée n'y est pas : c'est la matrice de `tok_emb`.
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
            if isinstance(matrix, GroupedMatrix) and name not in skipped
        }

    def settle(self) -> None:
        """Range les poids en grandes pages (voir `gather`), sauf ceux dont on lit peu de lignes.

        Un passage en est un cinquième plus court, mais la copie dure autant que quelques dizaines
        d'entre eux : elle attend le passage SETTLE_AFTER, pour qu'un texte court n'attende pas.
        """
        with self._turn:
            if self._settled or not self._steps:
                return
            shared = self.matrices["tok_emb"] is self.matrices["out_head"]
            read = {name: m for name, m in self.matrices.items() if shared or name != "tok_emb"}
            self.matrices = {**self.matrices, **gather(read)}
            self._settled = True
            self._choose_passes()

    def _choose_passes(self) -> None:
        """Les passages possibles sur les matrices d'aujourd'hui : les pas, puis PyTorch."""
        parts = self.cfg, self.matrices, self.vectors
        if not self._compiles:
            self._torch_pass = TorchPass(*parts)
            return
        from gpt_architecture.kernels.decode.step import (  # noqa: PLC0415
            DecodeStep,
            IntegerForm,
            NarrowForm,
            WideForm,
        )
        from gpt_architecture.kernels.decode.step_kernels import activate, decode  # noqa: PLC0415

        forms = (NarrowForm(), WideForm()) if self.scheme is None else (IntegerForm(),)
        self._steps = tuple(DecodeStep(*parts, form) for form in forms)
        self._apart_step = None  # il lisait les poids là où ils étaient
        self._torch_pass = TorchPass(*parts, decode=decode, activate=activate)

    def _compile_uniform_step(self) -> DecodeStep:
        """Le pas dont chaque activation ignore les autres."""
        from gpt_architecture.kernels.decode.step import DecodeStep, StripForm  # noqa: PLC0415

        if self.scheme is not None:  # celui des poids entiers l'est toujours
            self.settle()
            return self._steps[0]
        strips: dict[str, KernelMatrix] = {
            name: StripMatrix(matrix.dense())
            for name, matrix in self.matrices.items()
            if name != "tok_emb"
        }
        return DecodeStep(self.cfg, strips, self.vectors, StripForm())

    @property
    def nbytes(self) -> int:
        """Octets des poids ; une matrice partagée compte une fois."""
        matrices, vectors = dict.fromkeys(self.matrices.values()), self.vectors.values()
        return sum(matrix.nbytes for matrix in matrices) + sum(v.nbytes for v in vectors)

    @property
    def compiled(self) -> bool:
        """Vrai si le pas compilé sert ; faux si numba manque."""
        return bool(self._steps)

    @property
    def device(self) -> torch.device:
        """Le processeur."""
        return torch.device("cpu")

    def new_cache(self, batch_size: int, capacity: int | None = None) -> KVCache:
        """Un cache vide, en fp32."""
        return KVCache(self.cfg, batch_size, capacity=capacity)

    @torch.no_grad()
    def __call__(
        self, in_idx: Tensor, cache: KVCache | None = None, *, at: Tensor | None = None
    ) -> Tensor:
        """Logits du token suivant ; voir `GPTModel.forward`.

        Raises:
            ValueError: positions passées et nouvelles dépassent `context_length`.
            GenerationError: un autre fil se sert de `cache`.
        """
        with nullcontext() if cache is None else cache.alone:
            return self._read(in_idx, cache, at)

    def _read(self, in_idx: Tensor, cache: KVCache | None, at: Tensor | None) -> Tensor:
        count = in_idx.size(1)
        end = count + (0 if cache is None else cache.length)
        if end > self.cfg.context_length:
            raise ValueError(
                f"{end} positions demandées, le modèle en accepte {self.cfg.context_length} ; "
                "gardez les derniers tokens"
            )
        positions = torch.arange(count) if cache is None else cache.positions(count)
        x = self.matrices["tok_emb"].rows(in_idx) + self.vectors["pos_emb.weight"][positions]
        logits = None if cache is None else self._compiled_pass(x, cache, at)
        if logits is None:
            logits = self._torch_pass(x, cache, at)
        if cache is not None:
            cache.advance_(count)
        return logits

    def _compiled_pass(self, x: Tensor, cache: KVCache, at: Tensor | None) -> Tensor | None:
        """Le passage du pas compilé qui sait traiter x (B, T, D) ; None : aucun ne sait."""
        rows = x.size(0) * x.size(1)
        with self._turn:
            step = next((step for step in self._steps if step.fits(rows, cache)), None)
            if step is None:
                return None
            logits = step(x, cache, at)
            self._count_pass()
        return logits

    def _count_pass(self) -> None:
        """Compte un passage compilé ; assez nombreux, ils méritent que les poids soient rangés."""
        self._passes += 1
        if self._passes == SETTLE_AFTER:
            self.settle()

    @property
    def uniform_rows(self) -> int:
        """Activations au plus de `read_uniform` ; 0 sans pas compilé.

        La première fois, les poids sont recopiés en grandes pages, et par bandes s'ils sont en
        fp32.
        """
        if self._uniform_step is None and self._steps:
            with self._turn:
                if self._uniform_step is None:
                    self._uniform_step = self._compile_uniform_step()
        return 0 if self._uniform_step is None else self._uniform_step.height

    @torch.no_grad()
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
            GenerationError: un autre fil se sert de `cache`.
        """
        with cache.alone, self._turn:
            return self._read_parts(parts, cache, wanted)

    def _read_parts(
        self, parts: Sequence[Sequence[int]], cache: KVCache, wanted: Sequence[int] | None
    ) -> Tensor:
        counts = [len(part) for part in parts]
        limit, step = self.uniform_rows, self._uniform_step
        pasts = cache.lengths
        ends = [past + count for past, count in zip(pasts, counts, strict=True)]
        crowded = max(ends) > min(cache.capacity, self.cfg.context_length)
        if step is None or sum(counts) > limit or crowded:
            raise ValueError(f"{sum(counts)} activations pour {limit}, positions {max(ends)}")
        spans = zip(pasts, ends, strict=True)
        places = [place for past, end in spans for place in range(past, end)]
        x = self._embed([token for part in parts for token in part], places)
        chosen = np.cumsum(counts) - 1 if wanted is None else np.array(wanted, dtype=np.int64)
        logits = step.ragged(x, cache, counts, chosen)
        cache.advance_each_(counts)
        return logits

    @torch.no_grad()
    def read_apart(self, tokens: Sequence[int], cache: KVCache) -> Tensor | None:
        """Lit la suite de la seule séquence du cache, avec les bits d'une lecture token par token.

        Args:
            tokens: T nouveaux tokens.
            cache: d'une séquence, en fp32, contigu.

        Returns:
            Logits (T, V) ; None : trop de tokens, ou pas de pas compilé, et rien n'est lu.

        Raises:
            ValueError: trop de positions.
            GenerationError: un autre fil se sert de `cache`.
        """
        with cache.alone, self._turn:
            step = self._apart()
            if step is None or not step.fits(len(tokens), cache):
                return None
            places = cache.positions(len(tokens)).tolist()
            if places[-1] >= self.cfg.context_length:
                raise ValueError(f"{places[-1] + 1} positions pour {self.cfg.context_length}")
            every = np.arange(len(tokens))
            logits = step.ragged(self._embed(tokens, places), cache, [len(tokens)], every)
            cache.advance_(len(tokens))
            self._count_pass()
        return logits

    def _apart(self) -> DecodeStep | None:
        """Le pas qui lit plusieurs tokens comme s'ils étaient seuls ; fait la première fois."""
        if not self._steps or self.scheme is not None:  # les poids entiers les séparent toujours
            return next(iter(self._steps), None)
        if self._apart_step is None:
            from gpt_architecture.kernels.decode.step import ApartForm, DecodeStep  # noqa: PLC0415

            self._apart_step = DecodeStep(self.cfg, self.matrices, self.vectors, ApartForm())
        return self._apart_step

    @property
    def can_draft(self) -> bool:
        """Vrai si le modèle sait proposer : ses poids sont en fp32 et son pas, compilé."""
        return self.scheme is None and self.compiled

    @torch.no_grad()
    def draft(
        self,
        last: Sequence[int],
        cache: KVCache,
        count: int,
        choose: Choose | None = None,
    ) -> list[list[int]]:
        """Les `count` tokens que choisirait une copie sur 8 bits (voir `self_draft`).

        La copie, du quart des poids, est faite la première fois.

        Args:
            last: dernier token de chaque séquence, qui n'est pas dans le cache.
            cache: en fp32, contigu.
            count: combien.
            choose: logits (M, V) → un token par séquence ; None : les plus probables.

        Raises:
            ValueError: il n'y reste pas `count` positions.
            GenerationError: un autre fil se sert de `cache`.
        """
        with cache.alone, self._turn:
            if self._self_draft is None:
                from gpt_architecture.kernels.decode.self_draft import LightCopy  # noqa: PLC0415

                self._self_draft = LightCopy(self.cfg, self.matrices, self.vectors)
            return self._self_draft(last, cache, count, embed=self._embed, choose=choose)

    def _embed(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """x (M, D) de tokens et de leurs positions (M,)."""
        x = self.matrices["tok_emb"].rows(torch.tensor(tokens))
        return x + self.vectors["pos_emb.weight"][torch.tensor(positions)]

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Les poids en virgule flottante, ou les échelles de ceux qui sont quantifiés."""
        yield from self.vectors.items()
        for name, matrix in self.matrices.items():
            yield f"{name}.weight", matrix.tensors()[-1]

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
            matrices[module] = GroupedMatrix(quantize(tensor, scheme_of(module, scheme)))
    return PackedModel(model.cfg, matrices, vectors, scheme=scheme)


def _compiles(cfg: GPTConfig) -> bool:
    """Vrai si les noyaux calculent ce modèle ici ; sinon un avertissement dit pourquoi."""
    obstacle = shape_obstacle(cfg)
    if obstacle is not None:
        logger.warning("décodage par PyTorch, plus lent : %s", obstacle)
        return False
    obstacle = loading_obstacle(_load_step)
    if obstacle is not None:
        logger.warning("%s : décodage par PyTorch, plus lent", obstacle)
    return obstacle is None


def _load_step() -> type[DecodeStep]:
    from gpt_architecture.kernels.decode.step import DecodeStep  # noqa: PLC0415

    return DecodeStep
