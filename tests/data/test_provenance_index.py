"""L'index du texte d'entraînement : tout ce qu'une recherche naïve trouve, et rien d'autre."""

import hashlib
import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
from conftest import FRENCH_TEXT
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_helpers import write_folder

from gpt_architecture.data.provenance import build as library
from gpt_architecture.data.provenance.build import MIN_MEMORY, build_index
from gpt_architecture.data.provenance.chance import Chance, measure_chance
from gpt_architecture.data.provenance.index import STRETCH_TOKENS, TextIndex
from gpt_architecture.data.provenance.suffixes import (
    common_end,
    common_start,
    sorted_block,
    suffix_order,
)
from gpt_architecture.data.shards.plan import PrepareConfig
from gpt_architecture.data.shards.prepare import prepare_tokens, write_tokens
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.data.texts.shares import Share
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import ConfigurationError, DataError, OutputError

EOS = 50256
FILES = ("provenance.json", "provenance_000000.suf")

few = st.sampled_from([1, 2, 256, 257, EOS])  # des octets qui se répondent, des séparateurs
shards = st.lists(st.lists(few, min_size=1, max_size=25), min_size=1, max_size=4)
queries = st.lists(few, min_size=1, max_size=30)


def indexed(folder, parts, val=([7] * 40,)):
    """L'index de fragments écrits à la main ; chacun fait au moins un bloc."""
    shutil.rmtree(folder, ignore_errors=True)
    write_folder(folder, {"train": parts, "val": list(val)})
    return build_index(folder)


def naive_places(corpus, passage):
    """Toutes les places d'un passage, en les essayant toutes."""
    size = len(passage)
    return [at for at in range(len(corpus) - size + 1) if corpus[at : at + size] == passage]


def naive_lengths(corpus, text):
    """La plus longue suite qui commence à chaque place, sans séparateur."""
    found = []
    for start in range(len(text)):
        length = 0
        for end in range(start + 1, len(text) + 1):
            passage = text[start:end]
            if EOS in passage or not naive_places(corpus, passage):
                break
            length = end - start
        found.append(length)
    return found


@given(parts=shards, text=queries)
@settings(deadline=None, max_examples=60)
def test_nothing_is_missed_and_nothing_invented(tmp_path_factory, parts, text):
    """Longueurs, occurrences et places, à travers blocs et frontières, contre la force brute."""
    index = indexed(tmp_path_factory.getbasetemp() / "naif", parts)
    corpus = [token for part in parts for token in part]
    lengths = index.lengths(text)
    assert lengths == naive_lengths(corpus, text)
    for start, length in enumerate(lengths):
        if length:
            passage = text[start : start + length]
            places = naive_places(corpus, passage)
            assert index.find(passage, 1000) == (len(places), places)


@given(parts=shards)
@settings(deadline=None, max_examples=40)
def test_each_place_has_its_document(tmp_path_factory, parts):
    """Numéro et premier token, que le texte commence ou non par un séparateur."""
    index = indexed(tmp_path_factory.getbasetemp() / "documents", parts)
    corpus = [token for part in parts for token in part]
    number, start = int(corpus[0] != EOS), 0
    for place, token in enumerate(corpus):
        if token == EOS:
            number, start = number + 1, place + 1
        else:
            assert index.document(place) == (number, start)
    assert index.num_documents == number


