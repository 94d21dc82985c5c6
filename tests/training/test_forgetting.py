"""L'oubli exact : les poids sont ceux d'un entraînement masqué dès le début, au bit près."""

import json
import re
import shutil

import pytest
from certificate_helpers import edit_chain
from forget_helpers import (
    KEPT,
    TINY,
    forgotten,
    late_passage,
    masked_from_the_start,
    weights_of,
    write_documents,
    write_shards,
    write_talks,
)

from gpt_architecture import forget, train, verify
from gpt_architecture.api.privacy import removed_texts
from gpt_architecture.config import TrainingConfig
from gpt_architecture.data.datasets import load_training_data
from gpt_architecture.data.removal import REMOVAL_NAME, read_removal
from gpt_architecture.data.sampler import WindowSampler
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.errors import (
    CertificateError,
    ConfigurationError,
    DataError,
    GPTArchitectureError,
)
from gpt_architecture.formats.journal import JOURNAL
from gpt_architecture.formats.model_file import MODEL_NAME, read_model
from gpt_architecture.formats.story import read_story
from gpt_architecture.storage.chain import CERTIFICATE, read_chain
from gpt_architecture.training.checkpoint import CheckpointStore
from gpt_architecture.training.forgetting import ASIDE, WORK

LATE = {"save_every": 2, "epochs": 1, "max_steps": 40, "stride": 48}
"""Une époque lue une fois : un passage a une première lecture, et des étapes d'avant."""

CASES = {
    "sans dropout": ({"drop_rate": 0.0}, {"document": "b.txt"}),
    "dropout": ({**LATE}, {"text": "tardif"}),
    "accumulation": ({"accumulate": 2, "clip": 0.1}, {"document": "a.txt"}),
    "accumulation, une époque": ({**LATE, "accumulate": 3, "batch_size": 1}, {"text": "tardif"}),
    "plusieurs époques": ({"epochs": 3, "max_steps": 40, "stride": 64}, {"document": "c.txt"}),
    "étapes vides": ({**LATE, "batch_size": 1}, {"document": ["a.txt", "b.txt"]}),
    "muon": ({"optimizer": "muon", "schedule": "cosine", "warmup_steps": 2}, {"lines": "1"}),
    "documents séparés": ({"tokenizer": "bpe-280", "document_mask": True}, {"document": "b.txt"}),
    "mots": ({"tokenizer": "simple-v2", "context_length": 8, "positions": 8}, {"text": "phrase"}),
    "fusionné": ({"engine": "auto", "precision": "auto"}, {"document": "b.txt"}),
    "économe": ({"engine": "auto", "memory": "lean"}, {"document": "b.txt"}),
    "sans point de reprise": ({"save_every": None, "max_steps": 6}, {"document": "b.txt"}),
    "points étalés": ({**LATE, "keep": 2, "keep_spread": 4}, {"text": "tardif"}),
    "wsd, une époque": (
        {**LATE, "schedule": "wsd", "final_lr": 0.1, "save_best": True},
        {"text": "tardif"},
    ),
}
LAST = ("dropout", "accumulation, une époque", "points étalés", "wsd, une époque")
"""Ceux où l'oubli repart d'un point de reprise, et non du début."""

