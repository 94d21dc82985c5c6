"""L'hygiène d'un corpus : les décisions d'ensemble, contre des oracles qui comparent tout à tout.

Ni le nombre de processus, ni une mort n'importe où ne changent un octet.
"""

import errno
import json
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest

from gpt_architecture.data.hygiene import decide, minhash, prune, run, store
from gpt_architecture.data.hygiene.batch import Batch
from gpt_architecture.data.hygiene.clean import CONTROLS, EMPTY, PERSONAL
from gpt_architecture.data.hygiene.config import HygieneConfig, QualityRules
from gpt_architecture.data.shards import job, plan
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.shards.reader import open_shards
from gpt_architecture.data.shards.work import WORK_NAME
from gpt_architecture.data.texts.documents import split_of
from gpt_architecture.data.tokenizer import SimpleTokenizerV1, get_tokenizer
from gpt_architecture.errors import DataError, OutputError
from gpt_architecture.storage import system_error

pytest.importorskip("rensa", reason="demande rensa")
GPT2 = get_tokenizer("gpt2")
NOUNS = ("passeur", "lampe", "fleuve", "miel", "rive", "manteau", "vent", "voix", "nuit", "corde")
VERBS = ("leva", "prit", "quitta", "suivit", "perdit", "trouva", "garda", "vit", "tendit", "mena")


def drawn(seed):
    return random.Random(seed)  # noqa: S311 — un corpus d'essai


def sentence(rng):
    noun, verb, other, last = rng.choice(NOUNS), rng.choice(VERBS), *rng.sample(NOUNS, 2)
    return f"Le {noun} {verb} la {other} {rng.randrange(1000)}, près du {last}."


def document(rng, sentences=12):
    return " ".join(sentence(rng) for _ in range(sentences))


def write(path, texts):
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return path


def parts(folder):
    """(Entraînement, validation) : les documents, décodés."""
    found = []
    for split in ("train", "val"):
        shards = open_shards(folder, split)
        found.append(GPT2.decode(shards.read(0, shards.num_tokens).tolist()).split(END)[1:])
    return found


END = "<|endoftext|>"


def prepared(tmp_path, texts, name="d", *, workers=1, **steps):
    source = write(tmp_path / f"{name}.jsonl", texts)
    return prepare_tokens(
        [source], tmp_path / name, tokenizer=GPT2, hygiene=HygieneConfig(**steps), workers=workers
    )


def counts(result):
    return {reason: effect["count"] for reason, effect in result.hygiene["effects"].items()}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_without_steps_nothing_changes(tmp_path):
    """Aucune étape : les octets d'une préparation ordinaire, index compris."""
    texts = [document(drawn(n)) for n in range(30)]
    source = write(tmp_path / "a.jsonl", texts)
    prepare_tokens([source], tmp_path / "sans", tokenizer=GPT2)
    prepare_tokens([source], tmp_path / "vide", tokenizer=GPT2, hygiene=HygieneConfig())
    assert content(tmp_path / "sans") == content(tmp_path / "vide")
    assert "hygiene" not in json.loads((tmp_path / "sans" / "index.json").read_bytes())


def test_exact_duplicates_keep_the_first(tmp_path):
    """Chaque texte une fois, dans l'ordre ; l'exemple dit de quel document il est le double."""
    texts = [document(drawn(n % 17)) for n in range(40)]
    result = prepared(tmp_path, texts, exact=True)
    train, val = parts(tmp_path / "d")
    assert sorted(train + val) == sorted(set(texts))
    assert train == [t for t in dict.fromkeys(texts) if t in set(train)]
    assert counts(result) == {prune.DUPLICATE: 23}
    example = result.hygiene["effects"][prune.DUPLICATE]["examples"][0]
    copy, first = (int(where.rpartition(":")[2]) for where in (example[1], example[2]))
    assert first < copy
    assert texts[first - 1] == texts[copy - 1]
    assert result.hygiene["read"]["documents"] == 40
    assert result.hygiene["kept"]["documents"] == 17


