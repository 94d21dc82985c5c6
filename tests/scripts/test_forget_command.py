"""`gpt-architecture forget` : ce qu'elle annonce, ce qu'elle change, et un arrêt brutal."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from cli_helpers import tiny
from forget_helpers import masked_from_the_start, weights_of, write_documents

from gpt_architecture import verify
from gpt_architecture.data.removal import REMOVAL_NAME
from gpt_architecture.training import forget_work
from gpt_architecture.training.checkpoint import CheckpointStore
from gpt_architecture.training.forgetting import WORK

RUN = {"tokenizer": "char", "engine": "autograd", "precision": "fp32", "max_steps": 12}
RUN |= {"save_every": 3, "keep": 9, "epochs": 9}


@pytest.fixture
def trained(cli, tmp_path):
    """Un entraînement sur quatre documents."""
    texts, folder = write_documents(tmp_path, size=300), tmp_path / "m"
    done = cli("train", *tiny(**RUN, data=texts, output_dir=folder))
    assert done.code == 0, done.err
    return folder


def settings_of(folder):
    """Les mêmes réglages, pour Python."""
    options = tiny(**RUN, data=folder.with_name("textes"))
    pairs = zip(options[::2], options[1::2], strict=True)
    given = {name.removeprefix("--").replace("-", "_"): value for name, value in pairs}
    given = {k: int(v) if v.isdecimal() else v for k, v in given.items()}
    return given.pop("data"), {**given, "progress": False}


def test_it_says_the_cost_then_does_it(cli, trained):
    found = cli("forget", trained, "--document", "b.txt", "--estimate")
    assert found.code == 0, found.err
    assert "l'entraînement repart" in found.out
    assert "Oublié" not in found.out
    before = weights_of(trained)
    found = cli("forget", trained, "--document", "b.txt")
    assert found.code == 0, found.err
    assert found.out.count("À oublier") == 1
    assert "Oublié" in found.out
    assert "récitée du texte oublié" in found.out
    assert "Peuvent le contenir encore : les données elles-mêmes (textes)" in found.out
    assert weights_of(trained) != before
    assert cli("verify", trained, "--data", trained.with_name("textes"), "--all").code == 0
    assert "déjà retiré" in cli("forget", trained, "--document", "b.txt").out


def test_the_same_for_a_program(cli, trained):
    out = trained / "oubli.json"
    found = cli(
        "forget", trained, "--lines", "1", "--document", "a.txt", "--json", "--json-file", out
    )
    assert found.code == 0, found.err
    record = json.loads(found.out)
    assert record["done"] is True
    assert record["redone"] == 12 - record["restart"] > 0
    assert json.loads(out.read_text(encoding="utf-8"))["generator"].endswith("forget")


def test_a_wrong_call_says_what_to_do(cli, trained, tmp_path):
    cli("forget", trained).check_one_line_error(2, "--document, --text")
    cli("forget", trained, "--lines", "x").check_one_line_error(2, "--lines")
    cli("forget", trained, "--document", "e.txt").check_one_line_error(1, "aucun document")
    cli("forget", trained, "--text", tmp_path / "absent.txt").check_one_line_error(1, "absent")
    wrong = cli("train", *tiny(**RUN, keep_spread=4, output_dir=tmp_path / "n"))
    wrong.check_one_line_error(2, "--keep-spread", "--keep")
    given = tiny(**RUN, output_dir=tmp_path / "n", forget=tmp_path / "absent.json")
    cli("train", *given).check_one_line_error(2, "absent.json")


@pytest.mark.slow
def test_a_killed_one_resumes_to_the_same_bits(cli, trained, tmp_path):
    """Tué net en route : l'ancien est intact, et la même commande finit, aux mêmes bits."""
    before, copy = weights_of(trained), shutil.copytree(trained, tmp_path / "copie")
    command = [sys.executable, "-m", "gpt_architecture", "forget", str(trained)]
    process = subprocess.Popen([*command, "--document", "b.txt"], stdout=subprocess.DEVNULL)
    made = CheckpointStore(trained / WORK / "checkpoints")
    deadline = time.monotonic() + 60
    while not made.steps() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (trained / WORK).exists():  # sinon il a fini avant d'être tué
        assert weights_of(trained) == before
    found = cli("forget", trained, "--document", "b.txt")
    assert found.code == 0, found.err
    data, settings = settings_of(trained)
    oracle = masked_from_the_start(tmp_path / "o", data, settings, trained / REMOVAL_NAME)
    assert weights_of(trained) == oracle
    assert verify(trained, data=data, part=1).exact
    assert cli("forget", copy, "--document", "b.txt").code == 0
    assert weights_of(copy) == oracle


@pytest.mark.parametrize("after", range(5))
def test_a_stop_while_it_takes_its_place_is_made_good(cli, trained, after, monkeypatch):
    """Tué pendant la mise en place : la même commande l'achève."""
    count = [after]

    class Stop(BaseException):
        pass

    def once(real):
        def call(*arguments, **named):
            count[0] -= 1
            if count[0] == -1:
                raise Stop
            return real(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "erase", once(CheckpointStore.erase))
        patch.setattr(forget_work, "_mark", once(forget_work._mark))
        patch.setattr(forget_work, "sync", once(forget_work.sync))
        with pytest.raises(Stop):
            cli("forget", trained, "--document", "b.txt")
    found = cli("forget", trained, "--document", "b.txt")
    assert found.code == 0, found.err
    assert not (trained / WORK).exists()
    assert cli("verify", trained, "--data", trained.with_name("textes"), "--all").code == 0
    links = (trained / "certificat.json").read_text(encoding="utf-8")
    assert '"kind":"removal"' in links