QUICK = ("sans dropout", "dropout", "accumulation, une époque", "documents séparés")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Quatre documents ; un passage lu tard, une phrase, un morceau de la validation."""
    folder = tmp_path_factory.mktemp("textes")
    place = write_documents(folder)
    late = late_passage(
        place, lambda n: WindowSampler(n, 16, stride=48, batch_size=2, seed=TrainingConfig.seed)
    )
    words = (place / "b.txt").read_text(encoding="utf-8").split(" ")
    for name, text in {"tardif": late, "phrase": " ".join(words[10:20])}.items():
        (folder / f"{name}.txt").write_text(f"{text}\n", encoding="utf-8")
    return place


def target_in(texts, target):
    if "text" in target:
        return {"text": texts.with_name(f"{target['text']}.txt")}
    return {**target, "document": "b.txt"} if "lines" in target else target


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_it_is_the_run_masked_from_the_start(name, texts, tmp_path):
    changes, target = CASES[name]
    settings = {**TINY, **KEPT, **changes}
    train(str(texts), **settings, output_dir=tmp_path / "m")
    before = weights_of(tmp_path / "m")
    found = forgotten(tmp_path / "m", **target_in(texts, target))
    after = weights_of(tmp_path / "m")
    removal = tmp_path / "m" / REMOVAL_NAME
    assert after != before
    assert after == masked_from_the_start(tmp_path / "oracle", str(texts), settings, removal)
    checked = verify(tmp_path / "m", str(texts), part=1)
    assert (checked.differences, checked.exact) == ([], True), str(checked)
    assert found.tokens > 0
    assert not (tmp_path / "m" / WORK).exists()
    assert found.restart <= found.first
    assert found.restart > 0 or name not in LAST


@pytest.mark.slow
def test_early_stopping_no_longer_depends_on_it(texts, tmp_path):
    """La validation mesurée en contenait : l'oubli repart du début, et s'arrête où il faut."""
    settings = {**TINY, **KEPT, "patience": 2, "eval_freq": 1, "lr": 0.05, "max_steps": 30}
    train(str(texts), **settings, output_dir=tmp_path / "m")
    training = TrainingConfig(train_ratio=TINY["train_ratio"])
    data = load_training_data([str(texts)], "char", window=16, training=training)
    held = data.tokenizer.decode(data.val.read(2, 20).tolist()).strip()
    (tmp_path / "tenu.txt").write_text(held, encoding="utf-8")
    found = forgotten(tmp_path / "m", text=tmp_path / "tenu.txt")
    assert (found.first, found.restart, found.val_tokens) == (0, 0, len(held))
    removal = tmp_path / "m" / REMOVAL_NAME
    assert weights_of(tmp_path / "m") == masked_from_the_start(
        tmp_path / "o", str(texts), settings, removal
    )


def test_conversations(tmp_path):
    talks = write_talks(tmp_path)
    shape = {"context_length": 64, "positions": 64, "tokenizer": "bpe-280", "epochs": 2}
    for number, changes in enumerate(({}, {"document_mask": True, "context_length": 128})):
        settings = {**TINY, **KEPT, **shape, "max_steps": 8, **changes, "chat": talks}
        settings["positions"] = settings["context_length"]
        folder, oracle = tmp_path / f"m{number}", tmp_path / f"o{number}"
        train(**settings, output_dir=folder)
        found = forgotten(folder, document="4")
        assert found.tokens > 0
        expected = masked_from_the_start(oracle, None, settings, folder / REMOVAL_NAME)
        assert weights_of(folder) == expected
        assert verify(folder, chat=talks, part=1).exact
        with pytest.raises(DataError, match="aucun document '99'"):
            forget(folder, document="99", estimate=True)


def test_adapters(texts, tmp_path):
    base = tmp_path / "base"
    train(str(texts), **{**TINY, **KEPT, "max_steps": 2}, output_dir=base)
    shape = ("tokenizer", "context_length", "positions", "emb_dim", "n_heads", "n_layers")
    settings = {name: value for name, value in {**TINY, **KEPT}.items() if name not in shape}
    settings |= {"start": base, "lora_rank": 2, "lora_dropout": 0.1, "max_steps": 6}
    train(str(texts), **settings, output_dir=tmp_path / "m")
    found = forgotten(tmp_path / "m", document="b.txt")
    assert "le modèle de départ, s'il a lu ce texte" in found.remaining
    removal = tmp_path / "m" / REMOVAL_NAME
    expected = masked_from_the_start(tmp_path / "o", str(texts), settings, removal)
    assert weights_of(tmp_path / "m") == expected
    assert verify(tmp_path / "m", str(texts), start=base, part=1).exact
    assert found.recalled[0] is not None  # les adaptateurs retrouvent encore leur modèle
    from gpt_architecture import load

    assert load(tmp_path / "m").generate("Un", max_tokens=2)


def test_a_mixture(texts, tmp_path):
    sources = [f"un={texts / 'a.txt'}:0.7", f"deux={texts / 'b.txt'}:0.3"]
    settings = {**TINY, **KEPT, "sources": sources}
    train(**settings, output_dir=tmp_path / "m")
    forgotten(tmp_path / "m", document="deux/b.txt", lines="1-1")
    removal = tmp_path / "m" / REMOVAL_NAME
    assert weights_of(tmp_path / "m") == masked_from_the_start(
        tmp_path / "o", None, settings, removal
    )
    assert verify(tmp_path / "m", sources=sources, part=1).exact
    with pytest.raises(DataError, match="plusieurs sources"):
        forget(tmp_path / "m", lines="1-1", estimate=True)


def test_shards(texts, tmp_path):
    shards = write_shards(tmp_path, texts)
    settings = {**TINY, **KEPT, "tokenizer": "gpt2"}
    train(str(shards), **settings, output_dir=tmp_path / "m")
    by_rank = forget(tmp_path / "m", document="2", estimate=True)
    by_text = forget(tmp_path / "m", text=texts / "b.txt", estimate=True)
    assert by_rank.tokens == by_text.tokens > 0
    assert by_rank.removal == by_text.removal
    for wrong in ({"document": "b.txt"}, {"lines": "1-2"}):
        with pytest.raises(DataError, match="fragments"):
            forget(tmp_path / "m", **wrong, estimate=True)
    found = forgotten(tmp_path / "m", document="2")
    assert any("fragments" in each for each in found.remaining)
    removal = tmp_path / "m" / REMOVAL_NAME
    assert weights_of(tmp_path / "m") == masked_from_the_start(
        tmp_path / "o", str(shards), settings, removal
    )


# --- Plusieurs oublis, un oubli interrompu ----------------------------------------------------


def test_two_removals_compose(texts, tmp_path):
    settings = {**TINY, **KEPT, **LATE}
    for folder in ("m", "ensemble"):
        train(str(texts), **settings, output_dir=tmp_path / folder)
    one = forgotten(tmp_path / "m", document="c.txt")
    two = forgotten(tmp_path / "m", text=texts.with_name("tardif.txt"))
    both = forgotten(tmp_path / "ensemble", document="c.txt", text=texts.with_name("tardif.txt"))
    assert one.removal != two.removal == both.removal
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "ensemble")
    removal = tmp_path / "m" / REMOVAL_NAME
    assert weights_of(tmp_path / "m") == masked_from_the_start(
        tmp_path / "o", str(texts), settings, removal
    )
    assert verify(tmp_path / "m", str(texts), part=1).exact
    history = json.loads(removal.read_text(encoding="utf-8"))["history"]
    assert [each["sha256"] for each in history] == [one.removal, two.removal]
    links = read_chain(tmp_path / "m" / CERTIFICATE).links
    assert [each["kind"] for each in links].count("removal") == 2
    again = forget(tmp_path / "m", document="c.txt")
    assert (again.done, again.redone, again.tokens) == (False, 0, 0)
    assert "déjà retiré" in str(again)


def test_an_interrupted_one_resumes(texts, tmp_path):
    settings = {**TINY, **KEPT}
    train(str(texts), **settings, output_dir=tmp_path / "m")
    before = weights_of(tmp_path / "m")
    kept = CheckpointStore(tmp_path / "m/checkpoints").steps()
    left = [7]

    def stop():
        left[0] -= 1
        return left[0] < 0

    found = forget(tmp_path / "m", document="b.txt", progress=False, should_stop=stop)
    assert not found.done
    assert weights_of(tmp_path / "m") == before  # l'ancien est intact
    assert CheckpointStore(tmp_path / "m/checkpoints").steps() == kept
    with pytest.raises(ConfigurationError, match="un oubli d'autre chose"):
        forget(tmp_path / "m", document="c.txt", progress=False)
    forgotten(tmp_path / "m", document="b.txt")
    removal = tmp_path / "m" / REMOVAL_NAME
    assert weights_of(tmp_path / "m") == masked_from_the_start(
        tmp_path / "o", str(texts), settings, removal
    )
    assert verify(tmp_path / "m", str(texts), part=1).exact


def test_a_run_of_train_may_be_resumed_with_its_removal(texts, tmp_path):
    """`train(forget=…)`, interrompu puis repris, puis un oubli de plus : le même retrait reste."""
    settings = {**TINY, **KEPT}
    train(str(texts), **settings, output_dir=tmp_path / "m")
    forgotten(tmp_path / "m", document="b.txt")
    removal = tmp_path / "m" / REMOVAL_NAME
    left = [5]

    def stop():
        left[0] -= 1
        return left[0] < 0

    run = train(str(texts), **settings, output_dir=tmp_path / "n", forget=removal, should_stop=stop)
    assert not run.complete
    train(resume=tmp_path / "n", progress=False)
    assert weights_of(tmp_path / "n") == weights_of(tmp_path / "m")
    assert verify(tmp_path / "n", str(texts), part=1).exact
    forgotten(tmp_path / "n", document="c.txt")
    forgotten(tmp_path / "m", document="c.txt")
    assert weights_of(tmp_path / "n") == weights_of(tmp_path / "m")


# --- Ce qui est dit, gardé, effacé ------------------------------------------------------------


@pytest.fixture(scope="module")
def run(texts, tmp_path_factory):
    """Un entraînement d'une époque, aux points de reprise gardés."""
    folder = tmp_path_factory.mktemp("oubli") / "m"
    train(str(texts), **{**TINY, **KEPT, **LATE}, output_dir=folder)
    return folder