def test_repeated_lines_are_removed_everywhere(tmp_path):
    """À partir de tant de documents, et d'une longueur ; répétée dans un seul, elle reste."""
    rng, menu = drawn(0), "Accueil, contact et mentions légales"
    texts = [f"{menu}\n{document(rng)}\nOui.\n{document(rng)}" for _ in range(12)]
    texts += [f"{document(rng)}\n" + "La nuit tomba sur le fleuve.\n" * 8 for _ in range(3)]
    texts += [menu]
    result = prepared(tmp_path, texts, lines=5)
    kept = [text for part in parts(tmp_path / "d") for text in part]
    assert sorted(kept) == sorted(text.removeprefix(f"{menu}\n") for text in texts[:-1])
    assert counts(result) == {prune.REPEATED_LINE: 13, prune.NOTHING_LEFT: 1}


def test_repeated_paragraphs_stay_in_the_first_document(tmp_path):
    """Le premier document garde le paragraphe, même répété chez lui ; les autres le perdent."""
    rng = drawn(1)
    shared, short = document(rng, 4), "Un mot bref."
    texts = [f"{document(rng)}\n\n{shared}\n\n{short}\n\n{document(rng)}" for _ in range(5)]
    texts[0] += f"\n\n{shared}"
    result = prepared(tmp_path, texts, paragraphs=60)
    kept = [text for part in parts(tmp_path / "d") for text in part]
    expected = [texts[0], *(text.replace(f"\n\n{shared}", "") for text in texts[1:])]
    assert sorted(kept) == sorted(expected)
    assert counts(result) == {prune.REPEATED_PARAGRAPH: 4}


def test_paragraphs_of_removed_documents_are_not_lost(tmp_path):
    """Un paragraphe dont le premier porteur est écarté reste dans le suivant."""
    rng = drawn(2)
    first, shared = document(rng, 80), document(rng, 2)
    texts = [first, f"{first}\n\n{shared}", f"{document(rng)}\n\n{shared}"]
    result = prepared(tmp_path, texts, near=0.8, paragraphs=60)
    assert counts(result) == {prune.NEAR_DUPLICATE: 1}
    assert sorted(text for part in parts(tmp_path / "d") for text in part) == sorted(texts[::2])


def ngrams(text, size):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[n : n + size]) for n in range(len(words) - size + 1)}


def test_training_shares_no_words_with_validation_or_evaluation(tmp_path):
    """Après : aucune suite commune ; avant : il y en avait. Ce qui ne recouvre rien reste."""
    rng = drawn(3)
    quotes = [document(rng, 3) for _ in range(6)]
    around = [(document(rng, 5), document(rng, 5)) for _ in range(60)]
    texts = [f"{before}\n\n{rng.choice(quotes)}\n\n{after}" for before, after in around]
    exam = write(tmp_path / "examen.jsonl", quotes[:2])
    steps = {"ngram": 13}
    prepare_tokens([write(tmp_path / "s.jsonl", texts)], tmp_path / "avant", tokenizer=GPT2)
    result = prepared(tmp_path, texts, validation=True, evaluation=(str(exam),), **steps)
    for name, clean in (("avant", False), ("d", True)):
        train, val = parts(tmp_path / name)
        held_out = set().union(*(ngrams(text, 13) for text in val))
        asked = set().union(*(ngrams(text, 13) for text in quotes[:2]))
        learned = set().union(*(ngrams(text, 13) for text in train))
        assert (not learned & held_out) is clean
        assert (not learned & asked) is clean
        assert (not held_out & asked) is clean
    assert set(counts(result)) == {prune.IN_VALIDATION, prune.IN_EVALUATION}
    train, val = parts(tmp_path / "d")
    assert len(train) + len(val) == 60
    pieces = "\n\n".join(train).split("\n\n")
    assert len([piece for piece in pieces if piece not in quotes]) == 2 * len(train)


