"""Outils des tests du studio : un petit modèle d'octets, servi avec tout ce que la page montre."""

import json
import shutil
import subprocess
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from decoding_helpers import ByteTokenizer, sharp_model
from http_helpers import serving, wait_until

import gpt_architecture.serving.studio
from gpt_architecture.evaluation.attention_maps import attention_of
from gpt_architecture.evaluation.comparison import SIX_VARIANTS
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.engine.engine import Engine
from gpt_architecture.serving.limits import Limits

WEB = Path(gpt_architecture.serving.studio.__file__).parent / "web"
WINDOW = 128
PROMPT = "Le passeur "


class Bytes(ByteTokenizer):
    """Un octet par token, dont les octets sont connus."""

    def token_bytes(self):
        return [*(bytes([value]) for value in range(256)), b"<|endoftext|>"]


def byte_model():
    """Le petit modèle d'octets."""
    return sharp_model(vocab_size=Bytes.vocab_size, context_length=WINDOW)


@contextmanager
def studio_context(**changes):
    """Le contexte d'un service dont le studio montre tout ; le moteur s'arrête à la sortie."""
    model = byte_model()
    engine = Engine(model, Bytes())
    engine.start()
    wait_until(lambda: engine.state == "ready", seconds=60.0)
    settings = {
        "engine": engine,
        "model": model,
        "tokenizer": Bytes(),
        "name": "petit",
        "metadata": {},
        "window": WINDOW,
        "limits": Limits(),
        "example": PROMPT,
        "attention": partial(attention_of, model, window=WINDOW),
        "variants": tuple(SIX_VARIANTS),
    }
    try:
        yield ServingContext(**settings | changes)
    finally:
        engine.stop()


@contextmanager
def studio_service(keys=None, **changes):
    """Le même, servi sur la boucle locale ; rend son adresse."""
    with studio_context(**changes) as context, serving(create_app(context, keys=keys)) as url:
        yield url


def write_journal(folder, steps=60, *, end=False):
    """Le journal d'un entraînement de `steps` étapes, évalué toutes les dix."""
    lines = [{"kind": "start", "step": 0, "total_steps": 100}]
    for step in range(steps):
        loss = 5.0 - step / 20
        lines.append(
            {"kind": "step", "step": step, "loss": loss, "lr": 1e-3, "tokens_per_second": 800.0}
        )
        if step % 10 == 0:
            lines.append(
                {"kind": "evaluation", "step": step, "train_loss": loss, "val_loss": loss + 0.25}
            )
    lines.append({"kind": "sample", "step": steps - 1, "text": "Le passeur <b>rame</b>."})
    if end:
        lines.append({"kind": "end", "step": steps})
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "journal.jsonl").write_text(text, encoding="utf-8")


def run_node(folder, module, program, data):
    """Exécute un programme dans Node, qui importe un module de la page et lit `data`."""
    shutil.copy(WEB / f"{module}.js", folder / f"{module}.mjs")
    (folder / "essai.mjs").write_text(
        'import { readFileSync } from "node:fs";\n'
        f'import * as found from "./{module}.mjs";\n'
        'const data = JSON.parse(readFileSync(0, "utf8"));\n'
        f"const answer = {program};\n"
        "process.stdout.write(JSON.stringify(answer));\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [shutil.which("node"), "essai.mjs"],
        cwd=folder,
        input=json.dumps(data),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
