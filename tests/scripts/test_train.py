"""La commande train : sorties, options, refus, arrêt."""

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from cli_helpers import run_process, tiny
from conftest import FRENCH_TEXT
from pypdf import PdfReader

from gpt_architecture.cli import launch
from gpt_architecture.config import TRAINING_PRESETS
from gpt_architecture.formats.model_file import read_model
from gpt_architecture.training import outputs as training_outputs
from gpt_architecture.training.checkpoint import CheckpointStore

STEP = "gpt_architecture.training.step"


def test_writes_model_and_plot(trained):
    """Les deux fichiers promis s'ouvrent et se tiennent."""
    model = read_model(trained / "gpt-model.pt")
    assert (model.config.emb_dim, model.config.context_length) == (32, 1024)
    assert model.metadata["window"] == 32
    assert model.tokenizer["name"] == "simple-v2"
    assert model.config.vocab_size == len(model.tokenizer["vocab"])
    metadata = model.metadata
    assert metadata["complete"] is True
    assert len(metadata["train_losses"]) == len(metadata["val_losses"]) > 1
    assert metadata["train_losses"][-1] < metadata["train_losses"][0]
    assert metadata["data"]["name"] == "la-lampe-du-passeur"
    pages = PdfReader(trained / "loss-plot.pdf").pages
    assert len(pages) == 1
    assert "Époques" in pages[0].extract_text()


def test_output_tells_everything(trained):
    """Texte, forme, pertes, exemple, fichiers, et la commande suivante ; pas de couleurs."""
    out = (trained / "sortie.txt").read_text(encoding="utf-8")
    for expected in (
        "la-lampe-du-passeur",
        "paramètres",
        "cpu",
        " en tout, lots de ",
        "Époque 1 (étape 000000)",
        "tokens/s, reste",
        "Exemple : Un soir d'",
        "gpt-model.pt",
        "loss-plot.pdf",
        "Ensuite : gpt-architecture infer",
    ):
        assert expected in out
    assert "\x1b[" not in out


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ((), "bf16"),
        (("--precision", "fp32"), "fp32"),
        (("--engine", "autograd"), "fp32"),
        (("--engine", "autograd", "--precision", "bf16"), "bf16"),
        (("--checkpoint-activations",), "fp32"),  # par autograd
    ],
)
def test_the_header_tells_the_precision(cli, tmp_path, monkeypatch, options, precision):
    """Celle qui a calculé ; à AVX512-BF16 sans AMX, `auto` n'arrondit que le pas fusionné."""
    monkeypatch.setattr(f"{STEP}.instructions", lambda: frozenset(["avx512_bf16"]))
    outcome = cli("train", *tiny(output_dir=tmp_path, max_steps=1, save_every=1), *options)
    assert outcome.code == 0, outcome.err
    (header,) = [line for line in outcome.out.splitlines() if line.startswith("Périphérique ")]
    assert header.endswith(", produits en bf16") == (precision == "bf16")
    assert ", arrêtées après 1, lots de " in outcome.out
    calculation = CheckpointStore(tmp_path / "checkpoints").latest().state["calculation"]
    assert calculation["precision"] == precision


@pytest.mark.slow
def test_same_command_overwrites_its_own_output_with_the_same_weights(cli, tmp_path):
    """Refaire le même entraînement est permis, et donne les mêmes poids bit pour bit."""
    command = ("train", *tiny(output_dir=tmp_path, drop_rate=0.2))
    assert cli(*command).code == 0
    first = read_model(tmp_path / "gpt-model.pt").state_dict
    weights = {name: tensor.clone() for name, tensor in first.items()}
    assert cli(*command).code == 0
    second = read_model(tmp_path / "gpt-model.pt").state_dict
    assert all(torch.equal(weights[name], second[name]) for name in weights)


@pytest.mark.slow
def test_evaluation_frequency_does_not_change_the_weights(cli, tmp_path):
    """Évaluer plus souvent ne change pas un bit du modèle."""
    states = []
    for freq in (1, 1000):
        folder = tmp_path / str(freq)
        assert cli("train", *tiny(output_dir=folder, eval_freq=freq, drop_rate=0.2)).code == 0
        states.append(read_model(folder / "gpt-model.pt").state_dict)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_refuses_to_overwrite_another_model(cli, trained, tmp_path):
    """Un autre réglage n'écrase pas ; --force l'impose."""
    target = tmp_path / "gpt-model.pt"
    shutil.copy(trained / "gpt-model.pt", target)
    original = target.read_bytes()
    command = ("train", *tiny(seed=7, output_dir=tmp_path))
    cli(*command).check_one_line_error(1, "existe déjà", "--force")
    assert target.read_bytes() == original
    assert cli(*command, "--force").code == 0
    assert read_model(target).metadata["training"]["seed"] == 7