def test_an_estimate_writes_nothing(run):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    found = forget(run, document="c.txt", estimate=True)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert (
        found.redone
        == found.restart * 0 + read_story(read_chain(run / CERTIFICATE)).last - found.restart
    )
    assert found.seconds > 0
    assert f"{found.redone} étapes" in str(found)


def test_what_has_seen_it_is_erased_and_what_has_not_is_kept(run, texts, tmp_path):
    folder = shutil.copytree(run, tmp_path / "m")
    before = CheckpointStore(folder / "checkpoints").steps()
    old = {step: _bytes(folder, step) for step in before}
    found = forgotten(folder, text=texts.with_name("tardif.txt"), keep_old=True)
    after = CheckpointStore(folder / "checkpoints").steps()
    kept = [step for step in before if step <= found.restart]
    assert kept == [step for step in after if step <= found.restart] != []
    assert all(_bytes(folder, step) == old[step] for step in kept)
    assert all(_bytes(folder, step) != old[step] for step in before if step > found.restart)
    aside = folder / ASIDE
    assert weights_of(aside) == weights_of(run)
    assert CheckpointStore(aside / "checkpoints").steps() == before[len(kept) :]
    assert "récitée" in str(found)
    assert "Peuvent le contenir encore" in str(found)


def _bytes(folder, step):
    return (folder / f"checkpoints/step-{step:06d}/model.safetensors").read_bytes()


