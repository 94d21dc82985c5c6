"""Une contrainte est essayée ailleurs, sous des bornes : elle ne brûle ni ne fige le service."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import FRENCH_TEXT
from decoding_helpers import sharp_model
from http_helpers import check_envelope, post, running_service, wait_until
from serving_helpers import PATIENCE, ask, request, running, submit

from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.constraints import build_constraint
from gpt_architecture.decoding.grammars import grammar_of
from gpt_architecture.errors import ConfigurationError, GenerationError
from gpt_architecture.serving.engine import grammar_trial
from gpt_architecture.serving.engine.grammar_trial import GrammarTrial
from gpt_architecture.serving.engine.messages import EngineClosed, Overloaded

pytest.importorskip("llguidance", reason="contraintes : le paquet llguidance n'est pas installé")
pytest.importorskip("tokenizers", reason="contraintes : le paquet tokenizers n'est pas installé")

ENDLESS = {"json_schema": '{"multipleOf": 9999991}'}
FUZZ = int(os.environ.get("FUZZ", "60"))
"""Contraintes hostiles essayées ; 2000 pour une fouille."""
STEEP = (378, 1962)
"""Celles qu'on lit vite, et dont un pas durait des secondes."""


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.from_text(FRENCH_TEXT, 330)


@contextmanager
def trial_of(tokenizer, **limits):
    trial = GrammarTrial(tokenizer, **limits)
    try:
        yield trial
    finally:
        trial.close()


def check(trial, copies=1, **settings):
    trial.check(*grammar_of(GenerationConfig(**settings)), copies=copies)


def worker(trial):
    return trial._process.pid


class TestLimits:
    @pytest.mark.slow
    def test_time(self, tokenizer):
        with trial_of(tokenizer, seconds=0.2) as trial:
            check(trial, regex="a+")
            first = worker(trial)
            with pytest.raises(ConfigurationError, match=r"json_schema.* 0,2 s de calcul"):
                check(trial, **ENDLESS)
            assert not Path(f"/proc/{first}").exists()
            check(trial, regex="b+")  # un autre processus a pris la suite
            assert worker(trial) != first

    def test_memory(self, tokenizer):
        with (
            trial_of(tokenizer, seconds=60.0, memory=8 << 20) as trial,
            pytest.raises(ConfigurationError, match=r"json_schema.* 8 Mio"),
        ):
            check(trial, **ENDLESS)

    @pytest.mark.slow
    def test_what_is_refused_is_remembered(self, tokenizer, monkeypatch):
        """La même contrainte hostile, envoyée cent fois, n'est essayée qu'une."""
        with trial_of(tokenizer, seconds=0.2) as trial:
            tried, usual = [], trial._try
            monkeypatch.setattr(trial, "_try", lambda *a: tried.append(a) or usual(*a))
            for _ in range(100):
                with pytest.raises(ConfigurationError, match="calcul"):
                    check(trial, **ENDLESS)
            assert len(tried) == 1
            with pytest.raises(ConfigurationError, match="unclosed"):
                check(trial, regex="(a")

    @pytest.mark.slow
    def test_every_sequence_counts(self, tokenizer):
        """Ce qui va pour une suite peut être trop pour les soixante-quatre d'une requête."""
        slow = {"json_schema": '{"type": "integer", "multipleOf": 19997}'}
        with trial_of(tokenizer, seconds=30.0) as trial:
            check(trial, **slow)
            with pytest.raises(ConfigurationError, match="100000 textes"):
                check(trial, copies=100_000, **slow)

    def test_a_short_queue(self, tokenizer, monkeypatch):
        monkeypatch.setattr(grammar_trial, "MAX_WAITING", 1)
        with trial_of(tokenizer) as trial:
            check(trial, regex="a+")
            with stopped(worker(trial)):
                first = threading.Thread(target=check, args=(trial,), kwargs={"regex": "b+"})
                first.start()
                wait_until(lambda: trial._waiting == 1)
                check(trial, regex="a+")  # déjà essayée : elle n'attend personne
                with pytest.raises(Overloaded):
                    check(trial, regex="c+")
            first.join(PATIENCE)
            check(trial, regex="c+")