def test_a_document_keeps_its_part(tmp_path):
    """La part est tirée du texte nettoyé seul, avant ce que les autres documents lui retirent."""
    rng, menu = drawn(4), "Accueil, contact et mentions légales"
    texts = [f"{menu}\n{document(rng)}" for _ in range(60)]
    prepared(tmp_path, texts, lines=5)
    train, val = parts(tmp_path / "d")
    places = [split_of([text], seed=0, val_fraction=0.1) for text in texts]
    bodies = [text.removeprefix(f"{menu}\n") for text in texts]
    assert val == [body for body, split in zip(bodies, places, strict=True) if split == "val"]
    assert train == [body for body, split in zip(bodies, places, strict=True) if split == "train"]


def planted(rng, pairs=110):
    """Des documents, et des paires dont la similarité de Jaccard va de 0,3 à 1."""
    texts = []
    for number in range(pairs):
        words = document(rng, 20).split()
        changed = list(words)
        for _ in range(int(len(words) * 0.06 * number / pairs)):
            changed[rng.randrange(len(words))] = f"autre{rng.randrange(10_000)}"
        texts += [" ".join(words), " ".join(changed)]
    order = rng.sample(range(len(texts)), len(texts))
    return [texts[n] for n in order]


def shingles(text):
    return ngrams(text, minhash.SHINGLE)


def jaccard(first, second):
    return len(first & second) / len(first | second)


def test_near_duplicates_on_planted_pairs():
    """Rappel ≥ 0,95 à Jaccard 0,8 ; précision ≥ 0,95 : contre toutes les paires, exactement."""
    texts = planted(drawn(5))
    sets = [shingles(text) for text in texts]
    similar = {
        (a, b): value
        for b in range(len(texts))
        for a in range(b)
        if (value := jaccard(sets[a], sets[b])) > 0.3
    }
    assert len(similar) > 90
    signatures, bands = minhash.signatures_of(Batch(texts))
    removed = minhash.near_duplicates(
        np.ones(len(texts), np.bool_),
        lambda b: bands[b],
        lambda ids: signatures[ids],
        texts.__getitem__,
        0.8,
    )
    wanted = {b for (_, b), value in similar.items() if value >= 0.8}
    assert 30 < len(wanted) < 80
    assert len(wanted & set(removed)) >= 0.95 * len(wanted)
    assert all(similar[a, b] >= 0.8 for b, a in removed.items())
    assert not set(removed) & set(removed.values())


