"""Les schémas JSON : objets fermés comme leurs auteurs l'entendent, mode strict, taille."""

import json
from typing import Literal

import pytest
from conftest import FRENCH_TEXT
from decoding_helpers import sharp_model
from pydantic import BaseModel, Field

from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.constraints import (
    _vocabulary,
    budget_warning,
    build_constraint,
    cut_warning,
)
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.decoding.grammars import build_matcher, grammar_of, why_refused
from gpt_architecture.decoding.schemas import close_objects, make_strict, shortest_document
from gpt_architecture.errors import ConfigurationError

pytest.importorskip("llguidance", reason="contraintes : le paquet llguidance n'est pas installé")
pytest.importorskip("tokenizers", reason="contraintes : le paquet tokenizers n'est pas installé")

A = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
B = {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}
DEFS = {"$defs": {"A": A}}
REF = {"$ref": "#/$defs/A"}


class Rue(BaseModel):
    nom: str = Field(max_length=8)
    numero: int | None = Field(None, ge=0, le=999)


class Fiche(BaseModel):
    nom: str = Field(max_length=8)
    rue: Rue
    autres: list[Rue] = Field([], max_length=2)
    genre: Literal["ville", "bourg"] = "ville"
    repere: Rue | bool = Field(True, description="une rue, ou rien")


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.from_text(FRENCH_TEXT, 330)


def accepts(tokenizer, schema, document):
    """Vrai si la contrainte du schéma permet ce document, entier."""
    _, grammar = grammar_of(GenerationConfig(json_schema=json.dumps(schema)))
    matcher = build_matcher(_vocabulary(tokenizer), grammar)
    assert why_refused(matcher) == ""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return matcher.consume_tokens(tokenizer.encode(text)) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("schema", "fine", "refused"),
    [
        (A, {"a": 1}, {"a": 1, "z": 2}),
        ({**A, "additionalProperties": True}, {"a": 1, "z": 2}, {"z": 2}),
        ({**A, "additionalProperties": {"type": "null"}}, {"a": 1, "z": None}, {"a": 1, "z": 2}),
        ({"type": "object"}, {"z": {"y": [1]}}, [1]),
        ({"type": "object", "properties": {}}, {}, {"z": 1}),
        ({"type": "array", "items": A}, [{"a": 1}], [{"a": 1, "z": 2}]),
        ({"anyOf": [A, B]}, {"b": 1}, {"b": 1, "z": 2}),
        ({**DEFS, **REF}, {"a": 1}, {"a": 1, "z": 2}),
        (
            {**DEFS, "properties": {"x": {"allOf": [REF], "description": "x"}}},
            {"x": {"a": 1}},
            {"x": {"a": 1, "z": 2}},
        ),
        ({"properties": {"k": {"$ref": "#"}}}, {"k": {"k": {}}}, {"k": {"z": {}}}),
        ({"properties": {"properties": A}}, {"properties": {"a": 1}}, {"properties": 1}),
        (
            {**A, "patternProperties": {"^x": {"type": "integer"}}},
            {"a": 1, "x": 2},
            {"a": 1, "z": 2},
        ),
        # Ce que allOf réunit est fermé ensemble.
        ({"allOf": [A, B]}, {"a": 1, "b": 2}, {"a": 1, "b": 2, "z": 3}),
        ({**DEFS, "allOf": [REF, B]}, {"a": 1, "b": 2}, {"a": 1, "b": 2, "z": 3}),
        ({**DEFS, "allOf": [REF], **B}, {"a": 2, "b": 1}, {"a": 2, "b": 1, "z": 3}),
        # Des parts mêlées restent ouvertes : en fermer une interdirait les autres.
        (
            {**A, "anyOf": [{"properties": {"b": {"type": "null"}}, "required": ["b"]}]},
            {"a": 1, "b": None},
            {"a": 1, "b": 2},
        ),
    ],
    ids=str,
)
def test_what_is_closed(tokenizer, schema, fine, refused):
    before = json.dumps(schema)
    assert accepts(tokenizer, schema, fine)
    assert not accepts(tokenizer, schema, refused)
    assert json.dumps(schema) == before  # le schéma donné n'est pas touché


@pytest.mark.slow
def test_a_pydantic_model_is_always_valid(tokenizer):
    """Vingt suites sur vingt ; sans fermer les objets, un modèle y ajoute des clés sans fin."""
    schema = json.dumps(Fiche.model_json_schema())
    assert "additionalProperties" not in schema
    model = sharp_model(1, vocab_size=tokenizer.vocab_size, context_length=512)
    config = GenerationConfig(
        strategy="temperature", temperature=1.3, json_schema=schema, max_tokens=400, seed=0, n=20
    )
    (found,) = Generator(model, tokenizer).generate(["Le passeur"], config)
    assert [each.finish for each in found] == ["stop"] * 20
    for each in found:
        Fiche.model_validate_json(each.text)


