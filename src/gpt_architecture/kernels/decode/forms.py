"""Les formes d'un pas : comment il multiplie, et ce qu'il prépare pour cela.

Des poids fp32 en lignes en ont trois. Étroite (`NarrowForm`), pour quelques activations : chaque
ligne est lue une fois et multipliée telle quelle, chacune avec les bits qu'elle aurait seule.
Séparée (`ApartForm`), la même, un peu plus haute, pour vérifier des propositions. Large
(`WideForm`), pour un lot : les activations sont transposées et des tuiles de registres les
multiplient ensemble. Des poids entiers (`IntegerForm`), ou des poids fp32 en bandes (`StripForm`),
n'en ont qu'une, où chaque activation ignore les autres au bit près : un pas peut alors en lire en
plusieurs passages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt_architecture.core.grouped_codes import padded_width
from gpt_architecture.kernels.decode.dots import DOTS
from gpt_architecture.kernels.decode.float_tiles import FLOAT_COLUMNS, WIDE_COLUMNS
from gpt_architecture.kernels.decode.integer_tiles import CODE_BYTES
from gpt_architecture.kernels.decode.linear_kernels import linear_float_, linear_wide_
from gpt_architecture.kernels.decode.matrix_tiles import LEAST
from gpt_architecture.kernels.decode.step_kernels import (
    LINE,
    encode_rows_,
    normalize_rows_,
    transpose_rows_,
)
from gpt_architecture.kernels.decode.strip_kernels import linear_integer_, linear_strips_
from gpt_architecture.kernels.decode.weights import STRIP_ROWS, KernelMatrix
from gpt_architecture.kernels.runtime.kernel import Kernel

_BLOCKS, _MAX_BLOCK, _WIDE_BLOCK = 4, 1024, 24
"""Lots visés par thread d'un produit étroit : peu, car chaque lot commence une lecture que la
machine n'a pas anticipée (mesuré : seize lots par thread coûtent un quart d'un token) ; lignes au
plus ; lignes d'un lot large, un nombre entier de tuiles de chaque hauteur."""

_START = 3
"""Ce que coûte un lot de plus, en lignes de poids."""

_CACHE_LINE = STRIP_ROWS  # valeurs fp32 ; un bloc en est un multiple : aucune n'est à deux threads

Buffers = tuple[tuple[Tensor, ...], tuple[int, ...]]
"""Les sorties d'un noyau qui prépare des activations, et les nombres qu'il lit ensuite."""


class Form:
    """Comment un pas multiplie ; choisie une fois, à sa construction.

    Attributes:
        height: activations au plus (mesurées).
        multiply: le noyau des produits.
        numbers: ce qu'il doit savoir de plus, après les nombres de la matrice.
        prepare: le noyau qui prépare leurs activations, `together` par lot.
        always: vrai s'il les prépare même sans norme.
        transposed: vrai si les activations sont rangées par colonnes.
        adapts: vrai si chaque ligne peut avoir son adaptateur (voir `row_adapters`).
    """

    height = WIDE_COLUMNS
    multiply: Kernel
    numbers: tuple[int, ...] = ()
    prepare: Kernel = normalize_rows_
    together = 1
    always = transposed = adapts = False

    def buffers(self, matrix: KernelMatrix, width: int) -> Buffers:
        """Ce que `prepare` écrit et lit, pour des activations de largeur `width`."""
        del matrix
        return (torch.zeros(self.height, width),), ()

    def block(self, rows: int, parts: int) -> int:
        """Lignes d'un lot de `multiply`, pour `parts` matrices de `rows` lignes.

        Le nombre entier de lignes de cache qui fait finir tous les threads au plus tôt, parmi ceux
        qui leur laissent `_BLOCKS` lots chacun : de 97 à 99 % du partage idéal à deux threads, 84 %
        au pire à seize (`benchmarks/busy_core.py --lots`).
        """
        threads = torch.get_num_threads()

        def cost(block: int) -> tuple[bool, int]:
            turns = -(-parts * -(-rows // block) // threads)
            return turns < _BLOCKS, turns * (block + _START)

        return min(range(_CACHE_LINE, _MAX_BLOCK + 1, _CACHE_LINE), key=cost)


class NarrowForm(Form):
    """Des poids fp32 en lignes, pour quelques activations : chacune a les bits d'une seule."""

    height, numbers = FLOAT_COLUMNS, (FLOAT_COLUMNS,)
    multiply = linear_float_


class ApartForm(NarrowForm):
    """Des poids fp32 en lignes, pour des propositions à vérifier : quelques activations de plus."""

    height = 8


class WideForm(Form):
    """Des poids fp32 en lignes, pour un lot d'activations transposées."""

    multiply = linear_wide_
    prepare, together = transpose_rows_, LINE
    always = transposed = True

    def buffers(self, matrix: KernelMatrix, width: int) -> Buffers:
        """Voir `Form` ; le nombre est celui des activations présentes, écrit à chaque passage."""
        del matrix
        return (torch.zeros(width, self.height),), (0,)

    def block(self, rows: int, parts: int) -> int:
        """Voir `Form`."""
        del rows, parts
        return _WIDE_BLOCK


class StripForm(Form):
    """Des poids fp32 en bandes : chaque activation ignore les autres, au bit près."""

    multiply, adapts = linear_strips_, True


class IntegerForm(Form):
    """Des poids entiers en bandes : chaque activation, codée sur 8 bits, ignore les autres."""

    height, numbers = 128, (LEAST,)
    multiply = linear_integer_
    prepare = encode_rows_
    always = adapts = True

    def buffers(self, matrix: KernelMatrix, width: int) -> Buffers:
        """Voir `Form`."""
        bits, group = matrix.numbers
        padded = padded_width(width)
        shape = self.height, padded // group
        codes = torch.zeros(self.height, padded * CODE_BYTES, dtype=torch.int8)
        offsets = torch.zeros(shape, dtype=torch.int32)
        return (codes, torch.zeros(shape), offsets), (group, DOTS.bias(bits))


FORMS: dict[str, Form] = {
    "narrow": NarrowForm(),
    "apart": ApartForm(),
    "wide": WideForm(),
    "strips": StripForm(),
    "integer": IntegerForm(),
}
"""Les formes, par leur nom."""