def test_doubtful_pairs_are_judged_by_their_texts(tmp_path):
    """Au seuil même, de part et d'autre : ce que dit le calcul exact, et non l'estimation."""
    rng = drawn(13)
    texts = planted(rng, 40)
    sets = [shingles(text) for text in texts]
    first_of = {}
    for b, found in enumerate(sets):
        for a in range(b):
            if jaccard(sets[a], found) > 0.5:
                first_of[b] = a
    values = sorted(jaccard(sets[a], sets[b]) for b, a in first_of.items())
    threshold = values[len(values) // 2]
    wanted = [b for b, a in first_of.items() if jaccard(sets[a], sets[b]) >= threshold]
    assert 5 < len(wanted) < len(first_of) - 5
    prepared(tmp_path, texts, near=threshold)
    kept = {text for part in parts(tmp_path / "d") for text in part}
    assert kept == {text for number, text in enumerate(texts) if number not in wanted}


def test_texts_are_read_whole_or_one_by_one(tmp_path):
    """Tous, ou un seul ; abîmés, ils sont nommés."""
    path, texts = tmp_path / "t.safetensors", ["", "été", "漢\n", "fin"]
    for given in (texts, []):
        store.write_texts(path, given)
        assert store.read_texts(path) == given
        assert [store.read_text(path, number) for number in range(len(given))] == given
    with pytest.raises(DataError, match=r"t\.safetensors est illisible.*effacez"):
        store.read_text(path, 0)
    store.write_texts(path, texts)
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    for read in (store.read_texts, lambda path: store.read_text(path, 1)):
        with pytest.raises(DataError, match=r"t\.safetensors est illisible.*effacez"):
            read(path)


def test_signatures_estimate_jaccard():
    """L'estimation tient à quelques centièmes de la valeur exacte, même pour deux mots."""
    texts = [*planted(drawn(6), 20), "un mot", "un mot", "deux", ""]
    signatures, _ = minhash.signatures_of(Batch(texts))
    sets = [shingles(text) or {text} for text in texts]
    errors = [
        minhash.similarity(signatures[a], signatures[b]) - jaccard(sets[a], sets[b])
        for a in range(len(texts))
        for b in range(a)
    ]
    assert max(map(abs, errors)) < 0.12
    assert np.sqrt(np.mean(np.square(errors))) < 0.03


def test_decisions_by_slices_are_the_same(tmp_path, monkeypatch):
    """La mémoire bornée, donc plusieurs tranches de valeurs : mêmes octets."""
    rng, menu = drawn(7), "Accueil, contact et mentions légales"
    texts = [f"{menu}\n\n{document(rng, 3)}\n\n{document(rng)}" for _ in range(30)]
    texts += [f"{document(rng)}\n\n{text[40:200]}" for text in texts]
    steps = {"lines": 5, "paragraphs": 30, "exact": True}
    prepared(tmp_path, texts, "entier", **steps)
    monkeypatch.setattr(decide, "HELD", 16)
    monkeypatch.setattr(run, "TASK_BYTES", 2000)
    source = tmp_path / "entier.jsonl"
    prepare_tokens(
        [source], tmp_path / "tranches", tokenizer=GPT2, hygiene=HygieneConfig(**steps), workers=1
    )
    assert content(tmp_path / "entier") == content(tmp_path / "tranches")


EVERYTHING = {
    **{"nfc": True, "controls": True, "personal": "mask", "quality": QualityRules(min_words=5)},
    **{"exact": True, "near": 0.8, "lines": 5, "paragraphs": 60, "validation": True},
}


def everything(tmp_path):
    """Un corpus où chaque étape a de quoi faire, en deux fichiers."""
    rng = drawn(8)
    texts = planted(rng, 30)
    texts += texts[:5]
    texts = [f"Accueil, contact et mentions légales\n{text}" for text in texts]
    texts += ["trop court", "e\u0301te\u0301 " + document(rng), f"a@b.fr {document(rng)}\x07"]
    folder = tmp_path / "s"
    folder.mkdir()
    write(folder / "a.jsonl", texts)
    long_text = "\n\n".join(document(rng, 5) for _ in range(40)).replace("\n\n", f"\n\n{END}", 3)
    (folder / "b.txt").write_text(long_text, encoding="utf-8")
    (folder / "c.txt").write_bytes(b"faux \xe9")
    return folder


@pytest.mark.slow
def test_workers_and_reading_do_not_change_a_byte(tmp_path, monkeypatch):
    """Un ou deux processus, lu d'un bloc ou en flux, petites tâches : mêmes octets."""
    folder = everything(tmp_path)

    def go(name, workers, *, skip_bad=True):
        return prepare_tokens(
            [folder],
            tmp_path / name,
            tokenizer=GPT2,
            hygiene=HygieneConfig(**EVERYTHING),
            workers=workers,
            skip_bad=skip_bad,
        )

    for workers in (1, 2):
        with pytest.raises(DataError, match=r"c\.txt .*UTF-8 invalide.*skip_bad"):
            go(f"arrêté {workers}", workers, skip_bad=False)
    one = go("un", 1)
    go("deux", 2)
    assert content(tmp_path / "un") == content(tmp_path / "deux")
    assert one.skipped["UTF-8 invalide"]["count"] == 1
    assert one.separated == 3
    assert len(one.hygiene["effects"]) >= 7
    monkeypatch.setattr(plan, "LONG_TEXT_BYTES", 100)
    monkeypatch.setattr(run, "TASK_BYTES", 3000)
    go("flux", 1)
    found, wanted = content(tmp_path / "flux"), content(tmp_path / "un")
    assert json.loads(found["index.json"]) == json.loads(wanted["index.json"])
    assert found == wanted


KILLED = """
import os, random, signal, sys
from pathlib import Path
from gpt_architecture.data.hygiene import decide, prune, run
from gpt_architecture.data.hygiene.config import HygieneConfig, QualityRules
from gpt_architecture.data.shards import job, prepare, work, writer
from gpt_architecture.data.tokenizer import SimpleTokenizerV2

source, folder, wanted = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
run.TASK_BYTES, job.CHECKPOINT_BYTES = 3000, 1000
left = -1

def dying(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

for module in (prune, run, decide):
    for name in ("write_lines", "write_texts", "write_arrays", "write_object"):
        if hasattr(module, name):
            setattr(module, name, dying(getattr(module, name)))
work.write_json = dying(work.write_json)
writer.ShardWriter.append = dying(writer.ShardWriter.append)
tokenizer = SimpleTokenizerV2("le la passeur lampe <|endoftext|> <|unk|>".split())
steps = HygieneConfig(quality=QualityRules(min_words=5), exact=True, near=0.8, lines=5,
                      paragraphs=60, validation=True)

def child(out, after):
    global left
    pid = os.fork()
    if pid == 0:
        left = after
        prepare.prepare_tokens(
            [source], out, tokenizer=tokenizer, hygiene=steps, workers=1, skip_bad=True
        )
        os._exit(0)
    return os.waitpid(pid, 0)[1]

rng, deaths, rounds = random.Random(9), 0, 0
assert child(folder / "un", -1) == 0
while deaths < wanted:
    rounds += 1
    while status := child(folder / f"tue{rounds}", rng.randrange(1, 12)):
        assert status == signal.SIGKILL, status
        deaths += 1
print(deaths, rounds)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="demande fork")
def test_killed_anywhere_the_bytes_are_the_same(tmp_path):
    """Tué à toute écriture, quinze fois : les relances finissent sur les mêmes octets.

    Les tâches et leur réunion le sont cinquante fois dans tests/faults/test_task_faults.py.
    """
    command = [sys.executable, "-c", KILLED, str(everything(tmp_path)), str(tmp_path / "o"), "15"]
    (tmp_path / "o").mkdir()
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    deaths, rounds = map(int, result.stdout.split())
    assert deaths >= 15
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        *(f"tue{number}" for number in sorted(range(1, rounds + 1), key=str)),
        "un",
    ]
    for number in range(1, rounds + 1):
        assert content(tmp_path / "o" / f"tue{number}") == content(tmp_path / "o" / "un")


def test_personal_documents_are_dropped_without_showing_why(tmp_path):
    """L'exemple d'un document écarté ne montre pas la donnée qui l'a fait écarter."""
    rng = drawn(10)
    texts = [document(rng) for _ in range(10)]
    hidden = "jean@exemple.fr"
    dirty = f"{hidden}\x07 {document(rng)}"
    result = prepared(tmp_path, [*texts, dirty], personal="drop", controls=True)
    assert counts(result) == {PERSONAL: 1, CONTROLS: 1}
    assert sorted(text for part in parts(tmp_path / "d") for text in part) == sorted(texts)
    assert hidden not in (tmp_path / "d" / "index.json").read_text("utf-8")


def test_languages_are_counted_before_the_choice(tmp_path):
    """Les langues écartées le sont avec leur code ; toutes sont comptées."""
    pytest.importorskip("py3langid", reason="demande py3langid")
    rng = drawn(11)
    english = (
        "The ferryman raised the lamp and the river was the colour of honey that evening. " * 4
    )
    texts = [*(document(rng) for _ in range(10)), english, "12 34"]
    result = prepared(tmp_path, texts, languages=("fr",))
    assert counts(result) == {"langue : en": 1}
    assert {name: found[0] for name, found in result.hygiene["languages"].items()} == {
        **{"fr": 10, "en": 1, "?": 1}
    }
    kept = [text for part in parts(tmp_path / "d") for text in part]
    assert english not in kept
    assert "12 34" in kept


def test_other_steps_are_another_preparation(tmp_path):
    """Les seuils sont dans l'index ; en changer demande `force`."""
    texts = [document(drawn(n)) for n in range(20)]
    prepared(tmp_path, texts, exact=True)
    index = json.loads((tmp_path / "d" / "index.json").read_bytes())
    assert index["settings"]["hygiene"]["exact"] is True
    assert index["settings"]["hygiene"]["ngram"] == 13
    config = HygieneConfig(exact=True)
    source, out = tmp_path / "d.jsonl", tmp_path / "d"
    again = prepare_tokens([source], out, tokenizer=GPT2, hygiene=config)
    assert again.outcome == "present"
    assert again.hygiene["kept"]["documents"] == 20
    with pytest.raises(OutputError, match="hygiene"):
        prepare_tokens([source], out, tokenizer=GPT2)
    with pytest.raises(OutputError, match="hygiene"):
        prepare_tokens([source], out, tokenizer=GPT2, hygiene=HygieneConfig(lines=3))


def test_a_folder_of_ours_holds_no_work(tmp_path):
    """Le dossier de travail disparaît ; du même nom, dans un dossier fini, il est à autrui."""
    texts = [document(drawn(n)) for n in range(20)]
    prepared(tmp_path, texts, exact=True)
    assert not (tmp_path / "d" / WORK_NAME).exists()
    (tmp_path / "d" / WORK_NAME).mkdir()
    (tmp_path / "d" / WORK_NAME / "thèse.txt").write_text("précieux", encoding="utf-8")
    with pytest.raises(OutputError, match=f"contient {WORK_NAME}"):
        prepare_tokens([tmp_path / "d.jsonl"], tmp_path / "d", tokenizer=GPT2, force=True)
    assert (tmp_path / "d" / WORK_NAME / "thèse.txt").read_text("utf-8") == "précieux"


def test_force_forgets_the_work_of_other_steps(tmp_path):
    """Une hygiène interrompue, d'autres seuils : refusés, ou refaits avec `force`."""
    source = write(tmp_path / "a.jsonl", [document(drawn(n)) for n in range(20)])
    out, closed = tmp_path / "d", SimpleTokenizerV1(["un", END])
    with pytest.raises(DataError, match="inconnu"):
        prepare_tokens([source], out, tokenizer=closed, hygiene=HygieneConfig(exact=True))
    steps = HygieneConfig(lines=2)
    with pytest.raises(OutputError, match="interrompue"):
        prepare_tokens([source], out, tokenizer=GPT2, hygiene=steps)
    result = prepare_tokens([source], out, tokenizer=GPT2, hygiene=steps, force=True)
    assert (result.outcome, result.hygiene["kept"]["documents"]) == ("new", 20)
    assert not (tmp_path / "d.incomplete").exists()


def test_nothing_left_is_said(tmp_path):
    """Tout est écarté : la raison, ce qu'il faut faire, et aucun dossier."""
    source = write(tmp_path / "a.jsonl", ["trop court", "aussi"])
    with pytest.raises(DataError, match=r"n'a rien laissé des 2 documents.*trop court.*relâchez"):
        prepare_tokens(
            [source],
            tmp_path / "d",
            tokenizer=GPT2,
            hygiene=HygieneConfig(quality=QualityRules()),
        )
    assert not (tmp_path / "d").exists()


def test_a_single_document_is_still_cut(tmp_path):
    """Un seul document après nettoyage : sa fin fait la validation."""
    text = document(drawn(12), 200)
    result = prepared(tmp_path, [text, text, " "], exact=True)
    assert result.single_document
    train, val = (open_shards(tmp_path / "d", split) for split in ("train", "val"))
    ids = [*train.read(0, train.num_tokens).tolist(), *val.read(0, val.num_tokens).tolist()]
    assert ids == [GPT2.eos_id, *GPT2.encode(text)]
    assert result.skipped[EMPTY]["count"] == 1


def test_damaged_work_is_refused(tmp_path):
    """Un fichier de travail abîmé est nommé, jamais lu de travers."""
    folder = tmp_path / "d.incomplete"
    source = write(tmp_path / "a.jsonl", [document(drawn(n)) for n in range(20)])
    config = HygieneConfig(exact=True)
    unknown = SimpleTokenizerV1(["un", END])
    with pytest.raises(Exception, match="inconnu"):
        prepare_tokens([source], tmp_path / "d", tokenizer=unknown, hygiene=config)
    (folder / WORK_NAME / "net_000000.json").write_text("{")
    with pytest.raises(DataError, match=r"net_000000\.json est illisible.*effacez le dossier"):
        prepare_tokens([source], tmp_path / "d", tokenizer=unknown, hygiene=config)


@pytest.mark.skipif(sys.platform == "win32", reason="setrlimit est d'Unix")
def test_a_full_disk_is_told_in_french(tmp_path):
    """Ce que safetensors ne dit qu'en anglais, et sans code, se dit comme tout autre refus."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match=r"a\.safetensors : fichier plus gros") as refused:
            store.write_arrays(tmp_path / "a.safetensors", {"a": np.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "os error" not in str(refused.value)
    assert not list(tmp_path.glob("*.*"))
    assert system_error(ValueError("I/O error (os error 28)"), "a").errno == errno.ENOSPC


def test_what_is_kept_is_counted_like_what_is_read(tmp_path):
    """Octets lus et gardés sont ceux des textes : sans rien à retirer, ils sont égaux."""
    texts = [f'« {document(drawn(n))} »\n"Oui."' for n in range(20)]
    found = prepared(tmp_path, texts, exact=True).hygiene
    size = sum(len(text.encode("utf-8")) for text in texts)
    assert found["read"] == found["kept"] == {"documents": 20, "bytes": size}


@pytest.mark.skipif(sys.platform != "linux", reason="les noms y sont des octets quelconques")
@pytest.mark.parametrize("steps", [None, HygieneConfig(exact=True)])
def test_a_file_name_may_be_any_bytes(tmp_path, steps):
    """Un nom de fichier qui n'est pas de l'UTF-8 ne gêne ni la préparation, ni sa relance."""
    folder = tmp_path / "textes"
    folder.mkdir()
    rng = drawn(5)
    for name in (b"a\xff.txt", b"b\xe9.txt", b"c.txt"):
        (folder / os.fsdecode(name)).write_text(document(rng), encoding="utf-8")
    (folder / os.fsdecode(b"d\xff.txt")).write_text(" ", encoding="utf-8")
    twin = (folder / os.fsdecode(b"a\xff.txt")).read_bytes()
    (folder / os.fsdecode(b"z\xff.txt")).write_bytes(twin)
    options = {"tokenizer": GPT2, "hygiene": steps, "workers": 1}
    made = prepare_tokens([folder], tmp_path / "d", **options)
    assert sum(made.documents.values()) == (4 if steps is None else 3)
    assert prepare_tokens([folder], tmp_path / "d", **options).outcome == "present"


def test_resumed_from_another_folder(tmp_path, monkeypatch):
    """Arrêtée pendant le codage, une préparation finit de même depuis un autre dossier courant."""
    texts = [document(drawn(n)) for n in range(4)]  # si peu : la validation est choisie à part
    source, options = write(tmp_path / "a.jsonl", texts), {"tokenizer": GPT2, "workers": 1}
    options |= {"hygiene": HygieneConfig(exact=True), "config": plan.PrepareConfig(seed=3)}
    prepare_tokens([source], tmp_path / "un", **options)
    monkeypatch.setattr(job, "CHECKPOINT_BYTES", 1)
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(job, "check_parts", stopped)
        with pytest.raises(KeyboardInterrupt):
            prepare_tokens([source], "deux", **options)
    state = json.loads((tmp_path / "deux.incomplete" / "etat.json").read_bytes())
    assert str(tmp_path.resolve()) in json.dumps(state)
    (tmp_path / "ailleurs").mkdir()
    monkeypatch.chdir(tmp_path / "ailleurs")
    assert prepare_tokens([source], "../deux", **options).outcome == "resumed"
    assert content(tmp_path / "un") == content(tmp_path / "deux")


def stopped(*_arguments):
    raise KeyboardInterrupt