def test_the_certificate_tells_no_text(run, texts, tmp_path):
    folder = shutil.copytree(run, tmp_path / "m")
    forgotten(folder, document="b.txt")
    words = (texts / "b.txt").read_text(encoding="utf-8").split()
    longest = max(words, key=len)
    for name in (CERTIFICATE, REMOVAL_NAME):
        content = (folder / name).read_text(encoding="utf-8")
        assert longest not in content
        assert "b.txt" not in content


def told_by(folder):
    """Tout ce qui se lit en clair d'un dossier d'entraînement."""
    texts = [json.dumps(read_model(folder / MODEL_NAME).metadata, ensure_ascii=False)]
    for path in [folder / JOURNAL, *folder.glob("checkpoints/*/state.json")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            texts.append(line.encode().decode("unicode_escape") if "\\u" in line else line)
    return "\n".join(texts)


def test_only_the_validation_has_it(texts, tmp_path):
    """Sans arrêt anticipé, les poids n'en dépendent pas ; le retrait est noté quand même."""
    train(str(texts), **{**TINY, **KEPT}, output_dir=tmp_path / "m")
    before = weights_of(tmp_path / "m")
    last = (texts / "d.txt").read_text(encoding="utf-8")[-40:]
    (tmp_path / "fin.txt").write_text(last, encoding="utf-8")
    found = forgotten(tmp_path / "m", text=tmp_path / "fin.txt")
    assert (found.first, found.redone, found.tokens) == (None, 0, 0)
    assert found.val_tokens > 0
    assert "Aucune étape" in str(found)
    assert "mesurée sans lui" in str(found)
    assert weights_of(tmp_path / "m") == before
    checked = verify(tmp_path / "m", str(texts), part=1, text=tmp_path / "fin.txt")
    assert (checked.differences, checked.exact) == ([], True), str(checked)
    assert checked.record["removal"]["val_tokens"] == found.val_tokens


def unread_passage(texts, steps):
    """Quatorze caractères qu'aucune des premières étapes n'a lus."""
    training = TrainingConfig(train_ratio=TINY["train_ratio"])
    data = load_training_data([str(texts)], "char", window=16, training=training)
    sampler = WindowSampler(data.train.num_tokens, 16, batch_size=2, seed=training.seed)
    read = {place for n in range(steps) for a in sampler.batch(n)[0] for place in range(a, a + 17)}
    whole = data.tokenizer.decode(data.train.read(0, data.train.num_tokens).tolist())
    for start in range(40, data.train.num_tokens - 24):
        text = data.tokenizer.decode(data.train.read(start, 14).tolist())
        fresh = not read & set(range(start, start + 14))
        if fresh and text == text.strip() and "<|" not in text and whole.count(text) == 1:
            return text
    raise AssertionError("aucun passage ne convient")


def test_what_was_not_read_never_is(texts, tmp_path):
    """Rien n'est à refaire, mais une reprise l'aurait lu ; même déplacé, le dossier le retient."""
    settings = {**TINY, **KEPT, "max_steps": 6}
    train(str(texts), **settings, output_dir=tmp_path / "m")
    (tmp_path / "t.txt").write_text(unread_passage(texts, 6), encoding="utf-8")
    found = forgotten(tmp_path / "m", text=tmp_path / "t.txt")
    assert (found.first, found.redone) == (None, 0)
    folder = (tmp_path / "m").rename(tmp_path / "ailleurs")
    train(resume=folder, max_steps=40, progress=False)
    assert forget(folder, text=tmp_path / "t.txt", estimate=True).tokens == 0
    checked = verify(folder, str(texts), part=1, text=tmp_path / "t.txt")
    assert (checked.differences, checked.exact) == ([], True), str(checked)
    settings |= {"max_steps": 40}
    removal = folder / REMOVAL_NAME
    oracle = masked_from_the_start(tmp_path / "o", str(texts), settings, removal)
    assert weights_of(folder) == oracle


def test_the_first_words_leave_with_it(tmp_path):
    """L'invite des exemples, dans le modèle, le journal et les points, en venait."""
    talks = write_talks(tmp_path)
    shape = {"context_length": 96, "positions": 96, "max_steps": 6, "train_ratio": 0.75}
    train(**{**TINY, **KEPT, **shape, "chat": talks}, output_dir=tmp_path / "m")
    number = re.search(
        r"Le quai ([0-9]+) ", read_model(tmp_path / "m" / MODEL_NAME).metadata["prompt"]
    )
    words = f"Le quai {number[1]} ?"
    assert words in told_by(tmp_path / "m")
    found = forgotten(tmp_path / "m", document=str(int(number[1]) + 1))
    assert words not in told_by(tmp_path / "m"), found
    checked = verify(tmp_path / "m", chat=talks, part=1)
    assert (checked.differences, checked.exact) == ([], True), str(checked)
    train(resume=tmp_path / "m", max_steps=8, progress=False)
    assert words not in told_by(tmp_path / "m")


def test_a_copy_across_the_cut_is_found(tmp_path):
    """Une copie à moitié dans l'entraînement, à moitié dans la validation."""
    text, secret = (
        load_corpus(["la-lampe-du-passeur"]).text[:1000],
        "Marie Dupont, 12 rue des Lilas",
    )
    length = len(text) + 2 * len(secret)
    cut = int(TINY["train_ratio"] * length) - len(secret) - 10
    whole = text[:100] + secret + text[100:cut] + secret + text[cut:]
    (tmp_path / "tout.txt").write_text(whole, encoding="utf-8")
    (tmp_path / "secret.txt").write_text(secret, encoding="utf-8")
    source = str(tmp_path / "tout.txt")
    for tokenizer in ("char", "bpe-280"):
        folder = tmp_path / tokenizer
        settings = {**TINY, **KEPT, "max_steps": 2, "tokenizer": tokenizer}
        train(source, **settings, output_dir=folder)
        found = forget(folder, text=tmp_path / "secret.txt", estimate=True)
        assert found.val_tokens > 0
        if tokenizer == "char":
            assert found.tokens + found.val_tokens == 2 * len(secret)


def test_each_old_one_is_kept(texts, tmp_path):
    train(str(texts), **{**TINY, **KEPT, "max_steps": 6}, output_dir=tmp_path / "m")
    zero = weights_of(tmp_path / "m")
    forgotten(tmp_path / "m", document="a.txt", keep_old=True)
    one = weights_of(tmp_path / "m")
    found = forgotten(tmp_path / "m", document="b.txt", keep_old=True)
    assert weights_of(tmp_path / "m" / ASIDE) == zero
    assert weights_of(tmp_path / "m" / f"{ASIDE}-2") == one
    assert any("avant-oubli, avant-oubli-2" in each for each in found.remaining)


def test_a_text_still_there_does_not_conform(run, texts, tmp_path):
    folder = shutil.copytree(run, tmp_path / "m")
    late = texts.with_name("tardif.txt")
    checked = verify(folder, str(texts), part=1, text=late)
    assert [each.cause for each in checked.differences] == ["retrait"]
    assert checked.record["removal"] is None
    forgotten(folder, text=late)
    checked = verify(folder, str(texts), part=1, text=late)
    assert checked.conforming
    assert "Retrait en vigueur" in str(checked)
    assert checked.record["removal"]["sha256"] == read_removal(folder / REMOVAL_NAME).sha256
    checked = verify(folder, str(texts), part=1, text=late, document="c.txt")
    assert "n'est pas retiré en entier" in str(checked)
    with pytest.raises(ConfigurationError, match="chain_only"):
        verify(folder, str(texts), text=late, chain_only=True)


def test_a_hostile_certificate_is_refused_at_once(run, texts, tmp_path):
    """Un milliard d'étapes certifiées : rien n'en est relu."""
    folder, many = shutil.copytree(run, tmp_path / "m"), 10**9
    forgotten(folder, document="b.txt")
    (folder / MODEL_NAME).unlink()
    shutil.rmtree(folder / "checkpoints")

    def forge(links):
        zeros = "0" * 64
        steps = {"first": 0, "last": many - 1, "batches": zeros, "losses": zeros}
        removal = next(each for each in links if each["kind"] == "removal")
        late = {**removal, "step": many, "weights": zeros, "moments": zeros}
        end = {"kind": "end", "step": many, "weights": zeros}
        return [links[0], {"kind": "steps", **steps}, late, end]

    edit_chain(folder, forge, redo=True)
    checked = verify(folder, str(texts), part=1)
    assert [each.cause for each in checked.differences] == ["réglages"]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda link: link["removal"]["train"].pop(), "données"),
        (lambda link: link["removal"].update(neutral=1), "données"),
        (lambda link: link["removal"].update(train="tout"), "retrait"),
        (lambda link: link.update(removal=None), "chaîne"),
        (lambda link: link.update(step=link["step"] + 1), None),
    ],
    ids=["places", "neutre", "mal formé", "absent", "étape"],
)
def test_a_forged_removal_is_seen(change, cause, run, texts, tmp_path):
    folder = shutil.copytree(run, tmp_path / "m")
    forgotten(folder, document=["a.txt", "c.txt"])
    assert verify(folder, str(texts), part=1).exact

    def forge(links):
        link = next(each for each in links if each["kind"] == "removal")
        change(link)
        return links

    copy = shutil.copytree(folder, tmp_path / "touche")
    edit_chain(copy, forge, redo=False)
    assert [each.cause for each in verify(copy, str(texts), part=1).differences] == ["chaîne"]
    edit_chain(folder, forge, redo=True)
    found = verify(folder, str(texts), part=1)
    assert not found.conforming
    if cause is not None:
        assert cause in [each.cause for each in found.differences]


