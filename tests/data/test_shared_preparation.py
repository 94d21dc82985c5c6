"""Une préparation partagée entre machines : les octets d'une seule, quel que soit leur nombre."""

import json
import random
import shutil
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_architecture.data.hygiene import run
from gpt_architecture.data.hygiene.config import HygieneConfig
from gpt_architecture.data.shards import parts, plan, samples
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.shards.work import STATE_NAME, WorkFolder
from gpt_architecture.data.texts import documents
from gpt_architecture.data.texts.readers import base
from gpt_architecture.data.texts.shares import WHOLE, Share, owned
from gpt_architecture.data.texts.source_texts import SourceTexts
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import ConfigurationError, DataError, OutputError

GPT2 = get_tokenizer("gpt2")
WORDS = ("passeur", "lampe", "fleuve", "miel", "rive", "manteau", "vent", "voix", "nuit", "corde")
MENU = "Accueil, contact et mentions légales"
STEPS = {
    "sans": None,
    "chacun": HygieneConfig(nfc=True, controls=True, personal="mask"),
    "ensemble": HygieneConfig(exact=True, lines=5, paragraphs=60, validation=True),
}


def document(rng, words=60):
    return " ".join(rng.choice(WORDS) + str(rng.randrange(50)) for _ in range(words))


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Des lignes, un long texte, de petits fichiers, un vide et un fautif ; de petits blocs."""
    monkeypatch.setattr(base, "BLOCK_BYTES", 700)
    monkeypatch.setattr(plan, "LONG_TEXT_BYTES", 2000)
    monkeypatch.setattr(run, "TASK_BYTES", 8000)
    rng = random.Random(0)  # noqa: S311 — un corpus d'essai
    texts = [f"{MENU}\n{document(rng)}" for _ in range(40)]
    texts += [*texts[:5], f"{document(rng)}\n\n{texts[7]}", "a@b.fr e\u0301te\u0301\x07"]
    folder = tmp_path / "s"
    folder.mkdir()
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "a.jsonl").write_text(lines + "{\n", encoding="utf-8")
    (folder / "b.txt").write_text("<|endoftext|>".join(texts[20:40]), encoding="utf-8")
    (folder / "c.txt").write_bytes(b"faux \xe9")
    (folder / "d.txt").write_text("", encoding="utf-8")
    (folder / "e.txt").write_text(document(rng), encoding="utf-8")
    return folder


def prepare(source, out, **asked):
    asked = {"tokenizer": GPT2, "workers": 1, "skip_bad": True, **asked}
    return prepare_tokens([source], out, **asked)


def shared(source, out, count, **asked):
    """Toutes les tâches puis la réunion, autant de fois qu'il faut ; rend leurs issues."""
    outcomes = []
    while not outcomes or outcomes[-1] == "decided":
        for number in range(count, 0, -1):  # l'ordre n'importe pas
            outcomes.append(prepare(source, out, task=Share(number, count), **asked).outcome)
        outcomes.append(prepare(source, out, merge=True, **asked).outcome)
    return outcomes


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
@pytest.mark.parametrize("steps", STEPS)
def test_any_number_of_tasks_gives_the_bytes_of_one_machine(corpus, tmp_path, steps):
    """1, 2 ou 7 tâches, lues en tout sens : l'index et les fragments d'une préparation simple."""
    asked = {"hygiene": STEPS[steps], "config": plan.PrepareConfig(shard_tokens=900)}
    one = prepare(corpus, tmp_path / "un", **asked)
    assert one.skipped["UTF-8 invalide"]["count"] == 1
    passes = 2 if steps == "ensemble" else 1
    for count in (1, 2, 7):
        out = tmp_path / f"{count}"
        outcomes = shared(corpus, out, count, **asked)
        assert content(out) == content(tmp_path / "un")
        assert len(outcomes) == passes * (count + 1)
        assert not parts.parts_folder(out).exists()


@pytest.mark.slow
def test_near_duplicates_are_found_across_tasks(corpus, tmp_path):
    """Signatures par tâche, bandes à la réunion : un quasi-doublon d'une autre tâche est vu."""
    pytest.importorskip("rensa", reason="demande rensa")
    rng = random.Random(1)  # noqa: S311 — un corpus d'essai
    texts = [document(rng, 80) for _ in range(30)]
    lines = [*texts, *(f"{text} fin" for text in texts)]
    source = corpus / "a.jsonl"
    rows = "".join(json.dumps({"text": t}) + "\n" for t in lines)
    source.write_text(rows, encoding="utf-8")
    steps = HygieneConfig(near=0.8)
    one = prepare(source, tmp_path / "un", hygiene=steps)
    assert one.hygiene["kept"]["documents"] == 30
    shared(source, tmp_path / "trois", 3, hygiene=steps)
    assert content(tmp_path / "trois") == content(tmp_path / "un")