def test_another_context_length_is_another_training(cli, trained, tmp_path):
    """La fenêtre apprise distingue deux entraînements, même à positions égales."""
    target = tmp_path / "gpt-model.pt"
    shutil.copy(trained / "gpt-model.pt", target)
    original = target.read_bytes()
    outcome = cli("train", *tiny(context_length=24, output_dir=tmp_path))
    outcome.check_one_line_error(1, "existe déjà", "--force")
    assert target.read_bytes() == original


def test_refuses_to_overwrite_a_foreign_file(cli, tmp_path):
    """Un fichier de ce nom qui n'est pas un modèle est respecté aussi."""
    target = tmp_path / "gpt-model.pt"
    target.write_text("autre chose", encoding="utf-8")
    cli("train", *tiny(output_dir=tmp_path)).check_one_line_error(1, "existe déjà")
    assert target.read_text(encoding="utf-8") == "autre chose"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"epochs": 0}, 2, ["epochs", "≥ 1"]),
        ({"epochs": "dix"}, 2, ["--epochs", "un entier"]),
        ({"batch_size": -2}, 2, ["--batch-size vaut"]),
        ({"lr": 0}, 2, ["lr"]),
        ({"lr": "nan"}, 2, ["lr"]),
        ({"stride": 0}, 2, ["stride"]),
        ({"stride": -3}, 2, ["stride"]),
        ({"drop_rate": 1}, 2, ["--drop-rate vaut"]),
        ({"train_ratio": 1}, 2, ["--train-ratio vaut"]),
        ({"seed": -1}, 2, ["seed"]),
        ({"emb_dim": 33}, 2, ["multiple"]),
        ({"device": "abaque"}, 2, ["abaque", "cpu"]),
        ({"tokenizer": "inconnu"}, 1, ["inconnu", "simple-v2"]),
        ({"data": "absent.txt"}, 1, ["absent.txt", "the-verdict"]),
        ({"context_length": 2000}, 2, ["--positions 2000"]),
        ({"context_length": 0}, 2, ["--context-length vaut"]),
        ({"context_length": 100_000, "positions": 100_000}, 1, ["trop court", "--context-length"]),
        ({"context_length": 600}, 1, ["part de validation", "trop court"]),
        ({"batch_size": 100_000}, 1, ["part d'entraînement", "--batch-size"]),
        ({"tokenizer": "simple-v1", "prompt": "zygomatique"}, 1, ["zygomatique"]),
        ({"prompt": " "}, 2, ["--prompt"]),
        ({"nimporte": "quoi"}, 2, ["--nimporte"]),
        ({"epoch": 2}, 2, ["--epoch", "essayez --epochs"]),
        ({"output_dir": "/dev/null/m"}, 1, ["/dev/null", "--output-dir"]),
        ({"config": "absent.toml"}, 2, ["absent.toml"]),
        ({"accumulate": 0}, 2, ["accumulate"]),
        ({"max_steps": 0}, 2, ["--max-steps vaut"]),
        ({"clip": -1}, 2, ["clip"]),
        ({"optimizer": "sgd"}, 2, ["--optimizer", "adamw, muon"]),
        ({"schedule": "escalier"}, 2, ["--schedule", "cosine"]),
        ({"save_every": 0}, 2, ["--save-every vaut"]),
        ({"keep": 0}, 2, ["keep"]),
        ({"patience": 0}, 2, ["patience"]),
        ({"price_per_hour": -1}, 2, ["--price-per-hour vaut"]),
    ],
)
def test_bad_option_gives_one_line(cli, tmp_path, options, code, words):
    """Chaque mauvaise option : une ligne, le bon code, aucun modèle écrit."""
    outcome = cli("train", *tiny(**{"output_dir": tmp_path / "m", **options}))
    outcome.check_one_line_error(code, *words)
    assert not (tmp_path / "m" / "gpt-model.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["vide"]),
        (b"  \n\t ", ["vide"]),
        ("caf\xe9 cr\xe8me".encode("latin-1"), ["0xe9", "position 3", "UTF-8"]),
        ("bonjour".encode("utf-16"), ["UTF-16"]),
        (b"abc\0def", ["nul"]),
        (b"trop court", ["trop court", "--context-length"]),
    ],
)
def test_bad_text_gives_one_line(cli, tmp_path, content, words):
    """Texte vide, binaire, mal encodé ou trop court : une phrase claire, code 1."""
    source = tmp_path / "texte.txt"
    source.write_bytes(content)
    outcome = cli("train", *tiny(data=source, output_dir=tmp_path / "m"))
    outcome.check_one_line_error(1, *words)


