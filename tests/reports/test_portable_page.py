"""La page d'un modèle : elle se suffit, n'exécute que son script, refuse ce qui n'y tient pas."""

import base64
import json
import re
import zlib
from dataclasses import replace

import pytest
from interop_helpers import BOOK, GPT2, content
from page_helpers import Reader

from gpt_architecture.config import PRESETS, VERSION
from gpt_architecture.core.grouped_codes import Scheme
from gpt_architecture.data.tokenizers.simple import SimpleTokenizerV2
from gpt_architecture.errors import ModelFileError, OutputError, TokenizerError
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.reports.pages import content_hash
from gpt_architecture.reports.portable.bundle import bundle
from gpt_architecture.reports.portable.page import VIEWS, base64_chunks, export_page, page_script
from gpt_architecture.reports.portable.payload import MAX_BYTES, Payload

HOSTILE = "</script><script>alert(1)</script>"


def parts(html):
    """Le script, le style et les octets d'une page."""
    (script,) = re.findall(r'<script type="module">(.*?)</script>', html, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    chunks = re.findall(r'<script type="text/plain" class="weights">(.*?)</script>', html)
    return script, style, zlib.decompress(b"".join(map(base64.b64decode, chunks)))


def header(data):
    """L'en-tête des octets d'une page."""
    return json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])


def test_it_stands_alone(tmp_path):
    """Rien d'ailleurs ; la politique n'admet que ce script et ce style."""
    path = tmp_path / "lampe.html"
    export_page(content(GPT2, window=20, source="secret", name="secret"), path)
    html = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert not {"img", "iframe", "object"} & set(reader.tags)
    assert [value for name, value in reader.attributes if name == "src"] == []
    links = {value for name, value in reader.attributes if name == "href"}
    assert links == {"data:,", "#contenu", *(f"#{view}" for view in VIEWS)}
    script, style, data = parts(html)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1]
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{content_hash(script)}' 'wasm-unsafe-eval';" in policy
    assert f"style-src 'sha256-{content_hash(style)}';" in policy
    assert "unsafe-inline" not in policy
    assert "connect-src" not in policy
    found = header(data)
    assert found["model"]["window"] == 20
    assert "secret" not in html
    assert "secret" not in json.dumps(found)
    assert f"gpt-architecture {VERSION}" in html
    assert f'content="{len(data)}"' in html


def test_text_only_has_one_view(tmp_path):
    export_page(content(GPT2), tmp_path / "p.html", text_only=True)
    html = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert re.findall(r'<section class="view" id="view-(\w+)"', html) == ["atelier"]
    assert "<nav" not in html


def test_a_hostile_model_stays_text(tmp_path):
    """Un token ou un nom de fichier qui ferme un script n'en ouvre pas d'autre."""
    words = SimpleTokenizerV2([HOSTILE, "un", "<!--", "<|endoftext|>", "<|unk|>"])
    file = replace(content(GPT2), tokenizer=words.to_dict())
    path = tmp_path / "<img src=x onerror=alert(1)>&'.html"
    export_page(file, path)
    html = path.read_text(encoding="utf-8")
    assert "alert(1)</script>" not in html
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert "img" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert "<img src=x onerror=alert(1)>&'" in reader.text
    *_, data = parts(html)
    assert header(data)["tokenizer"]["vocab"] == words.to_dict()["vocab"]


def test_what_does_not_fit_is_refused(tmp_path):
    """Trop gros, vocabulaire trop grand ou inconnu : rien n'est écrit."""
    folder = tmp_path / "sortie"
    folder.mkdir()
    path = folder / "p.html"
    medium = ModelFile(
        config=PRESETS["gpt2-medium"], state_dict={}, tokenizer={"name": "gpt2"}, metadata={}
    )
    with pytest.raises(ModelFileError, match=r"354 823 168 paramètres, soit 338,4 Mio en int8"):
        export_page(medium, path)
    assert medium.config.num_parameters() // 2 < MAX_BYTES  # en int4, il y tient
    with pytest.raises(ModelFileError, match="gguf"):
        export_page(replace(medium, config=PRESETS["gpt2-xl"]), path, quant="int4")
    with pytest.raises(TokenizerError, match="autre"):
        export_page(replace(content(GPT2), tokenizer={"name": "autre"}), path)
    words = [str(number) for number in range((1 << 17) + 1)] + ["<|unk|>"]
    large = replace(GPT2, vocab_size=len(words))
    file = replace(content(GPT2), config=large, tokenizer=SimpleTokenizerV2(words).to_dict())
    with pytest.raises(ModelFileError, match="131 072 au plus"):
        export_page(file, path)
    file = content(BOOK)
    file.state_dict["out_head.weight"][3, 5] = float("nan")
    with pytest.raises(ModelFileError, match="NaN"):
        export_page(file, path)
    assert not list(folder.iterdir())


def test_a_failed_write_keeps_the_old_page(tmp_path, monkeypatch):
    folder = tmp_path / "sortie"
    folder.mkdir()
    path = folder / "p.html"
    path.write_text("ancienne", encoding="utf-8")

    def full(parts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpt_architecture.reports.portable.page.base64_chunks", full)
    with pytest.raises(OutputError):
        export_page(content(GPT2), path)
    assert [each.name for each in folder.iterdir()] == ["p.html"]
    assert path.read_text(encoding="utf-8") == "ancienne"


def test_chunks_are_read_one_by_one(monkeypatch):
    """Chaque morceau se décode seul, et leur suite est le flux compressé."""
    monkeypatch.setattr("gpt_architecture.reports.portable.page._CHUNK", 30)
    parts = [bytes([value] * (value % 7)) + value.to_bytes(2, "big") for value in range(250)]
    chunks = list(base64_chunks(parts))
    assert len(chunks) > 9
    assert all("=" not in chunk for chunk in chunks[:-1])
    assert zlib.decompress(b"".join(map(base64.b64decode, chunks))) == b"".join(parts)


def test_only_learned_positions_are_written():
    """La taille annoncée est celle des octets ; les positions sans apprentissage n'y sont pas."""
    models = content(GPT2), content(GPT2, window=8)
    whole, short = (Payload(model, Scheme(name="int8")) for model in models)
    for payload in (whole, short):
        assert len(b"".join(payload.chunks())) == payload.size
    assert whole.size - short.size >= 4 * GPT2.emb_dim * (GPT2.context_length - 8)


def test_modules_become_one_script():
    """Ce qui est importé précède ; un cercle, ou une balise, est refusé."""
    modules = {
        "a": 'import { two, Three } from "./b.js";\nexport const one = two;',
        "b": "export function two() {}\nexport class Three {}\nexport async function* four() {}",
    }
    script = bundle(modules, "a")
    assert script.index("from_b") < script.index("from_a")
    assert "return { two, Three, four };" in script
    assert "const { two, Three } = from_b;" in script
    assert not re.search(r"^(import|export) ", page_script(), re.MULTILINE)
    with pytest.raises(ValueError, match="a → b → a"):
        bundle(modules | {"b": 'import { one } from "./a.js";'}, "a")
    with pytest.raises(ValueError, match="balise"):
        bundle({"a": "const x = '</SCRIPT>';"}, "a")
