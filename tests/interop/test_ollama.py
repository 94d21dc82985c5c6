"""Le dossier d'Ollama : un GGUF, et un `Modelfile` que ses règles lisent comme il est écrit."""

import json
import re
from dataclasses import replace

import pytest
import torch
from interop_helpers import GPT2, content

from gpt_architecture.data.texts.chat import DEFAULT_CHAT_TEMPLATE, render_chat
from gpt_architecture.data.tokenizer import tokenizer_from_dict
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.data.tokenizers.marked_text import plain
from gpt_architecture.errors import ModelFileError, OutputError
from gpt_architecture.formats.door import check_source, locate, read_any
from gpt_architecture.interop.gguf_read import read_gguf
from gpt_architecture.interop.ollama import export_ollama, modelfile

pytest.importorskip("gguf", reason="le paquet gguf n'est pas installé")


def parsed(text):
    """Les commandes d'un `Modelfile`, aux règles d'Ollama : valeur nue, "…" ou trois guillemets."""
    found = {}
    rest = re.sub(r"(?m)^#.*\n", "", text)
    value = r'(?:"""(?P<long>.*?)"""|"(?P<short>[^"\n]*)"|(?P<bare>[^\n]*))'
    pattern = re.compile(r"(?P<name>[A-Z]+(?: [a-z_]+)?) " + value + r"\n", re.DOTALL)
    while rest:
        match = pattern.match(rest)
        name = match["name"].removeprefix("PARAMETER ")
        found[name] = next(
            each for each in match.group("long", "short", "bare") if each is not None
        )
        rest = rest[match.end() :]
    return found


def rendered(template, messages):
    """Ce que le gabarit de Go donne à des messages ; il n'emploie que `range`, `if` et `eq`."""
    loop = r"\{\{ range \.Messages \}\}(.*)\{\{ end \}\}(.*)"
    body, end = re.fullmatch(loop, template, re.DOTALL).groups()
    return "".join(one_message(body, role, words) for role, words in messages) + end


def one_message(body, role, words):
    """Le corps de la boucle ; de chaque `if` ouvert : une branche a-t-elle servi, sert-elle."""
    text, branches = "", []
    for index, part in enumerate(re.split(r"\{\{ (.*?) \}\}", body)):
        if index % 2 == 0 or part == ".Content":
            text += (words if index % 2 else part) if all(each[1] for each in branches) else ""
        elif part == "end":
            branches.pop()
        elif part == "else":
            branches[-1] = [True, not branches[-1][0]]
        else:
            hit = part.endswith(f'eq .Role "{role}"')
            used = branches.pop()[0] if part.startswith("else") else False
            branches.append([used or hit, hit and not used])
    return text


def test_the_folder(tmp_path):
    file = content(GPT2, window=24, license="cc-by-4.0")
    export_ollama(file, str(tmp_path / "lampe"), dtype="f16")
    folder = tmp_path / "lampe"
    assert sorted(each.name for each in folder.iterdir()) == ["Modelfile", "modele.gguf"]
    found = parsed((folder / "Modelfile").read_text(encoding="utf-8"))
    assert found == {
        "FROM": "./modele.gguf",
        "TEMPLATE": "{{ .Prompt }}",
        "num_ctx": "24",
        "num_predict": "24",
        "temperature": "0.8",
        "repeat_penalty": "1",
        "stop": "<|endoftext|>",
        "LICENSE": "cc-by-4.0",
    }
    again = read_gguf(folder / "modele.gguf")
    assert (again.metadata["name"], again.config.context_length) == ("lampe", 24)
    with pytest.raises(OutputError, match="existe déjà"):
        export_ollama(file, folder)
    export_ollama(file, folder, force=True)


def test_the_folder_is_a_source(tmp_path):
    """Le modèle et son gabarit en reviennent ; un dossier qui n'a qu'un GGUF aussi."""
    folder = tmp_path / "lampe"
    export_ollama(content(GPT2, chat_template=DEFAULT_CHAT_TEMPLATE), folder)
    assert locate(str(folder)) == check_source(folder) == folder / "modele.gguf"
    found = read_any(folder)
    assert found.metadata["chat_template"] == DEFAULT_CHAT_TEMPLATE
    assert torch.equal(found.build().pos_emb.weight, content(GPT2).build().pos_emb.weight)
    alone = tmp_path / "seul"
    alone.mkdir()
    (folder / "modele.gguf").rename(alone / "lampe.GGUF")
    (alone / "LISEZMOI.md").write_text("Un modèle.", encoding="utf-8")
    assert read_any(alone).metadata["name"] == "lampe"
    with pytest.raises(ModelFileError, match=r"« FROM \./modele\.gguf »"):
        locate(folder)


