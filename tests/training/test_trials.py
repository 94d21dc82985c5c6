"""Les essais d'un plan : ceux de `train` au bit près, gardés, repris."""

import math

import pytest

from gpt_architecture import train
from gpt_architecture.errors import OutputError, TrainingError
from gpt_architecture.training import laboratory as library
from gpt_architecture.training import preparation
from gpt_architecture.training import trials as library_trials
from gpt_architecture.training.laboratory import TRIALS, TextLaboratory
from gpt_architecture.training.survey import UNEXAMINED
from gpt_architecture.training.trainer import Trainer
from gpt_architecture.training.trials import (
    PIECE_WINDOWS,
    Body,
    Memory,
    Recipe,
    bits_per_nat,
    decay_start,
    measure_step,
    run_chain,
    text_bytes,
)

BODY = Body(emb_dim=16, n_heads=1, n_layers=1)
RECIPE = Recipe(tokenizer="bpe-300", window=32, batch_size=4, drop_rate=0.1)
STORY = "la-lampe-du-passeur"


@pytest.fixture
def lab(tmp_path):
    return TextLaboratory([STORY], tmp_path / "essais", device="cpu")


@pytest.mark.slow
def test_a_chain_is_as_many_separate_trainings(lab, tmp_path):
    """Chaque durée a, au bit près, la perte d'un `train` de cette durée seule."""
    bench = lab.bench("bpe-300")
    unique = bench.data.train.num_tokens
    chain = run_chain(bench, RECIPE, BODY, (24, 36, 60), unique=unique, folder=tmp_path / "chaîne")
    for steps, loss in chain:
        options = bench.options(RECIPE, BODY, steps, unique)
        run = train(STORY, **options, output_dir=tmp_path / str(steps))
        nats = bits_per_nat(bench.run(RECIPE, BODY, steps, unique))
        assert loss == run.state.val_losses[-1] * nats
        assert run.state.step == steps


@pytest.mark.parametrize("steps", [24, 40, 100, 4000])
def test_the_rate_descends_where_the_schedule_says(lab, steps):
    from gpt_architecture.training.optim import make_schedule

    run = lab.bench("bpe-300").run(RECIPE, BODY, steps, 4000)
    factor, branch = make_schedule(run.settings.schedule, steps), decay_start(steps)
    assert factor(branch) == 1.0
    assert factor(steps - 1) == 0.0
    assert branch + 1 == steps or factor(branch + 1) < 1.0


def test_a_part_of_the_text_comes_from_all_of_it(lab):
    """Son début seul, une autre langue que sa fin, coûterait plus que de relire."""
    bench = lab.bench("bpe-300")
    whole = bench.data.train.read(0, bench.data.train.num_tokens)
    run = bench.run(RECIPE, BODY, 40, 1000)
    assert run.data.train.num_tokens == 1000
    pieces = run.data.train.read(0, 1000).split([333, 333, 334])
    piece = PIECE_WINDOWS * RECIPE.window
    assert 1000 // piece == len(pieces)
    for rank, found in enumerate(pieces):
        start = len(whole) * rank // 3
        assert found.equal(whole[start : start + len(found)])
    assert run.data.val is bench.data.val
    assert run.settings.training.epochs >= 40 * 4 / (1000 / 32)


def test_bits_by_hand(tmp_path):
    """Un octet par token : une perte de ln 2 vaut un bit par octet."""
    text = tmp_path / "a.txt"
    text.write_text("abcd" * 2000, encoding="utf-8")
    bench = TextLaboratory([str(text)], tmp_path / "e").bench("char")
    run = bench.run(Recipe(tokenizer="char", window=16, batch_size=2), BODY, 5, 7000)
    assert bits_per_nat(run) == pytest.approx(1 / math.log(2))
    tokenizer = bench.data.tokenizer
    assert (
        text_bytes([*tokenizer.encode("abé".replace("é", "d")), tokenizer.eos_id], tokenizer) == 3
    )