def test_a_removal_told_too_late_is_seen(texts, tmp_path):
    """Dit retiré sans que rien ne soit refait : les étapes qui l'ont lu valent encore."""
    settings = {**TINY, **KEPT}
    for name in ("m", "n"):
        train(str(texts), **{**settings, "max_steps": 6}, output_dir=tmp_path / name)
    forgotten(tmp_path / "m", document="b.txt")
    removal = tmp_path / "m" / REMOVAL_NAME
    late = {"forget": removal, "max_steps": 12, "override": True, "progress": False}
    train(resume=tmp_path / "n", **late)
    found = verify(tmp_path / "n", str(texts), part=1)
    assert [each.cause for each in found.differences] == ["retrait"]
    assert found.differences[0].step < 6


def test_a_removal_only_grows(run, texts, tmp_path):
    """Un oubli affiché puis défait par le maillon suivant, sans toucher au modèle."""
    folder = shutil.copytree(run, tmp_path / "m")
    found = forget(folder, document="b.txt", estimate=True)
    done = shutil.copytree(run, tmp_path / "fait")
    forgotten(done, document="b.txt")
    removal = read_removal(done / REMOVAL_NAME)
    assert removal.sha256 == found.removal

    def forge(links):
        start, end = links[0], links[-1]
        identity = {**start["identity"], "data": {**start["identity"]["data"], "removed": "x"}}
        step = end["step"]
        told = {"step": step, "removal": removal.to_dict(), "identity": identity}
        undone = {"step": step, "removal": None, "identity": start["identity"]}
        return [*links[:-1], {"kind": "removal", **told}, {"kind": "resume", **undone}, end]

    edit_chain(folder, forge, redo=True)
    checked = verify(folder, str(texts), part=1)
    assert [each.cause for each in checked.differences] == ["retrait"]
    assert "ne l'est plus" in str(checked)
    assert removed_texts(folder) is None
    assert len(removed_texts(done)) == 1
    edit_chain(done, lambda links: [*links, *forge(links)[-2:]], redo=True)
    assert not verify(done, str(texts), part=1).conforming


