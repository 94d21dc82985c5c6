"""L'affinage en commandes : --from, --chat, --lora-rank, merge, infer --chat, et leurs refus."""

import json
import shlex
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from cli_helpers import run_process, tiny
from interop_helpers import GPT2, content

from gpt_architecture import load
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.formats.adapter_file import read_adapter
from gpt_architecture.formats.model_file import read_model, save_model
from gpt_architecture.training.checkpoint import CheckpointStore

ANSWERS = {"La lampe ?": "Elle brille.", "Le bateau ?": "Il dort.", "La nuit ?": "Oui."}


@pytest.fixture
def talk(tmp_path):
    """Douze conversations d'une question."""
    path = tmp_path / "talk.jsonl"
    items = [list(ANSWERS.items())[index % 3] for index in range(12)]
    lines = [
        json.dumps(
            {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        )
        for q, a in items
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def base(trained):
    return trained / "gpt-model.pt"


def weights(path):
    return {name: tensor.clone() for name, tensor in read_model(path).state_dict.items()}


def test_full_finetuning_from_a_model(cli, base, tmp_path):
    """Forme, tokenizer et contexte viennent du modèle ; la première perte est déjà basse."""
    before = weights(base)
    outcome = cli(
        *("train", "--from", base, "--data", "la-lampe-du-passeur", "--max-steps", 3),
        *("--output-dir", tmp_path / "m", "--eval-freq", 1, "--lr", "1e-4"),
    )
    assert outcome.code == 0, outcome.err
    assert f"Départ       {base}" in outcome.out
    found = read_model(tmp_path / "m" / "gpt-model.pt")
    original = read_model(base)
    assert found.config == original.config
    assert found.tokenizer == original.tokenizer
    assert found.metadata["window"] == original.metadata["window"] == 32
    assert found.metadata["start"]["sha256"]
    assert found.metadata["train_losses"][0] < original.metadata["train_losses"][0]
    changed = weights(tmp_path / "m" / "gpt-model.pt")
    assert any(not torch.equal(before[name], changed[name]) for name in before)
    after = weights(base)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_a_variant_of_gpt2_is_finetuned_as_it_is(cli, tmp_path):
    """Largeur cachée, activation et eps viennent du modèle, bien qu'aucune option ne les dise."""
    own = {"inner_dim": 50, "activation": "relu", "norm_eps": 1e-3}
    source = content(replace(GPT2, **own), window=16)
    start = tmp_path / "départ.pt"
    save_model(start, source.build(), source.config, tokenizer=source.tokenizer)
    outcome = cli(
        *("train", "--from", start, "--data", "la-lampe-du-passeur", "--max-steps", 2),
        *("--output-dir", tmp_path / "m", "--device", "cpu"),
    )
    assert outcome.code == 0, outcome.err
    assert read_model(tmp_path / "m" / "gpt-model.pt").config.variants() == own
    outcome = cli("inspect", tmp_path / "m" / "gpt-model.pt")
    assert "inner_dim = 50, activation = relu, norm_eps = 0.001" in outcome.out
    outcome = cli(
        *("train", "--from", start, "--data", "la-lampe-du-passeur", "--max-steps", 2),
        *("--output-dir", tmp_path / "f", "--device", "cpu", "--engine", "fused"),
    )
    outcome.check_one_line_error(2, "--engine fused", "activation = gelu_tanh")


@pytest.mark.slow
def test_chat_then_infer(cli, talk, tmp_path):
    """Un modèle apprend à répondre ; `infer --chat` n'écrit que la réponse."""
    outcome = cli(
        *("train", "--chat", talk, "--tokenizer", "simple-v2", "--output-dir", tmp_path / "m"),
        *("--emb-dim", 32, "--n-heads", 2, "--n-layers", 1, "--context-length", 40),
        *("--epochs", 40, "--batch-size", 9, "--lr", "1e-2", "--drop-rate", 0),
        *("--eval-freq", 20, "--qkv-bias", "--tie-weights"),
    )
    assert outcome.code == 0, outcome.err
    assert (
        "talk (simple-v2) : 11 conversations d'entraînement, 1 de validation (tirage de graine 123)"
        in outcome.out
    )
    assert "gpt-architecture infer --model" in outcome.out.splitlines()[-1]
    assert '--chat "…"' in outcome.out.splitlines()[-1]
    model = tmp_path / "m" / "gpt-model.pt"
    for question, answer in ANSWERS.items():
        assert cli("infer", "--model", model, "--chat", question).out.strip() == answer
    record = json.loads(cli("infer", "--model", model, "--chat", "La nuit ?", "--json").out)
    assert record["prompt"].endswith("### Réponse :\n")
    assert record["finish"] == "stop"
    twice = cli("infer", "--model", model, "--chat", "La nuit ?", "--n", 2).out
    assert [part.strip() for part in twice.split("---")] == ["Oui.", "Oui."]
    gpt = load(model)
    prompt = gpt.chat_prompt([{"role": "user", "content": "La nuit ?"}])
    assert prompt == record["prompt"]


def lora(base, talk, folder, *more):
    return (
        *("train", "--from", base, "--chat", talk, "--output-dir", folder, "--lora-rank", 2),
        *("--epochs", 2, "--batch-size", 3, "--lr", "1e-2", "--eval-freq", 4, *more),
    )


def test_lora_then_merge(cli, base, talk, tmp_path):
    """Seuls les adaptateurs sont écrits ; fondus, ils donnent un modèle qui converse."""
    outcome = cli(*lora(base, talk, tmp_path / "a", "--lora-targets", "query", "up", "down"))
    assert outcome.code == 0, outcome.err
    assert "adaptateurs de rang 2 sur query, up, down" in outcome.out
    assert not (tmp_path / "a" / "gpt-model.pt").exists()
    path = tmp_path / "a" / "adapter.safetensors"
    found = read_adapter(path)
    assert found.lora.targets == ("query", "up", "down")
    assert "messages" in found.metadata["chat_template"]
    command = shlex.split(outcome.out.splitlines()[-1].removeprefix("Ensuite : "))[1:]
    assert command[0] == "merge"
    merged = cli(*command)
    assert merged.code == 0, merged.err
    assert "3 adaptateurs de rang 2 fondus" in merged.out
    target = tmp_path / "a" / "gpt-model-affine.pt"
    before, after = weights(base), weights(target)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        "trf_blocks.0.att.W_query.weight",
        "trf_blocks.0.ff.layers.0.weight",
        "trf_blocks.0.ff.layers.2.weight",
    }
    assert cli("infer", "--model", target, "--chat", "La lampe ?", "--max-tokens", 5).code == 0
    cli(*command).check_one_line_error(1, "existe déjà", "--force")
    record = json.loads(cli(*command, "--force", "--json").out)
    assert record["lora"]["rank"] == 2


def test_merge_refuses_another_model(cli, base, talk, tmp_path):
    assert cli(*lora(base, talk, tmp_path / "a")).code == 0
    other = tmp_path / "autre"
    assert cli("train", *tiny(seed=9, output_dir=other)).code == 0
    out = tmp_path / "fondu.pt"
    outcome = cli(
        *("merge", other / "gpt-model.pt", tmp_path / "a" / "adapter.safetensors", "--out", out)
    )
    outcome.check_one_line_error(1, "autre modèle")
    assert not out.exists()
    cli("merge", base, base, "--out", out).check_one_line_error(1, "adapter.safetensors")
    (tmp_path / "vide").mkdir()
    outcome = cli("merge", base, tmp_path / "vide", "--out", out)
    outcome.check_one_line_error(1, "corrigez ce chemin")


def test_lora_resumes_exactly(cli, base, talk, tmp_path, monkeypatch):
    """Interrompu, repris par --resume seul : les mêmes adaptateurs au bit près."""
    whole = lora(base, talk, tmp_path / "a", "--save-every", 2, "--lora-dropout", 0.1)
    assert cli(*whole).code == 0
    folder = tmp_path / "b"
    assert cli(*lora(base, talk, folder, "--save-every", 2, "--lora-dropout", 0.1)).code == 0
    store = CheckpointStore(folder / "checkpoints")
    last = store.steps()[-1]
    shutil.rmtree(folder / "checkpoints" / f"step-{last:06d}")
    (folder / "adapter.safetensors").unlink()
    resumed = cli("train", "--resume", folder)
    assert resumed.code == 0, resumed.err
    assert "Reprise à l'étape" in resumed.out
    first = read_adapter(tmp_path / "a" / "adapter.safetensors").tensors
    second = read_adapter(folder / "adapter.safetensors").tensors
    assert all(torch.equal(first[name], second[name]) for name in first)
    point = store.root / f"step-{last:06d}"
    seen = cli("inspect", point, "--json", "--check")
    assert seen.code == 0, seen.err
    record = json.loads(seen.out)
    assert record["parameters"] == sum(tensor.numel() for tensor in first.values())
    assert record["provenance"]["rank"] == 2
    assert record["provenance"]["base_sha256"] == read_adapter(point).base_sha256
    found = cli("infer", point, "--max-tokens", 4)
    assert found.code == 0, found.err
    assert "Adaptateurs fondus dans leur modèle de départ" in found.err
    out = tmp_path / "fondu.pt"
    assert cli("merge", base, point, "--out", out).code == 0
    assert read_model(out).metadata["window"] == 32


def test_lora_estimate(cli, base, talk, tmp_path):
    outcome = cli(*lora(base, talk, tmp_path / "a", "--estimate"))
    assert outcome.code == 0, outcome.err
    assert "adaptateurs" in outcome.out.split("Disque")[1]
    assert not (tmp_path / "a").exists()


def test_template_of_a_file(cli, base, talk, tmp_path):
    """--chat-template l'emporte, et un modèle garde ensuite le sien."""
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
    path = tmp_path / "gabarit.jinja"
    path.write_text(template + "{% if add_generation_prompt %}[assistant] {% endif %}", "utf-8")
    options = ("--epochs", 1, "--output-dir", tmp_path / "m", "--chat-template", path)
    outcome = cli("train", "--from", base, "--chat", talk, *options)
    assert outcome.code == 0, outcome.err
    model = tmp_path / "m" / "gpt-model.pt"
    assert read_model(model).metadata["chat_template"] == path.read_text("utf-8")
    again = ("--epochs", 1, "--output-dir", tmp_path / "n")
    assert cli("train", "--from", model, "--chat", talk, *again).code == 0
    second = read_model(tmp_path / "n" / "gpt-model.pt").metadata
    assert second["chat_template"] == path.read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--from", "absent.pt"], 1, ["modèle introuvable", "absent.pt"]),
        (["--emb-dim", 64], 2, ["--emb-dim vaut 64, et 32", "retirez --emb-dim"]),
        (["--positions", 512], 2, ["--positions vaut 512, et 1024"]),
        (["--tie-weights"], 2, ["--tie-weights"]),
        (["--tokenizer", "gpt2"], 2, ["--from et --tokenizer"]),
        (["--preset", "petit"], 2, ["--from et --preset"]),
        (["--lora-rank", 0], 2, ["--lora-rank vaut 0"]),
        (["--lora-rank", 2, "--lora-targets", "tout"], 2, ["--lora-targets"]),
        (["--lora-rank", 2, "--lora-alpha", 0], 2, ["--lora-alpha vaut 0"]),
        (["--lora-alpha", 3], 2, ["--lora-alpha sans --lora-rank"]),
        (["--lora-rank", 2, "--optimizer", "muon"], 2, ["--lora-rank avec --optimizer muon"]),
        (["--lora-rank", 2, "--engine", "fused"], 2, ["gelés"]),
        (["--lora-rank", 2, "--memory", "lean"], 2, ["gelés"]),
        (["--chat", "absent.jsonl"], 1, ["absent.jsonl", "--chat"]),
        (["--chat-template", "a"], 2, ["--chat-template sans --chat"]),
        (["--chat", "TALK", "--data", "a.txt"], 2, ["--chat et --data"]),
        (["--chat", "TALK", "--stride", 8], 2, ["--chat et --stride"]),
        (["--chat", "TALK", "--chat-template", "absent"], 1, ["absent", "--chat-template"]),
        (["--chat", "BAD"], 1, ["ligne 2", "JSON"]),
    ],
)
def test_refusals(cli, base, talk, tmp_path, options, code, words):
    """Une ligne, le bon code, rien d'écrit."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text(talk.read_text("utf-8").splitlines()[0] + "\n{oups\n", "utf-8")
    options = [{"TALK": talk, "BAD": bad}.get(each, each) for each in options]
    start = [] if "--from" in options else ["--from", base]
    outcome = cli("train", *start, *options, "--output-dir", tmp_path / "m")
    outcome.check_one_line_error(code, *words)
    assert not (tmp_path / "m" / "gpt-model.pt").exists()
    assert not (tmp_path / "m" / "adapter.safetensors").exists()


def test_lora_needs_a_model(cli, tmp_path):
    outcome = cli("train", *tiny(output_dir=tmp_path), "--lora-rank", 2)
    outcome.check_one_line_error(2, "--lora-rank sans --from")


def test_resume_with_another_start_is_refused(cli, base, talk, tmp_path):
    """Le modèle de départ a changé de poids : les adaptateurs n'ont plus de sens."""
    mine = tmp_path / "depart.pt"
    mine.write_bytes(base.read_bytes())
    options = lora(mine, talk, tmp_path / "a", "--save-every", 1)
    assert cli(*options).code == 0
    other = tmp_path / "autre"
    assert cli("train", *tiny(seed=9, output_dir=other)).code == 0
    mine.write_bytes((other / "gpt-model.pt").read_bytes())
    outcome = cli("train", "--resume", tmp_path / "a", "--epochs", 3)
    outcome.check_one_line_error(1, "modèle de départ")
    outcome = cli("train", "--resume", tmp_path / "a", "--epochs", 3, "--override")
    outcome.check_one_line_error(1, "modèle de départ")