@pytest.mark.slow
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_documents_are_split_as_on_one_machine(tmp_path, steps, count):
    """Si peu de documents qu'une part serait vide, ou un seul, coupé : les mêmes exceptions."""
    rng = random.Random(2)  # noqa: S311 — un corpus d'essai
    folder = tmp_path / "s"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.txt").write_text(document(rng, 40 + number), encoding="utf-8")
    asked = {"hygiene": STEPS[steps], "config": plan.PrepareConfig(seed=3)}
    one = prepare(folder, tmp_path / "un", **asked)
    assert one.single_document is (count == 1)
    shared(folder, tmp_path / "deux", 2, **asked)
    assert content(tmp_path / "deux") == content(tmp_path / "un")


def test_cleaned_texts_that_were_erased_are_made_again(tmp_path):
    """Une part vide : la réunion recode les textes propres ; abîmés, effacés, ils se refont."""
    source, out, steps = tmp_path / "a.txt", tmp_path / "d", STEPS["chacun"]
    source.write_text(document(random.Random(2)), encoding="utf-8")  # noqa: S311 — un essai
    prepare(source, out, task=Share(1, 1), hygiene=steps)
    store = parts.part_store(out, Share(1, 1))
    store.census.write_bytes(b"[]")
    with pytest.raises(DataError, match=r"taches\.json est illisible.*effacez le dossier"):
        prepare(source, out, merge=True, hygiene=steps)
    shutil.rmtree(store.folder)
    shared(source, out, 1, hygiene=steps)
    prepare(source, tmp_path / "un", hygiene=steps)
    assert content(out) == content(tmp_path / "un")


def test_what_is_done_is_not_done_again(corpus, tmp_path):
    """Une tâche relancée ne refait rien ; après la réunion, tâches et réunion le disent."""
    out, task = tmp_path / "d", Share(1, 2)
    first = prepare(corpus, out, task=task)
    place = parts.part_folder(out, task)
    before = {path.name: path.stat().st_mtime_ns for path in place.iterdir()}
    again = prepare(corpus, out, task=task, force=True)
    assert (first.outcome, first) == ("task", again)
    assert {path.name: path.stat().st_mtime_ns for path in place.iterdir()} == before
    prepare(corpus, out, task=Share(2, 2))
    assert prepare(corpus, out, merge=True).outcome == "new"
    assert prepare(corpus, out, merge=True).outcome == "present"
    assert prepare(corpus, out, task=task).outcome == "present"
    assert not parts.parts_folder(out).exists()


def test_missing_tasks_are_named(corpus, tmp_path):
    """Aucune tâche ; quelques-unes ; puis leurs empreintes, ou leurs tokens."""
    out, steps = tmp_path / "d", STEPS["ensemble"]
    with pytest.raises(DataError, match=r"aucune tâche dans .*d\.taches"):
        prepare(corpus, out, merge=True)
    for number in (1, 3, 4):
        prepare(corpus, out, task=Share(number, 5), hygiene=steps)
    with pytest.raises(DataError, match=r"il manque 2 tâches sur 5 dans .* : 2, 5 "):
        prepare(corpus, out, merge=True, hygiene=steps)
    for number in (2, 5):
        prepare(corpus, out, task=Share(number, 5), hygiene=steps)
    census = parts.part_store(out, Share(4, 5)).census
    kept = census.read_bytes()
    census.unlink()
    with pytest.raises(DataError, match=r"il manque les empreintes de 1 tâche sur 5 .* : 4 "):
        prepare(corpus, out, merge=True, hygiene=steps)
    census.write_bytes(kept)
    assert prepare(corpus, out, merge=True, hygiene=steps).outcome == "decided"
    prepare(corpus, out, task=Share(2, 5), hygiene=steps)
    with pytest.raises(DataError, match=r"il manque les tokens de 4 tâches sur 5 .* : 1, 3, 4, 5"):
        prepare(corpus, out, merge=True, hygiene=steps)
    assert not out.exists()
    assert not out.with_name("d.incomplete").exists()