def test_full_disk_is_said_before_training(cli, tmp_path, monkeypatch):
    """La place manque : on le dit avant la première étape."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    outcome = cli("train", *tiny(output_dir=tmp_path / "m"))
    outcome.check_one_line_error(1, "il reste 1000 octets")
    assert "Époque" not in outcome.out


@pytest.mark.slow
@pytest.mark.parametrize(("options", "written"), [((), 3), (("--save-best", "--keep", "4"), 6)])
def test_room_is_asked_for_every_checkpoint(cli, tmp_path, monkeypatch, options, written):
    """Ceux qui sont gardés, le meilleur et celui qui s'écrit, même si le temps seul en décide."""
    command = ("train", *tiny(output_dir=tmp_path / "m", max_steps=1), *options)
    estimated = cli(*command, "--estimate").out
    assert f"{written - 1} points de reprise" in estimated
    monkeypatch.setattr(training_outputs.Product, "checkpoint_bytes", 1 << 50)
    cli(*command).check_one_line_error(1, f"{written << 20},0 Gio pour le modèle")


@pytest.mark.slow
def test_own_files_of_every_kind_train(cli, tmp_path):
    """Un dossier, plusieurs sources, chaque tokenizer."""
    folder = tmp_path / "textes"
    folder.mkdir()
    for name in ("un.txt", "deux.md"):
        (folder / name).write_text("Le passeur regarde l'eau et la lampe. " * 60, encoding="utf-8")
    for tokenizer in ("gpt2", "simple-v1", "simple-v2"):
        out = tmp_path / tokenizer
        options = tiny(tokenizer=tokenizer, output_dir=out, prompt="Le passeur")
        index = options.index("--data")
        del options[index : index + 2]
        outcome = cli("train", *options, "--data", folder, folder / "un.txt")
        assert outcome.code == 0, outcome.err
        assert read_model(out / "gpt-model.pt").tokenizer["name"] == tokenizer


@pytest.mark.slow
def test_underscores_toml_and_environment(cli, tmp_path, monkeypatch):
    """Ligne de commande, puis environnement, puis TOML : le plus proche gagne."""
    config = tmp_path / "essai.toml"
    config.write_text(
        "[train]\nemb_dim = 48\nn-heads = 3\nlr = 0.002\nseed = 9\n", encoding="utf-8"
    )
    monkeypatch.setenv("GPT_ARCHITECTURE_SEED", "11")
    base = [o for o in tiny() if o not in ("--emb-dim", "32", "--n-heads", "2", "--context-length")]
    outcome = cli(
        *("train", *base, "--context_length", 24, "--config", config),
        *("--output_dir", tmp_path, "--lr", 0.003),
    )
    assert outcome.code == 0, outcome.err
    model = read_model(tmp_path / "gpt-model.pt")
    assert (model.config.emb_dim, model.config.n_heads) == (48, 3)
    assert model.metadata["window"] == 24
    training = model.metadata["training"]
    assert (training["lr"], training["seed"]) == (0.003, 11)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[train]\nzut = 3\n", ["zut"]),
        ("[train]\nepochs = 'dix'\n", ["dix", "un entier"]),
        ("epochs = 3\n", ["[train]"]),
        ("[train\n", ["TOML"]),
    ],
)
def test_bad_toml_gives_one_line(cli, tmp_path, content, words):
    """Clé inconnue, mauvaise valeur, mauvaise table ou syntaxe."""
    config = tmp_path / "essai.toml"
    config.write_text(content, encoding="utf-8")
    options = tiny(output_dir=tmp_path / "m")
    index = options.index("--epochs")
    del options[index : index + 2]
    cli("train", *options, "--config", config).check_one_line_error(2, *words)


@pytest.mark.skipif(os.name != "posix", reason="signaux POSIX")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_stop_signal_saves_a_checkpoint(cli, tmp_path, number, code):
    """Ctrl-C, SIGTERM ou SIGHUP : un point de reprise, la commande qui reprend, et le bon code."""
    command = [
        *(sys.executable, "-u", "-m", "gpt_architecture", "train"),
        *tiny(epochs=10_000, output_dir=tmp_path, eval_freq=1),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        for line in process.stdout:
            if line.startswith("Époque"):
                process.send_signal(number)
                break
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "Arrêt demandé" in err
    assert f"Pour reprendre : gpt-architecture train --resume {tmp_path}" in out
    (saved,) = (tmp_path / "checkpoints").glob("step-*")
    assert str(saved) in out
    assert not (tmp_path / "gpt-model.pt").exists()
    model = read_model(saved)
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict.values())
    outcome = cli("infer", "--model", saved, "--max-tokens", 5)
    assert outcome.out.startswith("Un soir d'octobre")
    outcome = cli("train", "--resume", tmp_path, "--max-steps", int(saved.name[5:]) + 2)
    assert outcome.code == 0, outcome.err
    assert f"Reprise à l'étape {int(saved.name[5:])}, lu : la-lampe-du-passeur" in outcome.out


