"""Les conversations : messages vérifiés, gabarit, texte que le modèle lit.

Un gabarit est du Jinja, aux conventions de Transformers : il reçoit `messages` (role, content),
`add_generation_prompt`, `raise_exception`, et le nom des tokens spéciaux du modèle (`eos_token`,
`bos_token`…). Celui d'un modèle est dans les métadonnées de son fichier, sous `CHAT_TEMPLATE`.

Il vient donc d'ailleurs, et s'exécute dans un bac à sable (`chat_sandbox`).

Le texte rendu est marqué (`data.tokenizers.marked_text`) : les tokens spéciaux que le gabarit écrit
en sont, les mêmes caractères dans un message restent du texte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateSyntaxError
from jinja2.exceptions import TemplateError

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.texts.chat_sandbox import Sandbox, budget
from gpt_architecture.data.tokenizers.marked_text import written
from gpt_architecture.data.tokenizers.protocol import ROLES as TOKEN_ROLES
from gpt_architecture.data.tokenizers.protocol import Tokenizer, role_names
from gpt_architecture.errors import DataError, reason

CHAT_TEMPLATE = "chat_template"
"""Clé du gabarit dans les métadonnées d'un fichier de modèle."""

MAX_TEMPLATE = 65_536
MAX_MESSAGES = 10_000
MAX_CONTENT = 4_000_000

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Rôles qu'un message peut avoir ; le gabarit décide de ceux qu'il sait écrire."""

DEFAULT_CHAT_TEMPLATE = """\
{%- set names = {'system': 'Consigne', 'user': 'Question', 'assistant': 'Réponse'} -%}
{%- for message in messages -%}
{%- if message['role'] not in names -%}
{{- raise_exception('rôle ' ~ message['role'] ~ ' inconnu de ce gabarit') -}}
{%- endif -%}
{{- '### ' ~ names[message['role']] ~ ' :\\n' ~ message['content'] | trim -}}
{{- eos_token if message['role'] == 'assistant' else '\\n\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '### Réponse :\\n' -}}
{%- endif -%}
"""
"""Gabarit des modèles qui n'en ont pas : des titres en texte, la fin de texte après la réponse."""

_FAILURES = (
    *(TemplateError, ArithmeticError, LookupError, RecursionError),
    *(TypeError, ValueError, AttributeError),
)


def render_chat(
    messages: Sequence[Mapping[str, str]],
    template: str,
    *,
    tokenizer: Tokenizer | None = None,
    add_generation_prompt: bool = False,
) -> str:
    """Le texte d'une conversation, marqué (`data.tokenizers.marked_text`).

    Le rendu est borné en pas et en taille, et n'atteint ni fichier, ni objet Python : un gabarit
    vient parfois d'un modèle téléchargé.

    Args:
        messages: chacun a un `role` et un `content` (voir `check_messages`).
        template: gabarit Jinja, par exemple `DEFAULT_CHAT_TEMPLATE`.
        tokenizer: celui du modèle, qui nomme `eos_token` et ses semblables ; None : tous
            `<|endoftext|>`.
        add_generation_prompt: finit par ce qui précède une réponse, pour que le modèle l'écrive.

    Raises:
        DataError: message mal formé, gabarit mal écrit, ou qui refuse cette conversation.
    """
    check_messages(messages)
    compiled = _compile(template)
    names = dict.fromkeys(TOKEN_ROLES, END_OF_TEXT) if tokenizer is None else role_names(tokenizer)
    try:
        with budget():
            return compiled.render(
                # un rôle vient de `ROLES` : un gabarit en fait le nom d'un token, <|user|>
                messages=[{**message, "role": written(message["role"])} for message in messages],
                add_generation_prompt=add_generation_prompt,
                raise_exception=_raise,
                tools=None,  # comme Transformers sans outil ni document
                documents=None,
                **{role: written(name) for role, name in names.items()},
            )
    except _RefusedError as error:
        raise DataError(
            f"le gabarit de conversation refuse ces messages : {error}",
            expected="des messages dans l'ordre et les rôles qu'il prévoit",
            remedy="corrigez les messages, ou changez de gabarit",
        ) from None
    except _FAILURES as error:
        raise _bad_template(reason(error)) from None


def check_messages(messages: object) -> None:
    """Vérifie une conversation : au moins un message, chacun avec un rôle connu et un texte.

    Raises:
        DataError: le message fautif est désigné par son rang, à partir de 1.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        raise _bad_message("messages n'est pas une liste")
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise _bad_message(f"une conversation de {len(messages)} messages")
    size = 0
    for rank, message in enumerate(messages, 1):
        where = f"message {rank}"
        if not isinstance(message, Mapping):
            raise _bad_message(f"{where} : ce n'est pas un objet")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise _bad_message(f"{where} : role vaut {_shown(role)}")
        if not isinstance(content, str):
            raise _bad_message(f"{where} : content vaut {_shown(content)}")
        others = [key for key, value in message.items() if not isinstance(value, str)]
        if others:
            raise _bad_message(f"{where} : {_shown(others[0])} n'est pas un texte")
        size += len(content)
    if size > MAX_CONTENT:
        raise _bad_message(f"une conversation de {size} caractères")


def check_template(template: object) -> str:
    """Le gabarit, s'il est bien écrit.

    Raises:
        DataError: ce n'en est pas un.
    """
    if not isinstance(template, str):
        raise _bad_template(f"type {type(template).__name__}")
    _compile(template)
    return template


class _RefusedError(Exception):
    """Levée par `raise_exception` dans un gabarit."""


def _raise(message: object) -> NoReturn:
    raise _RefusedError(str(message)[:200])


@lru_cache(maxsize=32)
def _compile(template: str) -> Template:
    if not template.strip() or len(template) > MAX_TEMPLATE:
        raise _bad_template(f"{len(template)} caractères")
    try:
        return Sandbox().from_string(template)
    except TemplateSyntaxError as error:
        raise _bad_template(f"ligne {error.lineno}, {reason(error)}") from None
    except (TemplateError, RecursionError, SyntaxError, OverflowError, MemoryError) as error:
        raise _bad_template(reason(error)) from None


def _bad_template(found: str) -> DataError:
    return DataError(
        f"gabarit de conversation invalide : {found}",
        expected=f"un gabarit Jinja de 1 à {MAX_TEMPLATE} caractères, aux conventions de "
        "Transformers, qui n'emploie que messages, add_generation_prompt, eos_token, bos_token "
        "et raise_exception",
        remedy="corrigez-le, ou retirez-le pour prendre celui du projet",
    )


def _bad_message(found: str) -> DataError:
    return DataError(
        found,
        expected=f"de 1 à {MAX_MESSAGES} messages {{role, content}}, role parmi "
        f"{', '.join(ROLES)}, content un texte, {MAX_CONTENT} caractères en tout au plus",
        remedy="corrigez la conversation",
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
