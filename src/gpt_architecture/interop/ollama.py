"""Un dossier d'Ollama, écrit ou lu : le modèle en GGUF, et le `Modelfile` qui le décrit.

Un `Modelfile` (github.com/ollama/ollama, `parser/`) dit d'où viennent les poids, le gabarit qui met
des messages en texte, les réglages de la génération et ce qui l'arrête. Son gabarit est de Go, non
de Jinja : celui de ce projet y est traduit, et Ollama reconnaît de lui-même, dans le GGUF, les plus
répandus des autres. Sans gabarit, l'invite est continuée telle quelle.

D'un tel dossier, seul le GGUF est relu : il tient le gabarit, en Jinja, que le `Modelfile` traduit.
Ce que désigne un `Modelfile` n'est cherché que dans son dossier.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gpt_architecture.data.texts.chat import CHAT_TEMPLATE, DEFAULT_CHAT_TEMPLATE
from gpt_architecture.data.tokenizer import tokenizer_from_dict
from gpt_architecture.data.tokenizers.protocol import role_names
from gpt_architecture.errors import ModelFileError
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.interop.gguf import export_gguf
from gpt_architecture.interop.gguf_layout import GGUFType
from gpt_architecture.interop.hf_export import learned_window
from gpt_architecture.storage import exists, read_text, write_directory

WEIGHTS = "modele.gguf"
MODELFILE = "Modelfile"

_MAX_MODELFILE = 1 << 20  # octets
_NAMED = 8  # fichiers que nomme un refus
_TEMPERATURE = 0.8  # celle d'Ollama ; il pénaliserait aussi les répétitions, et non ce projet
_NAMED_VALUES = ("PARAMETER", "MESSAGE")  # d'un réglage ou d'un rôle, que suit la valeur
_CONTINUED = "{{ .Prompt }}"
_FENCE = '"""'
_CHAT = """\
{{ range .Messages }}### {{ if eq .Role "system" }}Consigne{{ else if eq .Role "user" }}Question\
{{ else }}Réponse{{ end }} :
{{ .Content }}{{ if eq .Role "assistant" }}END{{ else }}

{{ end }}{{ end }}### Réponse :
"""


def export_ollama(
    content: ModelFile, dest: Path | str, *, dtype: GGUFType = "f32", force: bool = False
) -> None:
    """Écrit le dossier complet, ou rien.

    Args:
        content: voir `export_gguf`.
        dest: dossier à créer ; son nom est celui du modèle qui n'en a pas.
        dtype: type des matrices.
        force: remplace un dossier exporté auparavant.

    Raises:
        ConfigurationError: voir `export_gguf`, comme les deux suivantes.
        TokenizerError: le tokenizer n'a pas d'équivalent en GGUF.
        ModelFileError: les poids ne conviennent pas.
        MissingDependencyError: le paquet gguf manque.
        OutputError: destination prise, ou écriture refusée ; rien n'est laissé.
    """
    dest = Path(dest)
    named = replace(content, metadata={"name": dest.name, **content.metadata})

    def fill(new: Path) -> None:
        export_gguf(named, new / WEIGHTS, dtype=dtype)
        (new / MODELFILE).write_text(modelfile(content), encoding="utf-8")

    write_directory(dest, fill, force=force)


def modelfile(content: ModelFile) -> str:
    """Le `Modelfile` d'un modèle dont les poids sont à côté, dans `WEIGHTS`."""
    window = learned_window(content)
    end = role_names(tokenizer_from_dict(content.tokenizer)).get("eos_token")
    lines = ["# ollama create NOM -f Modelfile, depuis ce dossier", f"FROM ./{WEIGHTS}"]
    template = content.metadata.get(CHAT_TEMPLATE)
    if template == DEFAULT_CHAT_TEMPLATE:
        lines.append(f"TEMPLATE {_quoted(_CHAT.replace('END', _in_go(end or '')))}")
    elif template is None:
        lines.append(f"TEMPLATE {_quoted(_CONTINUED)}")
    parameters = {
        "num_ctx": window,  # au-delà, les positions n'ont rien appris
        "num_predict": window,
        "temperature": _TEMPERATURE,
        "repeat_penalty": 1,
    }
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    if end is not None and _FENCE not in end:  # le GGUF dit déjà ce qui finit un texte
        lines.append(f"PARAMETER stop {_quoted(end)}")
    license = content.metadata.get("license")
    if isinstance(license, str) and _FENCE not in license:
        lines.append(f"LICENSE {_quoted(license)}")
    return "\n".join(lines) + "\n"


