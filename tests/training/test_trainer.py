"""La boucle complète : égale à la boucle simple, reprise au bit près, à l'épreuve des NaN."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import FRENCH_TEXT
from torch.utils.data import DataLoader, TensorDataset

from gpt_architecture.config import GPTConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.sampler import WindowSampler, make_batch
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.data.tokenizer import SimpleTokenizerV2
from gpt_architecture.errors import OutputError, TrainingError
from gpt_architecture.training import evaluate_model, train_model_simple
from gpt_architecture.training.callbacks import (
    Callback,
    EarlyStopping,
    OverfittingNotice,
    TrainerConfig,
)
from gpt_architecture.training.checkpoint import CheckpointStore, TrainingState, restore_
from gpt_architecture.training.optim import build_optimizer, make_schedule
from gpt_architecture.training.step import AutogradEngine, TokenBatches
from gpt_architecture.training.trainer import Trainer

WINDOW = 8
TOKENIZER = SimpleTokenizerV2.from_text(FRENCH_TEXT)
SOURCE = TokenArray(TOKENIZER.encode(FRENCH_TEXT))
SHAPE = GPTConfig(
    vocab_size=TOKENIZER.vocab_size,
    context_length=16,
    emb_dim=24,
    n_heads=3,
    n_layers=2,
    drop_rate=0.2,
)


class Recorder(Callback):
    """Retient tout, dans l'ordre."""

    def __init__(self):
        self.steps, self.evaluations, self.samples, self.events, self.saves = [], [], [], [], []
        self.order = []

    def on_step(self, record):
        self.steps.append(record)
        self.order.append("step")

    def on_evaluation(self, record, trainer):
        self.evaluations.append(record)
        self.order.append("evaluation")

    def on_sample(self, step, epoch, text):
        self.samples.append((step, epoch, text))
        self.order.append("sample")

    def on_save(self, step, path):
        self.saves.append(step)
        self.order.append("save")

    def on_event(self, step, message):
        self.events.append(message)


class Run:
    """Un entraînement minuscule complet, tiré d'une graine."""

    def __init__(
        self,
        *,
        steps=12,
        batch_size=4,
        accumulate=1,
        optimizer="adamw",
        schedule="constant",
        engine=None,
        callbacks=(),
        shape=SHAPE,
        checkpoint=None,
        lr=5e-3,
        warmup=0,
        state=None,
        **options,
    ):
        torch.manual_seed(123)
        self.model = GPTModel(shape)
        self.recorder = Recorder()
        training = TrainingConfig(lr=lr, seed=7)
        rules = OptimizerConfig(optimizer=optimizer)
        self.optimizer = build_optimizer(self.model, rules, training)
        self.sampler = WindowSampler(
            SOURCE.num_tokens, WINDOW, batch_size=batch_size * accumulate, seed=7
        )
        config = {"total_steps": steps, "eval_freq": 1000}
        names = TrainerConfig.__dataclass_fields__
        config |= {key: options.pop(key) for key in list(options) if key in names}
        if checkpoint is not None:
            tensors = {name: checkpoint.tensors(name) for name in checkpoint.names}
            restore_(self.model, self.optimizer, tensors)
            state = TrainingState.from_dict(checkpoint.state["trainer"])
        self.trainer = Trainer(
            self.model,
            AutogradEngine(self.model, "cpu") if engine is None else engine(self.model),
            self.optimizer,
            TokenBatches(SOURCE, self.sampler, micro_batch=batch_size),
            config=TrainerConfig(**config),
            schedule=make_schedule(ScheduleConfig(schedule=schedule, warmup_steps=warmup), steps),
            callbacks=[self.recorder, *callbacks],
            state=state,
            **options,
        )

    def go(self):
        self.state = self.trainer.run()
        return self

    @property
    def weights(self):
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    @property
    def losses(self):
        return [record.loss for record in self.recorder.steps]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def stop_after(steps):
    """Un arrêt demandé après `steps` interrogations sans arrêt."""
    left = [steps]

    def check():
        left[0] -= 1
        return left[0] < 0

    return check


