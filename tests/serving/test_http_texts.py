"""Les textes qu'un client envoie : longs blancs, corps d'un Windows, énumérations en français."""

import json
from dataclasses import replace

import pytest
from http_helpers import NAME, ScriptedEngine, check_envelope, client_of, make_context

from gpt_architecture.data.tokenizer import get_tokenizer


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_prompt_of_blanks_is_too_long_not_an_internal_error():
    """Un million et demi d'espaces se codent, et dépassent le contexte : 400, non 500."""
    context = replace(make_context(ScriptedEngine()), tokenizer=get_tokenizer("gpt2"))
    with client_of(context) as client:
        body = {"model": NAME, "prompt": "mot" + " " * 1_500_000, "max_tokens": 1}
        error = check_envelope(client.post("/v1/completions", json=body), 400)
        assert "1500001" in error["message"].replace(" ", "").replace("\u202f", "")


def test_a_body_may_begin_with_a_mark():
    """PowerShell écrit un BOM devant l'UTF-8."""
    with client_of(make_context(ScriptedEngine())) as client:
        data = b"\xef\xbb\xbf" + json.dumps({"content": "aé"}).encode()
        headers = {"Content-Type": "application/json"}
        found = client.post("/tokenize", content=data, headers=headers)
        assert "corps" not in found.text


def test_choices_are_listed_in_french():
    with client_of(make_context(ScriptedEngine(), chat=True)) as client:
        body = {"model": NAME, "messages": [{"role": "ami", "content": "a"}]}
        message = check_envelope(client.post("/v1/chat/completions", json=body), 400)["message"]
        assert " ou 'assistant'" in message
        assert " or " not in message