@pytest.mark.skipif(os.name != "posix", reason="signaux POSIX")
def test_a_signal_saves_even_when_nobody_reads(tmp_path):
    """`2>&1 | tee` : Ctrl-C emporte tee d'abord ; le point de reprise est écrit, le code 130."""
    command = [
        *(sys.executable, "-u", "-m", "gpt_architecture", "train"),
        *tiny(epochs=10_000, output_dir=tmp_path, eval_freq=1, save_every=7),
    ]
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=writer, encoding="utf-8"
    ) as process:
        os.close(writer)
        for line in process.stdout:
            if line.startswith("Époque") and (tmp_path / "checkpoints" / "step-000007").is_dir():
                break
        process.stdout.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    saved = CheckpointStore(tmp_path / "checkpoints").latest()
    steps = [record for record in read_journal(tmp_path) if record["kind"] == "step"]
    assert saved.step == len(steps)


def read_journal(folder):
    lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_precision_the_machine_lacks_is_refused_first(cli, tmp_path, monkeypatch):
    """Avant de lire le texte et d'apprendre un vocabulaire ; aucun fichier n'est écrit."""
    monkeypatch.setattr(f"{STEP}.has_bf16", lambda _device: False)
    options = tiny(data=tmp_path / "absent.txt", output_dir=tmp_path / "essai", precision="bf16")
    outcome = cli("train", *options)
    outcome.check_one_line_error(2, "--precision bf16", "instructions bf16", "--device")
    assert list(tmp_path.glob("essai")) == []


