"""Le certificat d'un entraînement : conforme s'il est sain, et toute falsification se voit."""

import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from certificate_helpers import (
    FORGERIES,
    MODEL,
    TEXT,
    certify_checkpoint,
    copy_run,
    edit_chain,
    random_model_elsewhere,
    rechained,
    rewrite_checkpoint,
)
from cli_helpers import run_process
from conftest import FRENCH_TEXT
from forget_helpers import TINY as SMALLEST

from gpt_architecture import train, verify
from gpt_architecture.errors import (
    CertificateError,
    ConfigurationError,
    DataError,
    ModelFileError,
    OutputError,
)
from gpt_architecture.formats.story import Difference, read_story
from gpt_architecture.storage.chain import CERTIFICATE, Chain, read_chain
from gpt_architecture.training import certificate, trainer
from gpt_architecture.training.arithmetic import Tolerance, arithmetic_changes, weights_gap
from gpt_architecture.training.certificate import Span, public_options, tensors_sha256
from gpt_architecture.training.checkpoint import CheckpointStore
from gpt_architecture.training.evidence import origins_of, request_at
from gpt_architecture.training.replay import Outcome, _judge, draw

TINY = {**SMALLEST, "accumulate": 2, "clip": 0.1}
KEPT = {"save_every": 2, "keep": 99, "max_steps": 10, "epochs": 9}


