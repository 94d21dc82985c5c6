"""L'embedding d'un pas : la ligne de chaque token, plus celle de sa position.

Une ligne de poids est en fp32, ou quantifiée, rangée comme dans un fichier (`GroupedCodes`) ou en
bandes (`IntegerStrips`, quand la tête est liée). Les bits sont ceux de `rows` de ces matrices : un
produit, puis une addition, chacun arrondi. Les fonctions qui en font deux n'ont donc pas les
libertés des autres noyaux.

Formes : M activations présentes, D largeur.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from gpt_architecture.kernels.decode.weights import CHUNK, STEP, STRIP_ROWS
from gpt_architecture.kernels.runtime.kernel import (
    Integer,
    Integers,
    Lots,
    Matrix,
    kernel,
    pointer,
)

_LINE = STEP * STRIP_ROWS  # octets d'un pas d'une bande, sur 8 bits


@njit
def _octet(address: Any) -> Any:
    """L'octet à cette adresse, non signé."""
    return np.int64(carray(pointer(address), (1,), np.uint8)[0])


@njit
def _file_code(row: Any, bits: Any, j: Any) -> Any:
    """Code j, non signé, de la ligne à l'adresse `row`, rangée comme dans un fichier."""
    if bits == 8:
        return _octet(row + j) ^ 128
    quarter, lane, block = j % 64 // 16, j % 16, row + j // 64 * 8 * bits
    code = _octet(block + 2 * lane + quarter // 2) >> 4 * (quarter % 2) & 15
    if bits == 6:
        code |= (_octet(block + 32 + lane) >> 2 * quarter & 3) << 4
    return code


@njit
def _strip_code(row: Any, bits: Any, j: Any) -> Any:
    """Code j, non signé, de la ligne qui commence à l'adresse `row` de sa bande."""
    step, chunk = j % CHUNK // STEP, row + j // CHUNK * _LINE * bits + j % STEP
    if bits == 8:
        return _octet(chunk + _LINE * step)
    code = _octet(chunk + _LINE * (step // 2)) >> 4 * (step % 2) & 15
    if bits == 6:
        code |= (_octet(chunk + _LINE * (4 + step // 4)) >> 2 * (step % 4) & 3) << 4
    return code


@njit
def _embed_codes(
    token: Any,
    table: Any,
    bits: Any,
    group: Any,
    groups: Any,
    strip_rows: Any,
    place: Any,
    out: Any,
) -> None:
    """out (D,) = ligne quantifiée `token` + place ; voir `embed_rows_`."""
    strip, rank = token // strip_rows, token % strip_rows
    row = table[0] + strip * strip_rows * (groups * group * bits // 8) + STEP * rank
    shift = 1 << (bits - 1)
    for j in range(out.size):
        code = _file_code(row, bits, j) if strip_rows == 1 else _strip_code(row, bits, j)
        where = table[1] + 2 * ((groups * strip + j // group) * strip_rows + rank)
        half = np.int32(carray(pointer(where), (1,), np.uint16)[0])
        scale = np.int32(half << np.int32(16)).view(np.float32)
        out[j] = np.float32(code - shift) * scale + place[j]


@kernel
def embed_rows_(
    lots: Lots,
    tokens: Integers,
    places: Integers,
    table: Integers,
    bits: Integer,
    group: Integer,
    groups: Integer,
    strip_rows: Integer,
    positions: Matrix,
    x: Matrix,
) -> None:
    """x (hauteur, D) = embedding de `tokens` (M,) + ligne de `positions` (·, D) de `places` (M,).

    table : adresse des poids fp32 (`bits` = 32), ou des codes, puis des échelles bf16, de `groups`
    groupes par ligne, par bandes de `strip_rows` lignes ; une : rangés comme dans un fichier.
    """
    width = x.shape[1]
    for m in lots:
        token, place, out = tokens[m], positions[places[m]], x[m]
        if bits == 32:
            row = carray(pointer(table[0] + 4 * width * token), (width,), np.float32)
            for j in range(width):
                out[j] = row[j] + place[j]
        else:
            _embed_codes(token, table, bits, group, groups, strip_rows, place, out)
