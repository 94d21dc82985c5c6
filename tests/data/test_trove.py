"""L'étape de datatrove : ses fragments sont ceux de prepare, quel que soit le nombre de rangs."""

import json
import sys
from types import SimpleNamespace

import pytest
from cli_helpers import run_process

from gpt_architecture.data.shards.parts import parts_folder
from gpt_architecture.data.shards.plan import PrepareConfig
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.shards.trove import TokenShardsStep
from gpt_architecture.data.tokenizer import SimpleTokenizerV1, get_tokenizer
from gpt_architecture.errors import ConfigurationError, DataError, OutputError, TokenizerError

GPT2 = get_tokenizer("gpt2")
TEXTS = [f"Le passeur leva la lampe {n} fois.\r\nPuis il détacha le bateau." for n in range(60)]
TEXTS[7] += "<|endoftext|>Un autre document."

PIPELINE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from gpt_architecture.data.shards.trove import TokenShardsStep
from gpt_architecture.data.tokenizer import get_tokenizer

if __name__ == "__main__":
    tasks, workers = int(sys.argv[1]), int(sys.argv[2])
    step = TokenShardsStep("d", get_tokenizer("gpt2"), corpus="passeur", val_fraction=0.2)
    LocalPipelineExecutor(
        [JsonlReader("s"), step], tasks=tasks, workers=workers, logging_dir="journal"
    ).run()
    print(step.merge().outcome)
"""


def step_of(out, tokenizer=GPT2, **asked):
    return TokenShardsStep(out, tokenizer, **{"corpus": "passeur", "val_fraction": 0.2, **asked})


def documents(texts=TEXTS):
    return [SimpleNamespace(text=text, id=str(n)) for n, text in enumerate(texts)]


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.bin")}


@pytest.fixture
def source(tmp_path):
    """Trois fichiers de lignes, et les fragments que prepare en fait."""
    folder = tmp_path / "s"
    folder.mkdir()
    for number in range(3):
        part = TEXTS[20 * number : 20 * number + 20]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in part)
        (folder / f"{number}.jsonl").write_text(lines, encoding="utf-8")
    config = PrepareConfig(val_fraction=0.2)
    prepare_tokens([folder], tmp_path / "un", tokenizer=GPT2, config=config, workers=1)
    return folder


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(("tasks", "workers"), [(1, 1), (3, 2)])
def test_the_local_executor_writes_the_shards_of_prepare(source, tmp_path, tasks, workers):
    """Lu, réparti et lancé par datatrove : les mêmes fragments, à l'octet près."""
    pytest.importorskip("datatrove", reason="demande datatrove")
    script = tmp_path / "lance.py"
    script.write_text(PIPELINE, encoding="utf-8")
    done = run_process(sys.executable, script, tasks, workers, cwd=tmp_path)
    assert (done.code, done.out.split()[-1:]) == (0, ["new"]), done.err
    assert shards(tmp_path / "d") == shards(tmp_path / "un")
    assert not parts_folder(tmp_path / "d").exists()


def test_documents_pass_through_and_ranks_are_not_redone(source, tmp_path):
    """Les documents passent tels quels ; un rang fini ne recode rien ; l'index compte tout."""
    step = step_of(tmp_path / "d")
    given = documents()
    assert list(step(given[:40], 0, 2)) == given[:40]
    with pytest.raises(DataError, match="il manque 1 tâche sur 2"):
        step.merge()
    assert list(step(given[40:], 1, 2)) == given[40:]
    assert next(iter(step(documents(["autre chose"]), 1, 2))).text == "autre chose"
    merged = step.merge()
    assert (merged.outcome, merged.separated) == ("new", 1)
    assert shards(tmp_path / "d") == shards(tmp_path / "un")
    assert step.merge().outcome == "present"


def test_an_interrupted_rank_starts_again(tmp_path):
    """Arrêté en route, un rang ne laisse rien de publié, et se refait."""
    step = step_of(tmp_path / "d")

    def broken():
        yield from documents()[:10]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(step(broken()))
    with pytest.raises(DataError, match="il manque les tokens de 1 tâche sur 1"):
        step.merge()
    list(step(documents()))
    assert sum(step.merge().documents.values()) == 61


def test_two_corpora_do_not_mix(tmp_path):
    """Un rang d'un autre corpus est refusé, qu'il soit fini ou interrompu ; rien n'est perdu."""
    step, other = step_of(tmp_path / "d"), step_of(tmp_path / "d", corpus="autre")
    list(step(documents(), 0, 2))
    with pytest.raises(OutputError, match="corpus passeur → autre"):
        list(other(documents(), 0, 2))
    interrupted = other(documents(), 1, 2)
    next(interrupted)
    interrupted.close()
    with pytest.raises(OutputError, match=r"interrompue.*corpus autre → passeur"):
        list(step(documents(), 1, 2))
    with pytest.raises(DataError, match=r"d'autres réglages \(corpus autre → passeur"):
        step.merge()
    list(other(documents(), 1, 2))
    with pytest.raises(DataError, match="d'autres réglages"):
        step.merge()
    with pytest.raises(ConfigurationError, match="corpus"):
        step_of(tmp_path / "d", corpus="")


def test_what_does_not_fit_is_refused(tmp_path):
    """Un défaut arrête, ou est compté ; d'autres réglages, un tokenizer sans séparateur."""
    bad = documents([*TEXTS, "a\0b", "\ud800", ""])
    with pytest.raises(DataError, match="octet nul"):
        list(step_of(tmp_path / "d")(bad))
    step = step_of(tmp_path / "d", skip_bad=True)
    list(step(bad))
    counts = {reason: each["count"] for reason, each in step.merge().skipped.items()}
    assert counts == {"octet nul": 1, "UTF-8 invalide": 1, "vide": 1}
    other = step_of(tmp_path / "d", seed=1)
    with pytest.raises(OutputError, match="seed 0 → 1"):
        other.merge()
    with pytest.raises(TokenizerError, match="endoftext"):
        step_of(tmp_path / "e", SimpleTokenizerV1(["un", "mot"]))
    with pytest.raises(ConfigurationError, match="val_fraction"):
        step_of(tmp_path / "e", val_fraction=0.0)
