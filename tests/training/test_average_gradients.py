"""Les gradients du pas fusionné, moyennés entre rangs."""

import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).with_name("average_worker.py")


def test_a_rank_without_gradients_stays_in_step(tmp_path):
    """Une perte non finie sur un rang seulement : chaque échange trouve son pareil."""
    ranks = [
        subprocess.Popen(
            [sys.executable, WORKER, str(rank), tmp_path / "rendezvous"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "accordés" in out
