"""Une contrainte sous les noms de chaque client, et ce qu'on dit d'une réponse coupée."""

import json

import pytest
from conftest import FRENCH_TEXT
from decoding_helpers import sharp_model
from http_helpers import CHAT_TEMPLATE, NAME, check_envelope, post, serving

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.formats.model_file import save_model
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.engine.engine import Engine
from gpt_architecture.serving.openai.bodies import CompletionBody
from gpt_architecture.serving.openai.constraints import constraint_of

pytest.importorskip("llguidance", reason="contraintes : le paquet llguidance n'est pas installé")
pytest.importorskip("tokenizers", reason="contraintes : le paquet tokenizers n'est pas installé")

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}}
TEXT = json.dumps(SCHEMA)
LONG = {"type": "object", "properties": {"a": {"type": "string", "minLength": 50}}}
STRICT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}

OPEN = {**STRICT, "json_schema": {**STRICT["json_schema"], "schema": {"type": "object"}}}


def body(**fields):
    return CompletionBody.model_validate({"prompt": "a", **fields})


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.from_text(FRENCH_TEXT, 330)


@pytest.fixture(scope="module")
def url(tokenizer):
    """Un modèle dont le tokenizer sait contraindre, avec un gabarit."""
    model = sharp_model(1, vocab_size=tokenizer.vocab_size, context_length=128)
    engine = Engine(model, tokenizer)
    engine.start()
    context = ServingContext(
        engine=engine,
        model=model,
        tokenizer=tokenizer,
        name=NAME,
        metadata={"chat_template": CHAT_TEMPLATE},
        window=engine.window,
    )
    try:
        with serving(create_app(context)) as found:
            yield found
    finally:
        engine.stop()


@pytest.mark.parametrize(
    ("fields", "setting"),
    [
        ({}, {}),
        ({"regex": "a+"}, {"regex": "a+"}),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"structured_outputs": {"regex": "a+", "json": None}}, {"regex": "a+"}),
        ({"choices": ["a"]}, {"choices": ("a",)}),
        ({"guided_choice": ["a"]}, {"choices": ("a",)}),
        ({"structured_outputs": {"choice": ["a"]}}, {"choices": ("a",)}),
        ({"json_schema": SCHEMA}, {"json_schema": TEXT}),
        ({"guided_json": SCHEMA}, {"json_schema": TEXT}),
        ({"guided_json": TEXT, "guided_decoding_backend": "auto"}, {"json_schema": TEXT}),
        ({"structured_outputs": {"json": SCHEMA}}, {"json_schema": TEXT}),
        (
            {"structured_outputs": {"json": TEXT, "disable_any_whitespace": True}},
            {"json_schema": TEXT},
        ),
        ({"structured_outputs": {"json_object": True}}, {"json_schema": '{"type": "object"}'}),
        ({"structured_outputs": {"json_object": False}}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_schema": '{"type": "object"}'}),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, {"json_schema": TEXT}),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, {"json_schema": TEXT}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            {"json_schema": TEXT},
        ),
    ],
    ids=str,
)
def test_every_name_means_one_setting(fields, setting):
    assert constraint_of(body(**fields)) == setting


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"regex": "a", "choices": ["a"]}, ("regex", "choices")),
        ({"regex": "a", "guided_regex": "a"}, ("regex", "guided_regex")),
        (
            {"response_format": {"type": "json_object"}, "guided_json": SCHEMA},
            ("response_format", "guided_json"),
        ),
        (
            {"structured_outputs": {"json": SCHEMA, "regex": "a"}},
            ("structured_outputs.json", "structured_outputs.regex"),
        ),
        ({"response_format": OPEN}, ("strict",)),
    ],
    ids=str,
)
def test_what_cannot_be_followed_is_refused_by_name(fields, names):
    with pytest.raises(ApiError) as refused:
        constraint_of(body(**fields))
    assert refused.value.status == 400
    assert refused.value.param in fields
    for name in names:
        assert name in refused.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_grammar": "root ::= a"},
        {"grammar": "root ::= a"},
        {"structural_tag": "{}"},
        {"structured_outputs": {"grammar": "root ::= a"}},
        {"structured_outputs": {"structural_tag": "{}"}},
    ],
    ids=str,
)
def test_a_grammar_is_refused_by_name(url, fields):
    (outer,) = fields
    inner = fields[outer] if isinstance(fields[outer], dict) else fields
    error = post(url, "/v1/completions", {"prompt": "Le", **fields})
    assert error.status_code == 400
    assert error.json()["error"]["param"].startswith(outer)
    assert next(iter(inner)) in error.json()["error"]["message"]


