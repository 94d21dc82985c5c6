"""JSON à la lettre : ni NaN, ni infini, ni demi-caractère, ni nombre ou imbrication sans fin."""

from __future__ import annotations

import json
import math
from codecs import BOM_UTF8
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute

from gpt_architecture.serving.api_errors import ApiError

_LONGEST_INTEGER = 20  # chiffres : au-delà d'un entier de 64 bits


def parse_json(body: bytes, *, max_depth: int) -> Any:
    """Lit un corps JSON.

    Args:
        body: octets, en UTF-8.
        max_depth: objets et listes imbriqués, au plus.

    Raises:
        ApiError: 400, ce n'est pas du JSON, ou pas un JSON que la norme garantit partout.
    """
    try:
        value = json.loads(
            body.removeprefix(BOM_UTF8).decode(),
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_bounded,
        )
    except UnicodeDecodeError:
        raise ApiError.invalid("le corps n'est pas du texte UTF-8") from None
    except json.JSONDecodeError as error:
        raise ApiError.invalid(
            f"le corps n'est pas du JSON valide (ligne {error.lineno}, colonne {error.colno})"
        ) from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    _check_depth(value, max_depth)
    if b"\\ud" in body or b"\\uD" in body:
        _check_surrogates(value)
    return value


class StrictRequest(Request):
    """Une requête dont le JSON est lu à la lettre."""

    async def json(self) -> Any:
        """Le corps, lu par `parse_json`."""
        return parse_json(await self.body(), max_depth=self.app.state.limits.json_depth)


class StrictRoute(APIRoute):
    """Une route qui lit ses corps avec `StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Le traitement de FastAPI, sur une requête stricte."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            try:
                return await handle(StrictRequest(request.scope, request.receive))
            except Exception as error:  # FastAPI remplace par la sienne l'erreur de lecture
                if isinstance(error.__cause__, ApiError):
                    raise error.__cause__ from None
                raise

        return strict


def _refuse(constant: str) -> NoReturn:
    raise ApiError.invalid(f"{constant} n'est pas un nombre JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ApiError.invalid(f"{text[:30]} dépasse les nombres représentables")
    return value


def _bounded(text: str) -> int:
    if len(text) > _LONGEST_INTEGER:
        raise ApiError.invalid(f"un entier de {len(text)} chiffres dépasse 64 bits")
    return int(text)


def _check_depth(value: Any, max_depth: int) -> None:
    level, depth = [value], 0
    while level:
        if depth > max_depth:
            raise _too_deep(max_depth)
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
        depth += 1


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError.invalid(
            "un texte contient une moitié de caractère (U+D800 à U+DFFF)"
        ) from None


def _too_deep(max_depth: int) -> ApiError:
    return ApiError.invalid(f"le JSON imbrique plus de {max_depth} niveaux")