def trained(folder, **changes):
    """Un entraînement minuscule, son texte dans son dossier."""
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / TEXT
    if not text.exists():
        text.write_text(FRENCH_TEXT[:700], encoding="utf-8")
    return train(text, **{**TINY, **KEPT, **changes}, output_dir=folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Un entraînement sain, aux points de reprise tous gardés."""
    folder = tmp_path_factory.mktemp("certifie") / "m"
    trained(folder)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Un autre, de graine différente."""
    folder = tmp_path_factory.mktemp("autre") / "m"
    trained(folder, seed=5)
    return folder


def checked(folder, **options):
    return verify(folder, folder / TEXT, **{"part": 1, **options})


# --- Ce qui est sain est conforme ------------------------------------------------------------


def test_a_sound_run_conforms_to_the_bit(run):
    found = checked(run)
    assert (found.differences, found.notes) == ([], [])
    assert (found.conforming, found.exact, found.replayed, found.steps) == (True, True, 10, 10)
    assert str(found).startswith("Conforme, au bit près : 10 étapes sur 10")


def test_a_known_corpus_needs_no_naming(tmp_path):
    """Le dernier point de reprise le nomme ; tout le reste vient de l'appel."""
    train("la-lampe-du-passeur", **TINY, max_steps=4, save_every=2, output_dir=tmp_path / "m")
    assert verify(tmp_path / "m", part=1).exact
    assert verify(tmp_path / "m" / MODEL, part="100 %").exact


def test_a_part_is_drawn_by_its_seed(run):
    one, two = (checked(run, part="20%", seed=seed) for seed in (1, 1))
    assert one.conforming
    assert one.exact
    assert one.replayed == 2
    assert one.intervals == two.intervals
    assert len({tuple(checked(run, part=0.2, seed=seed).intervals) for seed in range(6)}) > 1
    assert "graine 1." in str(one)


def test_an_interval_replayed_in_part_is_said(run, tmp_path):
    """Un intervalle écourté à la part demandée : ce qui n'en est pas rejoué est dit."""
    folder = copy_run(run, tmp_path / "m")
    for step in (4, 6, 8):
        shutil.rmtree(folder / f"checkpoints/step-{step:06d}")
    said = [str(checked(folder, part="20%", seed=seed)) for seed in range(6)]
    told = "L'intervalle 2 à 9 n'est rejoué que jusqu'à l'étape 3, où la part demandée est atteinte"
    assert any(told in each for each in said)
    assert "n'est rejoué que" not in str(checked(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulate": 1, "drop_rate": 0.0, "max_steps": 6},
        {"epochs": 3, "max_steps": 60, "stride": 64, "save_every": 3},
        {"optimizer": "muon", "schedule": "cosine", "warmup_steps": 2},
        {"tokenizer": "bpe-280", "document_mask": True},
        {"engine": "auto", "precision": "auto"},
        {"engine": "auto", "memory": "lean", "accumulate": 1, "clip": None},
        {"save_every": None, "max_steps": 4},
    ],
    ids=["simple", "époques", "muon", "documents", "fusionné", "économe", "sans point"],
)
def test_every_kind_of_run_conforms(tmp_path, changes):
    trained(tmp_path / "m", **changes)
    found = checked(tmp_path / "m")
    assert (str(found.differences), found.exact, found.notes) == ("[]", True, [])
    assert found.replayed == found.steps > 0


def test_adapters_conform(tmp_path, run):
    text, folder = run / TEXT, tmp_path / "lora"
    shape = ("tokenizer", "context_length", "positions", "emb_dim", "n_heads", "n_layers")
    kept = {name: value for name, value in TINY.items() if name not in shape}
    kept |= {"start": run, "lora_rank": 2, "lora_dropout": 0.1, "output_dir": folder}
    train(text, **kept, save_every=2, keep=9, max_steps=4)
    found = verify(folder, text, start=run, part=1)
    assert (found.differences, found.exact, found.replayed) == ([], True, 4)
    with pytest.raises(ConfigurationError, match="`start` n'est pas donné"):
        verify(folder, text, part=1)
    with pytest.raises(ConfigurationError, match="debut"):
        verify(folder, text, debut=run)


def test_conversations_conform(tmp_path):
    said = [{"role": "user", "content": "La nuit ?"}, {"role": "assistant", "content": "Oui."}]
    talks, folder = tmp_path / "dialogues.jsonl", tmp_path / "m"
    talks.write_text(f"{json.dumps({'messages': said})}\n" * 12, encoding="utf-8")
    shape = {"context_length": 64, "positions": 64, "tokenizer": "bpe-280"}
    train(chat=talks, **{**TINY, **shape}, save_every=2, max_steps=4, output_dir=folder)
    found = verify(folder, chat=talks, part=1)
    assert (found.differences, found.exact, found.replayed) == ([], True, 4)


def test_two_interruptions_and_a_longer_programme_conform(tmp_path):
    """Repris deux fois, dont une avec plus d'étapes : le certificat continue, et tout se rejoue."""
    folder = tmp_path / "m"
    left = [3]

    def stop():
        left[0] -= 1
        return left[0] < 0

    run = train(
        _text(folder), **TINY, **{**KEPT, "save_every": None}, output_dir=folder, should_stop=stop
    )
    first = read_chain(folder / CERTIFICATE).links
    assert not run.complete
    stopped = run.state.step
    assert checked(folder).notes  # il s'arrête avant la fin, et c'est dit
    run = train(resume=folder, progress=False)
    assert run.complete
    train(resume=folder, max_steps=14, schedule="linear", progress=False, override=True)
    links = read_chain(folder / CERTIFICATE).links
    assert links[: len(first)] == first  # rien n'est perdu
    assert [each["step"] for each in links if each["kind"] == "resume"] == [stopped, 10]
    found = checked(folder)
    assert (found.differences, found.exact, found.replayed) == ([], True, 14)


@pytest.mark.slow
def test_two_processes_conform_within_the_tolerance(tmp_path):
    """Un seul processus rejoue ce que deux ont fait, aux arrondis près, et le dit."""
    folder = tmp_path / "m"
    options = {**TINY, **KEPT, "data": _text(folder), "output_dir": folder, "max_steps": 4}
    del options["progress"]
    asked = [part for n, v in options.items() for part in (f"--{n.replace('_', '-')}", str(v))]
    command = (sys.executable, "-m", "gpt_architecture", "train", "--launch", "2", *asked)
    done = run_process(*command, timeout=90)
    assert done.code == 0, done.err
    found = checked(folder)
    assert (found.differences, found.replayed) == ([], 4)
    assert "nombre de processus : 2 puis 1" in " ".join(found.notes)
    assert found.gap < 1e-5


def _text(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TEXT).write_text(FRENCH_TEXT[:700], encoding="utf-8")
    return folder / TEXT


# --- Ce qui est faux se voit ------------------------------------------------------------------


def test_there_are_a_hundred_forgeries():
    assert len(FORGERIES) >= 100


@pytest.mark.parametrize(
    ("forge", "place"), FORGERIES, ids=[f"{f.__name__}-{place}" for f, place in FORGERIES]
)
def test_every_forgery_is_seen(forge, place, run, other, tmp_path):
    folder = copy_run(run, tmp_path / "m")
    forge(folder, other, place)
    found = checked(folder)
    assert not found.conforming
    assert "Non conforme" in str(found)


def test_the_reason_and_the_step_are_named(run, other, tmp_path):
    from certificate_helpers import (
        edited_text,
        nudged_and_certified,
        other_field,
        skipped_step,
        swapped_checkpoint,
    )

    expected = {
        edited_text: ("données", None),
        nudged_and_certified: ("poids", 2),
        other_field("losses"): ("pertes", 0),
        skipped_step: ("étape sautée", 0),
        swapped_checkpoint: ("point de reprise", 2),
    }
    for number, (forge, (cause, step)) in enumerate(expected.items()):
        folder = copy_run(run, tmp_path / str(number))
        forge(folder, other, 0)
        first = checked(folder).differences[0]
        assert (first.cause, first.step) == (cause, step), first


@pytest.mark.parametrize("place", [1, 4, 9])
def test_the_step_of_an_edited_link_is_named(run, tmp_path, place):
    """Quoi que le maillon retouché dise de son étape, et que son empreinte soit refaite ou non."""
    links = read_chain(run / CERTIFICATE).links
    chosen = [n for n, each in enumerate(links) if each["kind"] == "steps"][place]
    changed = {**links[chosen], "first": 77, "loss": 1.5}
    sealed = rechained([*links[:chosen], changed]).links[-1]
    for number, each in enumerate((changed, sealed)):
        folder = copy_run(run, tmp_path / str(number))
        forged = [*links[:chosen], each, *links[chosen + 1 :]]
        edit_chain(folder, lambda _, forged=forged: forged, redo=False)
        found = checked(folder)
        assert (found.differences[0].cause, found.differences[0].step) == ("chaîne", place)
        assert f"le maillon {chosen} a été récrit" in found.lines[0]
        assert f"(étape {place})" in found.lines[0]


def test_a_step_is_said_once(run, tmp_path):
    """La cause dit l'étape, ou la phrase : non les deux."""
    folder = copy_run(run, tmp_path / "m")
    edit_chain(
        folder,
        lambda links: [
            {**each, "batches": "0f" * 32} if each["kind"] == "steps" else each for each in links
        ],
        redo=True,
    )
    line = "Non conforme, données (étape 0) : d'autres tokens que ceux du certificat."
    assert checked(folder).lines[0] == line
    cut = Difference(cause="étape sautée", step=3, message="l'étape 3 a deux maillons")
    found = replace(checked(folder), differences=[cut])
    assert found.lines[0] == "Non conforme, étape sautée : l'étape 3 a deux maillons."


def test_edited_data_name_the_first_step_that_read_them(run, tmp_path):
    folder = copy_run(run, tmp_path / "m")
    text = (folder / TEXT).read_text(encoding="utf-8")
    (folder / TEXT).write_text("E" + text[1:], encoding="utf-8")
    steps = [each.step for each in checked(folder).differences if each.cause == "données"]
    assert steps[0] is None  # l'empreinte du texte
    assert all(step is not None for step in steps[1:])


def test_other_code_is_named(run, tmp_path, monkeypatch):
    """Un code différent qui donne les mêmes bits est dit ; s'il en donne d'autres, il est nommé."""
    monkeypatch.setattr("gpt_architecture.training.certificate.code_sha256", lambda: "autre")
    monkeypatch.setattr("gpt_architecture.training.replay.code_sha256", lambda: "autre")
    found = checked(run)
    assert found.exact
    assert "autre version" in found.notes[0]
    before = trainer.set_lr_
    monkeypatch.setattr(trainer, "set_lr_", lambda each, factor: before(each, factor * 2))
    found = checked(run)
    assert {each.cause for each in found.differences} == {"code"}


def test_another_arithmetic_is_compared_within_a_tolerance(run, tmp_path):
    """Le certificat d'une autre machine : les pertes sont comparées, et c'est dit."""
    folder = copy_run(run, tmp_path / "m")

    def elsewhere(links, losses="losses"):
        links[0]["arithmetic"]["instructions"] = ["AVX2"]
        for link in links[1:]:
            if link["kind"] == "steps":
                link |= {losses: "0" * 64, "loss": link["loss"] * (1 + 1e-5)}
        return links

    edit_chain(folder, elsewhere, redo=True)
    found = checked(folder)
    assert (found.conforming, found.exact) == (True, False)
    assert 0 < found.gap < 1e-4
    assert "jeu d'instructions" in " ".join(found.notes)
    edit_chain(
        folder,
        lambda links: [
            {**each, "loss": each["loss"] * 1.1} if each["kind"] == "steps" else each
            for each in links
        ],
        redo=True,
    )
    found = checked(folder)
    assert found.differences[0].cause == "pertes"
    assert "écart admis" in found.differences[0].message


def test_replayed_weights_are_compared_to_those_kept(run, other, tmp_path):
    """Sous tolérance : ceux de chaque point gardé et du modèle fini, et c'est dit."""
    folder = copy_run(run, tmp_path / "m")
    random_model_elsewhere(folder, other, 0)
    found = checked(folder).differences[0]
    assert (found.cause, found.step) == ("poids", 10)
    assert "écart admis 1 %" in found.message
    folder = copy_run(run, tmp_path / "n")

    def elsewhere(links):
        links[0]["arithmetic"]["torch"] = "2.0.0"
        return links

    edit_chain(folder, elsewhere, redo=True)
    for step in (2, 10):  # aux bits près d'un ulp : l'autre arithmétique l'aurait donné
        rewrite_checkpoint(folder, step, group="model", place=step)
        if step == 2:
            certify_checkpoint(folder, step)
        else:
            shutil.rmtree(folder / f"checkpoints/step-{step:06d}")
    found = checked(folder)
    assert (found.differences, found.exact) == ([], False)
    assert 0 < found.weights_gap < 1e-6
    assert "poids à 0" in str(found)
    (folder / MODEL).unlink()
    assert "Aucun modèle dans ce dossier" in str(checked(folder))


def test_the_gap_of_weights_by_hand():
    one = {"a": torch.tensor([3.0, 4.0]), "W_key.bias": torch.zeros(2)}
    two = {"a": torch.tensor([3.0, 4.5]), "W_key.bias": torch.ones(2)}
    assert weights_gap(two, one) == (pytest.approx(0.5 / 5), "a")
    assert weights_gap(one, one) == (0.0, "")
    assert weights_gap({"a": one["a"]}, one)[0] == float("inf")
    assert weights_gap({**one, "a": torch.tensor([3.0, float("nan")])}, one)[0] == float("inf")


def test_two_losses_that_are_not_finite_agree():
    outcome = Outcome()
    reason = Difference(cause="pertes", step=0, message="autre")
    near = Tolerance(losses=0.1, weights=0.1)
    _judge(outcome, {"loss": None}, None, near, reason)
    assert outcome.difference is None
    _judge(outcome, {"loss": 1.0}, None, near, reason)
    assert outcome.difference is reason


# --- D'où sont lues les données ---------------------------------------------------------------


def test_no_place_is_taken_from_the_certificate(run, tmp_path):
    """Ni fichier ni réseau : ce qu'un certificat nomme n'est pas ouvert."""
    folder = copy_run(run, tmp_path / "m")
    secret = tmp_path / "secret.txt"
    secret.write_text("x" * 900, encoding="utf-8")
    told = {"data": [str(secret)], "from": "hub:x/y", "sources": [f"a={secret}:1"]}
    told |= {"tokenizer": str(secret), "output_dir": str(tmp_path), "resume": str(tmp_path)}

    def change(links):
        links[0]["options"] |= told
        return links

    edit_chain(folder, change, redo=True)
    facts = read_story(read_chain(folder / CERTIFICATE)).facts[0]
    asked = request_at(facts, origins_of({"data": [str(folder / TEXT)]}, None))
    assert list(asked.run.data) == [str(folder / TEXT)]
    assert (tuple(asked.run.sources), asked.run.tokenizer) == ((), "gpt2")
    assert asked.run.resume is None
    assert (asked.run.offline, asked.finetuning.start) == (True, None)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(ConfigurationError, match="ne sont pas nommées"):
        verify(folder)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("data", ["hf:a/b"]),
        ("data", ["https://exemple.org/x.txt"]),
        ("data", ["SECRET"]),
        ("data", ["la-lampe-du-passeur", "SECRET"]),
        ("data", 7),
        ("source", ["a=SECRET:1"]),
        ("chat", "SECRET"),
    ],
)
def test_a_checkpoint_opens_neither_a_file_nor_the_network(run, tmp_path, option, value):
    """Un point de reprise reçu peut nommer un fichier privé : seul l'appel dit quoi lire."""
    folder, secret = copy_run(run, tmp_path / "m"), tmp_path / "secret.txt"
    secret.write_bytes((folder / TEXT).read_bytes())  # même le texte attendu n'est pas ouvert

    def named(each):
        return each.replace("SECRET", str(secret)) if isinstance(each, str) else each

    said = [named(each) for each in value] if isinstance(value, list) else named(value)

    def told(values):
        values["options"] |= {"data": None, option: said}
        return values

    rewrite_checkpoint(folder, 10, state=told)
    refused = rf"`{option.replace('source', 'sources')}` n'est pas donné"
    with pytest.raises(ConfigurationError, match=refused):
        verify(folder)
    assert checked(folder).exact
    assert origins_of({"data": "hf:a/b"}, None)["offline"] is False