def test_strict_demands_every_property(tokenizer):
    schema = make_strict(Fiche.model_json_schema())
    assert set(schema["required"]) == set(Fiche.model_fields)
    assert schema["$defs"]["Rue"]["required"] == ["nom", "numero"]
    rue = {"nom": "a", "numero": None}
    whole = {"nom": "a", "rue": rue, "autres": [], "genre": "bourg", "repere": True}
    assert accepts(tokenizer, schema, whole)
    assert not accepts(tokenizer, schema, {**whole, "rue": {"nom": "a"}})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {**A, "additionalProperties": True},
        {"type": "object", "properties": {"a": {"type": "object"}}},
        {**A, "anyOf": [B]},
        {"type": ["object", "null"]},
    ],
    ids=str,
)
def test_strict_refuses_what_stays_open(schema):
    with pytest.raises(ConfigurationError, match="strict"):
        make_strict(schema)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (A, '{"a":0}'),
        ({**DEFS, "properties": {"x": REF, "y": REF}, "required": ["y"]}, '{"y":{"a":0}}'),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, "[true,true]"),
        ({"enum": ["longue", "bref"]}, '"bref"'),
        ({"type": "string", "minLength": 3}, '"aaa"'),
        ({"anyOf": [A, {"type": "null"}]}, "null"),
        ({"type": ["string", "null"]}, '""'),
        ({"required": 3, "properties": 4, "anyOf": 5, "items": 6}, "{}"),
    ],
    ids=str,
)
def test_the_shortest_document(schema, text):
    assert shortest_document(schema) == text


def test_hostile_schemas_stay_small():
    """Ni 2ⁿ références, ni 10 000ⁿ éléments : lire un schéma reste proportionné à sa taille."""
    doubled = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
    doubled["d60"] = {**A, "enum": ["x" * 1000] * 100}
    schema = {"$defs": doubled, "allOf": [{"$ref": "#/$defs/d0"}] * 2}
    assert len(json.dumps(close_objects(schema))) < 1_000_000
    deep = {"type": "integer"}
    for _ in range(20):
        deep = {"type": "array", "items": deep, "minItems": 10_000}
    assert len(shortest_document(deep)) <= 20_000
    loop = {"$ref": "#/$defs/C"}  # recopié dans lui-même : refermé à chaque niveau, des secondes
    nested = {"properties": {"a": True}, **loop, "anyOf": [{"type": "null"}, loop]}
    repeated = {"$defs": {"C": {"properties": {"c": nested}, "description": "x" * 1000}}}
    assert len(json.dumps(close_objects(repeated))) < 1_000_000
    itself = {"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]}
    assert len(shortest_document(itself)) < 100_000


def test_too_few_tokens_are_announced(tokenizer, caplog):
    """Ce qui ne tiendra pas est dit avant d'écrire, et la coupure après."""
    long = {"type": "object", "properties": {"a": {"type": "string", "minLength": 60}}}
    config = GenerationConfig(json_schema=json.dumps({**long, "required": ["a"]}), max_tokens=5)
    warning = budget_warning(config, tokenizer)
    assert "json_schema" in warning
    assert "max_tokens en accorde 5" in warning
    assert warning.isascii()  # il voyage dans un en-tête HTTP
    model = sharp_model(1, vocab_size=tokenizer.vocab_size, context_length=64)
    ((found,),) = Generator(model, tokenizer).generate(["Le"], config)
    assert warning in caplog.text
    assert found.finish == "length"
    assert "json_schema" in cut_warning(config, found.finish)

    assert budget_warning(GenerationConfig(json_schema=json.dumps(A)), tokenizer) is None
    assert "choices" in budget_warning(
        GenerationConfig(choices=("peut-être bien",), max_tokens=1), tokenizer
    )
    assert budget_warning(GenerationConfig(max_tokens=1), tokenizer) is None
    assert cut_warning(config, "stop") is None
    assert cut_warning(GenerationConfig(), "length") is None


def test_an_endless_reading_is_given_up(tokenizer, monkeypatch):
    """Sans essai préalable, l'attente est bornée : Ctrl-C et l'échéance la coupent."""
    monkeypatch.setattr("gpt_architecture.decoding.constraints.MAX_BUILD_SECONDS", 0.05)
    config = GenerationConfig(json_schema='{"type": "integer", "multipleOf": 99991}')
    with pytest.raises(ConfigurationError, match=r"plus de 0\.05 s"):
        build_constraint(config, tokenizer, vocab_size=tokenizer.vocab_size)


def test_a_schema_that_nests_forever_is_refused():
    link = {"allOf": [{"$ref": "#/$defs/N"}, {"properties": {"x": {"type": "integer"}}}]}
    node = {"type": "object", "properties": {"l": link}}
    schema = {"$defs": {"N": node}, "$ref": "#/$defs/N"}
    for each in (close_objects, make_strict):
        with pytest.raises(ConfigurationError, match="imbrique trop de niveaux"):
            each(schema)