class TestOracle:
    def test_same_losses_and_weights_as_the_simple_loop(self):
        """Même ordre des données, même optimiseur, dropout : mêmes bits partout."""
        steps, batch = 17, 4

        def evaluation(model):
            windows = [make_batch(SOURCE, [start], WINDOW) for start in (0, 8, 16)]
            data = TensorDataset(*(torch.cat(parts) for parts in zip(*windows, strict=True)))
            loader = DataLoader(data, batch_size=2)
            return lambda _stop=None: evaluate_model(model, loader, loader, "cpu", None), loader

        run = Run(steps=steps, batch_size=batch, eval_freq=4)  # 16 est la dernière étape
        run.trainer.evaluate, loader = evaluation(run.model)
        run.go()

        torch.manual_seed(123)
        model = GPTModel(SHAPE)
        optimizer = build_optimizer(model, OptimizerConfig(), TrainingConfig(lr=5e-3))
        starts = [run.sampler.batch(step)[0] for step in range(steps)]
        batches = [make_batch(SOURCE, chosen, WINDOW) for chosen in starts]
        data = TensorDataset(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
        seen = []

        class Listener:
            def __getattr__(self, name):
                return lambda *arguments: seen.append((name, *arguments))

        # Un générateur à part : ouvrir un chargeur tire du générateur global, donc du dropout.
        train_loader = DataLoader(data, batch_size=batch, generator=torch.Generator())
        # L'évaluation de la boucle simple lit ses chargeurs : on lui donne celui du trainer.
        from gpt_architecture.training import simple

        original = simple.evaluate_model
        simple.evaluate_model = lambda m, *_rest: original(m, loader, loader, "cpu", None)
        try:
            train_losses, val_losses, tokens = train_model_simple(
                *(model, train_loader, loader, optimizer, "cpu", 1, 4, 1, "Le passeur", TOKENIZER),
                reporter=Listener(),
            )
        finally:
            simple.evaluate_model = original
        assert run.state.train_losses == train_losses
        assert run.state.val_losses == val_losses
        assert run.state.tokens_seen == tokens
        assert same(run.weights, {n: p.detach() for n, p in model.named_parameters()})

    @pytest.mark.parametrize(("steps", "evaluated"), [(8, [0, 3, 6, 7]), (7, [0, 3, 6]), (1, [0])])
    def test_the_last_step_is_evaluated_once(self, steps, evaluated):
        """La perte finale est celle des poids rendus ; l'évaluer ne change rien aux étapes."""
        run = Run(steps=steps, eval_freq=3)
        weights = []

        def evaluate(_stop):
            weights.append(run.weights)
            return 1.0, 2.0

        run.trainer.evaluate = evaluate
        run.go()
        assert run.state.eval_steps == evaluated
        assert same(weights[-1], run.weights)
        blind = Run(steps=steps, eval_freq=3, evaluate=None).go()
        assert run.losses == blind.losses
        assert same(run.weights, blind.weights)

    def test_patience_says_nothing_at_the_end(self):
        """Le dernier jugement n'écourte plus rien."""
        run = Run(steps=8, eval_freq=7, callbacks=[EarlyStopping(1)])
        losses = iter([(1.0, 1.0), (1.0, 2.0)])
        run.trainer.evaluate = lambda _stop: next(losses)
        run.go()
        assert run.state.eval_steps == [0, 7]
        assert run.recorder.events == []

    def test_accumulation_gives_the_gradient_of_the_whole_batch(self):
        """Sans dropout, 2 lots de 2 accumulés valent un lot de 4, aux arrondis près."""
        shape = replace(SHAPE, drop_rate=0.0)
        whole = Run(steps=6, batch_size=4, shape=shape).go()
        split = Run(steps=6, batch_size=2, accumulate=2, shape=shape).go()
        assert split.losses == pytest.approx(whole.losses, rel=1e-5)
        assert split.state.tokens == whole.state.tokens == 6 * 4 * WINDOW

    def test_every_window_once_per_epoch(self):
        run = Run(batch_size=3)
        batches = TokenBatches(SOURCE, run.sampler, micro_batch=2)
        ids = [int(i) for step in range(9) for b in batches(step) for i in b.sequence_ids]
        assert ids == list(range(27))
        assert [b.is_last for b in batches(0)] == [False, True]
        ends = [step for step in range(60) if batches.ends_epoch(step)]
        assert ends[0] == (run.sampler.num_windows - 1) // 3
        assert batches.epoch_of(ends[0]) == 1


class TestResume:
    @pytest.mark.slow
    @pytest.mark.parametrize("optimizer", ["adamw", "muon"])
    @pytest.mark.parametrize("schedule", ["cosine", "wsd"])
    def test_half_then_resume_is_the_straight_run(self, tmp_path, optimizer, schedule):
        """Dropout, accumulation, programme, milieu d'époque : mêmes pertes, mêmes poids."""
        options = {
            "steps": 14, "accumulate": 2, "batch_size": 2, "clip": 1.0, "warmup": 3,
            "optimizer": optimizer, "schedule": schedule,
        }  # fmt: skip
        straight = Run(**options).go()
        store = CheckpointStore(tmp_path)
        first = Run(**options, store=store, should_stop=stop_after(7)).go()
        assert first.state.step == 7
        torch.manual_seed(999)
        second = Run(**options, store=store, checkpoint=store.latest()).go()
        assert first.losses + second.losses == straight.losses
        assert same(second.weights, straight.weights)
        assert second.state.tokens == straight.state.tokens

    def test_an_interrupted_evaluation_is_made_at_resume(self, tmp_path):
        """L'arrêt tombe pendant l'évaluation : le point est écrit, les pertes sont les mêmes."""
        evaluate = {"evaluate": lambda stop: None if stop() else (1.0, 2.0), "eval_freq": 3}
        straight = Run(steps=8, **evaluate).go()
        store = CheckpointStore(tmp_path)
        # Interrogé une fois par étape et par évaluation : la cinquième est dans l'évaluation.
        first = Run(steps=8, **evaluate, store=store, should_stop=stop_after(5)).go()
        assert (first.state.step, first.state.eval_steps) == (4, [0])
        second = Run(steps=8, **evaluate, store=store, checkpoint=store.latest()).go()
        assert second.state.eval_steps == straight.state.eval_steps == [0, 3, 6, 7]
        assert same(second.weights, straight.weights)

    def test_an_interrupted_last_evaluation_is_not_the_end(self, tmp_path):
        """L'arrêt tombe dans la dernière évaluation : rien n'est fini, la reprise la fait."""
        evaluate = {"evaluate": lambda stop: None if stop() else (1.0, 2.0), "eval_freq": 3}
        store = CheckpointStore(tmp_path)
        first = Run(steps=4, **evaluate, store=store, should_stop=stop_after(5)).go()
        assert (first.state.step, first.state.eval_steps) == (4, [0])
        assert not first.trainer.complete
        second = Run(steps=4, **evaluate, store=store, checkpoint=store.latest()).go()
        assert second.state.eval_steps == [0, 3]
        assert second.trainer.complete

    def test_stopped_before_the_first_step(self, tmp_path):
        """Un arrêt pendant la préparation s'enregistre aussi : il n'y a qu'à reprendre."""
        store = CheckpointStore(tmp_path)
        first = Run(steps=4, store=store, should_stop=lambda: True).go()
        assert (first.state.step, store.steps()) == (0, [0])
        second = Run(steps=4, store=store, checkpoint=store.latest()).go()
        assert same(second.weights, Run(steps=4).go().weights)

    def test_other_weights_are_refused(self, tmp_path):
        store = CheckpointStore(tmp_path)
        Run(steps=2, store=store, save_every=1).go()
        with pytest.raises(TrainingError, match="ne sont pas ceux de ce modèle"):
            Run(shape=replace(SHAPE, n_layers=1), checkpoint=store.latest())


class LateStore:
    """Écrit en arrière-plan : le refus du disque n'est connu qu'à `flush`."""

    def __init__(self, refusals):
        self.refusals, self.saved, self.pending = refusals, [], False

    def save(self, step, *_rest):
        self.saved.append(step)
        self.pending = True

    def flush(self):
        pending, self.pending = self.pending, False
        if pending and self.refusals:
            self.refusals -= 1
            raise OutputError("disque plein", expected="de la place", remedy="libérez-en")


class TestCheckpoints:
    def test_written_before_the_evaluation(self, tmp_path):
        """Une évaluation qui échoue ne coûte pas l'étape."""

        def broken(_stop):
            raise RuntimeError("évaluation perdue")

        store = CheckpointStore(tmp_path)
        run = Run(steps=6, store=store, save_every=3, eval_freq=2, evaluate=broken)
        run.trainer.state.eval_steps.append(0)  # l'échec tombe à l'étape 2, celle du point
        with pytest.raises(RuntimeError, match="évaluation perdue"):
            run.go()
        assert store.latest().step == 3

    def test_best_and_last(self, tmp_path):
        """Le meilleur point survit à la rétention."""
        losses = iter([5.0, 3.0, 4.0, 4.5, 4.6, 4.7])
        store = CheckpointStore(tmp_path, keep_last=1)
        run = Run(
            steps=6, store=store, save_every=1, eval_freq=1, evaluate=lambda _s: (1.0, next(losses))
        ).go()
        assert store.best().step == 2
        assert store.steps() == [2, 6]
        assert run.state.best_step == 1

    def test_a_refused_write_does_not_stop_the_training(self):
        """Un disque plein est dit ; l'entraînement continue, puis le dernier refus est dit."""

        class Full:
            def save(self, *_arguments):
                raise OutputError("disque plein", expected="de la place", remedy="libérez-en")

            def flush(self):
                pass

        run = Run(steps=4, store=Full(), save_every=3)
        assert run.go().state.step == 4
        assert "Point de reprise non écrit : disque plein" in run.recorder.events[0]
        with pytest.raises(OutputError):
            Run(steps=4, store=Full(), should_stop=stop_after(2)).go()

    @pytest.mark.parametrize(("refusals", "saved"), [(0, [3]), (1, [3, 3])])
    def test_a_late_refusal_is_made_up_for(self, refusals, saved):
        """L'écriture en arrière-plan a échoué : au moment de s'arrêter, elle est refaite."""
        store = LateStore(refusals)
        run = Run(steps=6, store=store, save_every=3, should_stop=stop_after(3)).go()
        assert store.saved == saved
        assert len(run.recorder.events) == refusals

    def test_a_late_refusal_at_the_end(self):
        """Au terme, il est dit, et le modèle reste à écrire ; à l'arrêt, c'est une erreur."""
        run = Run(steps=3, store=LateStore(9), save_every=3).go()
        assert run.trainer.complete
        assert "Point de reprise non écrit : disque plein" in run.recorder.events[-1]
        with pytest.raises(OutputError, match="disque plein"):
            Run(steps=6, store=LateStore(9), save_every=3, should_stop=stop_after(3)).go()

    def test_a_refused_best_does_not_stop_the_training(self, tmp_path):
        """Le fichier qui désigne le meilleur est refusé : c'est dit, et les points sont là."""
        store = CheckpointStore(tmp_path)

        def refuse(step):
            raise OutputError("disque plein", expected="de la place", remedy="libérez-en")

        store.mark_best = refuse
        evaluate = {"eval_freq": 2, "evaluate": lambda _stop: (1.0, 2.0)}
        run = Run(steps=4, store=store, save_best=True, **evaluate).go()
        assert run.state.step == 4
        assert "Meilleur point de reprise non désigné : disque plein" in run.recorder.events[0]
        assert store.steps()

    def test_time_alone_decides(self, tmp_path):
        store = CheckpointStore(tmp_path, keep_last=9)
        Run(steps=3, store=store, save_seconds=1e-9).go()
        assert store.steps() == [1, 2, 3]
        Run(steps=3, store=(none := CheckpointStore(tmp_path / "rien"))).go()
        assert none.steps() == []


class PoisonedEngine:
    """Un moteur dont la perte ou le gradient n'est pas fini à certaines étapes."""

    held_back = ()

    def __init__(self, model, steps, where):
        self.inner, self.model = AutogradEngine(model, "cpu"), model
        self.steps, self.where, self.calls = steps, where, 0

    def forward_backward(self, batch, *, scale):
        loss = self.inner.forward_backward(batch, scale=scale)
        if self.calls in self.steps:
            if self.where == "gradient":
                self.model.tok_emb.weight.grad[0, 0] = math.inf
            else:
                loss = torch.tensor(math.nan)
        self.calls += 1
        return loss


class TestBadSteps:
    @pytest.mark.parametrize("where", ["perte", "gradient"])
    def test_skipped_counted_and_said(self, where):
        """Les poids ne bougent pas, l'entraînement continue, l'étape est comptée."""
        run = Run(steps=5, clip=1.0, engine=lambda model: PoisonedEngine(model, {2}, where)).go()
        assert [record.skipped for record in run.recorder.steps] == [False] * 2 + [True] + [
            False
        ] * 2
        assert run.state.skipped == 1
        assert run.state.bad_in_a_row == 0
        assert "Étape 000002 sautée" in run.recorder.events[0]
        assert where in run.recorder.events[0]
        assert all(torch.isfinite(tensor).all() for tensor in run.weights.values())

    def test_a_skipped_step_leaves_the_weights_alone(self):
        before = Run(steps=1)
        untouched = before.weights
        before.trainer.engine = PoisonedEngine(before.model, {0}, "gradient")
        assert same(before.go().weights, untouched)

    def test_several_in_a_row_stop(self, tmp_path):
        """Le dernier bon point de reprise est gardé."""
        store = CheckpointStore(tmp_path)
        run = Run(
            steps=20,
            store=store,
            save_every=2,
            max_bad_steps=3,
            engine=lambda model: PoisonedEngine(model, set(range(4, 20)), "perte"),
        )
        with pytest.raises(TrainingError, match=r"depuis 3 étapes.*`lr`"):
            run.go()
        latest = store.latest()
        assert latest.state["trainer"]["step"] == latest.step
        assert all(torch.isfinite(t).all() for t in latest.tensors("model").values())

    @pytest.mark.parametrize(
        "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
    )
    def test_out_of_memory_names_the_knobs(self, error):
        class Full:
            def forward_backward(self, batch, *, scale):
                raise error

        with pytest.raises(
            TrainingError, match=r"`batch_size`.*`checkpoint_activations`.*`memory=lean`"
        ):
            Run(engine=lambda _model: Full()).go()

    def test_out_of_memory_for_the_moments_too(self):
        """La première mise à jour alloue les moments : là aussi, les réglages sont nommés."""
        run = Run()

        def step():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        run.optimizer.step = step
        with pytest.raises(TrainingError, match=r"`batch_size`.*`memory=lean`"):
            run.go()

    def test_another_error_is_not_disguised(self):
        class Broken:
            def forward_backward(self, batch, *, scale):
                raise RuntimeError("autre chose")

        with pytest.raises(RuntimeError, match="autre chose"):
            Run(engine=lambda _model: Broken()).go()

    def test_an_engine_that_keeps_no_gradient(self):
        """Mode économe : rien à réduire, la norme est inconnue, le taux est réglé avant."""

        class Lean:
            def __init__(self, model):
                self.rates = []

            def forward_backward(self, batch, *, scale):
                self.rates.append(run.optimizer.param_groups[0]["lr"])
                return torch.tensor(1.0)

        run = Run(steps=4, clip=1.0, engine=Lean, schedule="linear", lr=1.0)
        run.go()
        assert run.trainer.engine.rates == pytest.approx([1, 2 / 3, 1 / 3, 0])
        assert [record.grad_norm for record in run.recorder.steps] == [None] * 4


class TestNotices:
    def test_early_stopping(self):
        losses = iter([5.0, 3.0, 4.0, 4.0, 4.0, 1.0])
        run = Run(
            steps=30,
            eval_freq=1,
            evaluate=lambda _s: (1.0, next(losses)),
            callbacks=[EarlyStopping(3)],
        ).go()
        assert run.state.step == 5
        assert run.trainer.complete
        assert "Arrêt anticipé" in run.recorder.events[-1]

    def test_early_stopping_outlives_a_resume(self, tmp_path):
        """L'arrêt tombe dans l'exemple, après l'évaluation décisive : la reprise n'ajoute rien."""
        epoch = Run().sampler.steps_per_epoch
        losses = iter([1.0, *[2.0] * epoch])
        store = CheckpointStore(tmp_path)
        options = {
            "steps": 3 * epoch,
            "eval_freq": 1,
            "evaluate": lambda _stop: (1.0, next(losses)),
            "callbacks": [EarlyStopping(epoch - 1)],
            "store": store,
        }
        first = Run(**options, sample=lambda _stop: None).go()
        assert (first.state.step, first.trainer.complete) == (epoch, False)
        second = Run(**options, sample=lambda _stop: "un texte", checkpoint=store.latest()).go()
        assert (second.state.step, second.trainer.complete) == (epoch, True)
        assert "Arrêt anticipé" in second.recorder.events[-1]
        assert len(second.recorder.samples) == 1

    def test_overfitting_is_said_once(self):
        pairs = iter([(5, 5), (4, 4), (3, 4.2), (2, 4.4), (1, 4.6), (0.5, 5.0), (0.4, 5.5)])
        run = Run(
            steps=7, eval_freq=1, evaluate=lambda _s: next(pairs), callbacks=[OverfittingNotice()]
        ).go()
        assert len(run.recorder.events) == 1
        assert "depuis l'étape 000001 (4,000, ici 4,600)" in run.recorder.events[0]

    def test_noise_is_not_overfitting(self):
        pairs = iter([(5, 5), (4, 4), (3, 4.01), (2, 4.02), (1, 4.03), (0.5, 4.01)])
        run = Run(
            steps=6, eval_freq=1, evaluate=lambda _s: next(pairs), callbacks=[OverfittingNotice()]
        ).go()
        assert run.recorder.events == []

    def test_a_sample_after_each_epoch(self):
        run = Run(batch_size=5)
        epoch = run.sampler.num_windows / 5
        run = Run(batch_size=5, steps=run.sampler.steps_in(3), sample=lambda _stop: "un texte").go()
        assert [(epoch_, text) for _, epoch_, text in run.recorder.samples] == [
            (number, "un texte") for number in (1, 2, 3)
        ]
        steps = [step for step, *_ in run.recorder.samples]
        assert steps == [math.ceil(epoch * k) - 1 for k in (1, 2, 3)]


def test_an_unfinished_epoch_still_ends_with_a_sample():
    """Arrêté par son nombre d'étapes, un entraînement montre ce qu'il écrit à la fin."""
    seen = []
    run = Run(steps=3, sample=lambda _stop: seen.append("exemple") or "texte")
    assert not run.trainer.batches.ends_epoch(2)
    run.trainer.run()
    assert seen == ["exemple"]