@pytest.mark.parametrize(
    "modelfile",
    [
        "FROM modele.gguf",
        "# FROM autre\nfrom   ./modele.gguf\t\n",
        'FROM "./modele.gguf"\nLICENSE """deux\nlignes\nFROM autre\n"""\nPARAMETER stop "FROM"',
        'FROM modele.gguf\nMESSAGE user """deux\nFROM autre\n"""\nPARAMETER\tstop "a\nFROM autre"',
        'SYSTEM "une consigne\nFROM autre"\r\nFROM ./sous/../modele.gguf\r\n',
    ],
)
def test_the_file_that_a_modelfile_names(tmp_path, modelfile):
    (tmp_path / "sous").mkdir()
    (tmp_path / "autre.gguf").write_bytes(b"GGUF")
    (tmp_path / "modele.gguf").write_bytes(b"GGUF")
    (tmp_path / "Modelfile").write_bytes(modelfile.encode())
    assert locate(tmp_path).resolve() == tmp_path / "modele.gguf"


@pytest.mark.parametrize(
    ("modelfile", "told"),
    [
        ("", "n'a pas de FROM"),
        ("FROM llama3.2", "FROM llama3.2"),
        ("FROM ../dehors.gguf", "FROM ../dehors.gguf"),
        ("FROM lien.gguf", "FROM lien.gguf"),
        ("FROM .", "FROM ."),
        ("FROM " + "a/" * 5000, "FROM a/a/"),
        ("FROM boucle", "FROM boucle"),
        ("FROM ./modele.gguf\nADAPTER ./lora.gguf", "ADAPTER"),
        ('FROM """', "n'a pas de FROM"),
        ("FROM a\0b", "Modelfile"),
        ("FROM é".encode("latin-1"), "Modelfile"),
        ("#" * (1 << 20) + "\nFROM ./modele.gguf", "dépasse"),
    ],
)
def test_a_modelfile_that_names_nothing_to_read(tmp_path, modelfile, told):
    """Un autre modèle, un autre dossier, un adaptateur : une phrase, et rien n'est lu dehors."""
    folder = tmp_path / "lampe"
    folder.mkdir()
    for path in (tmp_path / "dehors.gguf", folder / "modele.gguf"):
        path.write_bytes(b"GGUF")
    (folder / "lien.gguf").symlink_to(tmp_path / "dehors.gguf")
    (folder / "boucle").symlink_to(folder / "boucle")
    written = modelfile if isinstance(modelfile, bytes) else modelfile.encode()
    (folder / "Modelfile").write_bytes(written)
    with pytest.raises(ModelFileError, match=re.escape(told)):
        locate(folder)


def test_several_ggufs_are_named(tmp_path):
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match=r"2 fichiers GGUF : a\.gguf, b\.gguf"):
        locate(tmp_path)


def test_our_chat_template_in_the_language_of_go():
    """Le même texte que celui que le modèle a appris."""
    file = content(GPT2, chat_template=DEFAULT_CHAT_TEMPLATE)
    template = parsed(modelfile(file))["TEMPLATE"]
    messages = [
        ("system", "Réponds en vers."),
        ("user", "Qui leva la lampe ?"),
        ("assistant", "Le passeur."),
        ("user", "Combien de fois ?"),
    ]
    expected = render_chat(
        [{"role": role, "content": words} for role, words in messages],
        DEFAULT_CHAT_TEMPLATE,
        tokenizer=tokenizer_from_dict(file.tokenizer),
        add_generation_prompt=True,
    )
    assert rendered(template, messages) == plain(expected)


def test_another_template_is_left_to_ollama():
    """Il est dans le GGUF, où Ollama reconnaît ceux qu'il connaît."""
    file = content(GPT2, chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    assert "TEMPLATE" not in parsed(modelfile(file))


def test_a_license_that_cannot_be_written_is_left_out():
    """Trois guillemets finiraient la valeur : Ollama n'a pas d'échappement."""
    assert "LICENSE" not in modelfile(content(GPT2, license='a"""b'))
    assert parsed(modelfile(content(GPT2, license='dite "libre"')))["LICENSE"] == 'dite "libre"'


def test_the_end_of_a_text_is_never_a_command():
    """Le nom de la fin vient du modèle reçu : il ne finit pas sa valeur, ni n'est exécuté."""
    for end in ('<"""|>', "<{{.System}}>", '<">'):
        mine = BPETokenizer.train(["le lac " * 9], 280, special=(end,))
        told = mine.to_dict() | {"roles": {"eos_token": end}}
        file = replace(content(GPT2, chat_template=DEFAULT_CHAT_TEMPLATE), tokenizer=told)
        found = parsed(modelfile(file))
        assert "{{.System}}" not in found["TEMPLATE"]
        assert found.get("stop", end) == end
        (literal,) = re.findall(r'\{\{ ("(?:[^"\\]|\\.)*") \}\}', found["TEMPLATE"])
        assert json.loads(literal) == end


def test_a_refused_write_leaves_nothing(tmp_path):
    (tmp_path / "lampe").mkdir()
    (tmp_path / "lampe" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(OutputError, match="pas un modèle exporté"):
        export_ollama(content(GPT2), tmp_path / "lampe", force=True)
    assert [each.name for each in (tmp_path / "lampe").iterdir()] == ["photo.jpg"]