class TestFailedTrials:
    def chain(self, lab, monkeypatch, error):
        def fail(*_):
            raise error

        monkeypatch.setattr(Trainer, "_forward_backward", fail)
        bench = lab.bench("bpe-300")
        return list(run_chain(bench, RECIPE, BODY, (24, 40), unique=2000, folder="chaîne"))

    def test_a_lack_of_memory_is_no_divergence(self, lab, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(TrainingError, match="mémoire insuffisante pour un essai"):
            self.chain(lab, monkeypatch, MemoryError())

    def test_a_divergence_ends_the_chain(self, lab, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        error = TrainingError("perte non finie", expected="un nombre", remedy="réduisez le taux")
        assert self.chain(lab, monkeypatch, error) == [(24, math.inf)]


class TestKeptTrials:
    def losses(self, lab, lengths=(24, 40)):
        return dict(lab.losses(RECIPE, BODY, lengths, 2000))

    def test_no_trial_is_made_twice(self, lab, tmp_path, monkeypatch):
        found, time = self.losses(lab), lab.time(RECIPE, BODY)
        monkeypatch.setattr(library, "run_chain", lambda *_, **__: pytest.fail("refait"))
        monkeypatch.setattr(library, "measure_step", lambda *_: pytest.fail("remesuré"))
        again = TextLaboratory([STORY], tmp_path / "essais", device="cpu")
        assert self.losses(again) == found
        assert again.time(RECIPE, BODY) == time

    def test_an_interrupted_chain_keeps_what_is_done(self, lab, tmp_path):
        """Arrêtée à sa deuxième durée, la chaîne garde la première ; reprise, elle est entière."""
        count = 0

        def stop():
            nonlocal count
            count += 1
            if count > 30:
                raise KeyboardInterrupt

        folder = tmp_path / "autre"
        first = TextLaboratory([STORY], folder, device="cpu", on_step=stop)
        with pytest.raises(KeyboardInterrupt):
            self.losses(first)
        assert (folder / TRIALS).read_text(encoding="utf-8").count('"kind": "trial"') == 1
        again = TextLaboratory([STORY], folder, device="cpu")
        assert self.losses(again) == self.losses(lab)

    def test_a_folder_of_the_person_is_left_alone(self, lab, tmp_path):
        mine = tmp_path / "essais" / "en-cours" / "notes.txt"
        mine.parent.mkdir()
        mine.write_text("à moi", encoding="utf-8")
        self.losses(lab)
        assert mine.read_text(encoding="utf-8") == "à moi"
        assert {each.name for each in (tmp_path / "essais").iterdir()} == {TRIALS, "en-cours"}

    def test_a_chain_that_diverged_is_not_made_again(self, lab, tmp_path, monkeypatch):
        made = []

        def diverging(*_, **__):
            made.append(1)
            yield from [(24, 3.0), (40, math.inf)]

        monkeypatch.setattr(library, "run_chain", diverging)
        assert self.losses(lab, (24, 40, 60)) == {24: 3.0, 40: math.inf}
        again = TextLaboratory([STORY], tmp_path / "essais", device="cpu")
        assert self.losses(again, (24, 40, 60)) == {24: 3.0, 40: math.inf}
        assert len(made) == 1

    def test_what_precedes_a_divergence_is_made(self, lab, monkeypatch):
        monkeypatch.setattr(library, "run_chain", lambda *_, **__: iter([(40, math.inf)]))
        assert self.losses(lab, (40,)) == {40: math.inf}
        chain = [(24, 3.0), (40, math.inf)]
        monkeypatch.setattr(library, "run_chain", lambda *_, **__: iter(chain))
        assert list(self.losses(lab, (24, 40)).items()) == chain

    def test_a_broken_line_is_made_again(self, lab, tmp_path):
        found = self.losses(lab)
        journal = tmp_path / "essais" / TRIALS
        journal.write_bytes(journal.read_bytes()[:-20])
        again = TextLaboratory([STORY], tmp_path / "essais", device="cpu")
        assert self.losses(again) == found
        lines = journal.read_bytes().splitlines()
        assert len(lines) == 4  # le départ, deux essais dont un coupé, celui qui le remplace

    def test_the_start_is_timed_once(self, lab, tmp_path):
        found = lab.startup("bpe-300")
        again = TextLaboratory([STORY], tmp_path / "essais", device="cpu")
        assert again.startup("bpe-300") == found > 0

    def test_the_start_examines_the_data(self, tmp_path, monkeypatch):
        """`train` examine ses données avant sa première étape : le départ annoncé le compte."""
        now = [0.0]

        def slow(data, settings):
            now[0] += 7.0
            return UNEXAMINED

        monkeypatch.setattr(preparation, "survey", slow)
        lab = TextLaboratory([STORY], tmp_path / "e", device="cpu", clock=lambda: now[0])
        assert lab.startup("bpe-300") == 7.0

    def test_the_memory_is_that_of_the_data(self, tmp_path, monkeypatch):
        """L'examen, le plus haut, quelques étapes, ce qui reste : dans cet ordre ; puis reprise."""
        order = list[str]()

        def noted(name, value):
            return lambda *_, **__: order.append(name) or value

        monkeypatch.setattr(preparation, "survey", noted("examen", UNEXAMINED))
        monkeypatch.setattr(library, "peak_resident", noted("plus haut", 500 << 20))
        monkeypatch.setattr(library, "measure_step", noted("étapes", None))
        monkeypatch.setattr(library, "resident", noted("reste", 400 << 20))
        lab = TextLaboratory([STORY], tmp_path / "e", device="cpu")
        assert lab.memory("bpe-300") == Memory(resident=400 << 20, peak=500 << 20)
        lab.startup("bpe-300")
        again = TextLaboratory([STORY], tmp_path / "e", device="cpu")
        assert again.memory("bpe-300") == lab.memory("bpe-300")
        assert order == ["examen", "plus haut", "étapes", "reste"]

    def test_sustained_steps_count_every_stall(self, lab, monkeypatch):
        """Une étape sur dix attend : la médiane l'ignore, la durée d'un entraînement non."""
        now, done = [0.0], [0]
        advance = Trainer.advance

        def stalling(trainer):
            done[0] += 1
            now[0] += 11.0 if done[0] % 10 == 0 else 1.0
            return advance(trainer)

        monkeypatch.setattr(Trainer, "advance", stalling)
        bench = lab.bench("bpe-300")
        assert measure_step(bench, RECIPE, BODY, clock=lambda: now[0]).step == 1.0
        done[0] = 0
        found = measure_step(bench, RECIPE, BODY, sustained=80.0, clock=lambda: now[0])
        assert found.step == pytest.approx(2.0, rel=0.1)

    def test_an_evaluation_is_timed_once_warm(self, lab, monkeypatch):
        """La première compile : ce n'est pas elle qui se multiplie par le nombre d'évaluations."""
        now, called = [0.0], [0]

        def evaluate(stopping):
            called[0] += 1
            now[0] += 30.0 if called[0] == 1 else 2.0
            return (1.0, 1.0)

        build = library_trials.build_trainer

        def built(*arguments, **options):
            trainer = build(*arguments, **options)
            trainer.evaluate = evaluate
            return trainer

        monkeypatch.setattr(library_trials, "build_trainer", built)
        found = measure_step(lab.bench("bpe-300"), RECIPE, BODY, clock=lambda: now[0])
        assert (found.evaluation, found.warmup, called[0]) == (2.0, 28.0, 2)

    def test_a_kept_trial_costs_what_it_cost(self, lab, tmp_path):
        self.losses(lab)
        again = TextLaboratory([STORY], tmp_path / "essais", device="cpu")
        self.losses(again)
        assert again.spent == pytest.approx(lab.spent)
        assert lab.spent > 0

    def test_another_seed_is_another_trial(self, lab, tmp_path):
        other = TextLaboratory([STORY], tmp_path / "essais", device="cpu", seed=7)
        assert self.losses(lab) != self.losses(other)

    def test_a_folder_that_cannot_be(self, tmp_path):
        taken = tmp_path / "pris"
        taken.write_text("x", encoding="utf-8")
        with pytest.raises(OutputError, match="impossible d'écrire"):
            TextLaboratory([STORY], taken)
