"""Un tube, un périphérique ou un dossier à la place d'un fichier : refusé, jamais attendu.

Ouvrir un tube sans écrivain attendrait sans fin : chaque essai a un délai.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from interop_helpers import GPT2, content, tokenizer, transformers_folder
from shard_helpers import write_folder

from gpt_architecture.api import open_model, read_any
from gpt_architecture.config import LoRAConfig
from gpt_architecture.data.shards.reader import open_shards
from gpt_architecture.errors import GPTArchitectureError
from gpt_architecture.formats.adapter_file import AdapterFile, read_adapter, save_adapter
from gpt_architecture.formats.checkpoint import write_checkpoint
from gpt_architecture.formats.inspection import inspect_model
from gpt_architecture.formats.model_file import save_model
from gpt_architecture.formats.quantized_file import load_quantized, save_quantized
from gpt_architecture.kernels.decode.packed import pack
from gpt_architecture.reports.curves import curves_from_journal
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.studio.routes import read_run

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="ce système n'a pas de tubes nommés"),
]


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


each_kind = pytest.mark.parametrize(
    ("put", "said"), [(pipe, "un tube"), (endless, "un périphérique")], ids=["tube", "zéros"]
)


def replace(path, put):
    """Met autre chose à la place d'un fichier."""
    path.unlink(missing_ok=True)
    put(path)
    return path


