"""Les images de la documentation : à jour, lisibles, sans rien demander ailleurs."""

import ast
import importlib.metadata
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures"
LIMIT = 1_500_000  # octets, toutes ensemble
REMEDY = "relancez « make images »"
sys.path.append(str(ROOT / "tools" / "pictures"))

import diagrams  # noqa: E402
import make  # noqa: E402
import recording  # noqa: E402
import speeds  # noqa: E402
import studio  # noqa: E402

from gpt_architecture.config import GPTConfig  # noqa: E402
from gpt_architecture.core.model import GPTModel  # noqa: E402

PLOTTED = ("loss-curve", "temperature")
LINES = [
    {
        "question": f"Décodage, un texte, 8 tokens, {precision}",
        "candidate": f"ce projet, {precision}",
        "unit": "tok/s",
        "ours": 100.0,
        "ours_range": [90.0, 120.0],
        "against": peer,
        "peer": value,
        "peer_range": None,
        "ratio": 100.0 / value,
        "machine": "ici",
    }
    for precision in ("fp32", "int8")
    for peer, value in (("lent", 10.0), ("vif", 50.0), ("ce projet, fp32", 100.0))
]


@pytest.mark.slow
@pytest.mark.parametrize("name", make.DRAWN)
def test_drawing_is_up_to_date(name):
    """Redessinée du code et des données d'aujourd'hui, l'image est la même, à l'octet près."""
    if name in PLOTTED:
        pytest.importorskip("matplotlib", reason="tracé : matplotlib absent")
        pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
        found = f"matplotlib=={importlib.metadata.version('matplotlib')}"
        if found not in pins:
            pytest.skip(f"image tracée par une autre version que {found}")
    drawn = make.DRAWN[name]()
    assert drawn == make.DRAWN[name]()
    same = make.path_of(name).read_text(encoding="utf-8") == drawn
    assert same, f"{name}.svg n'est plus à jour ; {REMEDY} ARGS={name}"


def test_recorded_model_is_the_one_asked_for():
    """Ce qui a été retenu vient du texte, du préréglage et des demandes d'aujourd'hui."""
    assert recording.is_current(), f"le modèle des captures a changé ; {REMEDY} ARGS=--train"


def test_studio_captures_are_up_to_date():
    """La page, les gestes et le modèle sont ceux des captures, et les fichiers les leurs."""
    found = recording.recorded(studio.RECORDED)
    assert found["inputs"] == studio.inputs(), f"le studio a changé ; {REMEDY} ARGS=studio"
    copying = found["copying"]["inputs"]
    assert copying == studio.copying_inputs(), f'{REMEDY} ARGS="studio --copying DOSSIER"'
    assert found["files"] == {name: studio.digest(FIGURES / name) for name in studio.names()}


def test_a_spread_is_drawn_when_it_was_measured():
    """Un trait par point dont les passages diffèrent, et la légende ne le dit que s'il y est."""
    rows = [
        {"name": f"{layers}", "ours": 1000.0 * layers, "ours_range": spread, "machine": "ici"}
        | {**speeds.BASE, "layers": layers}
        for layers, spread in ((2, [1900.0, 2200.0]), (6, [6000.0, 6000.0]), (8, None))
    ]
    drawn = speeds.size_throughput(rows)
    bare = speeds.size_throughput([{**row, "ours_range": None} for row in rows])
    assert drawn.count("<path") == bare.count("<path") + 1
    assert "du plus lent au plus rapide" in drawn
    assert "du plus lent au plus rapide" not in bare


def test_staleness_is_seen(monkeypatch):
    """Les trois vérifications précédentes savent échouer."""
    before = (recording.inputs(), studio.inputs())
    monkeypatch.setitem(recording.TRACE, "seed", 4)
    assert not recording.is_current()
    assert studio.inputs() != before[1]
    fewer = speeds.throughput(LINES[:3])
    assert fewer != speeds.throughput(LINES)


