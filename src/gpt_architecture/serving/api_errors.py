"""Les erreurs telles qu'un client les reçoit : toujours dans l'enveloppe d'OpenAI, ou dans celle
d'Anthropic à ses adresses.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from gpt_architecture.errors import (
    ConfigurationError,
    DataError,
    GPTArchitectureError,
    TokenizerError,
)
from gpt_architecture.serving.engine.messages import EngineClosed, Overloaded
from gpt_architecture.serving.http.access import QuotaExceeded, current

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2
"""Attente proposée à un client quand le service n'est pas prêt."""

MESSAGES = "/v1/messages"
"""Ce qui commence ici a la forme d'Anthropic."""

_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_INTERNAL = "erreur interne du service ; réessayez, et voyez son journal si elle revient"
_HTTP = {
    404: "cette adresse n'existe pas ici ; /docs en donne la liste",
    405: "cette adresse n'accepte pas cette méthode HTTP",
}
_BODY = "le corps doit être un objet JSON, envoyé avec « Content-Type: application/json »"
_FIELDS = {
    "missing": "est absent",
    "extra_forbidden": "n'est pas un champ connu",
    "int_type": "doit être un entier",
    "int_from_float": "doit être un entier",
    "float_type": "doit être un nombre",
    "finite_number": "doit être un nombre fini",
    "bool_type": "doit être true ou false",
    "string_type": "doit être un texte",
    "list_type": "doit être une liste",
    "dict_type": "doit être un objet",
    "model_type": "doit être un objet",
    "model_attributes_type": "doit être un objet",
    "greater_than_equal": "doit être au moins {ge}",
    "greater_than": "doit être plus grand que {gt}",
    "less_than_equal": "doit être au plus {le}",
    "literal_error": "doit être l'un de {expected}",
    "string_too_long": "dépasse {max_length} caractères",
    "string_too_short": "est vide",
    "too_long": "compte plus de {max_length} éléments",
    "too_short": "est vide",
}


class ApiError(Exception):
    """Une réponse d'erreur.

    Args:
        status: code HTTP.
        message: phrase destinée à la personne.
        kind: genre d'erreur d'OpenAI (`invalid_request_error`, `server_error`…).
        param: champ fautif.
        code: motif lisible par un programme.
        headers: en-têtes à joindre.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.headers = param, code, dict(headers or {})

    @classmethod
    def invalid(
        cls, message: str, *, param: str | None = None, code: str | None = None
    ) -> ApiError:
        """Une requête refusée (400)."""
        return cls(400, message, param=param, code=code)

    @classmethod
    def too_many(
        cls, message: str, *, code: str, seconds: int, kind: str = "rate_limit_error"
    ) -> ApiError:
        """Trop de demandes (429) ; le client réessaiera dans tant de secondes."""
        return cls(429, message, kind=kind, code=code, headers={"Retry-After": str(seconds)})

    @classmethod
    def unavailable(cls, message: str, *, code: str) -> ApiError:
        """Le service ne peut pas répondre maintenant (503) ; le client réessaiera."""
        retry = {"Retry-After": str(RETRY_SECONDS)}
        return cls(503, message, kind="server_error", code=code, headers=retry)

    def envelope(self) -> dict[str, Any]:
        """L'objet JSON qu'attend le client ; la ligne de la requête au journal dira ce motif."""
        exchange = current()
        exchange.code = self.code or self.kind
        if exchange.path.startswith(MESSAGES):
            kind = _ANTHROPIC.get(self.status, "api_error" if self.status >= 500 else self.kind)
            error = {"type": kind, "message": self.message}
            return {"type": "error", "error": error, "request_id": exchange.request_id}
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """La réponse HTTP."""
        return JSONResponse(self.envelope(), self.status, headers=self.headers)


@contextmanager
def renaming(names: Mapping[str, str]) -> Iterator[None]:
    """Dans ce bloc, une erreur nomme les champs comme le client les a écrits.

    Ce qui ne va pas à un corps fait d'un autre est une faute de la requête, comme s'il était reçu.

    Args:
        names: nom d'un champ ici → celui du client.
    """
    try:
        try:
            yield
        except ValidationError as error:  # sa phrase citerait le texte de la requête
            found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
            raise validation_error(RequestValidationError(found)) from None
    except ApiError as error:
        name = error.param or ""
        if name in names:
            if error.message.startswith(f"{name} "):  # ailleurs, « messages » est un mot
                error.message = names[name] + error.message.removeprefix(name)
            error.param = names[name].partition(".")[0]
        raise


def as_api_error(error: Exception) -> ApiError:
    """La réponse que mérite une exception ; celles qui ne sont pas prévues vont au journal."""
    match error:
        case ApiError():
            return error
        case Overloaded():
            seconds = max(1, math.ceil(error.retry_after))
            return ApiError.too_many(str(error), code="overloaded", seconds=seconds)
        case QuotaExceeded():
            return ApiError.too_many(
                f"{error.found} ; {error.remedy}",
                kind=error.kind,
                code="rate_limit_exceeded",
                seconds=error.seconds,
            )
        case EngineClosed():
            return ApiError.unavailable(str(error), code="engine_closed")
        case ConfigurationError() | TokenizerError() | DataError():
            return ApiError.invalid(str(error))
    told, message = "requête interrompue par une erreur imprévue", _INTERNAL
    if isinstance(error, GPTArchitectureError):
        told, message = f"requête interrompue : {error}", str(error)
    logger.error("%s", told, exc_info=error)
    return ApiError(500, message, kind="server_error")


def install_handlers(app: FastAPI) -> None:
    """Fait passer par l'enveloppe toutes les erreurs d'une application."""

    async def http(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101 — Starlette choisit par classe
        message = _HTTP.get(error.status_code, str(error.detail))
        code = "not_found" if error.status_code == 404 else None
        found = ApiError(error.status_code, message, code=code, headers=error.headers)
        return found.response()

    async def validation(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return validation_error(error).response()

    async def any_error(_request: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(ApiError, any_error)
    app.add_exception_handler(GPTArchitectureError, any_error)


def validation_error(error: RequestValidationError) -> ApiError:
    """La première erreur d'un corps, en une phrase qui nomme le champ."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"][1:] if _is_field(part)]
    kind, context = first["type"], first.get("ctx", {})
    if not place or kind == "json_invalid":
        if kind == "refus":
            return ApiError.invalid(first["msg"], param=context.get("param"))
        return ApiError.invalid(_BODY)
    if kind == "refus":  # nos propres vérifications portent leur phrase
        reason = first["msg"]
    else:
        if "expected" in context:  # pydantic énumère en anglais
            context = {**context, "expected": context["expected"].replace("' or '", "' ou '")}
        reason = _FIELDS.get(kind, "a une valeur refusée").format(**context)
    return ApiError.invalid(
        f"{'.'.join(place)} {reason}",
        param=place[0],
        code="unknown_parameter" if kind == "extra_forbidden" else None,
    )


def _is_field(part: int | str) -> bool:
    """Faux pour les noms de types que pydantic glisse dans le chemin d'une union."""
    return isinstance(part, int) or (part.isidentifier() and part not in ("str", "list"))
