"""La trace montrée : terminal à 80 colonnes, page seule, objet JSON."""

import base64
import hashlib
import io
import json
import re

import pytest
import torch
from decoding_helpers import ByteTokenizer
from page_helpers import HOSTILE, read_page
from rich.console import Console

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.sequence import Piece
from gpt_architecture.decoding.trace import Tracer
from gpt_architecture.reports.trace import (
    render_html,
    render_json,
    render_terminal,
    render_text,
    shown_stages,
)

NO = -torch.inf
NAMES = ("repetition_penalty", "temperature", "top_k", "typical_p", "top_p", "min_p")


def trace_of(tokens=b"le ", names=("top_k", "top_p"), **settings):
    """Une trace où chaque filtre retire une moitié de ce qui reste, le token choisi excepté."""
    config = GenerationConfig(strategy="sample", seed=1, **settings)
    tracer = Tracer(list("Début : ".encode()), config, ByteTokenizer(), top=8)
    torch.manual_seed(0)
    for index, token in enumerate(tokens):
        logits = torch.randn(257)
        tracer.observe("modèle", logits)
        for name in names:
            kept = logits >= logits[logits > NO].median()
            kept[token] = True
            logits = logits.masked_fill(~kept, NO)
            tracer.observe(name, logits)
        finish = "length" if index == len(tokens) - 1 else None
        tracer.accept(Piece(text="", token=token, finish=finish))
    return tracer.trace


def terminal(trace, width=80, **options):
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, markup=False, highlight=False, **options)
    render_terminal(console, trace)
    return buffer.getvalue()


class TestTerminal:
    @pytest.mark.parametrize("names", [(), ("top_k",), ("top_k", "top_p"), NAMES])
    def test_fits_in_80_columns(self, names):
        out = terminal(trace_of(names=names))
        assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
        assert "…" not in out  # rien n'est coupé

    def test_says_what_happened_without_color(self):
        out = terminal(trace_of(b"l", ("top_k",)))
        assert "\x1b[" not in out
        chosen = next(line for line in out.splitlines() if line.lstrip().startswith("▶ l"))
        assert chosen.rstrip().endswith("choisi")
        removed = [line for line in out.splitlines() if line.lstrip().startswith("✘")]
        assert all(line.rstrip().endswith("top_k") for line in removed)
        assert "restent" in out
        assert "entropie" in out

    def test_colors_on_a_terminal(self):
        assert "\x1b[" in terminal(trace_of(b"l"), force_terminal=True, color_system="truecolor")

    def test_hidden_stages_are_named(self):
        out = terminal(trace_of(b"l", NAMES))
        hidden = next(line for line in out.splitlines() if "étapes non montrées" in line)
        step = trace_of(b"l", NAMES).steps[0]
        shown = shown_stages(step, 80)
        assert shown[0] == 0
        assert shown[-1] == len(NAMES)
        assert shown == sorted(shown)
        for place, stage in enumerate(step.stages):
            assert (stage.name in hidden) is (place not in shown)

    def test_wide_terminal_shows_everything(self):
        step = trace_of(b"l", NAMES).steps[0]
        assert shown_stages(step, 200) == list(range(len(NAMES) + 1))

    def test_controls_do_not_reach_the_terminal(self):
        out = terminal(trace_of(b"\x1b[2J\x07\n"))
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "␛" in out

    def test_omitted_tokens_are_counted(self):
        tracer = Tracer([65], GenerationConfig(), ByteTokenizer(), limit=1)
        for _ in range(3):
            tracer.observe("modèle", torch.zeros(257))
            tracer.accept(Piece(text="", token=65))
        assert "Les 2 tokens suivants" in render_text(tracer.trace)
        assert "2 tokens suivants" in read_page(render_html(tracer.trace)).text


class TestPage:
    def test_is_alone_and_complete(self):
        trace = trace_of("né vers 1900\n".encode())
        page = render_html(trace)
        reader = read_page(page)
        for step in trace.steps:
            assert ("id", f"t{step.position}") in reader.attributes
            assert ("href", f"#t{step.position}") in reader.attributes
        for word in ("top_k", "top_p", "choisi", "restent", "entropie", "⏎", "sample"):
            assert word in reader.text.replace("\u200b", "")

    def test_only_its_own_script_may_run(self):
        page = render_html(trace_of())
        (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in page

    def test_hostile_tokens_are_shown_not_run(self):
        page = render_html(trace_of(HOSTILE.encode(), stop=(HOSTILE,)))
        reader = read_page(page)
        assert page.count("<script") == 1
        assert "\x00" not in page
        assert "\u202e" not in page
        assert "␀" in reader.text

    def test_empty_trace(self):
        trace = Tracer([65], GenerationConfig(), ByteTokenizer()).trace
        assert "interrompu" in read_page(render_html(trace)).text


def test_json_is_the_trace():
    trace = trace_of()
    assert json.loads(render_json(trace)) == trace.to_dict()
    assert render_json(trace).count("\n") == 1


class TestCommand:
    options = ("--strategy", "top_k", "--k", 3, "--max-tokens", 4, "--seed", 1)

    def run(self, cli, trained, *arguments):
        outcome = cli(
            "infer", "--model", trained / "gpt-model.pt", *self.options, "--trace", *arguments
        )
        assert outcome.code == 0, outcome.err
        return outcome

    def test_table(self, cli, trained):
        outcome = self.run(cli, trained)
        assert outcome.out.count("Candidat") == 4
        assert "✘" in outcome.out

    def test_json(self, cli, trained):
        found = json.loads(self.run(cli, trained, "--trace-format", "json").out)
        assert len(found["steps"]) == 4
        assert all(step["stages"][-1]["kept"] == 3 for step in found["steps"])

    def test_file(self, cli, trained, tmp_path):
        path = tmp_path / "trace.html"
        outcome = self.run(cli, trained, "--trace-format", "html", "--trace-file", path)
        assert outcome.out == ""
        assert str(path) in outcome.err
        read_page(path.read_text(encoding="utf-8"))

    def test_same_text_as_without_trace(self, cli, trained):
        plain = cli("infer", "--model", trained / "gpt-model.pt", *self.options, "--json")
        traced = json.loads(self.run(cli, trained, "--trace-format", "json").out)
        assert traced["text"].strip() == json.loads(plain.out)["completion"].strip()
