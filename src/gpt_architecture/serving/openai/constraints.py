"""La contrainte que demande un corps, sous l'un de ses noms : une seule, lue et vérifiée."""

from __future__ import annotations

import json
from typing import Any

from gpt_architecture.decoding.schemas import make_strict
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.openai.bodies import SamplingBody
from gpt_architecture.serving.openai.strict_bodies import parse_body

_DEPTH = 32  # d'un schéma envoyé en texte


def constraint_of(body: SamplingBody) -> dict[str, Any]:
    """Ce que demande un corps : `regex`, `choices` ou `json_schema`, pour `GenerationConfig`.

    Un grand schéma se lit en dizaines de millisecondes : à faire hors de la boucle.

    Raises:
        ApiError: deux contraintes, ou un schéma illisible ou que le mode strict refuse.
    """
    if not body.constraints:
        return {}
    (field, setting, value), *others = body.constraints
    if others:
        second = others[0][0]
        raise ApiError.invalid(
            f"{field} et {second} sont donnés ensemble : gardez l'un des deux",
            param=second.partition(".")[0],
        )
    if setting == "choices":
        return {"choices": tuple(value)}
    return {setting: _schema(field, value, body) if setting == "json_schema" else value}


def _schema(field: str, value: Any, body: SamplingBody) -> str:
    """Le texte d'un schéma, rendu strict s'il le demande."""
    if isinstance(value, str):  # vLLM admet le schéma en texte
        try:
            return json.dumps(parse_body(value.encode(errors="surrogatepass"), max_depth=_DEPTH))
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
