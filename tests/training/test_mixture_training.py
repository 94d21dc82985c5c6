"""Un entraînement mélangé : reprise au bit près, mélange réalisé, pertes par source, refus."""

import shutil

import pytest
import torch
from cli_helpers import tiny
from conftest import FRENCH_TEXT

from gpt_architecture import train
from gpt_architecture.config import RunConfig, TrainingRequest
from gpt_architecture.data.sampler import make_batch
from gpt_architecture.errors import CheckpointError, ConfigurationError
from gpt_architecture.formats.journal import read_records
from gpt_architecture.formats.model_file import read_model
from gpt_architecture.training.inputs import Origins
from gpt_architecture.training.preparation import prepare, request_of
from gpt_architecture.training.session import build_trainer

ENGLISH = "The ferryman raised his lamp twice, and untied the boat. Look, he said. " * 30
SHAPE = {
    "precision": "fp32",  # comparée à une passe en fp32
    "tokenizer": "char",
    "context_length": 16,
    "positions": 16,
    "emb_dim": 16,
    "n_heads": 2,
    "n_layers": 1,
    "drop_rate": 0.2,
    "batch_size": 5,
    "eval_freq": 4,
    "device": "cpu",
    "engine": "autograd",
}


@pytest.fixture
def sources(tmp_path):
    (tmp_path / "fr.txt").write_text(FRENCH_TEXT, encoding="utf-8")
    (tmp_path / "en.txt").write_text(ENGLISH, encoding="utf-8")
    return {"fr": (tmp_path / "fr.txt", 0.6), "en": (tmp_path / "en.txt", 0.4)}


def evaluations(folder):
    with (folder / "journal.jsonl").open("rb") as lines:
        return [each for each in read_records(lines) if each["kind"] == "evaluation"]


def test_half_then_resume_equals_straight(sources, tmp_path):
    """Mêmes poids, mêmes pertes, même mélange au journal, au bit près."""
    out = tmp_path / "essai"
    straight = train(sources=sources, output_dir=out, max_steps=13, accumulate=2, **SHAPE)
    expected = read_model(out / "gpt-model.pt")
    journal = evaluations(out)
    shutil.rmtree(out)
    left = iter(range(16))
    half = train(
        sources=sources,
        output_dir=out,
        max_steps=13,
        accumulate=2,
        should_stop=lambda: next(left, None) is None,
        **SHAPE,
    )
    assert not half.complete
    assert 0 < half.state.step < 13
    resumed = train(resume=half)
    found = read_model(out / "gpt-model.pt")
    assert all(torch.equal(expected.state_dict[n], t) for n, t in found.state_dict.items())
    assert resumed.state.val_losses == straight.state.val_losses
    assert evaluations(out) == journal
    assert found.metadata["mixture_read"] == expected.metadata["mixture_read"]
    assert found.metadata["data"]["mixture"] == {"fr": "0.6", "en": "0.4"}


def test_the_mixture_read_is_told(sources, tmp_path):
    """Parts, tokens et époques de chaque évaluation : ce que les étapes ont vraiment lu."""
    out = tmp_path / "essai"
    train(sources=sources, output_dir=out, max_steps=9, **SHAPE)
    last = evaluations(out)[-1]["sources"]
    assert last["fr"]["tokens"] == 27 * 16
    assert last["en"]["tokens"] == 18 * 16
    assert last["fr"]["share"] == 0.6
    assert read_model(out / "gpt-model.pt").metadata["mixture_read"]["fr"]["tokens"] == 27 * 16


def test_validation_is_the_sum_of_its_sources(sources, tmp_path):
    """Perte du jeu : NLL totale / tokens ; de chaque source, la même sur ses seules fenêtres."""
    request = request_of({**SHAPE, "sources": sources, "output_dir": tmp_path}, Origins())
    run = prepare(request)
    trainer = build_trainer(run.settings, run.data)
    losses = trainer.evaluate(lambda: False)
    source, starts = trainer.evaluate.sets[1]
    grouped = source.by_source(starts)
    assert set(grouped) == {"fr", "en"}
    total = 0.0
    with torch.no_grad():
        for name, chosen in grouped.items():
            inputs, targets = make_batch(source, chosen, 16)
            logits = trainer.model.eval()(inputs)
            nll = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), reduction="sum"
            ).item()
            assert losses.by_source[name] == pytest.approx(nll / targets.numel(), rel=1e-5)
            total += nll
    assert losses.val == pytest.approx(total / (16 * len(starts)), rel=1e-5)


def test_a_small_source_is_validated_once(sources, tmp_path):
    """Une fenêtre qui reviendrait ne compte qu'une fois."""
    asked = {**SHAPE, "sources": sources, "output_dir": tmp_path, "eval_iter": 1000}
    run = prepare(request_of(asked, Origins()))
    for _, starts in build_trainer(run.settings, run.data).evaluate.sets:
        assert len(set(starts.tolist())) == len(starts)