def test_tasks_from_elsewhere_are_refused(corpus, tmp_path):
    """En double, d'un autre découpage, d'autres réglages ou d'autres sources : une phrase."""
    out = tmp_path / "d"
    for number in (1, 2):
        prepare(corpus, out, task=Share(number, 2))
    with pytest.raises(DataError, match=r"la tâche 1/2 vient d'autres réglages \(seed 0 → 5\)"):
        prepare(corpus, out, merge=True, config=plan.PrepareConfig(seed=5))
    with pytest.raises(DataError, match=r"la tâche 1/2 vient d'autres réglages \(hygiene\)"):
        prepare(corpus, out, merge=True, hygiene=STEPS["chacun"])
    with pytest.raises(DataError, match=r"la tâche 1/2 vient d'autres sources \(.*a\.jsonl\)"):
        prepare(corpus / "e.txt", out, merge=True, config=plan.PrepareConfig(val_fraction=0.1))
    with pytest.raises(OutputError, match=r"tache_00001_sur_00002 est déjà préparé.*seed 0 → 5"):
        prepare(corpus, out, task=Share(1, 2), config=plan.PrepareConfig(seed=5))
    place = parts.part_folder(out, Share(2, 2))
    shutil.copytree(place, place.with_name("tache_00009_sur_00002"))
    with pytest.raises(DataError, match=r"la tâche 2/2 est en double : tache_00002.*tache_00009"):
        prepare(corpus, out, merge=True)
    shutil.rmtree(place.with_name("tache_00009_sur_00002"))
    prepare(corpus, out, task=Share(3, 7))
    with pytest.raises(DataError, match="tâches de deux découpages : 1/2 et 3/7"):
        prepare(corpus, out, merge=True)
    shutil.rmtree(parts.part_folder(out, Share(3, 7)))
    assert prepare(corpus, out, merge=True).outcome == "new"


def test_a_damaged_task_is_named(corpus, tmp_path):
    """Un octet changé dans un fragment : refusé, rien n'est publié ; refait, il convient."""
    out, task = tmp_path / "d", Share(1, 2)
    for number in (1, 2):
        prepare(corpus, out, task=Share(number, 2))
    place = parts.part_folder(out, task)
    shard = place / "train_000000.bin"
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"train_000000\.bin : contenu changé depuis"):
        prepare(corpus, out, merge=True)
    assert not out.exists()
    shutil.rmtree(place)
    prepare(corpus, out, task=task)
    prepare(corpus, out, merge=True)
    prepare(corpus, tmp_path / "un")
    assert content(out) == content(tmp_path / "un")


def test_the_same_task_twice_at_once(corpus, tmp_path):
    """La seconde est refusée tout de suite."""

    class Second:
        def on_start(self, total_bytes, done_bytes):
            with pytest.raises(OutputError, match="une autre préparation écrit dans"):
                prepare(corpus, tmp_path / "d", task=Share(1, 2))

        def on_progress(self, done_bytes, tokens):
            pass

    assert prepare(corpus, tmp_path / "d", task=Share(1, 2), reporter=Second()).outcome == "task"
    with pytest.raises(ConfigurationError, match="`task` et `merge` sont donnés ensemble"):
        prepare(corpus, tmp_path / "d", task=Share(1, 2), merge=True)


def test_what_is_not_ours_survives_the_merge(corpus, tmp_path):
    """La réunion efface les tâches, et rien d'autre."""
    out = tmp_path / "d"
    prepare(corpus, out, task=Share(1, 1))
    note = parts.parts_folder(out) / "note.txt"
    note.write_text("à moi", encoding="utf-8")
    prepare(corpus, out, merge=True)
    assert [path.name for path in parts.parts_folder(out).iterdir()] == ["note.txt"]


