"""Les tokens spéciaux d'un gabarit : les mêmes identifiants ici, dans Transformers et llama.cpp.

Un vocabulaire à soi, ou un dossier de Transformers à qui l'on a ajouté des tokens.
"""

import json
import logging

import pytest
import torch
from conftest import FRENCH_TEXT
from llama_helpers import llama
from parity_helpers import random_model, to_transformers

from gpt_architecture import load
from gpt_architecture.api import read_any
from gpt_architecture.config import GPTConfig
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE, render_chat
from gpt_architecture.data.texts.conversations import encode_conversation
from gpt_architecture.data.tokenizer import tokenizer_from_dict
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.data.tokenizers.marked_text import encode_text
from gpt_architecture.formats.model_file import ModelFile, save_model
from gpt_architecture.interop.gguf import export_gguf
from gpt_architecture.interop.hf_export import export_hf

for package in ("transformers", "gguf", "xllamacpp"):
    pytest.importorskip(package, reason=f"parité : le paquet {package} n'est pas installé")

TALK = [
    {"role": "system", "content": "Réponds en un mot."},
    {"role": "user", "content": "  Où est le bateau ? "},
    {"role": "assistant", "content": "Ici, « sur l'eau »."},
    {"role": "user", "content": "Et la lampe"},
]
ROLES = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] | trim + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
NAMED = (
    "{{- bos_token -}}{%- for m in messages -%}[{{ m.role }}]{{ m.content }}{{ eos_token }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}[assistant]{%- endif -%}"
)
COUNT = 16


def tokenizer(pattern):
    special = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    return BPETokenizer.from_text(FRENCH_TEXT, 420, pattern=pattern, special=special)


def content(own, template):
    config = GPTConfig(
        vocab_size=own.vocab_size,
        context_length=192,
        emb_dim=32,
        n_heads=2,
        n_layers=2,
        qkv_bias=True,
        tie_weights=True,
    )
    model = varied_model(config)
    return ModelFile(
        config=config,
        state_dict=model.state_dict(),
        tokenizer=own.to_dict(),
        metadata={CHAT_TEMPLATE: template},
    )


def varied_model(config):
    """Un modèle dont la suite ne tourne pas en rond."""
    model = random_model(config)
    with torch.no_grad():
        model.pos_emb.weight.mul_(4)
    return model


def ours(file, path):
    """(invite, suite gloutonne, sa fin) d'une conversation, par l'interface de Python."""
    save_model(path, file.build(), file.config, tokenizer=file.tokenizer, metadata=file.metadata)
    gpt = load(path, device="cpu", engine="torch")
    prompt = gpt.chat_prompt(TALK)
    ids = gpt.encode(prompt)[0].tolist()
    (found,) = gpt.generate_batch([prompt], max_tokens=COUNT)[0]
    assert found.prompt_tokens == len(ids)
    return ids, found.text, found.finish


def transformers(folder):
    """La même chose par Transformers, qui ne connaît que le dossier."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    sent = theirs.apply_chat_template(TALK, add_generation_prompt=True, return_tensors="pt")
    out = model.generate(**sent, do_sample=False, max_new_tokens=COUNT)[0].tolist()
    ids = sent["input_ids"][0].tolist()
    written = [token for token in out[len(ids) :] if token != theirs.eos_token_id]
    return ids, theirs.decode(written, clean_up_tokenization_spaces=False)


@pytest.mark.slow
@pytest.mark.parametrize("template", [ROLES, NAMED], ids=["rôles", "nommés"])
@pytest.mark.parametrize("pattern", ["gpt2", "moderne"])
def test_own_special_tokens(tmp_path, pattern, template):
    """Les mêmes identifiants et la même réponse chez les trois ; l'apprentissage a vu les mêmes."""
    own = tokenizer(pattern)
    file = content(own, template)
    ids, text, _ = ours(file, tmp_path / "m.pt")
    assert {own.special["<|user|>"], own.special["<|end|>"], own.eos_id} & set(ids)
    export_hf(file, tmp_path / "hf")
    export_gguf(file, tmp_path / "m.gguf")
    assert transformers(tmp_path / "hf") == (ids, text)
    with llama(tmp_path / "m.gguf") as peer:
        prompt = peer.chat(TALK)
        assert peer.encode(prompt) == ids
        assert peer.greedy(prompt, COUNT, ignore_eos=False)[1] == text
    if template is ROLES:  # l'autre récrit ce qui précède une réponse
        learned = encode_conversation(TALK[:3], template, own, limit=1000)
        whole = render_chat(TALK[:3], template, tokenizer=own)
        assert learned.ids == encode_text(whole, own)


