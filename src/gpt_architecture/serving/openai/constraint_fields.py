"""Une contrainte, sous tous les noms que lui donnent les clients, ramenée à un réglage d'ici.

- `json_schema` : `response_format` (OpenAI, et le `schema` de llama.cpp), `guided_json` et
  `structured_outputs.json` (vLLM) ;
- `regex` : `guided_regex`, `structured_outputs.regex` ;
- `choices` : `guided_choice`, `structured_outputs.choice`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gpt_architecture.decoding.json_schemas import make_strict
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.serving.http.strict_json import parse_json
from gpt_architecture.serving.openai.errors import ApiError
from gpt_architecture.serving.openai.schemas import ResponseFormat, SamplingBody

_DEPTH = 32
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


def constraint_of(body: SamplingBody) -> dict[str, Any]:
    """Ce que demande un corps : `regex`, `choices` ou `json_schema`, pour `GenerationConfig`.

    Un grand schéma se lit en dizaines de millisecondes : à faire hors de la boucle.

    Raises:
        ApiError: deux contraintes, ou un schéma illisible ou que le mode strict refuse.
    """
    given = list(_given(body))
    if not given:
        return {}
    if len(given) > 1:
        (first, _, _), (second, _, _) = given[:2]
        raise ApiError.invalid(
            f"{first} et {second} sont donnés ensemble : gardez l'un des deux",
            param=second.partition(".")[0],
        )
    field, setting, value = given[0]
    if setting == "choices":
        return {"choices": tuple(value)}
    return {setting: _schema(field, value, body) if setting == "json_schema" else value}


def is_constrained(body: SamplingBody) -> bool:
    """Vrai si un corps demande une contrainte ; rien n'en est lu."""
    return next(_given(body), None) is not None


def _given(body: SamplingBody) -> Iterator[tuple[str, str, Any]]:
    """Chaque contrainte donnée : son champ, le réglage d'ici, sa valeur."""
    form, vllm = body.response_format, body.structured_outputs
    found = [
        ("response_format", "json_schema", _format(form)),
        ("json_schema", "json_schema", body.json_schema),
        ("guided_json", "json_schema", body.guided_json),
        ("regex", "regex", body.regex),
        ("guided_regex", "regex", body.guided_regex),
        ("choices", "choices", body.choices),
        ("guided_choice", "choices", body.guided_choice),
    ]
    if vllm is not None:
        whole = _ANY_OBJECT if vllm.json_object else None
        found += [
            ("structured_outputs.json", "json_schema", vllm.json_),
            ("structured_outputs.json_object", "json_schema", whole),
            ("structured_outputs.regex", "regex", vllm.regex),
            ("structured_outputs.choice", "choices", vllm.choice),
        ]
    yield from (each for each in found if each[2] is not None)


def _format(form: ResponseFormat | None) -> dict[str, Any] | None:
    """Le schéma de `response_format`."""
    if form is None or form.type == "text":
        return None
    if form.json_schema is not None:
        return form.json_schema.schema_
    return _ANY_OBJECT if form.schema_ is None else form.schema_


def _schema(field: str, value: Any, body: SamplingBody) -> str:
    """Le texte d'un schéma, rendu strict s'il le demande."""
    if isinstance(value, str):  # vLLM admet le schéma en texte
        try:
            return json.dumps(parse_json(value.encode(errors="surrogatepass"), max_depth=_DEPTH))
        except ApiError as error:
            name = field.partition(".")[0]
            raise ApiError.invalid(f"{field}, lu comme un corps : {error}", param=name) from None
    form = body.response_format
    if form is not None and form.json_schema is not None and form.json_schema.strict:
        try:
            value = make_strict(value)
        except ConfigurationError as error:
            raise ApiError.invalid(str(error), param=field) from None
    return json.dumps(value)