def test_chat_needs_a_template(cli, base):
    cli("infer", "--model", base, "--chat", "Qui ?").check_one_line_error(2, "gabarit", "continuer")
    with pytest.raises(ConfigurationError, match="gabarit"):
        load(base).chat_prompt([{"role": "user", "content": "Qui ?"}])
    both = cli("infer", "--model", base, "--chat", "Qui ?", "--prompt", "a")
    both.check_one_line_error(2, "--chat et --prompt")


def test_from_a_transformers_folder(cli, talk, tmp_path):
    """Un dossier de Transformers s'affine et se fond sans autre étape."""
    options = tiny(tokenizer="bpe-300", output_dir=tmp_path / "m", max_steps=1, tie_weights=True)
    options = [each for each in options if each != "True"]
    assert cli("train", *options, "--qkv-bias").code == 0
    folder = tmp_path / "hf"
    converted = cli("convert", tmp_path / "m" / "gpt-model.pt", folder, "--to", "hf")
    assert converted.code == 0, converted.err
    alone = (sys.executable, "-W", "error", "-m", "gpt_architecture")  # rien n'y est déjà inscrit
    more = ("--max-steps", 1, "--context-length", 128)
    outcome = run_process(*alone, *lora(folder, talk, tmp_path / "a", *more))
    assert outcome.code == 0, outcome.err
    outcome = run_process(*alone, "train", "--from", "hub:gpt2", "--data", "la-lampe-du-passeur")
    outcome.check_one_line_error(1, "le Hub n'a pas donné gpt2")
    adapter, out = tmp_path / "a" / "adapter.safetensors", tmp_path / "fondu.pt"
    for source in (folder, tmp_path / "m" / "gpt-model.pt"):  # les mêmes poids, la même empreinte
        merged = cli("merge", source, adapter, "--out", out, "--force")
        assert merged.code == 0, merged.err
    assert "chat_template" in read_model(out).metadata