def added_folder(path, template, **files):
    """Un dossier de Transformers : des tokens ajoutés, sa propre fin, son propre début."""
    import transformers

    own = BPETokenizer.from_text(FRENCH_TEXT, 400)
    own.save(path.parent / "own.json")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path.parent / "own.json"))
    named = {"bos_token": "<s>", "eos_token": "<|fini|>"}
    theirs.add_special_tokens(named | {"additional_special_tokens": ["[user]", "[assistant]"]})
    theirs.chat_template = template
    config = GPTConfig(
        vocab_size=len(theirs),
        context_length=192,
        emb_dim=32,
        n_heads=2,
        n_layers=2,
        qkv_bias=True,
        tie_weights=True,
    )
    model = to_transformers(varied_model(config))
    model.config.eos_token_id = model.generation_config.eos_token_id = theirs.eos_token_id
    model.config.bos_token_id = model.generation_config.bos_token_id = theirs.bos_token_id
    with torch.no_grad():
        # la sienne vient au septième token de la réponse
        model.transformer.wpe.weight[77] = 40 * model.lm_head.weight[theirs.eos_token_id]
    model.save_pretrained(path)
    theirs.save_pretrained(path)
    return theirs


def test_imported_special_tokens(tmp_path):
    """Un modèle importé garde les siens : gabarit, début, fin, et s'arrête au même endroit."""
    theirs = added_folder(tmp_path / "hf", NAMED)
    assert (tmp_path / "hf" / "chat_template.jinja").is_file()
    file = read_any(tmp_path / "hf")
    own = tokenizer_from_dict(file.tokenizer)
    assert (file.metadata[CHAT_TEMPLATE], own.eos_id) == (NAMED, theirs.eos_token_id)
    ids, text, finish = ours(file, tmp_path / "m.pt")
    assert (ids[0], finish) == (theirs.bos_token_id, "stop")
    assert transformers(tmp_path / "hf") == (ids, text)
    export_hf(file, tmp_path / "again")
    export_gguf(file, tmp_path / "m.gguf")
    assert transformers(tmp_path / "again") == (ids, text)
    again = read_any(tmp_path / "again")
    assert (again.tokenizer, again.metadata) == (file.tokenizer, file.metadata)
    with llama(tmp_path / "m.gguf") as peer:
        assert peer.encode(peer.chat(TALK)) == ids


def test_old_vocabulary_files(tmp_path):
    """`vocab.json`, `merges.txt` et `added_tokens.json`, d'avant `tokenizer.json`."""
    added_folder(tmp_path / "hf", NAMED)
    expected = read_any(tmp_path / "hf").tokenizer
    document = json.loads((tmp_path / "hf" / "tokenizer.json").read_text("utf-8"))
    vocab = document["model"]["vocab"]
    added = {each["content"]: each["id"] for each in document["added_tokens"]}
    (tmp_path / "hf" / "tokenizer.json").unlink()
    files = {
        "vocab.json": json.dumps(
            {k: v for k, v in vocab.items() if k not in added}
            | {"<|endoftext|>": added.pop("<|endoftext|>")}
        ),
        "added_tokens.json": json.dumps(added),
        "merges.txt": "\n".join(" ".join(pair) for pair in document["model"]["merges"]),
    }
    for name, text in files.items():
        (tmp_path / "hf" / name).write_text(text, encoding="utf-8")
    assert read_any(tmp_path / "hf").tokenizer == expected


@pytest.mark.parametrize("named", [False, True])
def test_where_transformers_keeps_templates(tmp_path, named):
    """Un texte, une liste, un fichier, un dossier : lus ici, et relus par Transformers."""
    from transformers import AutoTokenizer

    given = {"default": ROLES, "tool_use": NAMED} if named else ROLES
    theirs = added_folder(tmp_path / "hf", given)
    own = read_any(tmp_path / "hf")
    assert own.metadata[CHAT_TEMPLATE] == ROLES
    # le même, tout entier dans tokenizer_config.json
    export_hf(own, tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again").chat_template == theirs.chat_template
    assert read_any(tmp_path / "again").metadata == own.metadata


@pytest.mark.parametrize(
    "template", ["{% if %}", "{{ messages | inconnu }}", "{% include 'a' %}" * 5000]
)
def test_a_template_we_cannot_render(tmp_path, caplog, template):
    """L'import réussit et le dit ; converser est refusé ; l'export rend le gabarit tel quel."""
    added_folder(tmp_path / "hf", template)
    with caplog.at_level(logging.WARNING):
        file = read_any(tmp_path / "hf")
    assert "gabarit de conversation invalide" in caplog.text
    assert "gardé pour l'export" in caplog.text
    export_hf(file, tmp_path / "again")
    document = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text("utf-8"))
    assert document["chat_template"] == template


def test_an_edited_folder_wins_over_its_provenance(tmp_path):
    """Le gabarit d'un dossier exporté se change dans son fichier, comme pour Transformers."""
    file = content(tokenizer("gpt2"), ROLES)
    export_hf(file, tmp_path / "hf")
    (tmp_path / "hf" / "chat_template.jinja").write_text(NAMED, encoding="utf-8")
    assert read_any(tmp_path / "hf").metadata[CHAT_TEMPLATE] == NAMED
    (tmp_path / "hf" / "chat_template.jinja").unlink()
    path = tmp_path / "hf" / "tokenizer_config.json"
    document = json.loads(path.read_text("utf-8"))
    del document["chat_template"]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert CHAT_TEMPLATE not in read_any(tmp_path / "hf").metadata