@pytest.mark.parametrize("option", ["from", "chat_template"])
def test_a_start_or_a_template_is_named_by_the_call(run, tmp_path, option):
    folder = copy_run(run, tmp_path / "m")

    def told(values):
        values["options"][option] = str(tmp_path / "secret")
        return values

    rewrite_checkpoint(folder, 10, state=told)
    with pytest.raises(ConfigurationError, match="n'importe quel fichier"):
        checked(folder)


def test_a_local_file_does_not_pass_for_a_known_corpus(tmp_path, monkeypatch):
    folder = tmp_path / "m"
    train("la-lampe-du-passeur", **TINY, max_steps=2, save_every=2, output_dir=folder)
    (tmp_path / "la-lampe-du-passeur").write_text("privé", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="`data` n'est pas donné"):
        verify(folder)


def test_threads_of_a_certificate_are_bounded(run, tmp_path, monkeypatch):
    """Un certificat en nomme un millier : quelques-uns par cœur suffisent, et c'est dit."""
    folder, asked = copy_run(run, tmp_path / "m"), list[int]()
    edit_chain(
        folder,
        lambda links: [
            {**links[0], "arithmetic": {**links[0]["arithmetic"], "threads": 1000}},
            *links[1:],
        ],
        redo=True,
    )
    set_threads = torch.set_num_threads
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: (asked.append(n), set_threads(n)))
    found = checked(folder)
    assert max(asked) == 4
    assert found.conforming
    assert "nombre de threads : 1000 puis 4" in " ".join(found.notes)