def test_a_removed_removal_is_seen(run, texts, tmp_path):
    folder = shutil.copytree(run, tmp_path / "m")
    forgotten(folder, document="b.txt")
    edit_chain(
        folder, lambda links: [each for each in links if each["kind"] != "removal"], redo=True
    )
    assert not verify(folder, str(texts), part=1).conforming


# --- Ce qui est refusé ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "rien à oublier"),
        ({"document": "z.txt"}, "aucun document 'z.txt'"),
        ({"lines": "3"}, "4 fichiers"),
        ({"lines": "1-900", "document": "a.txt"}, "lines"),
        ({"lines": "b"}, "lines"),
        ({"lines": "5-2", "document": "a.txt"}, "lines"),
        ({"lines": "1", "document": ["a.txt", "b.txt"]}, "ensemble"),
        ({"text": "inconnu"}, "n'est pas dans les données"),
        ({"document": ["a.txt", "b.txt", "c.txt", "d.txt"]}, "tout le texte"),
        ({"document": "d.txt"}, "rien à mesurer"),
    ],
)
def test_a_wrong_target_is_refused(target, message, run, tmp_path):
    if target.get("text"):
        target = {"text": tmp_path / "inconnu.txt"}
        target["text"].write_text("Zut, zut et zut.", encoding="utf-8")
    with pytest.raises(GPTArchitectureError, match=message):
        forget(run, **target)
    assert not (run / WORK).exists()


