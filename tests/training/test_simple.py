"""La boucle simple : ce qu'elle calcule, ce qu'elle raconte, ce qu'elle ne dérange pas."""

import inspect
import math

import pytest
import torch
from conftest import FRENCH_TEXT

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.core.utils import calc_loss_batch
from gpt_architecture.data.loader import create_dataloader_v1, split_text
from gpt_architecture.data.tokenizer import SimpleTokenizerV2
from gpt_architecture.decoding.generator import generate_text_simple
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training import (
    evaluate_model,
    generate_and_print_sample,
    simple,
    train_model_simple,
)
from gpt_architecture.training.simple import SAMPLE_TOKENS, TrainingError, generate_sample

CONTEXT = 16
TOKENIZER = SimpleTokenizerV2.from_text(FRENCH_TEXT)


class Recorder:
    """Retient tout ce que la boucle raconte, dans l'ordre."""

    def __init__(self, on_step=None):
        self.events = []
        self.hook = on_step

    def on_start(self, total_steps):
        self.events.append(("start", total_steps))

    def on_step(self, step, batch_tokens):
        self.events.append(("step", step, batch_tokens))
        if self.hook is not None:
            self.hook(step)

    def on_evaluation(self, epoch, step, train_loss, val_loss):
        self.events.append(("evaluation", epoch, step, train_loss, val_loss))

    def on_sample(self, epoch, text):
        self.events.append(("sample", epoch, text))

    def named(self, name):
        return [event for event in self.events if event[0] == name]


class Setup:
    """Un modèle minuscule, ses chargeurs et son optimiseur, tirés d'une graine."""

    def __init__(self, *, seed=123, drop_rate=0.1, explicit=True, batch_size=4, lr=5e-3):
        torch.manual_seed(seed)
        self.model = GPTModel(
            GPTConfig(
                vocab_size=TOKENIZER.vocab_size,
                context_length=CONTEXT,
                emb_dim=24,
                n_heads=3,
                n_layers=2,
                drop_rate=drop_rate,
            )
        )
        train, validation = split_text(FRENCH_TEXT, 0.8)
        options = {"batch_size": batch_size, "max_length": 8, "stride": 8, "tokenizer": TOKENIZER}
        generator = torch.Generator().manual_seed(seed) if explicit else None
        self.train_loader = create_dataloader_v1(
            train, **options, drop_last=False, generator=generator
        )
        # Mélanger aussi la validation : l'évaluation tire alors au sort.
        self.val_loader = create_dataloader_v1(validation, **options, drop_last=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=0.1)

    def train(self, *, epochs=1, eval_freq=5, eval_iter=2, start="Le passeur", **options):
        options.setdefault("reporter", Recorder())
        return train_model_simple(
            self.model,
            self.train_loader,
            self.val_loader,
            self.optimizer,
            "cpu",
            epochs,
            eval_freq,
            eval_iter,
            start,
            TOKENIZER,
            **options,
        )

    def weights(self):
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}