class TestResume:
    """`--resume` : les options reviennent, ce qui a changé est dit."""

    @pytest.fixture
    def source(self, tmp_path):
        path = tmp_path / "texte.txt"
        path.write_text(FRENCH_TEXT * 3, encoding="utf-8")
        return path

    @staticmethod
    def start(cli, source, *extra, **changes):
        """Lance un entraînement : dropout, accumulation, cosinus, deux époques."""
        out = source.parent / "essai"
        options = {"accumulate": 2, "schedule": "cosine", "epochs": 2, "eval_freq": 3, **changes}
        common = tiny(**options, drop_rate=0.2, data=source, output_dir=out, prompt="Le passeur")
        return out, cli("train", *common, *extra)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "calculation",
        [
            {"precision": "fp32"},
            {"precision": "bf16"},
            {"precision": "bf16", "memory": "lean", "accumulate": 1},
        ],
    )
    def test_half_then_resume_equals_straight(
        self, cli, source, tmp_path, monkeypatch, calculation
    ):
        """Les pertes et les poids sont ceux de l'entraînement d'une traite, au bit près."""
        monkeypatch.setattr(f"{STEP}.has_bf16", lambda _device: True)
        out, outcome = self.start(cli, source, **calculation)
        assert outcome.code == 0, outcome.err
        straight = read_model(out / "gpt-model.pt")
        steps = straight.metadata["steps"]
        expected = {name: tensor.clone() for name, tensor in straight.state_dict.items()}
        journal = read_journal(out)
        shutil.rmtree(out)

        class Stopping(launch.StopRequest):
            left = 20

            def __call__(self):
                type(self).left -= 1
                if self.left < 0:
                    self.signal = signal.SIGTERM
                return self.signal is not None

        with monkeypatch.context() as patch:
            patch.setattr(launch, "StopRequest", Stopping)
            out, outcome = self.start(cli, source, **calculation)
        assert outcome.code == 143
        monkeypatch.chdir(tmp_path.parent)  # les chemins relatifs n'ont pas à tenir
        outcome = cli("train", "--resume", out)
        assert outcome.code == 0, outcome.err
        resumed = read_model(out / "gpt-model.pt")
        assert all(torch.equal(expected[n], t) for n, t in resumed.state_dict.items())
        for key in ("train_losses", "val_losses", "tokens_seen", "steps"):
            assert resumed.metadata[key] == straight.metadata[key]
        again = read_journal(out)
        for kind in ("step", "evaluation", "sample"):
            names = ("step", "loss", "train_loss", "val_loss", "text")
            first, second = (
                [[r.get(name) for name in names] for r in records if r["kind"] == kind]
                for records in (journal, again)
            )
            assert first == second
        assert [r["step"] for r in again if r["kind"] == "step"] == list(range(steps))

    @pytest.mark.slow
    def test_another_option_is_refused_and_shown(self, cli, source):
        out, _ = self.start(cli, source, "--max-steps", 4)
        before = sorted((out / "checkpoints").iterdir())
        outcome = cli("train", "--resume", out, "--lr", 0.01, "--max-steps", 6)
        outcome.check_one_line_error(1, "lr : 0.0004 enregistré, 0.01 demandé", "--override")
        assert sorted((out / "checkpoints").iterdir()) == before
        assert cli("train", "--resume", out, "--lr", 0.01, "--max-steps", 6, "--override").code == 0
        assert [p.name for p in sorted((out / "checkpoints").glob("step-*"))] == [
            "step-000004",
            "step-000006",
        ]

    @pytest.mark.slow
    def test_changed_data_is_refused(self, cli, source):
        out, _ = self.start(cli, source, "--max-steps", 4)
        source.write_text(FRENCH_TEXT * 3 + "Encore. ", encoding="utf-8")
        outcome = cli("train", "--resume", out, "--max-steps", 6)
        outcome.check_one_line_error(1, "données", "enregistré", "--override")

    @pytest.mark.slow
    @pytest.mark.parametrize("tokenizer", ["simple-v2", "bpe-300"])
    def test_overridden_data_keep_the_learned_vocabulary(self, cli, source, tokenizer):
        """Sur un autre texte, l'apprendre de nouveau donnerait d'autres tokens aux mêmes poids."""
        out, _ = self.start(cli, source, "--max-steps", 4, tokenizer=tokenizer)
        learned = read_model(out / "gpt-model.pt").tokenizer
        source.write_text("Un autre texte, tout autre, sans passeur ni eau. " * 60, "utf-8")
        refused = cli("train", "--resume", out, "--max-steps", 6)
        refused.check_one_line_error(1, "données", "--override")
        outcome = cli("train", "--resume", out, "--max-steps", 6, "--override")
        assert outcome.code == 0, outcome.err
        assert read_model(out / "gpt-model.pt").tokenizer == learned
        assert CheckpointStore(out / "checkpoints").latest().state["tokenizer"] == learned

    @pytest.mark.slow
    def test_another_vocabulary_is_refused_even_overridden(self, cli, source):
        """De même taille ou non : des poids ne valent que pour leurs tokens."""
        out, _ = self.start(cli, source, "--max-steps", 4, tokenizer="bpe-300")
        before = sorted((out / "checkpoints").iterdir())
        command = ("train", "--resume", out, "--max-steps", 6, "--override", "--tokenizer")
        for other in ("bpe-290", "gpt2"):
            outcome = cli(*command, other)
            outcome.check_one_line_error(1, "le tokenizer n'est plus celui", "--override")
        assert sorted((out / "checkpoints").iterdir()) == before

    @pytest.mark.slow
    def test_moved_data_is_accepted(self, cli, source):
        """L'empreinte juge, non le chemin."""
        moved = source.parent / "deux" / "un.txt"
        out, _ = self.start(cli, source, "--max-steps", 4)
        moved.parent.mkdir()
        source.rename(moved)
        cli("train", "--resume", out).check_one_line_error(1, "introuvable")
        outcome = cli("train", "--resume", out, "--data", moved, "--max-steps", 6)
        assert outcome.code == 0, outcome.err

    @pytest.mark.parametrize(
        "broken", ["raise ImportError('libllvmlite.so')", "raise OSError('libllvm')", "1 / 0"]
    )
    def test_without_its_kernels(self, cli, source, tmp_path, broken):
        """Un numba absent ou cassé est dit ; la reprise d'un autre moteur est refusée."""
        (tmp_path / "cassé/numba").mkdir(parents=True)
        (tmp_path / "cassé/numba/__init__.py").write_text(f"{broken}\n", encoding="utf-8")
        environment = {"PYTHONPATH": str(tmp_path / "cassé"), "GPT_ARCHITECTURE_OFFLINE": "1"}

        def train(*options):
            command = (sys.executable, "-m", "gpt_architecture", "train", *options)
            return run_process(*command, env=environment)

        out = tmp_path / "sortie"
        common = ("--output-dir", out, "--max-steps", 2, "--precision", "fp32")
        fused = cli("train", *tiny(data=source), *common)
        assert "autograd" not in fused.err
        kernels = ("--resume", out, "--max-steps", 4)
        train(*kernels).check_one_line_error(1, "moteur fused puis autograd", "--override")
        accepted = train(*kernels, "--override")
        assert accepted.code == 0, accepted.err
        assert "les noyaux ne se compilent pas ici (" in accepted.err
        assert "moteur autograd, plus lent" in accepted.err
        assert "moteur fused puis autograd" in accepted.err
        again = cli("train", "--resume", out, "--max-steps", 6)  # autograd, puisqu'il en vient
        assert again.code == 0, again.err
        assert "les arrondis" not in again.err
        said = CheckpointStore(out / "checkpoints").latest().state["calculation"]
        assert said == {"engine": "autograd", "device": "cpu", "precision": "fp32"}

    def test_nothing_to_resume(self, cli, tmp_path):
        cli("train", "--resume", tmp_path).check_one_line_error(2, "rien à reprendre", "--resume")

    @pytest.mark.slow
    def test_options_that_contradict_a_resume(self, cli, source, tmp_path):
        out, _ = self.start(cli, source, "--max-steps", 2)
        outcome = cli("train", "--resume", out, "--preset", "verdict")
        outcome.check_one_line_error(2, "--preset")
        outcome = cli("train", "--resume", out, "--output-dir", tmp_path / "ailleurs")
        outcome.check_one_line_error(2, "--output-dir")

    @pytest.mark.slow
    def test_a_longer_schedule_is_said(self, cli, source):
        """Prolonger un cosinus change la suite de son taux."""
        out, _ = self.start(cli, source, "--max-steps", 2)
        outcome = cli("train", "--resume", out, "--max-steps", 4)
        assert "cosine) s'étend désormais sur 4 étapes, et non 2" in outcome.out

    @pytest.mark.slow
    def test_prompt_from_standard_input_comes_back(self, cli, source, monkeypatch):
        """Le début lu sur l'entrée standard est gardé, non redemandé."""
        out = source.parent / "essai"
        monkeypatch.setattr(sys, "stdin", io.StringIO("Elle regarda\n"))
        options = tiny(data=source, output_dir=out, prompt="-", max_steps=2)
        assert cli("train", *options).code == 0
        assert cli("train", "--resume", out, "--max-steps", 4).code == 0
        assert read_model(out / "gpt-model.pt").metadata["prompt"] == "Elle regarda"

    @pytest.mark.slow
    def test_estimate_counts_what_is_left(self, cli, source):
        out, _ = self.start(cli, source, "--max-steps", 4)
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        outcome = cli("train", "--resume", out, "--max-steps", 10, "--estimate")
        assert outcome.code == 0, outcome.err
        assert " : 6 étapes de" in outcome.out
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before

    @pytest.mark.slow
    def test_the_best_is_named(self, cli, source):
        out, outcome = self.start(cli, source, "--save-best")
        best = json.loads((out / "checkpoints" / "best.json").read_text(encoding="utf-8"))["step"]
        assert "Meilleure validation" in outcome.out
        assert f"step-{best:06d}" in outcome.out

    @pytest.mark.slow
    def test_starting_over_needs_force(self, cli, source):
        """Un dossier qui a des points de reprise n'est ni effacé ni mêlé à un autre essai."""
        out, _ = self.start(cli, source, "--max-steps", 4)
        again = self.start(cli, source)[1]
        again.check_one_line_error(1, "étape 4", f"--resume {out}", "--force")
        assert self.start(cli, source, "--force", "--max-steps", 2)[1].code == 0
        assert [p.name for p in (out / "checkpoints").glob("step-*")] == ["step-000002"]