def test_other_data_are_refused(run, texts, tmp_path):
    other = shutil.copytree(texts, tmp_path / "autres")
    (other / "a.txt").write_text("Un autre texte. " * 40, encoding="utf-8")
    with pytest.raises(DataError, match="n'est pas l'entraînement certifié"):
        forget(run, str(other), document="b.txt")
    folder = shutil.copytree(run, tmp_path / "m")
    forgotten(folder, document="b.txt")
    settings = {**TINY, **KEPT, "output_dir": tmp_path / "n", "forget": folder / REMOVAL_NAME}
    with pytest.raises(DataError, match="d'autres données"):
        train(str(other), **settings)


def test_a_certificate_is_needed(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "m")
    edit_chain(folder, lambda links: links[:-1], redo=True)
    with pytest.raises(CertificateError, match="avant la fin"):
        forget(folder, document="b.txt")
    (folder / CERTIFICATE).unlink()
    with pytest.raises(CertificateError, match="introuvable"):
        forget(folder, document="b.txt")


def test_settings_changed_on_the_way_are_refused(texts, tmp_path):
    settings = {**TINY, **KEPT}
    train(str(texts), **{**settings, "max_steps": 6}, output_dir=tmp_path / "m")
    train(resume=tmp_path / "m", max_steps=12, lr=1e-3, override=True, progress=False)
    with pytest.raises(ConfigurationError, match="ont changé à l'étape 6"):
        forget(tmp_path / "m", document="b.txt")


