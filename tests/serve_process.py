"""La commande serve dans son processus, pour les tests qui lui parlent."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

from http_helpers import HTTP, check_envelope, wait_until


@contextmanager
def served(folder, *options, env=None):
    """Lance `serve` sur le modèle d'un dossier ; rend (adresse, processus)."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "-m", "gpt_architecture", "serve"),
            *(str(folder / "gpt-model.pt"), "--port", "0", *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, **(env or {})},
    )
    try:
        line = process.stdout.readline()
        line = json.loads(line)["message"] if line.startswith("{") else line  # --log-format json
        assert line.startswith("Service sur http://127.0.0.1:"), process.stderr.read()
        yield line.split()[2], process
    finally:
        process.kill()
        process.communicate(timeout=30)


def ready(url):
    """Attend que le modèle soit chargé ; avant, chaque réponse est un 503 bien formé."""

    def answers():
        response = HTTP.get(url + "/health")
        if response.status_code != 200:
            check_envelope(response, 503)
        return response.status_code == 200

    wait_until(answers, seconds=300)  # des noyaux jamais compilés prennent une minute ou deux