def test_documents_far_apart_are_found(tmp_path):
    """Un document plus long que les morceaux où les séparateurs sont comptés."""
    size = 2 * STRETCH_TOKENS + 10
    corpus = np.tile(np.arange(1, 100, dtype=np.uint16), size // 99 + 1)[:size]
    corpus[[0, 5]] = EOS
    folder = tmp_path / "d"
    write_tokens(folder, TokenArray(corpus), None, get_tokenizer("gpt2"), name="long.txt")
    index = build_index(folder)
    assert index.num_documents == 2
    assert index.document(3) == (1, 1)
    assert index.document(size - 1) == (2, 6)
    before, passage, after = index.around(7, 3, 24)
    assert (before, passage, len(after)) == ([corpus[6]], corpus[7:10].tolist(), 24)


@given(tokens=st.lists(st.integers(0, 300), max_size=60), depth=st.none() | st.integers(1, 9))
@settings(deadline=None)
def test_suffixes_are_in_order(tokens, depth):
    order = suffix_order(np.array(tokens, dtype=np.int64), depth)
    heads = [tokens[place : None if depth is None else place + depth] for place in order]
    assert sorted(order) == list(range(len(tokens)))
    assert heads == sorted(heads)


def test_the_order_on_disk_is_that_of_the_bytes(tmp_path):
    """256 s'écrit 00 01 : il vient avant 1, qui s'écrit 01 00."""
    folder = write_folder(tmp_path / "d", {"train": [[1, 256, 1, 2]]})
    data = sorted_block(folder / "train_000000.bin", 0, 4)
    places = [int.from_bytes(data[at : at + 3], "little") for at in range(0, 12, 3)]
    assert places == [1, 0, 2, 3]


@given(first=st.binary(max_size=9), second=st.binary(max_size=9))
def test_common_bytes(first, second):
    size = next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    shortest = min(len(first), len(second))
    assert common_start(first, second) == (shortest if size is None else size)
    if first and second:
        assert common_end(first[::-1], second[::-1]) == common_start(first, second)


def test_one_repeated_token(tmp_path):
    """Le pire texte : tous les suffixes se ressemblent."""
    index = indexed(tmp_path / "d", [[5] * 3000, [5] * 2000])
    assert index.lengths([5] * 300) == list(range(300, 0, -1))
    count, places = index.find([5] * 300, 2)
    assert (count, len(set(places))) == (4701, 2)
    assert all(0 <= place <= 4700 for place in places)


def test_a_passage_longer_than_the_blocks(tmp_path):
    """Il traverse trois fragments, donc trois blocs."""
    parts = [list(range(1, 40)), list(range(40, 60)), list(range(60, 100))]
    index = indexed(tmp_path / "d", parts)
    text = [7, *range(10, 95), 7]
    assert max(index.lengths(text)) == 85
    assert index.find(list(range(10, 95)), 3) == (1, [9])


def test_foreign_tokens_match_nothing(tmp_path):
    """Un identifiant qu'aucun fragment ne peut contenir coupe le texte."""
    index = indexed(tmp_path / "d", [[1, 2, 3]])
    assert index.lengths([1, 2, 70_000, -1, 3]) == [2, 1, 0, 0, 1]
    assert index.lengths([]) == []


def contents(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("provenance*")
    }


class Killed(BaseException):
    """Une mort qu'aucun `except` n'attend."""


@pytest.mark.parametrize("count", range(1, 9))
def test_a_build_killed_anywhere_is_resumed(tmp_path, monkeypatch, count):
    """Tué avant sa n-ième écriture, il reprend et rend les mêmes octets."""
    parts = [[1, 2, 3, 1, 2], [4, 5, 1, 2], [EOS, 9, 1, 2, 3]]
    whole, folder = tmp_path / "entier", tmp_path / "tué"
    indexed(whole, parts)
    write_folder(folder, {"train": parts, "val": [[7] * 40]})
    left = iter(range(count - 1))

    def dying(write):
        def call(*args, **options):
            if next(left, None) is None:
                raise Killed
            return write(*args, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("write_json", "write_atomically"):
            patch.setattr(library, name, dying(getattr(library, name)))
        with pytest.raises(Killed):
            build_index(folder)
    assert not (folder / "provenance.json").exists()
    build_index(folder)
    assert contents(folder) == contents(whole)


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    """La reprise ne range que les blocs qui manquent ; un bloc abîmé se refait."""
    folder = write_folder(tmp_path / "d", {"train": [[1, 2], [3, 4], [5, 6]], "val": [[7] * 20]})
    done, real = [], library.sorted_block

    def counting(path, start, count):
        if len(done) == 2:
            raise Killed
        done.append(path.name)
        return real(path, start, count)

    monkeypatch.setattr(library, "sorted_block", counting)
    with pytest.raises(Killed):
        build_index(folder)
    done.clear()
    (folder / "provenance_000001.suf").write_bytes(b"\0" * 6)
    build_index(folder)
    assert done == ["train_000001.bin", "train_000002.bin"]
    done.clear()
    build_index(folder)
    assert done == []


def test_another_text_is_never_mixed(tmp_path):
    """Ni l'état ni l'index d'un autre texte ne servent : refusés, ou refaits."""
    folder = tmp_path / "d"
    old = indexed(folder, [[1, 2, 3]])
    assert old.find([1, 2], 1) == (1, [0])
    write_folder(folder, {"train": [[4, 5, 6]], "val": [[7] * 20]})
    with pytest.raises(DataError, match="le texte a changé"):
        build_index(folder)
    new = build_index(folder, force=True)
    assert new.find([4, 5], 1) == (1, [0])
    assert new.lengths([1, 2]) == [0, 0]


@pytest.mark.slow
def test_processes_do_not_change_the_bytes(tmp_path, monkeypatch):
    """Des blocs de même taille, rangés par un processus ou par deux."""
    monkeypatch.setattr(library, "MAX_BLOCK_TOKENS", 64)
    parts = [list(range(1, 200)), [EOS, *range(50, 150)]]
    for name, workers in (("un", 1), ("deux", 2)):
        folder = write_folder(tmp_path / name, {"train": parts, "val": [[7] * 40]})
        build_index(folder, workers=workers)
    assert contents(tmp_path / "un") == contents(tmp_path / "deux")
    assert len(contents(tmp_path / "un")) > 6


def break_file(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("provenance_000000.suf", lambda data: data[:-1], "8 octets au lieu de 9"),
        ("provenance.json", lambda data: data[:40], "illisible"),
        ("provenance.json", lambda data: b"[]", "pas un objet JSON"),
        ("provenance.json", lambda data: data.replace(b'"version": 1', b'"version": 9'), "version"),
        ("provenance.json", lambda data: data.replace(b"/provenance", b"/autre"), "autre format"),
        ("provenance.json", lambda data: data.replace(b'"chance"', b'"hasard"'), "incomplète"),
        ("provenance.json", lambda data: data.replace(b'"blocks": [', b'"blocks": [1,'), "incompl"),
    ],
)
def test_damage_is_named_at_once(tmp_path, name, change, said):
    folder = tmp_path / "d"
    indexed(folder, [[1, 2, 3]])
    data = json.loads((folder / "provenance.json").read_text("utf-8"))
    (folder / "provenance.json").write_text(json.dumps(data), "utf-8")
    break_file(folder, name, change)
    with pytest.raises(DataError, match=said) as refused:
        TextIndex(folder)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path):
    folder = tmp_path / "d"
    indexed(folder, [[1, 2, 3]])
    (folder / "provenance_000000.suf").unlink()
    with pytest.raises(DataError, match=r"provenance_000000\.suf : fichier absent"):
        TextIndex(folder)
    (folder / "provenance.json").unlink()
    with pytest.raises(DataError, match="n'a pas d'index"):
        TextIndex(folder)


