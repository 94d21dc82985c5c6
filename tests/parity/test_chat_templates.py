"""Les gabarits des modèles connus, lus avec leur dossier : le texte que Transformers en rend."""

import json

import pytest
from interop_helpers import GPT2, content

from gpt_architecture.api import read_any
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE, render_chat
from gpt_architecture.data.tokenizer import tokenizer_from_dict
from gpt_architecture.errors import DataError
from gpt_architecture.interop.hf_export import export_hf

transformers = pytest.importorskip("transformers", reason="parité avec Transformers")

SYSTEM = {"role": "system", "content": " Réponds en un mot. "}
TURNS = [
    {"role": "user", "content": "  Où est le bateau ?\n"},
    {"role": "assistant", "content": "Ici, « sur l'eau »."},
    {"role": "user", "content": "Et <b>la lampe</b> & l'eau"},
]
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
        "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "crochets": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}"
        "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
        "{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('les rôles doivent alterner') }}{% endif %}"
        "{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}"
        "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "en-têtes": (
        "{%- set ns = namespace(found=false) -%}\n{{- bos_token }}\n"
        "{%- if tools is not none %}{{ tools | tojson(indent=2) }}{%- endif %}\n"
        "{%- for message in messages %}\n"
        "    {%- if message.role == 'assistant' %}{% set ns.found = true %}{% endif %}\n"
        "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
        "+ message['content'] | trim + '<|eot_id|>' }}\n"
        "{%- endfor %}\n{%- if add_generation_prompt and ns.found %}\n"
        "    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}\n{%- endif %}\n"
    ),
    "tours": (
        "{{ bos_token }}{% for message in messages %}\n"
        "  {% if message.role == 'system' %}{% continue %}{% endif %}\n"
        "  {% set role = 'model' if message.role == 'assistant' else message.role %}\n"
        "<start_of_turn>{{ role }}\n{{ message.content | trim }}<end_of_turn>\n{% endfor %}\n"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "json": (
        "{% for m in messages | selectattr('role', 'ne', 'system') | list %}"
        "{{ loop.index }}/{{ loop.length }} {{ m | tojson }}"
        "{{ m.content.split(' ') | join('_') | upper }}{% if not loop.last %}|{% endif %}"
        "{% endfor %}{{ messages | map(attribute='role') | join(',') }}"
    ),
    "apprises": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ m.content }}\n{% endif %}"
        "{% endfor %}"
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Un dossier de Transformers, sans gabarit."""
    path = tmp_path_factory.mktemp("gabarits") / "modele"
    export_hf(content(GPT2), path)
    return path


def given(folder, template, place):
    """Pose le gabarit là où Transformers le cherche."""
    config = folder / "tokenizer_config.json"
    document = json.loads(config.read_text("utf-8"))
    document.pop("chat_template", None)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if place == "chat_template.jinja":
        (folder / place).write_text(template, encoding="utf-8", newline="")
    else:
        named = [{"name": "outils", "template": "autre"}, {"name": "default", "template": template}]
        document["chat_template"] = named if place == "liste" else template
    config.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json", "liste"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_folder_renders_as_transformers_does(folder, name, place):
    given(folder, TEMPLATES[name], place)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    own = read_any(folder)
    tokenizer = tokenizer_from_dict(own.tokenizer)
    for talk in (TURNS, [SYSTEM, *TURNS], TURNS[:1]):
        for asking in (False, True):
            expected = theirs.apply_chat_template(
                talk, tokenize=False, add_generation_prompt=asking
            )
            found = render_chat(
                talk,
                own.metadata[CHAT_TEMPLATE],
                tokenizer=tokenizer,
                add_generation_prompt=asking,
            )
            assert str(found) == expected
            assert expected.strip()


def test_both_refuse_what_the_template_refuses(folder):
    given(folder, TEMPLATES["crochets"], "chat_template.jinja")
    template = read_any(folder).metadata[CHAT_TEMPLATE]
    twice = [TURNS[0], TURNS[0]]
    with pytest.raises(DataError, match="les rôles doivent alterner"):
        render_chat(twice, template)
    with pytest.raises(Exception, match="les rôles doivent alterner"):
        transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(
            twice, tokenize=False
        )
