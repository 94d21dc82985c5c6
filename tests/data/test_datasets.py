"""Les données d'un entraînement : texte, ou dossier de fragments."""

import numpy as np
import pytest
from conftest import FRENCH_TEXT
from shard_helpers import write_folder

from gpt_architecture.config import TrainingConfig
from gpt_architecture.data.datasets import load_training_data, preset_settings
from gpt_architecture.data.loader import create_train_val_loaders
from gpt_architecture.data.sampler import WindowSampler
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import ConfigurationError, DataError
from gpt_architecture.training.inputs import Origins
from gpt_architecture.training.preparation import request_of

TRAINING = TrainingConfig()


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "texte.txt"
    path.write_text(FRENCH_TEXT, encoding="utf-8")
    return path


def write_shard(path, ids):
    """Un fragment à la façon de llm.c."""
    header = np.zeros(256, dtype="<i4")
    header[:3] = (20240520, 1, len(ids))
    path.write_bytes(header.tobytes() + np.asarray(ids, dtype="<u2").tobytes())


@pytest.fixture
def shards(tmp_path):
    """Un dossier FineWeb en miniature."""
    folder = tmp_path / "fineweb"
    folder.mkdir()
    ids = get_tokenizer("gpt2").encode(FRENCH_TEXT)
    write_shard(folder / "fineweb_train_000001.bin", ids[:200])
    write_shard(folder / "fineweb_train_000002.bin", ids[200:300])
    write_shard(folder / "fineweb_val_000000.bin", ids[300:360])
    return folder


def load(source, tokenizer="gpt2", window=8, training=TRAINING):
    return load_training_data([str(source)], tokenizer, window=window, training=training)


@pytest.mark.parametrize("name", ["gpt2", "simple-v2"])
def test_text_gives_the_windows_of_the_simple_loop(text, name):
    """Mêmes tokens, même coupe : les fenêtres sont celles des chargeurs d'origine."""
    data = load(text, name)
    train, val = create_train_val_loaders(
        FRENCH_TEXT, data.tokenizer, context_length=8, training=TRAINING
    )
    for source, loader in ((data.train, train), (data.val, val)):
        ids = loader.dataset.token_ids
        assert source.num_tokens == len(ids)
        assert source.read(0, len(ids)).tolist() == ids.tolist()
        sampler = WindowSampler(source.num_tokens, 8, batch_size=1, seed=0)
        assert sampler.num_windows == len(loader.dataset)
    assert (data.name, data.opening) == ("texte", "Le passeur leva la")


def test_identity_follows_the_content(text):
    before = load(text)
    assert load(text).sha256 == before.sha256
    text.write_text(FRENCH_TEXT + "!", encoding="utf-8")
    assert load(text).sha256 != before.sha256
    assert load(text, "simple-v2").tokenizer_sha256 != before.tokenizer_sha256


def test_shards_of_llm_c(shards):
    data = load(shards)
    assert (data.train.num_tokens, data.val.num_tokens) == (300, 60)
    assert data.tokenizer.name == "gpt2"
    assert data.opening == "Le passeur leva la"
    assert data.name == "fineweb"
    with pytest.raises(ConfigurationError, match="fineweb, codé par gpt2"):
        load(shards, _words(shards))


def test_the_vocabulary_of_a_preset_yields_to_the_shards(shards):
    """Un préréglage ne nomme pas le tokenizer de fragments ; celui qu'on tape est refusé."""
    assert preset_settings("eclair", "la-lampe-du-passeur")["tokenizer"] == "bpe-1024"
    assert request_of({"preset": "eclair", "data": shards}, Origins()).run.tokenizer == "gpt2"
    asked = {"preset": "eclair", "data": shards, "tokenizer": "bpe-1024"}
    assert request_of(asked, Origins()).run.tokenizer == "bpe-1024"
    with pytest.raises(ConfigurationError, match=r"bpe-1024 pour .*fineweb, codé par gpt2"):
        load(shards, "bpe-1024")


def test_shards_too_short_name_their_preparation(shards):
    with pytest.raises(DataError, match=r"part de validation : .*60 tokens.*val_fraction"):
        load(shards, window=80)


def write_indexed(folder):
    ids = get_tokenizer("gpt2").encode(FRENCH_TEXT)
    splits = {"train": [ids[:200], ids[200:300]], "val": [ids[300:360]]}
    tokenizer = get_tokenizer("gpt2").to_dict()
    return write_folder(folder, splits, tokenizer=tokenizer)


@pytest.mark.parametrize("part", ["train_000001", "val_000000"])
def test_shards_that_changed_are_refused(tmp_path, part):
    """L'empreinte de l'index n'est pas crue sur parole : elle dit qui est l'entraînement."""
    folder = write_indexed(tmp_path / "fragments")
    assert load(folder).train.num_tokens == 300
    path = folder / f"{part}.bin"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{part}\.bin : contenu changé"):
        load(folder)


def test_shards_beyond_their_tokenizer_are_refused(tmp_path):
    """L'index annonce plus de tokens que son tokenizer n'en a : la borne est la sienne."""
    words = get_tokenizer("simple-v2", text=FRENCH_TEXT)
    ids = [*range(words.vocab_size), words.vocab_size]
    folder = write_folder(
        tmp_path / "fragments",
        {"train": [ids], "val": [ids[:20]]},
        vocab_size=60_000,
        tokenizer=words.to_dict(),
    )
    with pytest.raises(DataError, match=f"identifiant {words.vocab_size}"):
        load(folder, window=2, training=TrainingConfig(batch_size=1))


def _words(folder):
    """Le fichier d'un tokenizer de mots."""
    path = folder.parent / "mots.json"
    get_tokenizer("simple-v2", text=FRENCH_TEXT).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 10_000}, "part d'entraînement : texte trop court"),
        ({"window": 250}, "part de validation : texte trop court"),
        ({"training": TrainingConfig(batch_size=90, accumulate=9)}, "un lot entier de 810"),
    ],
)
def test_too_short_says_which_part(text, options, words):
    with pytest.raises(DataError, match=words):
        load(text, **options)
