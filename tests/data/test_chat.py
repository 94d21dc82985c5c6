"""Les conversations : texte rendu, gabarits de Transformers, messages et gabarits refusés."""

import itertools

import pytest

from gpt_architecture.data.texts.chat import (
    DEFAULT_CHAT_TEMPLATE,
    MAX_TEMPLATE,
    check_messages,
    check_template,
    render_chat,
)
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.data.tokenizers.marked_text import encode_text
from gpt_architecture.errors import DataError

TALK = [
    {"role": "system", "content": "Réponds en un mot."},
    {"role": "user", "content": "  Où est le bateau ? "},
    {"role": "assistant", "content": "Ici."},
    {"role": "user", "content": "Et la lampe ?"},
]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}"
    "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
MARKED = (
    "{%- if tools is not none or documents is not none -%}outils{%- endif -%}"
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message.content ~ '\\n' }}{% endif %}{% endfor %}"
)
MODERN = (
    "{%- set ns = namespace(last='') -%}\n"
    "{%- for message in messages %}\n"
    "    {%- if loop.last %}{% set ns.last = message.content | trim | upper %}{% endif %}\n"
    "    {%- if message.role == 'system' %}{% continue %}{% endif %}\n"
    "    {{- message | tojson }}\n"
    "{%- endfor %}\n"
    "{{- ns.last }}{{ messages | map(attribute='role') | join(', ') }}"
)


def test_default_template():
    """Titres, textes sans blancs autour, fin de texte après chaque réponse."""
    assert render_chat(TALK, DEFAULT_CHAT_TEMPLATE, add_generation_prompt=True) == (
        "### Consigne :\nRéponds en un mot.\n\n"
        "### Question :\nOù est le bateau ?\n\n"
        "### Réponse :\nIci.<|endoftext|>"
        "### Question :\nEt la lampe ?\n\n"
        "### Réponse :\n"
    )


def test_generation_prompt_is_a_prefix():
    """Ce qui précède une réponse est le début du texte qui la contient : on peut l'isoler."""
    for end in (1, 3):
        before = render_chat(TALK[: end + 1], DEFAULT_CHAT_TEMPLATE, add_generation_prompt=True)
        answered = [*TALK[: end + 1], {"role": "assistant", "content": "Oui."}]
        after = render_chat(answered, DEFAULT_CHAT_TEMPLATE)
        assert after == before + "Oui.<|endoftext|>"


@pytest.mark.parametrize("template", [DEFAULT_CHAT_TEMPLATE, CHATML, LLAMA2, MARKED, MODERN])
@pytest.mark.parametrize("prompted", [False, True])
def test_renders_as_transformers(template, prompted):
    """Le même texte que `apply_chat_template` de Transformers."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    expected, _ = utils.render_jinja_template(
        conversations=[TALK],
        chat_template=template,
        add_generation_prompt=prompted,
        **dict.fromkeys(("eos_token", "bos_token"), "<|endoftext|>"),
    )
    assert render_chat(TALK, template, add_generation_prompt=prompted) == expected[0]


class Named:
    """Un tokenizer dont les tokens spéciaux ont d'autres noms (voir `SpecialTokenizer`)."""

    name, vocab_size, eos_id = "nommé", 3, 1
    special = {"<s>": 0, "</s>": 1, "<?>": 2}  # noqa: RUF012 — un faux
    roles = {"bos_token": "<s>", "unk_token": "<?>"}  # noqa: RUF012

    def encode(self, text, *, allowed_special=frozenset()):
        return [self.special[text]]

    def decode(self, tokens):
        return {1: "</s>"}[tokens[0]]

    def to_dict(self):
        return {"name": self.name}


def test_a_template_knows_the_names_of_the_model():
    """`bos_token`, `eos_token`… sont ceux du vocabulaire ; ce qu'il n'a pas n'est rien."""
    template = "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}{{ sep_token }}"
    assert render_chat(TALK, template, tokenizer=Named()) == "<s></s></s><?>"
    without = get_tokenizer("char", text="abc")
    assert render_chat(TALK, f"[{template}]", tokenizer=without) == "[]"