def test_a_longer_programme_is_the_same_one(texts, tmp_path):
    """Prolongé au taux constant, c'est un seul entraînement : l'oubli le refait d'une traite."""
    settings = {**TINY, **KEPT}
    train(str(texts), **{**settings, "max_steps": 6}, output_dir=tmp_path / "m")
    train(resume=tmp_path / "m", max_steps=12, progress=False)
    forgotten(tmp_path / "m", document="b.txt")
    removal = tmp_path / "m" / REMOVAL_NAME
    assert weights_of(tmp_path / "m") == masked_from_the_start(
        tmp_path / "o", str(texts), settings, removal
    )


def test_a_damaged_removal_is_refused(run, texts, tmp_path):
    folder = shutil.copytree(run, tmp_path / "m")
    forgotten(folder, document="b.txt")
    path = folder / REMOVAL_NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    for damage, message in (
        ({**content, "train": [[0, 5]]}, "retouché"),
        ({**content, "version": 9}, "version 9"),
        ({"format": "autre"}, "n'est pas un retrait"),
    ):
        path.write_text(json.dumps(damage), encoding="utf-8")
        with pytest.raises(ConfigurationError, match=message):
            read_removal(path)
        with pytest.raises(ConfigurationError, match=message):
            train(str(texts), **{**TINY, **KEPT}, output_dir=tmp_path / "n", forget=path)
    with pytest.raises(ConfigurationError, match="illisible"):
        read_removal(tmp_path / "absent.json")
