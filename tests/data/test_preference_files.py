"""Les paires de préférences : toutes leurs formes, leurs rangées, et leurs refus."""

import json
from dataclasses import replace

import numpy as np
import pytest
from preference_helpers import TEMPLATE, TOKENIZER, TRAINING, WINDOW, pair_data, write_pairs

from gpt_architecture.data.dialogues import load_chat_data
from gpt_architecture.data.preferences import load_preferences
from gpt_architecture.data.sampler import IGNORED, PairedSource, make_batch
from gpt_architecture.data.texts.preferences import read_preferences
from gpt_architecture.errors import DataError, TokenizerError

QUESTION = [{"role": "user", "content": "Où ?"}]
GOOD, BAD = [{"role": "assistant", "content": "Ici."}], [{"role": "assistant", "content": "Là."}]

FORMS = {
    "textes": {"prompt": "Où ?", "chosen": "Ici.", "rejected": "Là."},
    "question": {"question": "Où ?", "chosen": "Ici.", "rejected": "Là.", "margin": 0.3},
    "nuls": {"prompt": "Où ?", "chosen": "Ici.", "rejected": "Là.", "system": None, "messages": []},
    "messages": {"prompt": QUESTION, "chosen": GOOD, "rejected": BAD},
    "question en messages": {"messages": QUESTION, "chosen": "Ici.", "rejected": "Là."},
    "un message": {"prompt": QUESTION, "chosen": GOOD[0], "rejected": BAD[0]},
    "entières": {"chosen": QUESTION + GOOD, "rejected": QUESTION + BAD},
    "entières et invite": {"prompt": "Où ?", "chosen": QUESTION + GOOD, "rejected": QUESTION + BAD},
    "OpenAI": {
        "input": {"messages": QUESTION, "tools": [], "parallel_tool_calls": None},
        "preferred_output": [{**GOOD[0], "weight": None}],
        "non_preferred_output": BAD,
    },
}


def write(path, rows, *, array=False):
    text = json.dumps(rows) if array else "\n".join(map(json.dumps, rows))
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("array", [False, True])
def test_every_form_is_the_same_pair(tmp_path, name, array):
    path = write(tmp_path / "p.json", [FORMS[name], FORMS["textes"]], array=array)
    (found, plain), sha256 = read_preferences(path)
    assert list(found.chosen) == [*QUESTION, *GOOD]
    assert list(found.rejected) == [*QUESTION, *BAD]
    assert (found.shared, found.chosen) == (1, plain.chosen)
    assert found.place == ("paire 1" if array else "ligne 1")
    assert len(sha256) == 64


def test_a_system_text_and_earlier_turns(tmp_path):
    system = {"prompt": "Où ?", "system": "Bref.", "chosen": "Ici.", "rejected": "Là."}
    long = [*QUESTION, *BAD, {"role": "user", "content": "Vraiment ?"}]
    turns = {"prompt": long, "chosen": GOOD, "rejected": BAD}
    (first, second), _ = read_preferences(write(tmp_path / "p.jsonl", [system, turns]))
    assert first.chosen[0] == {"role": "system", "content": "Bref."}
    assert first.shared == 2
    assert second.shared == 3


REFUSED = {
    "chosen manque": {"prompt": "Où ?", "rejected": "Là."},
    "rejected manque": {"prompt": "Où ?", "chosen": "Ici.", "rejected": None},
    "non_preferred_output manque": {"input": {"messages": QUESTION}, "preferred_output": GOOD},
    "prompt manque": {"chosen": "Ici.", "rejected": "Là."},
    "les deux réponses sont les mêmes": {"prompt": "Où ?", "chosen": "Ici.", "rejected": "Ici."},
    "ni un texte ni une liste": {"prompt": "Où ?", "chosen": 3, "rejected": "Là."},
    "la question n'est ni": {"prompt": 3, "chosen": "Ici.", "rejected": "Là."},
    "une réponse sans question": {
        "prompt": BAD,
        "chosen": GOOD,
        "rejected": BAD,
    },
    "ne répond pas à la même question": {
        "chosen": [*QUESTION, *GOOD],
        "rejected": [{"role": "user", "content": "Qui ?"}, *BAD],
    },
    "content vaut": {"prompt": QUESTION, "chosen": [{"role": "assistant"}], "rejected": BAD},
}


@pytest.mark.parametrize("found", REFUSED)
def test_a_bad_pair_is_named(tmp_path, found):
    path = write(tmp_path / "p.jsonl", [FORMS["textes"], REFUSED[found]])
    with pytest.raises(DataError, match=rf"ligne 2 : .*{found}"):
        read_preferences(path)


def test_a_bad_file_is_named(tmp_path):
    path = tmp_path / "p.jsonl"
    with pytest.raises(DataError, match=r"p\.jsonl"):
        read_preferences(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="aucune paire"):
        read_preferences(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="ligne 1 : ce n'est pas du JSON"):
        read_preferences(path)


