"""Ce qu'un corps reçu peut être : du JSON à la lettre, des types stricts, et quels champs.

Ni NaN, ni infini, ni demi-caractère, ni nombre ou imbrication sans fin. Un champ que ce service n'a
pas, s'il est sans effet ici ou si sa valeur ne demande rien, vaut l'absence ; un champ qui
changerait la réponse est refusé par son nom. Une table par objet le dit.
"""

from __future__ import annotations

import json
import logging
import math
from codecs import BOM_UTF8
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, model_validator

from gpt_architecture.serving.api_errors import ApiError

logger = logging.getLogger(__name__)

_LONGEST_INTEGER = 20  # chiffres : au-delà d'un entier de 64 bits
_NAMED = 100  # noms signalés au journal, au plus
_SHOWN = 64  # caractères d'un nom
_KINDS = {
    bool: "true ou false",
    int: "un entier",
    str: "un texte",
    list: "une liste",
    dict: "un objet",
}


def parse_body(body: bytes, *, max_depth: int) -> Any:
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
        """Le corps, lu par `parse_body`."""
        return parse_body(await self.body(), max_depth=self.app.state.limits.json_depth)


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


@dataclass(frozen=True)
class Hint:
    """Un champ qui ne change rien au texte : seul son type est vérifié."""

    kind: type


@dataclass(frozen=True)
class Refused:
    """Un champ qui changerait la réponse, sauf s'il vaut l'une des valeurs `neutral`."""

    neutral: tuple[Any, ...] = ()
    instead: str = ""
    """Le champ d'ici qui dit la même chose, s'il y en a un."""


Foreign = Mapping[str, Hint | Refused]

REQUEST: Foreign = {
    # OpenAI : facturation, suivi, cache, effort d'un modèle qui raisonne.
    "store": Hint(bool),
    "metadata": Hint(dict),
    "service_tier": Hint(str),
    "prompt_cache_key": Hint(str),
    "prompt_cache_retention": Hint(str),
    "prompt_cache_options": Hint(dict),
    "safety_identifier": Hint(str),
    "parallel_tool_calls": Hint(bool),
    "reasoning_effort": Hint(str),
    "verbosity": Hint(str),
    # OpenAI : ce que le modèle devrait faire, et ne sait pas faire.
    "tools": Refused(([],)),
    "tool_choice": Refused(("none", "auto")),
    "functions": Refused(([],)),
    "function_call": Refused(("none", "auto")),
    "modalities": Refused((["text"], [])),
    "audio": Refused(),
    "prediction": Refused(),
    "web_search_options": Refused(),
    "moderation": Refused(),
    "suffix": Refused(("",)),
    # vLLM et llama.cpp.
    "priority": Hint(int),
    "cache_prompt": Hint(bool),
    "skip_special_tokens": Refused((True,)),
    "spaces_between_special_tokens": Refused((True,)),
    "include_stop_str_in_output": Refused((False,)),
    "add_generation_prompt": Refused((True,)),
    "continue_final_message": Refused((False,)),
    "chat_template": Refused(),
    "use_beam_search": Refused((False,)),
    "length_penalty": Refused((1,)),
    "bad_words": Refused(([],)),
    "logits_processors": Refused(([],)),
    "prompt_logprobs": Refused(),
    "truncate_prompt_tokens": Refused(),
    "typical_p": Refused((1,)),
    "mirostat": Refused((0,)),
    "grammar": Refused(("",), instead="regex"),
    "guided_grammar": Refused(("",), instead="guided_regex"),
    "guided_whitespace_pattern": Refused(),
    "guided_decoding_backend": Hint(str),  # un seul moteur de contraintes
    "structural_tag": Refused(("",)),
    "n_predict": Refused(instead="max_tokens"),
    "repeat_penalty": Refused((1,), instead="repetition_penalty"),
}
"""Champs d'une requête."""

STRUCTURED: Foreign = {
    "grammar": Refused(("",), instead="regex"),
    "structural_tag": Refused(("",)),
    "whitespace_pattern": Refused(),
}
"""Champs de `structured_outputs`."""

MESSAGE: Foreign = {
    "id": Hint(str),
    "annotations": Hint(list),
    "reasoning": Hint(str),
    "reasoning_content": Hint(str),
    "refusal": Refused(("",)),
    "tool_calls": Refused(([],)),
    "tool_call_id": Refused(),
    "function_call": Refused(),
    "audio": Refused(),
    "images": Refused(([],)),
}
"""Champs d'un message : ceux qu'une réponse reçue porte sont renvoyés au tour suivant."""

PART: Foreign = {
    "annotations": Hint(list),
    "logprobs": Hint(list),
    "citations": Hint(list),
    "cache_control": Hint(dict),
    "prompt_cache_breakpoint": Hint(dict),
}
"""Champs d'un morceau de texte."""


class Body(BaseModel):
    """Un objet JSON reçu : types stricts, null vaut l'absence, les autres champs sont gardés.

    Attributes:
        foreign: ce que l'on fait des champs connus qu'il n'a pas.
    """

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    foreign: ClassVar[Foreign] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: each for name, each in value.items() if each is not None}


class FieldPolicy:
    """Ce que le service fait des champs qu'il n'a pas.

    Args:
        strict: refuse aussi ceux que personne ne connaît, au lieu de les ignorer.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._named = set[str]()

    def check(self, body: Body) -> None:
        """Vérifie les champs d'un corps, et de ce qu'il contient.

        Raises:
            ApiError: 400, l'un d'eux changerait la réponse, ou n'est pas un champ connu.
        """
        for owner, path, value in _foreign(body, ()):
            known, where = owner.foreign.get(path[-1]), ".".join(path)
            match known:
                case None if self._strict:
                    raise ApiError.invalid(
                        f"{where[:200]} n'est pas un champ connu",
                        param=path[0][:200],
                        code="unknown_parameter",
                    )
                case None:
                    self._say_once(path[-1])
                case Hint(kind) if type(value) is not kind:
                    raise ApiError.invalid(f"{where} doit être {_KINDS[kind]}", param=path[0])
                case Refused(neutral) if not any(_same(value, each) for each in neutral):
                    raise ApiError.invalid(
                        f"{where} n'est pas pris en charge : {_advice(known)}",
                        param=path[0],
                        code="unsupported_parameter",
                    )

    def _say_once(self, name: str) -> None:
        name = name[:_SHOWN]
        if name in self._named or len(self._named) >= _NAMED:
            return
        self._named.add(name)
        logger.warning("champ inconnu, ignoré : %s (dit une fois)", json.dumps(name))


def _foreign(body: Body, path: tuple[str, ...]) -> Iterator[tuple[Body, tuple[str, ...], Any]]:
    """Chaque champ en plus : l'objet qui le porte, son chemin, sa valeur."""
    for name, value in (body.model_extra or {}).items():
        yield body, (*path, name), value
    for name in type(body).model_fields:
        value = getattr(body, name)
        if isinstance(value, Body):
            yield from _foreign(value, (*path, name))
        elif isinstance(value, list):
            for number, each in enumerate(value):
                if isinstance(each, Body):
                    yield from _foreign(each, (*path, name, str(number)))


def _same(value: Any, other: Any) -> bool:
    """Égaux, sans confondre `true` et 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _advice(field: Refused) -> str:
    if field.instead:
        return f"employez {field.instead}"
    values = " ou ".join(json.dumps(each) for each in field.neutral)
    return f"retirez-le, ou donnez-lui {values}" if values else "retirez-le"