def _in_go(text: str) -> str:
    """Un texte dans un gabarit de Go, qui n'en exécute rien et ne finit pas la valeur."""
    if "{" in text or '"' in text:
        literal = json.dumps(text, ensure_ascii=False).replace("{", "\\u007b")
        return f"{{{{ {literal} }}}}"
    return text


def _quoted(text: str) -> str:
    """Un texte entre guillemets, sans échappement : Ollama n'en connaît pas."""
    return f'"""{text}"""' if set(text) & set('"\n') else f'"{text}"'


def designated(folder: Path | str) -> Path | None:
    """Le GGUF d'un dossier d'Ollama, ou le seul d'un dossier ; None : il n'y en a pas.

    Raises:
        ModelFileError: le `Modelfile` est illisible, ou demande autre chose qu'un fichier de ce
            dossier ; ou rien ne dit lequel de plusieurs GGUF lire.
    """
    folder = Path(folder)
    if exists(folder / MODELFILE):
        return _from_modelfile(folder)
    try:
        found = sorted(each for each in folder.glob("*") if each.suffix.lower() == ".gguf")
    except OSError:
        return None
    if len(found) > 1:
        names = ", ".join(each.name for each in found[:_NAMED])
        raise ModelFileError(
            f"{folder} contient {len(found)} fichiers GGUF : {names}"
            + (", …" if len(found) > _NAMED else ""),
            expected="un seul, ou un Modelfile qui en désigne un",
            remedy="donnez le fichier à lire",
        )
    return found[0] if found else None


def _from_modelfile(folder: Path) -> Path:
    path, expected = folder / MODELFILE, "un Modelfile dont FROM est un fichier GGUF de ce dossier"
    remedy = "donnez le fichier GGUF lui-même"
    text = read_text(
        path, expected=expected, remedy=remedy, limit=_MAX_MODELFILE, error=ModelFileError
    )
    said = {name: value for name, value in _commands(text) if name in ("FROM", "ADAPTER")}
    if "ADAPTER" in said:
        raise ModelFileError(
            f"{path} ajoute un adaptateur (ADAPTER {said['ADAPTER'][:80]}), qui n'est pas dans le "
            "GGUF du modèle",
            expected="un modèle entier",
            remedy="fondez-le d'abord, ou donnez le fichier GGUF du modèle seul",
        )
    source = said.get("FROM", "")
    try:
        file = folder / source
        inside = file.resolve().is_relative_to(folder.resolve()) and file.is_file()
    except (OSError, RuntimeError, ValueError):  # nom trop long, boucle de liens, octet nul
        inside = False
    if not inside:
        told = f"dit « FROM {source[:80]} »" if source else "n'a pas de FROM"
        raise ModelFileError(f"{path} {told}", expected=expected, remedy=remedy)
    return file


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """Les commandes d'un `Modelfile` ; une valeur entre guillemets peut tenir plusieurs lignes."""
    lines = iter(text.split("\n"))
    for line in lines:
        name, value = (*line.split(maxsplit=1), "", "")[:2]
        if name.startswith("#"):
            continue
        if name.upper() in _NAMED_VALUES:
            value = (*value.split(maxsplit=1), "", "")[1]
        value = value.strip()
        fence = next((each for each in (_FENCE, '"') if value.startswith(each)), "")
        if fence:
            said = [value.removeprefix(fence)]
            while not said[-1].rstrip().endswith(fence) and (more := next(lines, None)) is not None:
                said.append(more)
            value = "\n".join(said).rstrip().removesuffix(fence)
        yield name.upper(), value