def test_tasks_of_other_settings_survive_the_merge(corpus, tmp_path, caplog):
    """Relancée sur ce qui est prêt, la réunion n'efface que ses tâches, et dit ce qui reste."""
    out, other = (
        tmp_path / "d",
        {"config": plan.PrepareConfig(seed=5), "hygiene": STEPS["ensemble"]},
    )
    prepare(corpus, out)
    prepare(corpus, tmp_path / "e", task=Share(2, 2))
    place = parts.parts_folder(out)
    parts.parts_folder(tmp_path / "e").rename(place)
    prepare(corpus, out, task=Share(1, 2), force=True, **other)
    before = sorted(path.name for path in place.iterdir())
    assert prepare(corpus, out, merge=True).outcome == "present"
    kept = [name for name in before if name != "tache_00002_sur_00002"]
    assert len(kept) == len(before) - 1 == 2
    assert sorted(path.name for path in place.iterdir()) == kept
    assert "tache_00001_sur_00002.incomplete" in caplog.text
    prepare(corpus, out, task=Share(2, 2), force=True, **other)
    assert prepare(corpus, out, merge=True, force=True, **other).outcome == "decided"
    assert prepare(corpus, out, merge=True).outcome == "present"
    assert (place / "decisions").is_dir()


def test_a_task_being_done_survives_the_merge(corpus, tmp_path, caplog):
    """Une tâche qu'une machine fait à présent n'est pas effacée ; interrompue, elle l'est."""
    out, identity = tmp_path / "d", {"seed": 0, "tokenizer_sha256": "", "sources": []}
    place = parts.part_folder(out, Share(1, 2))
    with WorkFolder(place, identity | {"task": "1/2"}, force=False) as work:
        work.save_state({})
        parts.remove_parts(out, identity)
        assert (work.path / STATE_NAME).exists()
    assert "en cours : tache_00001_sur_00002.incomplete" in caplog.text
    (work.path / STATE_NAME).write_text("{", encoding="utf-8")
    parts.remove_parts(out, identity)
    assert work.path.exists()  # illisible : on ne sait d'où elle vient
    (work.path / STATE_NAME).unlink()
    parts.remove_parts(out, identity)
    assert not parts.parts_folder(out).exists()


@pytest.mark.parametrize("damage", ["lu_000000.safetensors", "taches.json", "decisions.json"])
def test_a_damaged_work_file_says_what_to_erase(corpus, tmp_path, damage):
    """Tronqué, ou d'une autre forme : nommé en français, et le remède donné suffit."""
    out, steps = tmp_path / "d", STEPS["ensemble"]
    prepare(corpus, out, task=Share(1, 1), hygiene=steps)
    if damage == "decisions.json":
        assert prepare(corpus, out, merge=True, hygiene=steps).outcome == "decided"
    (path,) = parts.parts_folder(out).rglob(damage)
    data = path.read_bytes()
    shapes = [b'{"tasks": "x", "counts": 1}', b"{}"] if path.suffix == ".json" else [data[:-9]]
    for bad in shapes:
        path.write_bytes(bad)
        with pytest.raises(DataError, match="illisible : tronqué ou abîmé") as refused:
            prepare(corpus, out, merge=True, hygiene=steps, force=True)
        assert f"effacez le dossier {path.parent}, puis relancez" in str(refused.value)
    shutil.rmtree(path.parent)
    shared(corpus, out, 1, hygiene=steps)
    prepare(corpus, tmp_path / "un", hygiene=steps)
    assert content(out) == content(tmp_path / "un")


# --- L'échantillon d'un vocabulaire --------------------------------------------------------


def drawn(source, share=WHOLE, sample=0.5):
    return SourceTexts([str(source)], skip_bad=True, sample=sample, share=share)


def test_any_number_of_tasks_draws_the_same_sample(corpus, tmp_path):
    """1, 2 ou 7 tâches : les mêmes textes, dans l'ordre ; une part d'entre eux, tirée au hasard."""
    everything, one = list(drawn(corpus, sample=None)), list(drawn(corpus))
    assert 0.3 < len(one) / len(everything) < 0.7
    assert one == [text for text in everything if documents.is_sampled(text, 0.5)]
    assert everything == list(drawn(corpus, sample=1.0))
    for count in (1, 2, 7):
        out = tmp_path / f"{count}.json"
        for number in range(count, 0, -1):
            texts = drawn(corpus, Share(number, count))
            identity = samples.sample_identity(texts, field=None, sample=0.5)
            samples.write_sample(texts, out, Share(number, count), identity)
        read = samples.read_samples(out, identity)
        assert list(read) == one
        assert read.tally.text_bytes == sum(len(text.encode()) for text in one)
        assert read.tally.skipped["JSON invalide"]["count"] == 1
        samples.remove_samples(out)
        assert not parts.parts_folder(out).exists()