def test_verify_sees_a_flipped_bit(tmp_path):
    """De l'index comme des fragments ; ouvrir ne relit pas tout, vérifier si."""
    folder = tmp_path / "d"
    indexed(folder, [[1, 2, 3]]).verify()
    flip = lambda data: bytes([*data[:-1], data[-1] ^ 1])  # noqa: E731
    break_file(folder, "provenance_000000.suf", flip)
    with pytest.raises(DataError, match=r"provenance_000000\.suf a changé"):
        TextIndex(folder).verify()
    break_file(folder, "provenance_000000.suf", flip)
    break_file(folder, "train_000000.bin", flip)
    with pytest.raises(DataError, match="contenu changé"):
        TextIndex(folder).verify()


def test_a_damaged_order_never_escapes(tmp_path):
    """Des places au-delà du bloc : des réponses fausses peut-être, jamais une lecture au-dehors."""
    folder = tmp_path / "d"
    indexed(folder, [list(range(1, 30))])
    break_file(folder, "provenance_000000.suf", lambda data: b"\xff" * len(data))
    index = TextIndex(folder)
    assert index.lengths([1, 2, 3]) == [0, 0, 0]


@pytest.mark.parametrize("memory", [0, MIN_MEMORY - 1, True])
def test_too_little_memory_is_refused(tmp_path, memory):
    folder = write_folder(tmp_path / "d", {"train": [[1, 2]]})
    with pytest.raises(ConfigurationError, match="memory"):
        build_index(folder, memory=memory)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "d", {"train": [[1, 2], [3]], "val": [[7] * 20]})

    def full(*_args):
        raise OSError(28, "plein")

    with monkeypatch.context() as patch:
        patch.setattr(library, "file_sha256", full)
        with pytest.raises(OutputError, match="disque plein"):
            build_index(folder)
    assert build_index(folder).lengths([1, 2, 3]) == [3, 2, 1]


TEXTS = {
    "a.txt": FRENCH_TEXT,
    "b.txt": "Le vent tomba.<|endoftext|>La pluie vint.",
    "c.txt": "Un soir d'octobre, la cloche sonna trois fois, et nul ne vint ouvrir.",
}


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "textes"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_documents_keep_the_name_of_their_source(tmp_path, sources):
    """Y compris quand le texte en sépare plusieurs, et qu'une part va à la validation."""
    tokenizer = get_tokenizer("gpt2")
    prepare_tokens([sources], tmp_path / "d", tokenizer=tokenizer)
    index = build_index(tmp_path / "d")
    for name, text in TEXTS.items():
        for document in text.split("<|endoftext|>"):
            ids = tokenizer.encode(document)
            count, places = index.find(ids, 1)
            if count:
                number, start = index.document(places[0])
                assert (start, index.name_of(number)) == (places[0], name)
    names = {index.name_of(each + 1) for each in range(index.num_documents)}
    assert len(names & TEXTS.keys()) == len(names) >= 2
    assert index.name_of(99) is None