def test_a_wrong_input_is_not_the_fault_of_the_certificate(run, tmp_path):
    with pytest.raises(DataError, match="introuvable"):
        verify(run, tmp_path / "absent.txt")
    with pytest.raises(DataError, match="absent"):
        verify(run, chat=tmp_path / "absent.jsonl")
    with pytest.raises(ModelFileError, match="introuvable"):
        verify(run, run / TEXT, start=tmp_path / "absent")
    folder = copy_run(run, tmp_path / "m")

    def change(links):
        links[0]["options"]["batch_size"] = -1
        return links

    edit_chain(folder, change, redo=True)
    assert [each.cause for each in checked(folder).differences] == ["réglages"]


def test_nothing_commands_the_terminal(run, tmp_path):
    folder = copy_run(run, tmp_path / "m")

    def change(links):
        links[0]["arithmetic"]["torch"] = "2\x1b[2J\nConforme"
        return links

    edit_chain(folder, change, redo=True)
    found = checked(folder)
    assert "Conforme" in found.notes[0]
    assert all("\x1b" not in line and "\n" not in line for line in found.lines)


# --- Ce qui s'arrête --------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["save", "mark"])
def test_a_kill_around_a_checkpoint_leaves_a_sound_run(tmp_path, monkeypatch, when):
    """Tué juste avant qu'un point de reprise n'existe, ou juste après : la reprise est conforme."""
    folder, before = tmp_path / "m", CheckpointStore.save

    class Killed(BaseException):
        pass

    def save(self, step, tensors, state):
        if step == 4 and when == "save":
            raise Killed
        path = before(self, step, tensors, state)
        if step == 4:
            raise Killed
        return path

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", save)
        with pytest.raises(Killed):
            trained(folder)
    train(resume=folder, progress=False)
    found = checked(folder)
    assert (found.differences, found.exact, found.replayed) == ([], True, 10)


