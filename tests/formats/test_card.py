"""La fiche : une source de faits, deux langues, rien d'inventé."""

import json

import pytest

from gpt_architecture.config import GPTConfig
from gpt_architecture.data.texts.licences import known_texts
from gpt_architecture.data.texts.recipes import NOVELS, RECIPES, VERDICT
from gpt_architecture.formats.card import PRIVACY, PRIVACY_FORMAT, card_of, model_folder, privacy_of
from gpt_architecture.storage.chain import CERTIFICATE, Chain

SHAPE = GPTConfig(vocab_size=300, context_length=16, emb_dim=8, n_heads=2, n_layers=1)
WEIGHTS = "ab" * 32
METADATA = {
    "data": {"name": "la-lampe-du-passeur", "sha256": "cd" * 32},
    "training": {"epochs": 3, "seed": 7, "canaries": 4},
    "train_losses": [2.5],
    "val_losses": [3.25],
    "eval_steps": [11],
    "steps": 12,
    "seconds": 75.0,
    "tokens_seen": [1234],
    "window": 16,
    "baselines": {"uniform": 5.7, "unigram": 4.2},
    "versions": {"gpt-architecture": "1", "torch": "2"},
}


def said(card, language=0):
    return dict(card.said(language))


def test_both_languages_have_the_same_facts():
    card = card_of(SHAPE, METADATA, sha256=WEIGHTS)
    french, english = said(card), said(card, 1)
    assert len(french) == len(english) == len(card.facts)
    assert french["Licence des données"] == "nouvelle écrite pour ce projet (MIT)"
    assert english["Data license"] == "la-lampe-du-passeur (MIT)"
    assert french["Perte finale"] == "entraînement 2,500, validation 3,250"
    assert english["Final loss"] == "training 2.500, validation 3.250"
    assert french["Canaris"] == "4, plantés exprès"
    assert french["Repères de validation"] == "hasard 5,70, unigramme 4,20"
    assert "12 étapes, au plus 3 époques, graine 7, 1 min 15 s" in french["Entraînement"]
    assert french["Tokens vus"] == "1 234"
    assert english["Tokens seen"] == "1,234"
    assert french["Empreinte des poids"] == f"sha256 {WEIGHTS}"
    assert french["Licence"] == "non précisée"
    assert card.languages == ("fr",)
    assert card.license is None


def test_nothing_is_made_up():
    card = card_of(SHAPE, {})
    french = said(card)
    for name, value in {
        "Données": "inconnues",
        "Licence des données": "inconnue",
        "Contexte d'entraînement": "inconnu",
        "Tokens vus": "inconnu",
        "Dernière perte mesurée": "entraînement inconnue, validation inconnue",
        "Confidentialité": "non mesurée",
    }.items():
        assert french[name] == value
    assert "Entraînement" not in french
    assert "Certificat" not in french
    assert (card.languages, card.datasets) == ((), ())
    strange = {"data": 3, "training": [], "tokens_seen": "x", "val_losses": ["a"], "seconds": "?"}
    assert said(card_of(SHAPE, strange))["Données"] == "inconnues"


def test_a_certificate_is_told_if_it_is_its_own(tmp_path):
    chain = Chain()
    facts = {"options": {}, "arithmetic": {"threads": 1}, "code": {}}
    chain.add("start", step=0, identity={"data": METADATA["data"]}, **facts)
    removal = {"data": "d", "tokenizer": "t", "neutral": 0, "train": [[0, 9]], "val": []}
    chain.add("removal", step=0, removal=removal)
    chain.save(tmp_path / CERTIFICATE)
    found = said(card_of(SHAPE, METADATA, folder=tmp_path))["Certificat"]
    assert found.startswith(f"2 maillons, tête {chain.head}, non signé, 1 oubli")
    chain.add("resume", step=0, removal=None)  # défait : le certificat ne montre plus rien
    chain.save(tmp_path / CERTIFICATE)
    assert "oubli" not in said(card_of(SHAPE, METADATA, folder=tmp_path))["Certificat"]
    other = {**METADATA, "data": {"name": "x", "sha256": "0" * 64}}
    assert "Certificat" not in said(card_of(SHAPE, other, folder=tmp_path))
    (tmp_path / CERTIFICATE).write_text("{", encoding="utf-8")
    assert "Certificat" not in said(card_of(SHAPE, METADATA, folder=tmp_path))


def test_a_privacy_dossier_is_told_if_it_is_of_these_weights(tmp_path):
    told = {
        "generator": PRIVACY_FORMAT,
        "weights_sha256": WEIGHTS,
        "canaries": {"canaries": 5, "found": 2},
        "extraction": {"by_prefix": [{"prefix": 4, "share": 0.0}, {"prefix": 8, "share": 0.25}]},
        "membership": {
            "attacks": [{"attack": "perte", "auc": 0.61}, {"attack": "aveugle", "auc": 0.9}]
        },
    }
    (tmp_path / PRIVACY).write_text(json.dumps(told), encoding="utf-8")
    card = card_of(SHAPE, METADATA, folder=tmp_path, sha256=WEIGHTS)
    assert said(card)["Confidentialité"] == (
        "2 canaris retrouvés sur 5, 25,0\u00a0% d'extraits rendus après 8 tokens, "
        "appartenance : AUC 0,61 au plus"
    )
    assert said(card, 1)["Privacy"].startswith("2 of 5 canaries found, 25.0% of extracts")
    for sha256 in ("0" * 64, None):
        again = card_of(SHAPE, METADATA, folder=tmp_path, sha256=sha256)
        assert said(again)["Confidentialité"] == "non mesurée"
    for broken in ("[]", "{", '{"generator": "autre"}'):
        (tmp_path / PRIVACY).write_text(broken, encoding="utf-8")
        assert privacy_of(tmp_path, WEIGHTS) is None


def test_the_folder_of_a_model(tmp_path):
    (tmp_path / "gpt-model.pt").write_bytes(b"")
    for name in (tmp_path, tmp_path / "gpt-model.pt", str(tmp_path)):
        assert model_folder(name) == tmp_path
    assert model_folder("nulle-part") is None


@pytest.mark.parametrize(
    ("name", "language", "licence"),
    [
        (VERDICT, "en", "domaine public"),
        (NOVELS, "fr", "domaine public"),
        ("la-lampe-du-passeur", "fr", "MIT"),
        ("debian-reference-fr", "fr", "GPL-2+"),
    ],
)
def test_known_texts_are_known_by_name(name, language, licence):
    (found,) = known_texts(name)
    assert (found.language, found.licence) == (language, licence)


def test_a_pinned_text_is_known_by_its_fingerprint():
    (found,) = known_texts("mon-fichier", RECIPES[VERDICT].sha256)
    assert found.name == VERDICT
    assert known_texts(VERDICT, "0" * 64) == [None], "un autre texte de ce nom"
    two = known_texts("salammbo+inconnu")
    assert (two[0].name, two[1]) == ("salammbo", None)
    mixed = card_of(SHAPE, {"data": {"name": "salammbo+inconnu", "sha256": "0" * 64}})
    assert mixed.languages == (), "une langue n'est dite que si elle l'est de chaque texte"