def test_samples_from_elsewhere_are_refused(corpus, tmp_path):
    """Aucun, un qui manque, d'une autre part, tronqué, ou sans aucun texte : une phrase."""
    out = tmp_path / "t.json"
    texts = drawn(corpus, Share(2, 2))
    identity = samples.sample_identity(texts, field=None, sample=0.5)
    with pytest.raises(DataError, match="aucune tâche"):
        samples.read_samples(out, identity)
    path = samples.write_sample(texts, out, Share(2, 2), identity)
    with pytest.raises(DataError, match=r"il manque 1 tâche sur 2 dans .* : 1 "):
        samples.read_samples(out, identity)
    with pytest.raises(DataError, match=r"d'autres réglages \(sample 0.5 → 0.1\)"):
        samples.read_samples(out, identity | {"sample": 0.1})
    with pytest.raises(DataError, match="d'autres sources"):
        samples.read_samples(out, identity | {"sources": []})
    lines = path.read_bytes().splitlines(keepends=True)
    changed = ([*lines[:-1], lines[-1][:-20]], lines[1:], [b"{\n", *lines[1:]], [])
    for each in changed:
        path.write_bytes(b"".join(each))
        with pytest.raises(DataError, match="illisible, tronqué ou changé"):
            samples.read_samples(out, identity)
    for number in (1, 2):
        samples.write_sample(drawn(corpus, Share(number, 2), 1e-9), out, Share(number, 2), identity)
    with pytest.raises(DataError, match="aucun texte dans les échantillons"):
        samples.read_samples(out, identity)
    with pytest.raises(DataError, match="`sample`"):
        list(drawn(corpus, sample=1e-9))
    with pytest.raises(ConfigurationError, match="`sample`"):
        drawn(corpus, sample=0.0)


# --- Les plages ----------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=6),
    st.integers(1, 12),
)
def test_every_block_is_in_one_task(files, count):
    """Quels que soient les blocs, même sans octet, chacun est à une tâche, et dans l'ordre."""
    sources = [
        SimpleNamespace(size=sum(file), rank=rank, check_unchanged=lambda: None)
        for rank, file in enumerate(files)
    ]

    def blocks(source):
        return (SimpleNamespace(consumed=each) for each in files[source.rank])

    found = [
        (rank, number)
        for share in (Share(n, count) for n in range(1, count + 1))
        for rank, number, _ in owned(sources, blocks, share)
    ]
    assert found == [(r, n) for r, file in enumerate(files) for n in range(len(file))]


def test_a_task_is_read_from_the_command_or_the_scheduler():
    """Écrite, ou d'après Slurm (de 1 à N) et Kubernetes (de 0 à N − 1)."""
    slurm = {f"SLURM_ARRAY_TASK_{name}": "7" for name in ("MAX", "COUNT")}
    slurm |= {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_ID": "3"}
    assert Share.parse("3/7", {}) == Share(3, 7)
    assert Share.parse("2/7", slurm) == Share(2, 7)
    assert Share.parse("auto", slurm) == Share.parse("auto/7", slurm) == Share(3, 7)
    assert Share.parse("auto/7", {"JOB_COMPLETION_INDEX": "0"}) == Share(1, 7)
    assert Share.parse("auto/7", {"JOB_COMPLETION_INDEX": "6"}) == Share(7, 7)
    assert str(Share(3, 7)) == "3/7"


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("3", {}, "`task` vaut '3'"),
        ("3/", {}, "`task` vaut '3/'"),
        ("x/7", {}, "3/7, ou auto"),
        ("0/7", {}, "le numéro de la tâche"),
        ("8/7", {}, "`task` vaut '8/7' : le numéro de la tâche vaut 8"),
        ("1/0", {}, "le nombre de tâches"),
        ("auto", {}, "rien ne dit quelle est cette tâche"),
        ("auto", {"JOB_COMPLETION_INDEX": "2"}, "completions"),
        ("auto/2", {"JOB_COMPLETION_INDEX": "2"}, "le numéro de la tâche"),
        ("auto/2", {"JOB_COMPLETION_INDEX": "deux"}, "la variable JOB_COMPLETION_INDEX"),
        (
            "auto",
            {
                f"SLURM_ARRAY_TASK_{n}": v
                for n, v in zip(("ID", "MIN", "MAX", "COUNT"), "3352", strict=True)
            },
            "un tableau Slurm de 2 tâches, numérotées de 3 à 5",
        ),
    ],
)
def test_other_tasks_are_refused(text, environment, words):
    with pytest.raises(ConfigurationError, match=words):
        Share.parse(text, environment)