def same(first, second):
    """Égalité bit à bit de deux jeux de poids."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def trained(*, setup=None, **options):
    run = Setup(**(setup or {}))
    run.train(**options)
    return run.weights()


class TestSignature:
    def test_frozen(self):
        parameters = list(inspect.signature(train_model_simple).parameters.values())
        positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert [p.name for p in positional] == [
            "model",
            "train_loader",
            "val_loader",
            "optimizer",
            "device",
            "num_epochs",
            "eval_freq",
            "eval_iter",
            "start_context",
            "tokenizer",
        ]
        assert all(p.default is p.empty for p in positional)
        assert all(p.default is None for p in parameters if p not in positional)

    @pytest.mark.parametrize(
        ("function", "names"),
        [
            (evaluate_model, ["model", "train_loader", "val_loader", "device", "eval_iter"]),
            (generate_and_print_sample, ["model", "tokenizer", "device", "start_context"]),
        ],
    )
    def test_helpers(self, function, names):
        parameters = inspect.signature(function).parameters.values()
        assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == names


class TestLearning:
    @pytest.mark.slow
    def test_loss_starts_near_chance_and_goes_down(self):
        train_losses, val_losses, _ = Setup().train(epochs=6, eval_iter=100)
        assert train_losses[0] == pytest.approx(math.log(TOKENIZER.vocab_size), rel=0.15)
        assert train_losses[-1] < 0.4 * train_losses[0]
        assert val_losses[-1] < 0.4 * val_losses[0]

    @pytest.mark.slow
    def test_the_model_learns_its_text_by_heart(self):
        run = Setup(drop_rate=0.0, lr=1e-2)
        run.train(epochs=12)
        assert generate_sample(run.model, TOKENIZER, "cpu", "Le passeur").startswith(
            "Le passeur leva la lampe deux fois, puis il détacha"
        )

    def test_one_step_is_the_textbook_step(self):
        """Une étape refaite à la main : gradient de l'entropie croisée, puis l'optimiseur."""
        run, reference = Setup(drop_rate=0.0), Setup(drop_rate=0.0)
        run.train(should_stop=lambda: True)
        inputs, targets = next(iter(reference.train_loader))
        logits = reference.model(inputs)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        reference.optimizer.step()
        assert same(run.weights(), reference.weights())

    def test_gradients_of_the_previous_step_are_forgotten(self):
        """Un gradient laissé par l'appelant ne s'ajoute pas au premier."""
        clean, dirty = Setup(drop_rate=0.0), Setup(drop_rate=0.0)
        for parameter in dirty.model.parameters():
            parameter.grad = torch.full_like(parameter, 1e3)
        clean.train(should_stop=lambda: True)
        dirty.train(should_stop=lambda: True)
        assert same(clean.weights(), dirty.weights())


class TestResults:
    def test_lengths_and_tokens_by_hand(self):
        run = Setup()
        steps = len(run.train_loader)
        results = run.train(epochs=2, eval_freq=5)
        evaluated = range(0, 2 * steps, 5)
        assert steps > 6
        assert results[2] == [(step + 1) * 4 * 8 for step in evaluated]
        assert [len(column) for column in results] == [len(evaluated)] * 3
        assert all(isinstance(loss, float) for loss in results[0] + results[1])

    def test_tokens_of_an_incomplete_batch_count_for_what_they_are(self):
        run = Setup(batch_size=5)
        windows = len(run.train_loader.dataset)
        assert windows % 5 != 0
        recorder = Recorder()
        tokens_seen = run.train(eval_freq=1, reporter=recorder)[2]
        assert tokens_seen[-1] == windows * 8
        assert recorder.named("step")[-1][2] == (windows % 5) * 8

    def test_no_epoch(self):
        run = Setup()
        before = run.weights()
        recorder = Recorder()
        assert run.train(epochs=0, reporter=recorder) == ([], [], [])
        assert recorder.events == [("start", 0)]
        assert same(run.weights(), before)

    @pytest.mark.slow
    @pytest.mark.parametrize("eval_freq", [1, 4, 1000])
    def test_events_in_order(self, eval_freq):
        run = Setup()
        steps = len(run.train_loader)
        recorder = Recorder()
        train_losses, val_losses, _ = run.train(epochs=2, eval_freq=eval_freq, reporter=recorder)
        expected = [("start", 2 * steps)]
        for epoch in (1, 2):
            for step in range((epoch - 1) * steps, epoch * steps):
                expected.append(("step", step, 32))
                if step % eval_freq == 0:
                    expected.append(("evaluation", epoch, step))
            expected.append(("sample", epoch))
        short = {"evaluation": 3, "sample": 2}
        assert [event[: short.get(event[0], 9)] for event in recorder.events] == expected
        evaluations = recorder.named("evaluation")
        assert [event[3] for event in evaluations] == train_losses
        assert [event[4] for event in evaluations] == val_losses

    def test_samples_are_greedy_continuations(self):
        recorder = Recorder()
        run = Setup()
        run.train(reporter=recorder)
        ((_, _, text),) = recorder.named("sample")
        ids = torch.tensor([TOKENIZER.encode("Le passeur")])
        window = next(iter(run.train_loader))[0].size(1)  # rien n'est appris au-delà
        expected = generate_text_simple(run.model, ids, SAMPLE_TOKENS, window)
        assert expected.shape == (1, 52)
        assert text == TOKENIZER.decode(expected[0].tolist())


class AnyModel(torch.nn.Module):
    """Des tokens aux logits, sans rien de ce projet : ni cfg, ni cache."""

    def __init__(self, model, **attributes):
        super().__init__()
        self.inside = model
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, ids):
        assert ids.size(1) <= CONTEXT
        return self.inside(ids)


class TestAnyModule:
    def test_learns_and_writes_like_ours(self):
        expected = Setup().train(epochs=1, reporter=(told := Recorder()))
        other, again = Setup(), Recorder()  # après : sa graine fixe aussi l'abandon
        other.model = AnyModel(other.model)
        assert other.train(epochs=1, reporter=again) == expected
        assert again.events == told.events

    @pytest.mark.parametrize("attributes", [{}, {"cfg": {"context_length": CONTEXT}}])
    def test_its_context_is_found_as_in_the_book(self, capsys, attributes):
        model = Setup().model.eval()
        attributes = attributes or {"pos_emb": torch.nn.Embedding(CONTEXT, 2)}
        generate_and_print_sample(model, TOKENIZER, "cpu", "Le passeur")
        expected = capsys.readouterr().out
        generate_and_print_sample(AnyModel(model, **attributes), TOKENIZER, "cpu", "Le passeur")
        assert capsys.readouterr().out == expected

    def test_without_a_known_context(self, capsys):
        model = AnyModel(Setup().model.eval())
        with pytest.raises(ConfigurationError, match="context_size"):
            generate_and_print_sample(model, TOKENIZER, "cpu", "Le passeur")
        generate_and_print_sample(model, TOKENIZER, "cpu", "Le passeur", context_size=CONTEXT)
        assert capsys.readouterr().out.startswith("Le passeur")


class TestDefaultReporter:
    def test_prints_losses_and_samples(self, capsys):
        run = Setup()
        steps = len(run.train_loader)
        results = run.train(epochs=2, eval_freq=steps, reporter=None)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 4
        for epoch in (1, 2):
            evaluation, sample = lines[2 * epoch - 2 : 2 * epoch]
            train_loss, val_loss = (
                f"{column[epoch - 1]:.3f}".replace(".", ",") for column in results[:2]
            )
            assert evaluation == (
                f"Époque {epoch} (étape {(epoch - 1) * steps:06d}) : "
                f"perte entraînement {train_loss}, validation {val_loss}"
            )
            assert sample.startswith("Le passeur ")

    def test_a_recorder_prints_nothing(self, capsys):
        Setup().train()
        assert capsys.readouterr() == ("", "")


class TestReproducibility:
    """Ce qui évalue ou échantillonne ne tire rien de l'entraînement."""

    @pytest.mark.slow
    @pytest.mark.parametrize("explicit", [False, True], ids=["global", "explicite"])
    def test_evaluation_frequency_never_changes_the_weights(self, explicit):
        setup = {"explicit": explicit}
        often, seldom, full = (
            trained(setup=setup, epochs=2, eval_freq=freq, eval_iter=count)
            for freq, count in ((1, 3), (1000, 1), (3, 100))
        )
        assert same(often, seldom)
        assert same(often, full)

    @pytest.mark.slow
    @pytest.mark.parametrize("explicit", [False, True], ids=["global", "explicite"])
    def test_samples_never_change_the_weights(self, explicit, monkeypatch):
        setup = {"explicit": explicit}
        one = trained(setup=setup, epochs=2, start="Le")
        other = trained(setup=setup, epochs=2, start=FRENCH_TEXT[:200])
        monkeypatch.setattr(simple, "generate_sample", lambda *_, **__: "rien")
        without = trained(setup=setup, epochs=2)
        assert same(one, other)
        assert same(one, without)

    @pytest.mark.slow
    @pytest.mark.parametrize("explicit", [False, True], ids=["global", "explicite"])
    def test_same_seed_same_weights(self, explicit):
        first, again, other = (
            trained(setup={"seed": seed, "explicit": explicit}) for seed in (1, 1, 2)
        )
        assert same(first, again)
        assert not same(first, other)

    @pytest.mark.slow
    def test_dropout_and_shuffling_are_really_drawn(self):
        """Sans quoi les tests ci-dessus ne prouveraient rien."""
        run, other = Setup(), Setup()
        torch.manual_seed(99)  # change le dropout seul : le mélange a son générateur
        other.train()
        torch.manual_seed(98)
        run.train()
        assert not same(run.weights(), other.weights())
        reshuffled, ordered = Setup(drop_rate=0.0), Setup(drop_rate=0.0)
        reshuffled.train_loader.generator.manual_seed(7)
        reshuffled.train()
        ordered.train()
        assert not same(reshuffled.weights(), ordered.weights())

    def test_two_epochs_differ_in_their_order(self):
        seen = []
        run = Setup()
        original = simple.calc_loss_batch

        def spy(inputs, *arguments):
            seen.append(inputs.clone())
            return original(inputs, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(simple, "calc_loss_batch", spy)
            run.train(epochs=2)
        half = len(seen) // 2
        assert not torch.equal(torch.cat(seen[:half]), torch.cat(seen[half:]))


class TestStopping:
    def test_stops_after_the_current_step(self):
        run = Setup()
        recorder = Recorder()
        answers = iter([False, False, True])
        results = run.train(
            epochs=3, eval_freq=2, reporter=recorder, should_stop=lambda: next(answers)
        )
        assert [event[1] for event in recorder.named("step")] == [0, 1, 2]
        assert results[2] == [32, 96]  # évaluations des étapes 0 et 2
        assert recorder.named("sample") == []

    def test_the_last_evaluation_is_kept(self):
        """Arrêté sur une étape évaluée : la mesure est rendue."""
        results = Setup().train(eval_freq=1, should_stop=lambda: True)
        assert [len(column) for column in results] == [1, 1, 1]

    def test_never_asked_to_stop(self):
        assert same(trained(should_stop=lambda: False), trained())

    def test_stopping_early_is_a_prefix_of_the_whole_run(self):
        snapshots = {}
        whole = Setup()
        whole.train(reporter=Recorder(lambda step: snapshots.update({step: whole.weights()})))
        stopped = Setup()
        steps = []
        stopped.train(reporter=Recorder(steps.append), should_stop=lambda: len(steps) == 4)
        assert same(stopped.weights(), snapshots[3])


class TestDivergence:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_a_loss_that_is_no_number_stops_before_the_weights_change(self, monkeypatch, value):
        run = Setup()
        losses = iter([None, None, value])
        original = simple.calc_loss_batch

        def poisoned(*arguments):
            loss, factor = original(*arguments), next(losses)
            return loss if factor is None else loss * factor

        monkeypatch.setattr(simple, "calc_loss_batch", poisoned)
        snapshots = []
        with pytest.raises(TrainingError, match="étape 2") as caught:
            run.train(reporter=Recorder(lambda step: snapshots.append(run.weights())))
        assert len(snapshots) == 2
        assert same(run.weights(), snapshots[-1])
        assert all(bool(tensor.isfinite().all()) for tensor in run.weights().values())
        assert "`lr`" in caught.value.remedy
        assert caught.value.exit_code == 1

    def test_an_absurd_learning_rate_is_diagnosed(self):
        run = Setup(lr=1e30)
        snapshots = []
        with pytest.raises(TrainingError, match="la perte vaut"):
            run.train(
                epochs=3,
                eval_freq=1000,
                reporter=Recorder(lambda step: snapshots.append(run.weights())),
            )
        final = run.weights()
        for name, tensor in snapshots[-1].items():
            assert torch.equal(final[name].nan_to_num(), tensor.nan_to_num())


class TestEvaluation:
    def test_averages_without_dropout_over_every_token(self):
        run = Setup(drop_rate=0.5, batch_size=5)
        train_loss, val_loss = evaluate_model(
            run.model, run.train_loader, run.val_loader, "cpu", None
        )
        run.model.eval()
        for loader, found in ((run.train_loader, train_loss), (run.val_loader, val_loss)):
            windows = [loader.dataset[index] for index in range(len(loader.dataset))]
            with torch.no_grad():
                losses = [
                    calc_loss_batch(x[None], y[None], run.model, "cpu").item() for x, y in windows
                ]
            assert found == pytest.approx(sum(losses) / len(losses), rel=1e-5)

    def test_reads_at_most_eval_iter_batches(self):
        run = Setup()
        sizes = []
        original = run.model.forward
        run.model.forward = lambda idx, cache=None: (sizes.append(len(idx)), original(idx))[1]
        evaluate_model(run.model, run.train_loader, run.val_loader, "cpu", 2)
        assert len(sizes) == 4

    def test_restores_every_mode(self):
        run = Setup()
        run.model.train()
        run.model.trf_blocks[1].eval()
        modes = [module.training for module in run.model.modules()]
        evaluate_model(run.model, run.train_loader, run.val_loader, "cpu", 1)
        assert [module.training for module in run.model.modules()] == modes
        assert run.model.training

    def test_leaves_an_evaluated_model_in_evaluation(self):
        run = Setup()
        run.model.eval()
        evaluate_model(run.model, run.train_loader, run.val_loader, "cpu", 1)
        assert not run.model.training

    def test_draws_from_no_generator_that_training_uses(self):
        run = Setup()
        states = torch.get_rng_state(), run.train_loader.generator.get_state()
        evaluate_model(run.model, run.train_loader, run.val_loader, "cpu", 2)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert torch.equal(run.train_loader.generator.get_state(), states[1])

    def test_leaves_no_gradient(self):
        run = Setup()
        evaluate_model(run.model, run.train_loader, run.val_loader, "cpu", 1)
        assert all(parameter.grad is None for parameter in run.model.parameters())


class TestSample:
    def test_one_line_whatever_the_text(self, capsys):
        class Lines:
            def encode(self, text, *, allowed_special):
                return [1, 2]

            def decode(self, tokens):
                return "\n".join(f"mot{token}\t" for token in tokens)

        generate_and_print_sample(Setup().model, Lines(), "cpu", "début")
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        assert out.endswith("\n")
        assert out.startswith("mot1 mot2 mot")
        assert len(out.split()) == 2 + SAMPLE_TOKENS

    def test_same_text_in_training_mode(self, capsys):
        run = Setup(drop_rate=0.5)
        for mode in (False, True):
            run.model.train(mode)
            generate_and_print_sample(run.model, TOKENIZER, "cpu", "Le passeur")
            assert run.model.training is mode
        first, second = capsys.readouterr().out.splitlines()
        assert first == second

    def test_draws_from_no_generator(self):
        before = torch.get_rng_state()
        run = Setup()
        before = torch.get_rng_state()
        generate_sample(run.model, TOKENIZER, "cpu", "Le passeur")
        assert torch.equal(torch.get_rng_state(), before)


# Épinglés pour la non-régression : une réécriture garde ces pertes. Elles ne disent pas ce
# qu'une perte devrait être, seulement ce qu'elle était (PyTorch 2.13, CPU, 1 ou 2 fils).
GOLDEN_TOKENS = [32, 224, 416, 608, 800, 992]
GOLDEN_TRAIN = [3.634958, 3.154476, 2.732902, 2.347111, 1.968159, 1.621669]
GOLDEN_VALIDATION = [3.615241, 3.131648, 2.749063, 2.400776, 2.034181, 1.701419]


@pytest.mark.slow
def test_golden_run():
    """Une petite course fixe, dropout et mélange compris."""
    run = Setup(seed=123, drop_rate=0.1)
    train_losses, val_losses, tokens_seen = run.train(epochs=3, eval_freq=6, eval_iter=100)
    assert tokens_seen == GOLDEN_TOKENS
    assert train_losses == pytest.approx(GOLDEN_TRAIN, rel=1e-4)
    assert val_losses == pytest.approx(GOLDEN_VALIDATION, rel=1e-4)
