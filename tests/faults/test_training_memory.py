"""La mémoire manque vraiment : une phrase, les réglages à changer, le point précédent intact."""

import sys

import pytest
from cli_helpers import run_process, tiny
from conftest import FRENCH_TEXT

from gpt_architecture.training.checkpoint import CheckpointStore

resource = pytest.importorskip("resource", reason="bornes de mémoire POSIX")

ROOM = 1 << 30
"""Octets laissés à l'entraînement, une fois PyTorch chargé."""

LIMITED = f"""
import resource, sys
from gpt_architecture.main import main
from gpt_architecture.cli.train import run
from gpt_architecture.training import session
status = open("/proc/self/status", encoding="ascii").read()
used = int(status.partition("VmSize:")[2].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + {ROOM}, used + {ROOM}))
main(["train", *sys.argv[1:]])
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status est de Linux")
def test_a_batch_that_does_not_fit(cli, tmp_path):
    """Le système refuse les logits d'un lot trop grand : code 1, et la reprise reste possible."""
    source, out = tmp_path / "texte.txt", tmp_path / "m"
    source.write_text(FRENCH_TEXT * 10, encoding="utf-8")
    common = {"tokenizer": "gpt2", "engine": "autograd", "stride": 1, "context_length": 16}
    options = tiny(**common, data=source, output_dir=out, prompt="Le passeur", max_steps=2)
    assert cli("train", *options).code == 0
    before = {p: p.read_bytes() for p in (out / "checkpoints").rglob("*") if p.is_file()}
    larger = ("--batch-size", 4096, "--epochs", 50, "--max-steps", 4)
    command = (sys.executable, "-c", LIMITED, "--resume", out, "--override", *larger)
    outcome = run_process(*command)  # 13 Go de logits
    outcome.check_one_line_error(1, "mémoire insuffisante", "--batch-size", "--memory lean")
    assert {p: p.read_bytes() for p in (out / "checkpoints").rglob("*") if p.is_file()} == before
    assert CheckpointStore(out / "checkpoints").latest().step == 2
    assert cli("train", "--resume", out, "--max-steps", 3).code == 0