def refusal(action):
    with pytest.raises(GPTArchitectureError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def model(tmp_path):
    source, path = content(GPT2), tmp_path / "gpt-model.pt"
    save_model(path, source.build(), GPT2, tokenizer=source.tokenizer)
    return path


COMMANDS = {
    "infer": ("infer", "--model", "{}", "--prompt", "Le"),
    "infer --draft": ("infer", "--model", "{model}", "--draft", "{}", "--prompt", "Le"),
    "inspect": ("inspect", "{}"),
    "inspect --check": ("inspect", "{}", "--check"),
    "convert": ("convert", "{}", "sortie", "--to", "hf"),
    "convert --tokenizer": ("convert", "{model}", "sortie", "--to", "hf", "--tokenizer", "{}"),
    "quantize": ("quantize", "{}", "--output", "sortie.safetensors"),
    "evaluate": ("evaluate", "{}", "--data", "la-lampe-du-passeur"),
    "merge modèle": ("merge", "{}", "{adapter}", "--out", "sortie"),
    "merge adaptateurs": ("merge", "{model}", "{}", "--out", "sortie"),
    "push": ("push", "{}", "sortie"),
    "demo": ("demo", "--model", "{}"),
    "visualize": ("visualize", "--model", "{}", "--prompt", "Le"),
    "verify": ("verify", "{}"),
    "forget": ("forget", "{}", "--document", "a"),
    "serve": ("serve", "{}", "--port", "0"),
    "train --from": ("train", "--from", "{}"),
    "train --tokenizer": ("train", "--tokenizer", "{}"),
    "tokenizer view": ("tokenizer", "view", "Le soir", "--tokenizer", "{}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x.json", "x"])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@each_kind
def test_commands_refuse_it_in_one_line(cli, tmp_path, model, command, name, put, said):
    special = replace(tmp_path / name, put)
    adapter = tmp_path / "adapter.safetensors"
    save_adapter(adapter, AdapterFile(lora=LoRAConfig(), base_sha256="0", tensors={}))
    outcome = cli(*(part.format(special, model=model, adapter=adapter) for part in command))
    assert outcome.code in (1, 2), outcome.err
    outcome.check_one_line_error(outcome.code, said)
    assert not Path("sortie").exists()


TEXTS = {
    "train --data": ("train", "--data", "{}"),
    "train --chat": ("train", "--chat", "{}"),
    "train --chat-template": ("train", "--chat", "{talk}", "--chat-template", "{}"),
    "prepare": ("prepare", "{}", "--out", "sortie"),
    "plan": ("plan", "{}", "--hours", "1", "--out", "sortie"),
    "tokenizer train": ("tokenizer", "train", "{}", "--out", "sortie"),
    "evaluate --data": ("evaluate", "{model}", "--data", "{}"),
    "evaluate --lambada": ("evaluate", "{model}", "--lambada", "{}"),
    "evaluate --cloze": ("evaluate", "{model}", "--cloze", "{}"),
    "evaluate --choices": ("evaluate", "{model}", "--choices", "{}"),
    "evaluate --memorisation": ("evaluate", "{model}", "--memorisation", "{}"),
    "infer --prompts": ("infer", "--model", "{model}", "--prompts", "{}"),
    "infer --json-schema": ("infer", "--model", "{model}", "--prompt", "a", "--json-schema", "@{}"),
    "infer --config": ("infer", "--model", "{model}", "--prompt", "a", "--config", "{}"),
    "serve --api-key-file": ("serve", "{model}", "--api-key-file", "{}", "--port", "0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", TEXTS.values(), ids=TEXTS)
@each_kind
def test_texts_and_settings_too(cli, tmp_path, model, command, put, said):
    talk = tmp_path / "talk.jsonl"
    said_once = [{"role": "user", "content": "Oui ?"}, {"role": "assistant", "content": "Non."}]
    talk.write_text(json.dumps({"messages": said_once}) + "\n", encoding="utf-8")
    special = replace(tmp_path / "x.jsonl", put)
    outcome = cli(*(part.format(special, model=model, talk=talk) for part in command))
    outcome.check_one_line_error(outcome.code, said)
    assert outcome.code in (1, 2)
    assert not Path("sortie").exists()


FOLDERS = {
    "config.json": "transformers",
    "model.safetensors": "transformers",
    "tokenizer.json": "transformers",
    "gpt_architecture.json": "transformers",
    "manifest.json": "point de reprise",
    "state.json": "point de reprise",
    "weights": "point de reprise",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
@each_kind
def test_inside_a_folder(cli, tmp_path, name, put, said):
    folder = tmp_path / "m"
    if FOLDERS[name] == "transformers":
        transformers_folder(folder)
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
        replace(folder / name, put)
    else:
        source = content(GPT2)
        state = {"config": GPT2.to_dict(), "tokenizer": dict(source.tokenizer)}
        write_checkpoint(folder, 3, {"model": source.state_dict}, state)
        replace(folder / ("model.safetensors" if name == "weights" else name), put)
        said = "n'est pas un fichier ordinaire"
    assert said in refusal(lambda: read_any(folder, tokenizer=None))
    cli("infer", "--model", folder, "--prompt", "Le").check_one_line_error(1, said)
    if name != "tokenizer.json":
        assert said in refusal(lambda: inspect_model(folder))
    else:
        assert said in inspect_model(folder).tokenizer["problem"]


@each_kind
def test_an_index_of_weights_names_a_special_file(tmp_path, put, said):
    transformers_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    shard = "model-00001-of-00001.safetensors"
    index = {"weight_map": {"wte.weight": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    replace(tmp_path / shard, put)
    assert said in refusal(lambda: read_any(tmp_path, tokenizer=tokenizer()))
    replace(tmp_path / "model.safetensors.index.json", put)
    assert said in refusal(lambda: read_any(tmp_path, tokenizer=tokenizer()))


@each_kind
def test_the_vocabulary_files_of_gpt2(tmp_path, put, said):
    transformers_folder(tmp_path)
    for name, other in (("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")):
        replace(tmp_path / other, lambda path: path.write_text("{}", encoding="utf-8"))
        replace(tmp_path / name, put)
        assert said in refusal(lambda: read_any(tmp_path))


@each_kind
def test_our_safetensors(tmp_path, put, said):
    source, path = content(GPT2), tmp_path / "m.safetensors"
    save_quantized(path, pack(source.build(), "int8"), tokenizer=source.tokenizer)
    adapter = AdapterFile(lora=LoRAConfig(), base_sha256="0", tensors={})
    save_adapter(tmp_path / "a.safetensors", adapter)
    replace(path, put)
    replace(tmp_path / "a.safetensors", put)
    assert said in refusal(lambda: open_model(path))
    assert said in refusal(lambda: load_quantized(path))
    assert said in refusal(lambda: read_adapter(tmp_path / "a.safetensors"))


@each_kind
def test_shards(tmp_path, put, said):
    write_folder(tmp_path / "f", {"train": [[1, 2, 3], [4, 5]]})
    replace(tmp_path / "f" / "train_000001.bin", put)
    assert said in refusal(lambda: open_shards(tmp_path / "f", "train"))
    replace(tmp_path / "f" / "index.json", put)
    assert said in refusal(lambda: open_shards(tmp_path / "f", "train"))
    shutil.rmtree(tmp_path / "f")
    write_folder(tmp_path / "f", {"train": [[1, 2, 3]]})
    opened = open_shards(tmp_path / "f", "train")
    replace(tmp_path / "f" / "train_000000.bin", put)
    assert said in refusal(lambda: opened.read(0, 3))


@each_kind
def test_a_training_journal(tmp_path, put, said):
    journal = replace(tmp_path / "journal.jsonl", put)
    assert said in refusal(lambda: curves_from_journal(journal))
    with pytest.raises(ApiError):
        read_run(tmp_path)
