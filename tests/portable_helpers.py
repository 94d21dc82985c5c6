"""Le moteur et le vocabulaire d'une page, exécutés par Node, sans page."""

import json
import shutil
import subprocess
from pathlib import Path

import gpt_architecture.reports.portable
from gpt_architecture.core.grouped_codes import Scheme
from gpt_architecture.reports.portable.payload import Payload

WEB = Path(gpt_architecture.reports.portable.__file__).parent / "web"
OPEN = """\
import { readFileSync } from "node:fs";
import { Model, fused, greedy, ordered } from "./engine.mjs";
import { tokenizerOf } from "./tokenizer.mjs";
const data = JSON.parse(readFileSync("data.json", "utf8"));
const bytes = new Uint8Array(readFileSync("weights.bin"));
const size = new DataView(bytes.buffer).getUint32(0, true);
const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + size)));
const open = (products) => new Model(head.model, bytes.subarray(4 + size), products);
const engines = [open(readFileSync("products.wasm")), open(null)];
const answer = await (async () => { %s })();
process.stdout.write(JSON.stringify(answer));
"""


def run_page(folder, content, program, data=None, *, scheme="int8"):
    """Ce que rend un programme qui a `engines` (WebAssembly, JavaScript), `head` et `data`."""
    payload = Payload(content, Scheme(name=scheme))
    (folder / "weights.bin").write_bytes(b"".join(payload.chunks()))
    for name in ("engine", "tokenizer"):
        shutil.copy(WEB / f"{name}.js", folder / f"{name}.mjs")
    shutil.copy(WEB / "products.wasm", folder)
    (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
    (folder / "essai.mjs").write_text(OPEN % program, encoding="utf-8")
    done = subprocess.run(
        [shutil.which("node"), "essai.mjs"],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