@pytest.mark.slow
def test_a_preset_yields_to_explicit_options(cli, tmp_path, monkeypatch):
    """Option, puis environnement, puis préréglage, puis défaut."""
    monkeypatch.setitem(TRAINING_PRESETS, "essai", {"lr": 0.005, "seed": 5, "tie_weights": True})
    monkeypatch.setenv("GPT_ARCHITECTURE_SEED", "11")
    outcome = cli("train", *tiny(output_dir=tmp_path, preset="essai", weight_decay=0.3))
    assert outcome.code == 0, outcome.err
    model = read_model(tmp_path / "gpt-model.pt")
    training = model.metadata["training"]
    assert (training["lr"], training["seed"], training["weight_decay"]) == (0.005, 11, 0.3)
    assert model.config.tie_weights


def test_estimate_writes_nothing(cli, tmp_path):
    """Durée, mémoire, disque et coût, sans laisser de trace."""
    out = tmp_path / "m"
    outcome = cli("train", *tiny(output_dir=out, price_per_hour=1.5), "--estimate")
    assert outcome.code == 0, outcome.err
    for expected in ("Durée", "43 étapes de", "tokens/s", "Mémoire", "Disque", "Coût", "à 1,5"):
        assert expected in outcome.out
    assert "Époque" not in outcome.out
    assert not out.exists()
    assert list(tmp_path.rglob("gpt-model*")) == []