def test_very_long_runs_skip_weights_only(tmp_path, monkeypatch):
    monkeypatch.setattr(certificate, "_MANY", 3)
    folder = tmp_path / "m"
    trained(folder)
    links = read_chain(folder / CERTIFICATE).links
    assert [each["step"] for each in links if each["kind"] == "weights"] == [2, 10]
    assert checked(folder).exact


# --- Ce qui manque ----------------------------------------------------------------------------


def test_without_a_certificate(run, tmp_path):
    folder = copy_run(run, tmp_path / "m")
    (folder / CERTIFICATE).unlink()
    with pytest.raises(CertificateError, match="introuvable"):
        verify(folder)
    (folder / CERTIFICATE).write_text("{}", encoding="utf-8")
    with pytest.raises(CertificateError, match="certificat"):
        verify(folder)


def test_unnamed_data_are_asked_for(run, tmp_path):
    folder = copy_run(run, tmp_path / "m")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(ConfigurationError, match="data"):
        verify(folder)
    found = verify(folder, chain_only=True)
    assert found.conforming
    assert "rien n'a été rejoué" in str(found)
    assert checked(folder).exact  # depuis le début


@pytest.mark.parametrize("part", ["0%", "-1", "beaucoup", 1.5, "nan%"])
def test_a_part_out_of_bounds_is_refused(run, part):
    with pytest.raises(ConfigurationError, match="part"):
        verify(run, part=part)