class TestLife:
    @pytest.mark.slow
    def test_a_killed_worker_is_replaced(self, tokenizer):
        with trial_of(tokenizer) as trial:
            check(trial, regex="a+")
            os.kill(worker(trial), signal.SIGKILL)
            trial._process.wait()
            check(trial, regex="b+")

    @pytest.mark.slow
    def test_a_worker_that_dies_reading_is_a_refusal(self, tokenizer, monkeypatch):
        with trial_of(tokenizer) as trial:
            check(trial, regex="a+")
            found, asked, usual = [], threading.Event(), grammar_trial._ask
            monkeypatch.setattr(grammar_trial, "_ask", lambda *a: asked.set() or usual(*a))

            def refuse():
                with pytest.raises(ConfigurationError, match="échoue"):
                    check(trial, regex="b+")
                found.append(True)

            with stopped(worker(trial)) as pid:
                thread = threading.Thread(target=refuse)
                thread.start()
                assert asked.wait(PATIENCE)  # le processus est choisi : sa mort n'en lance pas un
                os.kill(pid, signal.SIGKILL)
            thread.join(PATIENCE)
            assert found
            check(trial, regex="b+")

    @pytest.mark.slow
    def test_a_late_worker_is_killed(self, tokenizer, monkeypatch):
        monkeypatch.setattr(grammar_trial, "_PATIENCE", 0.2)
        with trial_of(tokenizer) as trial:
            check(trial, regex="a+")
            with (
                stopped(worker(trial)),
                pytest.raises(ConfigurationError, match="n'a pas fini"),
            ):
                check(trial, regex="b+")

    def test_closing_ends_it(self, tokenizer):
        with trial_of(tokenizer) as trial:
            check(trial, regex="a+")
            pid = worker(trial)
            failed = []

            def waiting():
                with pytest.raises(EngineClosed):
                    check(trial, regex="b+")
                failed.append(True)

            with stopped(pid):
                thread = threading.Thread(target=waiting)
                thread.start()
                wait_until(lambda: trial._waiting == 1)
                trial.close()
            thread.join(PATIENCE)
            assert failed
            assert not Path(f"/proc/{pid}").exists()
            with pytest.raises(EngineClosed):
                check(trial, regex="c+")

    def test_a_signal_meant_for_the_service_leaves_it(self, tokenizer):
        """Ctrl-C au terminal atteint tout le groupe : le service finit, lui avec."""
        with trial_of(tokenizer) as trial:
            check(trial, regex="a+")
            pid = worker(trial)
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(pid, number)
            check(trial, regex="b+")
            assert worker(trial) == pid

    @pytest.mark.process
    def test_it_does_not_outlive_the_service(self, tokenizer, tmp_path):
        tokenizer.save(tmp_path / "t.json")
        _, grammar = grammar_of(GenerationConfig(regex="a+"))
        code = (
            "import sys; from gpt_architecture.data.tokenizer import get_tokenizer\n"
            "from gpt_architecture.serving.engine.grammar_trial import GrammarTrial\n"
            "trial = GrammarTrial(get_tokenizer(sys.argv[1])); trial.check('regex', sys.argv[2])\n"
            "print(trial._process.pid, flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "t.json"), grammar],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as service:
            pid = int(service.stdout.readline())
            assert Path(f"/proc/{pid}").exists()
            service.kill()
        wait_until(lambda: not _alive(pid))


class TestService:
    @pytest.mark.slow
    def test_limits_are_named_and_the_service_lives(self, tokenizer):
        model = sharp_model(1, vocab_size=tokenizer.vocab_size, context_length=64)
        seconds, either = "0,5 s de calcul", "0,5 s de calcul|128 Mio"  # selon le processeur
        with running_service(model, tokenizer) as url:
            for body, limit in (
                ({"json_schema": {"multipleOf": 9999991}}, seconds),
                (
                    {"response_format": {"type": "json_object", "schema": {"multipleOf": 9999991}}},
                    seconds,
                ),
                ({"regex": ".*" * 5000}, either),
                ({"structured_outputs": {"regex": ".*" * 20_000}}, either),
            ):
                answer = post(url, "/v1/completions", {"prompt": "Le", "max_tokens": 3} | body)
                assert re.search(limit, check_envelope(answer, 400)["message"])
            body = {"prompt": "Le", "regex": "(oui|non)", "max_tokens": 8}
            choice = post(url, "/v1/completions", body).json()["choices"][0]
            assert (choice["text"] in ("oui", "non"), choice["finish_reason"]) == (True, "stop")

    def test_others_go_on_while_a_constraint_is_tried(self, tokenizer):
        model = sharp_model(1, vocab_size=tokenizer.vocab_size, context_length=64)
        ids = tuple(tokenizer.encode("Le passeur"))
        with running(model, tokenizer) as engine:
            ask(engine, request(ids, regex="(oui|non)"))
            tried = threading.Thread(
                target=lambda: found.append(ask(engine, request(ids, regex="[ab]{4}")).text)
            )
            found = []
            with stopped(worker(engine._trial)):  # un essai qui n'en finit pas
                tried.start()
                wait_until(lambda: engine._trial._waiting == 1)
                assert len(ask(engine, request(ids)).tokens) == 6
                assert ask(engine, request(ids, regex="(oui|non)")).text in ("oui", "non")
                assert not found
            tried.join(PATIENCE)
            assert set(found[0]) <= {"a", "b"}

    def test_everything_is_ready_before_the_first(self, tokenizer):
        model = sharp_model(1, vocab_size=tokenizer.vocab_size, context_length=64)
        with running(model, tokenizer) as engine:
            engine.prepare_constraints()
            wait_until(lambda: engine._trial._process is not None)
            pid = worker(engine._trial)
            assert ask(engine, request((1, 2), regex="(oui|non)")).text in ("oui", "non")
            assert worker(engine._trial) == pid
        with running(sharp_model(1, context_length=64)) as engine:  # un tokenizer par lettres
            engine.prepare_constraints()
            assert engine._trial._process is None

    def test_a_stopped_engine_leaves_no_process(self, tokenizer):
        model = sharp_model(1, vocab_size=tokenizer.vocab_size, context_length=64)
        with running(model, tokenizer) as engine:
            (box,) = submit(engine, request((1, 2), regex="(oui|non)"))
            box.wait()
            pid = worker(engine._trial)
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_hostile_constraints_stay_within_the_limits(tokenizer):
    """Aucune ne fait tomber ni durer l'essai ; celles qui passent se lisent et se suivent ici."""
    spent = []
    with trial_of(tokenizer) as trial:
        for number in (*range(FUZZ), *STEEP):
            rng = random.Random(number)  # noqa: S311 — pas un secret
            settings = hostile(rng)
            if refused(check, trial, **settings):
                continue
            start = time.thread_time()
            refused(follow, rng, GenerationConfig(**settings), tokenizer)
            spent.append(time.thread_time() - start)
    print(f"{len(spent)} admises sur {FUZZ}, lues et suivies ici en {max(spent):.2f} s au plus")
    assert len(spent) > FUZZ // 10
    assert max(spent) < 2.0  # de calcul, pour la lire et trente pas ; mal bornés, dix secondes


def refused(work, *arguments, **settings):
    """Vrai si un travail refuse sa contrainte, en une ligne qui le dit ; faux s'il l'admet."""
    try:
        work(*arguments, **settings)
    except (ConfigurationError, GenerationError) as error:
        message = str(error)
        if "contrainte" not in message or "\n" in message:
            raise
        return True
    return False


def follow(rng, config, tokenizer):
    """Lit une contrainte admise et la suit au hasard."""
    constraint = build_constraint(
        config, tokenizer, vocab_size=tokenizer.vocab_size, trial=lambda *_: None
    )
    for _ in range(30):
        choices = constraint.allowed().nonzero().flatten().tolist()
        constraint.advance(rng.choice(choices))
        if constraint.is_complete or choices == [tokenizer.eos_id]:
            return


def hostile(rng):
    """Une contrainte faite pour coûter."""
    if rng.random() < 0.5:
        return {"regex": regex(rng, 4)[:150_000]}
    return {"json_schema": json.dumps(schema(rng, 4))[:190_000]}


ATOMS = ["a", ".", r"\w", r"\d", r"\s", "[^a]", "[à-ÿ]", r"\p{L}", "é", r"[\s\S]", "👩‍🚀"]
LONGEST = 40_000
COUNTS = [1, 2, 9, 99, 999, 9999, 100_000]
FACTORS = [1, 7, 97, 997, 9973, 99991, 999983, 9999991, 10**15 + 37]
FORMATS = ["date-time", "ipv6", "uri", "email", "uuid", "hostname", "duration"]
TYPES = ["integer", "number", "string", "boolean", "null"]


def repeated(text, count):
    return text * min(count, LONGEST // len(text) + 1)


def regex(rng, depth):
    def inner():
        return regex(rng, depth - 1)[:LONGEST] if depth else rng.choice(ATOMS)

    count = rng.choice(COUNTS)
    forms = [
        lambda: rng.choice(ATOMS),
        lambda: f"({inner()}){{{rng.randrange(count)},{count}}}",
        lambda: repeated(f"({inner()})*", count),
        lambda: "|".join(inner() for _ in range(rng.randrange(1, 12))),
        lambda: "|".join(f"mot{n}.*{n}" for n in range(min(count, 3000))),
        lambda: repeated(".*", count),
        lambda: f"(.*a.{{{min(count, 200)}}}.*)|({inner()}.*b.{{{min(count, 99)}}})",
        lambda: f"(({inner()})+)+{inner()}?" * rng.randrange(1, 30),
        lambda: repeated("(", count) + inner() + repeated(")?", count),
    ]
    return rng.choice(forms)() if depth else inner()


def schema(rng, depth):
    def inner():
        return schema(rng, depth - 1) if depth else {"type": rng.choice(TYPES)}

    def several():
        return [inner() for _ in range(rng.randrange(1, 9))]

    def doubled():
        defs = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(25)}
        return {"$defs": {**defs, "d25": inner()}, "$ref": "#/$defs/d0"}

    def named():
        names = [f"p{n}" for n in range(rng.randrange(40))]
        return {"properties": {name: inner() for name in names[:6]}, "required": names}

    count = rng.choice(FACTORS)
    forms = [
        doubled,
        named,
        lambda: {"type": "integer", "multipleOf": count},
        lambda: {"multipleOf": count / 1000, "minimum": -count, "maximum": count * 1.37},
        lambda: {"type": "string", "minLength": min(count, 10**6), "maxLength": count},
        lambda: {"type": "string", "pattern": regex(rng, 3)[:20_000]},
        lambda: {"type": "array", "items": inner(), "minItems": count, "maxItems": 2 * count},
        lambda: {rng.choice(["allOf", "anyOf", "oneOf"]): several()},
        lambda: {"enum": [f"valeur {n}" for n in range(min(count, 5000))]},
        lambda: {"patternProperties": {regex(rng, 2)[:2000]: inner()}, "type": "object"},
        lambda: {"properties": {"a": {"$ref": "#"}, "b": inner()}, "required": ["a"]},
        lambda: {"type": "string", "format": rng.choice(FORMATS), "maxLength": count},
    ]
    return rng.choice(forms)() if depth else inner()


@contextmanager
def stopped(pid):
    """Un processus figé, le temps d'un bloc."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        if _alive(pid):
            os.kill(pid, signal.SIGCONT)


def _alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