@pytest.mark.skipif(os.name != "posix", reason="signaux POSIX")
def test_an_estimate_is_interrupted_at_once(cli, tmp_path, monkeypatch):
    """Ctrl-C pendant la mesure : code 130, et aucun point de reprise n'est promis."""

    def measure(_trainer):
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("la mesure continue")

    monkeypatch.setattr("gpt_architecture.training.preparation.estimate_training", measure)
    outcome = cli("train", *tiny(output_dir=tmp_path / "m"), "--estimate")
    assert outcome.code == 130
    assert "point de reprise" not in outcome.out.partition("Mesure")[2] + outcome.err
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # ceux de tensorboard et de ses dépendances
def test_every_technique_at_once(cli, tmp_path):
    """Muon, WSD, échauffement, réduction, activations recalculées, déterminisme, TensorBoard."""
    pytest.importorskip("tensorboard", reason="tensorboard n'est pas installé")
    options = {"optimizer": "muon", "schedule": "wsd", "warmup_steps": 4, "clip": 1.0, "epochs": 3}
    outcome = cli(
        *("train", *tiny(output_dir=tmp_path, **options, save_every=50, precision="fp32")),
        *("--checkpoint-activations", "--deterministic", "--save-best", "--tensorboard"),
    )
    assert outcome.code == 0, outcome.err
    losses = read_model(tmp_path / "gpt-model.pt").metadata["train_losses"]
    assert losses[-1] < losses[0]
    assert list((tmp_path / "tensorboard").iterdir())
    steps = [record for record in read_journal(tmp_path) if record["kind"] == "step"]
    assert [steps[0]["lr"], steps[60]["lr"]] == pytest.approx([0.02 / 5, 0.02])
    assert steps[-1]["lr"] == pytest.approx(0.0)
    assert all(step["grad_norm"] > 0 for step in steps)


@pytest.mark.slow
def test_token_shards_train(cli, tmp_path):
    """Un dossier écrit par prepare s'entraîne tel quel ; son tokenizer est repris."""
    texts = tmp_path / "textes"
    texts.mkdir()
    for name in ("un", "deux", "trois"):
        (texts / f"{name}.txt").write_text(f"{name}. " + FRENCH_TEXT, encoding="utf-8")
    shards = tmp_path / "fragments"
    outcome = cli("prepare", texts, "--out", shards, "--workers", 1)
    assert outcome.code == 0, outcome.err
    out = tmp_path / "m"
    outcome = cli("train", *tiny(data=shards, tokenizer="gpt2", output_dir=out, max_steps=6))
    assert outcome.code == 0, outcome.err
    model = read_model(out / "gpt-model.pt")
    assert (model.metadata["data"]["name"], model.tokenizer["name"]) == ("fragments", "gpt2")
    outcome = cli("train", "--resume", out, "--max-steps", 8)
    assert outcome.code == 0, outcome.err


@pytest.mark.slow
def test_early_stopping_ends_with_a_model(cli, tmp_path):
    """La patience épuisée est dite, et le modèle est écrit."""
    source = tmp_path / "texte.txt"
    source.write_text(FRENCH_TEXT, encoding="utf-8")
    options = {"data": source, "lr": 0.05, "epochs": 50, "eval_freq": 2, "patience": 2}
    outcome = cli("train", *tiny(output_dir=tmp_path, context_length=16, **options))
    assert outcome.code == 0, outcome.err
    assert "Arrêt anticipé" in outcome.out
    assert read_model(tmp_path / "gpt-model.pt").metadata["steps"] < 500


def test_unknown_preset(cli, tmp_path):
    outcome = cli("train", *tiny(output_dir=tmp_path, preset="inconnu"))
    outcome.check_one_line_error(2, "inconnu", "verdict")


@pytest.mark.slow
def test_missing_matplotlib_keeps_the_model(cli, tmp_path, monkeypatch):
    """Sans matplotlib, le modèle est écrit et un avertissement dit quoi installer."""
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    outcome = cli("train", *tiny(output_dir=tmp_path))
    assert outcome.code == 0
    assert "pip install" in outcome.err
    assert (tmp_path / "gpt-model.pt").is_file()
    assert not (tmp_path / "loss-plot.pdf").exists()


@pytest.mark.slow
def test_curves_that_break_do_not_hide_the_model(cli, tmp_path, monkeypatch):
    """Le modèle est annoncé dès qu'il est écrit : un tracé en panne n'en prive personne."""

    def broken(*_arguments, **_options):
        raise RuntimeError("tracé en panne")

    monkeypatch.setattr(training_outputs, "plot_losses", broken)
    outcome = cli("train", *tiny(output_dir=tmp_path))
    assert outcome.code == 1
    assert f"Modèle : {tmp_path / 'gpt-model.pt'}" in outcome.out
    assert (tmp_path / "gpt-model.pt").is_file()


@pytest.mark.slow
def test_missing_tiktoken_falls_back(cli, tmp_path, monkeypatch):
    """Sans tiktoken, l'entraînement se fait avec simple-v2, et le dit."""
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda n, *a: None if n == "tiktoken" else find(n, *a))
    outcome = cli("train", *tiny(tokenizer="gpt2", output_dir=tmp_path))
    assert outcome.code == 0, outcome.err
    assert "simple-v2" in outcome.err
    assert read_model(tmp_path / "gpt-model.pt").tokenizer["name"] == "simple-v2"