def test_strict_demands_every_property(url):
    asked = {"prompt": "Le", "response_format": STRICT, "max_tokens": 60, "n": 8, "seed": 1}
    for choice in post(url, "/v1/completions", asked).json()["choices"]:
        assert choice["finish_reason"] == "stop"
        assert list(json.loads(choice["text"])) == ["a"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_will_not_fit_is_announced(url, stream):
    long = {"json_schema": LONG | {"required": ["a"]}, "max_tokens": 8, "stream": stream}
    answer = post(url, "/v1/completions", {"prompt": "Le", **long})
    assert "max_tokens en accorde 8" in answer.headers["x-constraint-warning"]
    assert '"finish_reason":"length"' in answer.text
    messages = [{"role": "user", "content": "?"}]
    answer = post(url, "/v1/chat/completions", {"messages": messages, **long})
    assert "max_tokens en accorde 8" in answer.headers["x-constraint-warning"]
    fits = {"prompt": "Le", "json_schema": SCHEMA, "max_tokens": 40, "stream": stream}
    assert "x-constraint-warning" not in post(url, "/v1/completions", fits).headers


def test_a_hostile_schema_is_a_refusal(url):
    """Des mots-clés de travers ne font pas tomber ce qui les parcourt."""
    for schema in (
        {"properties": 1, "required": "a", "allOf": 3, "anyOf": [4], "items": "x"},
        {"allOf": [{"properties": []}, {"required": [[]]}]},
        {"$ref": "#/a/b", "properties": {"a": None}},
    ):
        answer = post(url, "/v1/completions", {"prompt": "Le", "json_schema": schema})
        assert "json_schema" in check_envelope(answer, 400)["message"]
    for text in (f'{{"minimum": {"1" * 5000}}}', '{"const": "\\ud800"}', "{", "[" * 100):
        answer = post(url, "/v1/completions", {"prompt": "Le", "guided_json": text})
        assert check_envelope(answer, 400)["param"] == "guided_json"


class TestCommands:
    CUT = ("--regex", "[a-z]{50}", "--max-tokens", 3)

    @pytest.fixture
    def model(self, tokenizer, tmp_path):
        cfg = GPTConfig(
            vocab_size=tokenizer.vocab_size, context_length=64, emb_dim=16, n_heads=2, n_layers=1
        )
        path = tmp_path / "m.pt"
        metadata = {"chat_template": CHAT_TEMPLATE}
        save_model(path, GPTModel(cfg), cfg, tokenizer=tokenizer.to_dict(), metadata=metadata)
        return path

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "options",
        [(), ("--json",), ("--n", 2), ("--n", 2, "--json"), ("--trace",), ("--lookup", 2)],
        ids=str,
    )
    def test_infer_says_it_is_only_a_beginning(self, cli, model, options):
        base = ("infer", "--model", model, "--prompt", "Le", "--device", "cpu")
        found = cli(*base, *self.CUT, *options)
        assert found.code == 0, found.err
        assert (
            "avertissement : le texte généré s'arrête à 3 tokens, avant de vérifier regex"
            in found.err
        )
        found = cli(*base, "--choix", "oui", "--max-tokens", 20, *options)
        assert "avertissement" not in found.err

    @pytest.mark.slow
    def test_a_service_too(self, cli, url, monkeypatch):
        for options in ((), ("--n", 2)):
            found = cli("infer", "--server", url, "--prompt", "Le", *self.CUT, *options)
            assert "avant de vérifier regex" in found.err
        import io

        monkeypatch.setattr("sys.stdin", io.StringIO("Bonjour\n"))
        assert "avant de vérifier regex" in cli("chat", "--server", url, *self.CUT).err

    @pytest.mark.slow
    def test_chat_too(self, cli, model, monkeypatch):
        import io

        monkeypatch.setattr("sys.stdin", io.StringIO("Bonjour\n"))
        found = cli("chat", "--model", model, "--device", "cpu", *self.CUT)
        assert "avant de vérifier regex" in found.err

    @pytest.mark.slow
    def test_the_library_too(self, model, caplog):
        from gpt_architecture import load

        gpt = load(model, device="cpu")
        gpt.generate("Le", regex="[a-z]{50}", max_tokens=3)
        assert "avant de vérifier regex" in caplog.text