def test_tasks_keep_the_same_names(tmp_path, sources):
    """Réunies, les parts ont les noms d'une préparation d'une traite."""
    tokenizer, config = get_tokenizer("gpt2"), PrepareConfig(val_fraction=0.3)
    asked = {"tokenizer": tokenizer, "config": config}
    prepare_tokens([sources], tmp_path / "seul", **asked)
    for number in (1, 2):
        prepare_tokens([sources], tmp_path / "d", task=Share.parse(f"{number}/2"), **asked)
    prepare_tokens([sources], tmp_path / "d", merge=True, **asked)
    alone, joined = (
        json.loads((tmp_path / name / "index.json").read_text("utf-8"))["origins"]
        for name in ("seul", "d")
    )
    assert alone == joined != []


def test_preparing_again_spares_the_index_and_force_removes_it(tmp_path, sources):
    tokenizer = get_tokenizer("gpt2")
    folder = tmp_path / "d"
    prepare_tokens([sources], folder, tokenizer=tokenizer)
    build_index(folder)
    before = contents(folder)
    assert prepare_tokens([sources], folder, tokenizer=tokenizer).outcome == "present"
    assert contents(folder) == before
    config = PrepareConfig(seed=3)
    prepare_tokens([sources], folder, tokenizer=tokenizer, config=config, force=True)
    assert contents(folder) == {}


def test_given_tokens_are_written_once(tmp_path):
    """Les mêmes tokens ne se récrivent pas ; d'autres demandent `force`."""
    folder, tokenizer = tmp_path / "d", get_tokenizer("gpt2")
    train, val = TokenArray([5, EOS, 6, 7]), TokenArray([8] * 20)
    write_tokens(folder, train, val, tokenizer, name="texte.txt", shard_tokens=3)
    before = (folder / "index.json").stat().st_mtime_ns
    write_tokens(folder, train, val, tokenizer, name="texte.txt", shard_tokens=3)
    assert (folder / "index.json").stat().st_mtime_ns == before
    index = build_index(folder)
    assert index.tokens.read(0, 4).tolist() == [5, EOS, 6, 7]
    assert (index.num_documents, index.name_of(2)) == (2, "texte.txt")
    other = TokenArray([9, 9])
    with pytest.raises(OutputError, match="d'autres réglages"):
        write_tokens(folder, other, val, tokenizer, name="texte.txt", shard_tokens=3)
    write_tokens(folder, other, val, tokenizer, name="texte.txt", shard_tokens=3, force=True)
    assert build_index(folder).num_tokens == 2


def test_chance_is_that_of_unseen_windows():
    """À la main : 40 tokens inédits, deux extraits de 16, dont le premier partage 5 tokens."""
    unseen = TokenArray([*range(100, 140)])
    lengths = [1] * 40
    lengths[3:8] = [5, 4, 3, 2, 1]
    found = measure_chance(TokenArray([1, 2, 3, 1]), unseen, lambda ids: lengths[: len(ids)])
    assert (found.lengths, found.windows, found.is_measured) == ({16: 5, 32: 5}, 2, True)
    assert [found.length(size) for size in (1, 4, 16, 20, 32)] == [1, 4, 5, 5, 5]
    assert found.length(1000) > 5
    assert Chance.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_match_is_cut_where_its_window_ends():
    """Un passage de 10 tokens qui enjambe deux extraits de 16 n'en est qu'un bout pour chacun."""
    lengths = [0] * 32
    lengths[12:22] = range(10, 0, -1)
    found = measure_chance(TokenArray([1, 2]), TokenArray([*range(32)]), lambda ids: lengths)
    assert found.lengths == {16: 6, 32: 10}


def test_without_unseen_text_chance_is_estimated():
    """log(N·M) / H, l'entropie étant celle d'un token sachant le précédent."""
    rng = np.random.default_rng(0)
    source = TokenArray(rng.integers(0, 16, 60_000))
    found = measure_chance(source, None, lambda ids: [0] * len(ids))
    assert not found.is_measured
    assert found.entropy == pytest.approx(np.log(16), rel=0.01)
    assert found.length(60) == int(np.ceil(np.log(60_000 * 60) / found.entropy))
    constant = measure_chance(TokenArray([5] * 100), TokenArray([6] * 8), lambda ids: [0])
    assert (constant.is_measured, constant.length(10)) == (False, 10)


def test_lengths_are_monotone_like_a_true_index(tmp_path):
    """Le passage d'après en garde tout sauf un token : ce que suppose la mesure des passages."""
    rng = np.random.default_rng(1)
    corpus = rng.integers(1, 6, 900).tolist()
    index = indexed(tmp_path / "d", [corpus[:400], corpus[400:]])
    lengths = index.lengths(corpus[350:450] + rng.integers(1, 6, 40).tolist())
    assert all(after >= before - 1 for before, after in pairwise(lengths))
    assert lengths[0] >= 100