def test_other_weights_are_refused_and_shown(sources, tmp_path):
    out = tmp_path / "essai"
    train(sources=sources, output_dir=out, max_steps=4, **SHAPE)
    changed = {"fr": (sources["fr"][0], 0.5), "en": sources["en"]}
    with pytest.raises(CheckpointError, match=r"mélange\.fr : 0\.6 enregistré, 0\.5 demandé"):
        train(resume=out, sources=changed, max_steps=6)
    moved = tmp_path / "ailleurs.txt"
    sources["fr"][0].rename(moved)
    run = train(resume=out, sources={**sources, "fr": (moved, 0.6)}, max_steps=6)
    assert run.state.step == 6


def test_a_mixture_replaces_the_text_of_a_resumed_training(sources, tmp_path):
    """Et l'inverse ; une empreinte autre est refusée, et `override` l'accepte."""
    path = sources["fr"][0]
    train(data=path, output_dir=tmp_path / "texte", max_steps=4, **SHAPE)
    vocabulary = {"fr": (path, 0.6), "aussi": (path, 0.4)}
    with pytest.raises(CheckpointError):
        train(resume=tmp_path / "texte", sources=vocabulary, max_steps=6)
    mixed = train(resume=tmp_path / "texte", sources=vocabulary, max_steps=6, override=True)
    assert mixed.state.step == 6
    with pytest.raises(CheckpointError):
        train(resume=tmp_path / "texte", data=path, max_steps=8)
    alone = train(resume=tmp_path / "texte", data=path, max_steps=8, override=True)
    assert alone.state.step == 8


def test_the_command_replaces_it_too(cli, sources, tmp_path):
    path = sources["fr"][0]
    train(data=path, output_dir=tmp_path, max_steps=4, **SHAPE)
    given = ["--source", f"fr={path}:1", "--max-steps", 6, "--override"]
    mixed = cli("train", "--resume", tmp_path, *given)
    assert mixed.code == 0, mixed.err
    alone = cli("train", "--resume", tmp_path, "--data", path, "--max-steps", 8, "--override")
    assert alone.code == 0, alone.err


def test_a_source_named_like_a_known_text_gives_its_own_prompt(sources, tmp_path):
    for name in ("the-verdict", "la-lampe-du-passeur"):
        asked = {**SHAPE, "tokenizer": "gpt2", "sources": {name: (sources["fr"][0], 1)}}
        run = prepare(request_of({**asked, "output_dir": tmp_path}, Origins()))
        assert run.settings.prompt == run.data.opening


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sources": {"fr": ("x", 1)}, "data": "y"}, "`sources` et `data` sont donnés ensemble"),
        ({"sources": {"fr": ("x", 1)}, "chat": "y"}, "`chat` et `sources` sont donnés ensemble"),
        ({"sources": {"fr": "x"}}, "`sources` vaut 'fr=x'"),
        ({"sources": 3}, "`sources` vaut 3"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, words):
    with pytest.raises(ConfigurationError, match=words):
        _ = TrainingRequest.of(settings).learning


def test_without_sources_nothing_is_mixed():
    assert RunConfig().mixture == ()


def test_the_command_tells_its_mixture(cli, sources, tmp_path):
    """Annoncé, puis dit à la fin ; et le fichier TOML sait l'écrire."""
    options = tiny(max_steps=10, tokenizer="char", batch_size=5)
    at = options.index("--data")
    del options[at : at + 2]
    options.append("--output-dir")
    given = [f"{name}={path}:{weight}" for name, (path, weight) in sources.items()]
    outcome = cli("train", *options, tmp_path / "essai", "--source", given[0], "--source", given[1])
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("fr : 60,0\u00a0% du mélange, 960 tokens, ") == 2
    assert "Validation par source : fr " in outcome.out
    config = tmp_path / "train.toml"
    listed = ", ".join(f'"{each}"' for each in given)
    config.write_text(f"[train]\nsource = [{listed}]\n", encoding="utf-8")
    again = cli("train", *options, tmp_path / "toml", "--config", config)
    assert again.code == 0, again.err
    kept = [read_model(tmp_path / name / "gpt-model.pt") for name in ("essai", "toml")]
    assert all(torch.equal(kept[0].state_dict[n], t) for n, t in kept[1].state_dict.items())
    resumed = cli("train", "--resume", tmp_path / "essai", "--max-steps", 12)
    assert resumed.code == 0, resumed.err
    assert resumed.out.count("fr : 60,0\u00a0% du mélange, 1 152 tokens, ") == 2
    refused = cli("train", *options, tmp_path / "rien", "--source", "fr=x")
    refused.check_one_line_error(2, "--source vaut 'fr=x'", "NOM=CHEMIN:POIDS")