def test_rows_go_by_two(tmp_path):
    """La préférée puis l'autre ; les réponses seules, fin comprise, ont des cibles."""
    data = pair_data(tmp_path)
    assert isinstance(data.train, PairedSource)
    assert (data.train.count, data.val.count) == (9, 3)
    starts = np.array([0, 2 * 48 * 4])  # la deuxième paire du fichier, et la septième
    inputs, targets = make_batch(data.train, starts, WINDOW)
    assert inputs.shape[0] == 4
    texts = [
        TOKENIZER.decode([each for each in row.tolist() if each != IGNORED]) for row in targets
    ]
    end = "<|endoftext|>"
    wanted = ["Il dort ici.", "Là.", "Elle brille.", "Non."]
    assert texts == [f"{each}{end}" for each in wanted]
    assert data.train.numbers(starts).tolist() == [0, 4]
    lengths = [len(TOKENIZER.encode(each)) + 1 for each in ("Il dort ici.", "Là.")]
    assert data.train.answers[0].tolist() == lengths
    asked = len(TOKENIZER.encode("Le bateau ?>"))
    assert data.train.lengths[0].tolist() == [asked + each - 1 for each in lengths]
    assert data.opening == "La lampe ?>"


def load(path, **changes):
    basic = {"window": WINDOW, "training": TRAINING, "template": TEMPLATE}
    return load_preferences(path, changes.pop("tokenizer", TOKENIZER), **{**basic, **changes})


def test_too_long_pairs_are_left_and_said(tmp_path, caplog):
    rows = [FORMS["textes"] | {"prompt": f"Qui dort {rank} fois ?"} for rank in range(8)]
    rows[1] = {"prompt": "Où ?", "chosen": "Ici. " * 20, "rejected": "Là."}
    data = load(write(tmp_path / "p.jsonl", rows))
    assert data.train.count == 5
    assert "la première : ligne 2)" in caplog.text
    assert "déjà dans l'entraînement" not in caplog.text


def subjects(source):
    """La question de chaque rangée, une sur deux pour des paires."""
    step = 2 * (WINDOW + 1) if isinstance(source, PairedSource) else WINDOW + 1
    rows = [source.read(start, WINDOW) for start in range(0, source.num_tokens, step)]
    return [TOKENIZER.decode(row.tolist()).partition(">")[0] for row in rows]


@pytest.mark.parametrize("kind", ["paires", "conversations"])
def test_a_sorted_file_is_validated_on_every_subject(tmp_path, kind, caplog):
    """Deux sujets à la suite : la validation, tirée, a des deux ; sa fin n'aurait que le second."""
    asked = ["La lampe ?"] * 20 + ["La nuit ?"] * 20
    path = tmp_path / "sujets.jsonl"
    read = load
    if kind == "paires":
        write(path, [{"prompt": each, "chosen": "Oui.", "rejected": "Non."} for each in asked])
    else:
        write(path, [{"prompt": each, "completion": "Oui."} for each in asked])

        def read(path, **changes):
            options = {"window": WINDOW, "training": TRAINING, "template": TEMPLATE, **changes}
            return load_chat_data(path, "", vocabulary=TOKENIZER, **options)

    with caplog.at_level("INFO"):
        data = read(path)
    assert f"{kind.capitalize()} lues dans" in caplog.text
    assert f"10 {kind} de validation sur 10 déjà dans l'entraînement" in caplog.text
    held = subjects(data.val)
    assert len(held) == 10
    assert 3 <= held.count("La nuit ?") <= 7
    assert subjects(data.train) == sorted(subjects(data.train))  # l'ordre du fichier
    assert {"La lampe ?", "La nuit ?"} <= set(held[:4])  # mêlée : les premières en sont
    assert data.split == "tirage"
    again, other = read(path), read(path, training=replace(TRAINING, seed=7))
    assert again.val.sha256 == data.val.sha256 != other.val.sha256
    assert again.sha256 == other.sha256 == data.sha256  # celle du fichier


def test_refusals(tmp_path):
    path = write(tmp_path / "p.jsonl", [FORMS["textes"]])
    with pytest.raises(DataError, match="au moins deux"):
        load(path)
    few = write(tmp_path / "q.jsonl", [FORMS["textes"]] * 3)
    with pytest.raises(DataError, match="lot entier de 4"):
        load(few)
    with pytest.raises(DataError, match=r"9 paires .*ligne 2\), et aucune ne tient"):
        load(write_pairs(tmp_path / "r.jsonl"), window=3)
    template = "{{ raise_exception('non') }}"
    with pytest.raises(DataError, match="ligne 2"):  # la première à apprendre
        load(write_pairs(tmp_path / "s.jsonl"), template=template)


def test_no_end_of_text(tmp_path):
    from gpt_architecture.data.tokenizer import get_tokenizer

    tokenizer = get_tokenizer("simple-v1", text="Où ? Ici. Là.")
    with pytest.raises(TokenizerError, match="fin de texte"):
        load(write(tmp_path / "p.jsonl", [FORMS["textes"]] * 8), tokenizer=tokenizer)


def test_the_pairs_of_the_project_are_read():
    from docs_helpers import ROOT

    pairs, _ = read_preferences(ROOT / "docs" / "assets" / "preferences-fr.jsonl")
    assert len(pairs) == 40
    assert len({each.chosen[0]["content"] for each in pairs}) == 40