def test_the_end_of_text_may_be_spoken_of():
    """Écrite dans un message, elle reste du texte."""
    talk = [{"role": "user", "content": "Que fait <|endoftext|> ?"}]
    tokenizer = get_tokenizer("gpt2")
    text = render_chat(talk, DEFAULT_CHAT_TEMPLATE, tokenizer=tokenizer)
    assert "<|endoftext|>" in text
    assert tokenizer.eos_id not in encode_text(text, tokenizer)


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ("bonjour", "liste"),
        ([], "0 messages"),
        ([{"role": "user", "content": "a"}, "b"], "message 2 : ce n'est pas un objet"),
        ([{"content": "a"}], "message 1 : role vaut None"),
        ([{"role": "pilote", "content": "a"}], "'pilote'"),
        ([{"role": "user"}], "content vaut None"),
        ([{"role": "user", "content": 3}], "content vaut 3"),
        ([{"role": "user", "content": "a", "tools": []}], "'tools' n'est pas un texte"),
        ([{"role": "user", "content": "a" * 4_000_001}], "4000001 caractères"),
    ],
)
def test_bad_messages(messages, found):
    with pytest.raises(DataError, match=r"role parmi system") as error:
        check_messages(messages)
    assert found in str(error.value)


def test_a_template_may_refuse():
    """`raise_exception` dit pourquoi, dans une phrase."""
    with pytest.raises(DataError, match="refuse ces messages : Conversation roles must alternate"):
        render_chat(TALK[2:], LLAMA2)
    with pytest.raises(DataError, match="rôle tool inconnu"):
        render_chat([{"role": "tool", "content": "a"}], DEFAULT_CHAT_TEMPLATE)


def growing(expression):
    """Un gabarit qui fait grandir x de plus en plus vite."""
    return "{% set x = 'aaaaaaaaaa' %}" + f"{{% set x = {expression} %}}" * 60 + "{{ x }}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    [
        "",
        "{% for %}",
        "{{ messages[0].content.absent.plus }}",
        "{{ messages[99].content }}",
        "{{ 1 / 0 }}",
        "{{ x | inconnu }}",
        "a" * (MAX_TEMPLATE + 1),
        "{% include 'secret.txt' %}",
        # S'échapper
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ messages.append(1) }}{{ messages.pop() }}",
        # Prendre la mémoire
        growing("x ~ x"),
        growing("x + x"),
        growing("x * 9"),
        growing("x.replace('a', x)"),
        growing("x | replace('a', x)"),
        growing("[x, x, x] | join(x)"),
        growing("x.join([x, x])"),
        growing("[x, x]"),
        "{% set x = [1] %}" + "{% set x = [x, x] %}" * 60 + "{{ x | tojson }}",
        "{{ 'a'.center(999999999999) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ 9 ** 999999999 }}",
        "{% set x = 9 %}" + "{% set x = x * x %}" * 60 + "{{ x }}",
        "{{ messages | tojson(indent=999999999) }}",
        "{% set x %}" + "a" * 1000 + "{% endset %}"
        "{% set y %}{% for i in range(99999) %}{{ x }}{% endfor %}{% endset %}",
        # Prendre le temps
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in range(999999999) %}{% endfor %}",
    ],
)
def test_bad_or_hostile_template(template):
    """Une phrase, sans attendre et sans mémoire : rien de Python, rien de démesuré."""
    with pytest.raises(DataError, match="gabarit de conversation invalide"):
        render_chat(TALK, template)


def test_attributes_of_python_do_not_exist():
    """Ce qui mènerait à l'interpréteur vaut « rien »."""
    hidden = ("raise_exception.__globals__", "namespace.__init__", "messages.__class__")
    for expression in hidden:
        assert render_chat(TALK, f"[{{{{ {expression} }}}}]") == "[]"


def test_template_is_checked_before_use():
    assert check_template(CHATML) == CHATML
    for bad in ("{% if %}", None, 3):
        with pytest.raises(DataError, match="gabarit de conversation invalide"):
            check_template(bad)


def test_messages_are_not_changed():
    """Un gabarit ne touche pas aux messages qu'il lit."""
    messages = [dict(message) for message in TALK]
    for template in itertools.chain([CHATML], ["{% set messages = [] %}vide"]):
        render_chat(messages, template)
    assert messages == TALK
