"""Outils des tests de commandes : options minuscules, lancement, issue."""

import os
import subprocess

TINY = {
    "emb-dim": 32,
    "n-heads": 2,
    "n-layers": 1,
    "context-length": 32,
    "epochs": 1,
    "data": "la-lampe-du-passeur",
    "tokenizer": "simple-v2",
    "eval-freq": 20,
    "device": "cpu",
}


def tiny(**overrides):
    """Options d'un entraînement minuscule ; `lr=0` ajoute ou remplace --lr."""
    options = {**TINY, **{name.replace("_", "-"): value for name, value in overrides.items()}}
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


class Outcome:
    """Code de sortie, stdout et stderr d'une commande."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def check_one_line_error(self, code, *words):
        """Exactement une ligne d'erreur, sans pile d'appels, avec les mots attendus."""
        assert self.code == code, (self.code, self.err)
        errors = [line for line in self.err.splitlines() if line.startswith("erreur : ")]
        assert len(errors) == 1, self.err
        assert "Traceback" not in self.err
        for word in words:
            assert word in errors[0], errors[0]


def run_process(*command, cwd=None, env=None, timeout=120, stdin=None):
    """Lance une commande dans un processus à part, sans réseau."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        input=stdin,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