@pytest.mark.slow
def test_diverging_training_is_said(cli, tmp_path):
    """Un taux absurde finit en une ligne, sans modèle écrit."""
    outcome = cli("train", *tiny(lr=1e30, epochs=3, output_dir=tmp_path))
    outcome.check_one_line_error(1, "perte", "--lr")
    assert not (tmp_path / "gpt-model.pt").exists()


def test_reader_that_leaves_does_not_stop_the_training(tmp_path):
    """`train | head -1` : le lecteur part, le modèle est quand même écrit."""
    options = " ".join(tiny(output_dir=tmp_path))
    command = f"{sys.executable} -m gpt_architecture train {options} | head -n 1"
    outcome = run_process("bash", "-c", command)
    assert "Traceback" not in outcome.err
    assert read_model(tmp_path / "gpt-model.pt").metadata["complete"] is True


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminal POSIX")
def test_progress_bar_on_a_terminal(tmp_path):
    """Au terminal, une barre avec débit et temps restant ; les pertes restent lisibles."""
    import pty

    main_end, other_end = pty.openpty()
    command = [sys.executable, "-m", "gpt_architecture", "train", *tiny(output_dir=tmp_path)]
    with subprocess.Popen(
        command, stdout=other_end, stderr=other_end, env={**os.environ, "TERM": "xterm-256color"}
    ) as process:
        os.close(other_end)
        chunks = []
        try:
            while chunk := os.read(main_end, 65536):
                chunks.append(chunk)
        except OSError:  # Linux signale ainsi la fin du pseudo-terminal
            pass
    os.close(main_end)
    screen = b"".join(chunks).decode("utf-8")
    assert process.returncode == 0, screen
    assert "tokens/s, reste" in screen
    assert "Entraînement" in screen
    assert "perte entraînement" in screen


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["simple-v1", "simple-v2"])
def test_default_prompt_suits_the_tokenizer(cli, tmp_path, verdict_path, tokenizer):
    """Sur The Verdict, « Every » n'existe pas : le début d'exemple vient alors du texte."""
    outcome = cli("train", *tiny(data=verdict_path, tokenizer=tokenizer, output_dir=tmp_path))
    assert outcome.code == 0, outcome.err
    prompt = read_model(tmp_path / "gpt-model.pt").metadata["prompt"]
    assert verdict_path.read_text(encoding="utf-8").startswith(prompt)
    assert prompt != "Every effort moves you"


@pytest.mark.slow
def test_suggested_command_is_safe_to_paste(cli, tmp_path):
    """Un début qui contient des guillemets ou « $( ) » est protégé dans la commande proposée."""
    prompt = 'Le "passeur" $(date)'
    outcome = cli("train", *tiny(prompt=prompt, output_dir=tmp_path))
    line = next(line for line in outcome.out.splitlines() if line.startswith("Ensuite"))
    assert shlex.split(line.removeprefix("Ensuite : "))[-1] == prompt


@pytest.mark.slow
def test_data_from_environment_may_contain_spaces(cli, tmp_path, monkeypatch):
    """GPT_ARCHITECTURE_DATA sépare les chemins comme PATH."""
    source = tmp_path / "mon texte.txt"
    source.write_text("Le passeur regarde l'eau et la lampe. " * 60, encoding="utf-8")
    monkeypatch.setenv("GPT_ARCHITECTURE_DATA", os.pathsep.join([str(source), str(source)]))
    options = tiny(output_dir=tmp_path, prompt="Le passeur")
    index = options.index("--data")
    del options[index : index + 2]
    outcome = cli("train", *options)
    assert outcome.code == 0, outcome.err
    assert "mon texte+mon texte" in outcome.out


@pytest.mark.slow
@pytest.mark.parametrize("existed", [False, True])
def test_a_refusal_leaves_nothing(cli, tmp_path, monkeypatch, existed):
    """Ni dossier de points de reprise vide, ni dossier de sortie que personne n'avait fait."""
    out = tmp_path / "sortie"
    if existed:
        (out / "checkpoints").mkdir(parents=True)
        (out / "checkpoints/notes.txt").write_text("à moi", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for refused, word in (("--tensorboard", "tensorboard"), ("--engine=fused", "autograd")):
        options = ("--compile",) if word == "autograd" else ()
        outcome = cli("train", *tiny(output_dir=out), refused, *options)
        assert outcome.code != 0
        assert word in outcome.err
        left = sorted(path.relative_to(out).as_posix() for path in out.rglob("*"))
        assert left == (["checkpoints", "checkpoints/.verrou", "checkpoints/notes.txt"] * existed)
        assert out.exists() is existed