def test_nothing_else_lies_there():
    """Chaque image de ce dossier est refaite par la commande."""
    expected = {*(f"{name}.svg" for name in make.DRAWN), *studio.names()}
    assert {path.name for path in FIGURES.iterdir() if path.is_file()} == expected


def test_they_are_light():
    """Un clone reste léger."""
    assert sum(path.stat().st_size for path in FIGURES.rglob("*") if path.is_file()) < LIMIT


@pytest.mark.parametrize("name", make.DRAWN)
def test_drawing_stands_alone(name):
    """Du SVG valide, nommé pour qui ne voit pas, sans police, image ni script d'ailleurs."""
    text = make.path_of(name).read_text(encoding="utf-8")
    root = ET.fromstring(text)  # noqa: S314 — notre propre dessin
    assert root.find("{*}title").text.strip()
    assert root.get("role") == "img"
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "http" not in outside
    assert "url(" not in re.sub(r"url\((#|&quot;#)", "", outside)
    assert "<script" not in text
    assert name.startswith("terminal") or "prefers-color-scheme: dark" in text


def test_block_names_the_model_s_modules():
    """Le schéma nomme les modules du modèle, et ses dimensions."""
    cfg = GPTConfig(vocab_size=11, context_length=4, emb_dim=8, n_heads=2, n_layers=1)
    model = GPTModel(cfg)
    text = diagrams.block()
    inner = model.trf_blocks[0]
    for module in (model, inner, inner.att):
        names = {name for name, _ in module.named_children()}
        shown = {name for name in names if re.search(rf"\b{name}\b", text)}
        assert {name for name in names if "drop" not in name} <= shown
        assert f">{type(module).__name__}<" in text
    for size in (GPTConfig().emb_dim, 4 * GPTConfig().emb_dim, GPTConfig().n_heads):
        assert str(size) in text


def test_map_has_the_layers_that_are_checked():
    """Les couches dessinées sont celles que vérifie le test d'architecture."""
    source = (ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8")
    assigned = next(
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "LAYERS"
    )
    checked = [{each for each in layer if "__" not in each} for layer in ast.literal_eval(assigned)]
    assert [set(units) for _, units in reversed(diagrams.LAYERS)] == checked
    graph = diagrams.unit_graph()
    assert "core" in graph["decoding"]
    assert "decoding" not in graph["core"]
    assert set(graph) == set(diagrams.SAID)


@pytest.mark.parametrize(
    ("page", "picture"), [("requete", "request-life"), ("pas", "training-step")]
)
def test_journeys_have_the_steps_of_their_page(page, picture):
    """Les huit étapes dessinées sont celles que la page explique, dans le même ordre."""
    text = (ROOT / "docs/architecture" / f"{page}.md").read_text(encoding="utf-8")
    steps = re.findall(r"^(\d)\. \*\*(.+?)\.\*\*", text, re.MULTILINE)
    assert [number for number, _ in steps] == list("12345678")
    root = ET.fromstring(make.DRAWN[picture]())  # noqa: S314 — notre propre dessin
    shown = [each.text for each in root.findall(".//{*}text") if each.get("font-weight")]
    assert shown == [word for step in steps for word in step]
    assert f"(../figures/{picture}.svg)" in text


def test_fastest_peers_come_first():
    """Nous d'abord, puis les pairs du plus rapide au plus lent ; nos autres précisions à part."""
    bars = speeds.bars_of(LINES[:3])
    assert [bar.name for bar in bars] == ["ce projet", "vif", "lent"]
    assert [bar.ratio for bar in bars] == [None, 2.0, 10.0]
    assert bars[0].spread == (90.0, 120.0)
    assert speeds.bars_of(LINES[2:3]) == []


def test_unknown_name_is_refused(monkeypatch):
    """Un nom inconnu : une phrase, rien de refait."""
    monkeypatch.setattr(sys, "argv", ["make.py", "tableau"])
    with pytest.raises(SystemExit, match=r"image inconnue : tableau .* corrigez"):
        make.main()
