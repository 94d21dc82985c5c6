"""Un dialogue aux tokens spéciaux à soi, en commandes : vocabulaire, affinage, questions."""

import json

import pytest
from http_helpers import ScriptedEngine, make_context, serving

from gpt_architecture import load
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.decoding.sequence import Piece
from gpt_architecture.formats.model_file import read_model
from gpt_architecture.main import main
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.engine.messages import Finished, Produced

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ANSWERS = {"La lampe ?": "Elle brille.", "Le bateau ?": "Il dort.", "La nuit ?": "Oui."}


def run(*arguments):
    """Lance une commande qui doit réussir."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert not stop.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Le vocabulaire, le gabarit, les conversations et le modèle qui les a apprises."""
    where = tmp_path_factory.mktemp("dialogue")
    talks = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in [*ANSWERS.items()] * 4
    ]
    lines = [json.dumps(talk, ensure_ascii=False) for talk in talks]
    (where / "talk.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (where / "texte.txt").write_text(" ".join([*ANSWERS, *ANSWERS.values()] * 9), "utf-8")
    (where / "gabarit.jinja").write_text(TEMPLATE, encoding="utf-8")
    run(
        *("tokenizer", "train", where / "texte.txt", "--vocab-size", 300),
        *("--special", "<|user|>", "<|assistant|>", "--out", where / "tok.json"),
    )
    run(
        *("train", "--chat", where / "talk.jsonl", "--tokenizer", where / "tok.json"),
        *("--chat-template", where / "gabarit.jinja", "--output-dir", where / "m"),
        *("--emb-dim", 32, "--n-heads", 2, "--n-layers", 1, "--context-length", 40),
        *("--epochs", 40, "--batch-size", 9, "--lr", "1e-2", "--drop-rate", 0),
        *("--eval-freq", 20, "--qkv-bias", "--tie-weights", "--device", "cpu"),
    )
    return where


def scored(cli, folder, *options):
    """Les tokens d'un début, le premier excepté."""
    found = cli("infer", "--model", folder / "m" / "gpt-model.pt", "--score", "--json", *options)
    assert found.code == 0, found.err
    return [each["token"] for each in json.loads(found.out)["scores"]]


@pytest.mark.slow
def test_the_model_answers(cli, folder):
    """Appris et demandés de même, les tokens spéciaux mènent à la réponse, qui s'arrête seule."""
    model = folder / "m" / "gpt-model.pt"
    for question, answer in ANSWERS.items():
        assert cli("infer", "--model", model, "--chat", question).out.strip() == answer


@pytest.mark.slow
def test_typed_or_written(cli, folder):
    """`infer` : un nom écrit par le gabarit est un token ; tapé, du texte, ou un token demandé."""
    own = get_tokenizer(folder / "tok.json")
    user, assistant = own.special["<|user|>"], own.special["<|assistant|>"]
    typed = "La<|assistant|>nuit"
    asked = [*own.encode("La"), assistant, *own.encode("nuit")]
    assert scored(cli, folder, "--chat", typed) == [*own.encode(typed), assistant]
    assert scored(cli, folder, "--chat", typed, "--parse-special") == [*asked, assistant]
    assert scored(cli, folder, "--prompt", typed) == own.encode(typed)[1:]
    assert scored(cli, folder, "--prompt", typed, "--parse-special") == asked[1:]
    assert scored(cli, folder, "--prompt", f"<|user|>{typed}", "--parse-special") == asked
    (folder / "debuts.txt").write_text(f"{typed}\n", encoding="utf-8")
    model = ("--model", folder / "m" / "gpt-model.pt", "--max-tokens", 1)
    whole = [
        cli("infer", *model, *options).out
        for options in (
            ("--prompts", folder / "debuts.txt", "--parse-special"),
            ("--prompt", typed, "--parse-special"),
        )
    ]
    assert whole[0] == whole[1] != ""
    assert user not in asked


@pytest.mark.slow
def test_the_example_is_kept_with_its_special_tokens(cli, folder):
    """Sans début, `infer` reprend celui de l'entraînement, tokens spéciaux compris."""
    own = get_tokenizer(folder / "tok.json")
    metadata = read_model(folder / "m" / "gpt-model.pt").metadata
    assert metadata["prompt_special"] is True
    found = scored(cli, folder)
    assert found[-1] == own.special["<|assistant|>"]
    gpt = load(folder / "m" / "gpt-model.pt")
    question = metadata["prompt"].removeprefix("<|user|>").removesuffix("<|assistant|>")
    prompt = gpt.chat_prompt([{"role": "user", "content": question}])
    assert found == gpt.encode(prompt)[0, 1:].tolist()


@pytest.mark.slow
def test_a_service_is_asked_the_same(cli, folder):
    """`infer --server --parse-special` le demande au service."""
    own = get_tokenizer(folder / "tok.json")
    end = Finished(reason="length", prompt_tokens=1, completion_tokens=1, cached_tokens=0)
    engine = ScriptedEngine([Produced(piece=Piece(text="x", token=1)), end])
    with serving(create_app(make_context(engine, tokenizer=own))) as url:
        for flags in ((), ("--parse-special",)):
            outcome = cli("infer", "--server", url, "--prompt", "La<|user|>", *flags)
            assert outcome.code == 0, outcome.err
    typed, asked = (list(request.prompt) for request in engine.requests)
    assert typed == own.encode("La<|user|>")
    assert asked == [*own.encode("La"), own.special["<|user|>"]]