def test_a_resumed_run_whose_certificate_is_lost_says_so(tmp_path, caplog):
    folder = tmp_path / "m"
    trained(folder, max_steps=4)
    (folder / CERTIFICATE).unlink()
    with caplog.at_level(logging.WARNING):
        train(resume=folder, max_steps=6, progress=False)
    assert "manque" in caplog.text
    found = checked(folder)
    assert (found.conforming, found.steps) == (True, 2)
    assert "ne commence qu'à l'étape 4" in str(found)


def test_a_damaged_certificate_is_kept_aside(tmp_path, caplog):
    folder = tmp_path / "m"
    trained(folder, max_steps=4)
    edit_chain(folder, lambda links: [{**links[0], "total": 7}, *links[1:]], redo=False)
    with caplog.at_level(logging.WARNING):
        train(resume=folder, max_steps=6, progress=False)
    assert "certificat abîmé" in caplog.text
    aside = (folder / "certificat-abime.json").read_bytes()
    edit_chain(folder, lambda links: [{**links[0], "total": 7}, *links[1:]], redo=False)
    train(resume=folder, max_steps=8, progress=False)
    assert (folder / "certificat-abime.json").read_bytes() == aside
    assert (folder / "certificat-abime-2.json").is_file()


@pytest.mark.parametrize("kept", [2, 6])
def test_a_resume_outside_the_certificate_starts_another(tmp_path, caplog, kept):
    """D'avant son début, ou d'après sa fin : il ne se continue pas, et n'est pas rendu faux."""
    folder = tmp_path / "m"
    trained(folder, max_steps=6)
    if kept == 2:  # recommencé à l'étape 6, puis repris de la deuxième
        (folder / CERTIFICATE).unlink()
        train(resume=folder, max_steps=8, progress=False)
        (folder / MODEL).unlink()
        for step in (4, 6, 8):
            shutil.rmtree(folder / f"checkpoints/step-{step:06d}")
    else:
        edit_chain(folder, lambda links: links[:5], redo=True)
    with caplog.at_level(logging.WARNING):
        train(resume=folder, max_steps=9, progress=False, override=True)
    assert "l'on repart de" in caplog.text
    found = checked(folder)
    assert (found.differences, found.exact, found.steps) == ([], True, 9 - kept)


