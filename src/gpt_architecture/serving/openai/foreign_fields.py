"""Les champs qu'un client envoie et que ce service n'a pas : ignorés, ou refusés par leur nom.

Un champ sans effet ici, ou dont la valeur ne demande rien, vaut l'absence ; un champ qui changerait
la réponse est refusé. Une table par objet le dit, à côté de son schéma (`schemas`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from gpt_architecture.serving.api_errors import ApiError

logger = logging.getLogger(__name__)

_NAMED = 100  # noms signalés au journal, au plus
_SHOWN = 64  # caractères d'un nom
_KINDS = {
    bool: "true ou false",
    int: "un entier",
    str: "un texte",
    list: "une liste",
    dict: "un objet",
}


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
