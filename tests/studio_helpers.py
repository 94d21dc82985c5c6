"""Outils des tests du studio : un petit modèle d'octets, servi avec tout ce que la page montre."""

import json
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from adapter_helpers import an_adapter, beside
from decoding_helpers import ByteTokenizer, sharp_model
from http_helpers import serving, wait_until
from interop_helpers import BOOK, content
from shard_helpers import write_folder

import gpt_architecture.serving.studio
from gpt_architecture.config import HeadConfig
from gpt_architecture.core.adapters import follow_adapters_
from gpt_architecture.data.provenance.build import build_index
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.evaluation.comparison import SIX_VARIANTS
from gpt_architecture.formats.checkpoint import write_checkpoint
from gpt_architecture.serving.adapters import AdapterShelf
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.engine.engine import Engine
from gpt_architecture.serving.limits import Limits
from gpt_architecture.serving.pool import Lodger, ModelPool

WEB = Path(gpt_architecture.serving.studio.__file__).parent / "web"
WINDOW = 128
PROMPT = "Le passeur "
SAMPLE = "Le passeur <b>rame</b>.\n" + 9 * "\n" + "Rien."


class Bytes(ByteTokenizer):
    """Un octet par token, dont les octets sont connus."""

    def token_bytes(self):
        return [*(bytes([value]) for value in range(256)), b"<|endoftext|>"]


def byte_model(seed=0, **changes):
    """Le petit modèle d'octets."""
    return sharp_model(seed, vocab_size=Bytes.vocab_size, context_length=WINDOW, **changes)


def judge_model(**head):
    """Le même, qui classe ou note des textes."""
    return byte_model(head=HeadConfig(**head))


def engine_of(model):
    """Le moteur d'un modèle, prêt."""
    engine = Engine(model, Bytes())
    engine.start()
    wait_until(lambda: engine.state == "ready", seconds=60.0)
    return engine


@contextmanager
def studio_context(model=None, **changes):
    """Le contexte d'un service dont le studio montre tout ; le moteur s'arrête à la sortie."""
    model = byte_model() if model is None else model
    engine = engine_of(model)
    settings = {
        "engine": engine,
        "model": model,
        "tokenizer": Bytes(),
        "name": "petit",
        "metadata": {},
        "window": WINDOW,
        "limits": Limits(),
        "example": PROMPT,
        "network": model,
        "variants": tuple(SIX_VARIANTS),
    }
    try:
        yield ServingContext(**settings | changes)
    finally:
        engine.stop()


@contextmanager
def many_names(**changes):
    """Un service de quatre noms : « petit », l'adaptateur « poli », « autre » et « abime ».

    Rend le contexte du premier et la réserve des autres, que `create_app` reçoit.
    """
    with studio_context(**changes) as context:
        follow_adapters_(context.model)
        shelf = AdapterShelf(lambda _path: (polite(context.model), {}), rank_bytes=1)
        shelf.add("poli", "poli")

        def load(name):
            if name == "abime":
                raise OSError("illisible")
            model = byte_model(7)
            return replace(context, engine=engine_of(model), model=model, network=model, name=name)

        lodger = Lodger(size=1, window=WINDOW)
        pool = ModelPool(["autre", "abime"], lambda _name: lodger, load)
        try:
            yield replace(context, shelf=shelf), pool
        finally:
            pool.close()


def polite_file(model):
    """Le fichier de l'adaptateur « poli »."""
    return an_adapter(model, 1, size=0.5)


def polite(model):
    """Le même, prêt à servir."""
    return beside(model, polite_file(model))


@contextmanager
def studio_service(model=None, keys=None, **changes):
    """Le même, servi sur la boucle locale ; rend son adresse."""
    with (
        studio_context(model, **changes) as context,
        serving(create_app(context, keys=keys)) as url,
    ):
        yield url


def sources_of(folder):
    """Un index, en octets, qui contient deux fois ce que `write` fait écrire à l'atelier."""
    config = GenerationConfig(strategy="sample", temperature=0.8, p=0.95, max_tokens=12, seed=4)
    generator = Generator(byte_model(), Bytes(), window=WINDOW)
    ((found,),) = generator.generate([Bytes().encode(PROMPT)], config)
    around = [*b"Avant <b>", *found.tokens, *b" apres."]
    write_folder(folder, {"train": [[50256, *around, 50256, *around]], "val": [[1] * 64]})
    index = build_index(folder)
    index.tokenizer = Bytes()
    return index


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
    lines.append({"kind": "sample", "step": steps - 1, "text": SAMPLE})
    if end:
        lines.append({"kind": "end", "step": steps})
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "journal.jsonl").write_text(text, encoding="utf-8")


def write_checkpoints(folder, steps=(2, 4, 6)):
    """Les points de reprise d'un entraînement, de poids différents ; rend leur dossier."""
    for step in steps:
        source = content(BOOK)
        weights = {name: each + 0.01 * step for name, each in source.state_dict.items()}
        losses = {"train_losses": [6.0, 6.0 - step / 10], "val_losses": [6.5, 6.5 - step / 10]}
        state = {"config": BOOK.to_dict(), "tokenizer": source.tokenizer, "trainer": losses}
        path = folder / "checkpoints" / f"step-{step:06d}"
        write_checkpoint(path, step, {"model": weights}, state)
    return folder / "checkpoints"


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node n'est pas installé")


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