def test_a_full_disk_does_not_stop_the_training(tmp_path, caplog, monkeypatch):
    def refuse(self, path, signer=None):
        raise OutputError.refused(path, OSError(28, "plein"))

    monkeypatch.setattr(Chain, "save", refuse)
    with caplog.at_level(logging.WARNING):
        assert trained(tmp_path / "m", max_steps=2).complete
    assert "certificat non écrit" in caplog.text


# --- Les pièces --------------------------------------------------------------------------------


def test_the_certificate_is_small_and_says_nothing_of_the_text(run):
    text = (run / CERTIFICATE).read_text(encoding="ascii")
    assert len(text) < 12_000
    for secret in (str(run.parent), *FRENCH_TEXT.split()[:9]):
        assert secret not in text or len(secret) < 5


def test_long_runs_share_their_links(tmp_path, monkeypatch):
    monkeypatch.setattr(certificate, "_SPANS", 4)
    folder = tmp_path / "m"
    trained(folder, save_every=None)
    links = read_chain(folder / CERTIFICATE).links
    spans = [each for each in links if each["kind"] == "steps"]
    assert [each["last"] - each["first"] + 1 for each in spans] == [3, 3, 3, 1]
    found = checked(folder, part="5%", seed=0)
    assert found.exact
    assert found.intervals == [(0, 2)]


def test_tensor_digest_depends_on_names_shapes_types_and_bits():
    one = {"a": torch.zeros(2, 3), "b": torch.ones(3)}
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(3)},
        {"a": torch.zeros(2, 3), "c": torch.ones(3)},
        {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.ones(3)},
        {"a": torch.zeros(2, 3), "b": torch.tensor([1.0, 1.0, 1.0000001])},
    ]
    assert tensors_sha256(one) == tensors_sha256(dict(reversed(one.items())))
    assert len({tensors_sha256(each) for each in (one, *others)}) == 5


def test_a_span_without_steps_has_no_loss():
    assert Span(3).loss == 0.0


def test_paths_of_the_machine_are_left_out():
    found = public_options({"data": ["/a/b.txt"], "from": "hub:x/y", "prompt": "p", "lr": 1})
    assert found == {"data": None, "from": "hub:x/y", "lr": 1}


def test_intervals_cover_everything_or_the_asked_part(run):
    story = read_story(read_chain(run / CERTIFICATE))
    whole = draw(story, [0, 4], 1.0, 0)
    assert [(each.first, each.stop) for each in whole] == [(0, 4), (4, 10)]
    for seed in range(8):
        chosen = draw(story, [0, 4], 0.3, seed)
        assert sum(each.stop - each.first for each in chosen) == 3


def test_accelerators_never_promise_bits():
    assert arithmetic_changes({"device": "cpu"}, {"device": "cpu"}) == []
    assert arithmetic_changes({"device": "cuda"}, {"device": "cuda"})


def test_a_story_follows_rewinds(run):
    links = read_chain(run / CERTIFICATE).links
    at = next(place for place, each in enumerate(links) if each.get("step") == 4)
    state = {name: links[at][name] for name in ("weights", "moments")}
    back = [*links[: at + 4], {"kind": "resume", "step": 4, **state}, *links[at + 1 :]]
    story = read_story(rechained(back))
    assert story.differences == []
    assert [each["first"] for each in story.links if each["kind"] == "steps"] == list(range(10))
    assert Path(run).is_dir()
