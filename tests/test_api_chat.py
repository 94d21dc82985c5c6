"""Une conversation en Python : plusieurs tours, au fil de l'eau, et ce qui en est retenu."""

import pytest
import torch
from conftest import FRENCH_TEXT
from page_helpers import HOSTILE, read_cell

from gpt_architecture import GPT, Chat, GPTConfig, chat
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.texts.chat import DEFAULT_CHAT_TEMPLATE
from gpt_architecture.data.tokenizer import SimpleTokenizerV2
from gpt_architecture.errors import ConfigurationError, DataError

TOKENIZER = SimpleTokenizerV2.from_text(FRENCH_TEXT)


def said(talk):
    return [(each["role"], each["content"]) for each in talk.messages]


@pytest.fixture
def echo():
    """Une conversation dont la réponse dit combien de messages elle a lus."""

    def respond(messages):
        yield "lu "
        yield str(len(messages))

    return Chat(respond, system="Sois bref.")


def test_each_answer_reads_all_that_was_said(echo):
    assert echo.ask("Un ?") == "lu 2"
    assert list(echo.stream("Deux ?")) == ["lu ", "4"]
    assert said(echo) == [
        *(("system", "Sois bref."), ("user", "Un ?"), ("assistant", "lu 2")),
        *(("user", "Deux ?"), ("assistant", "lu 4")),
    ]
    assert repr(echo) == "Chat(2 réponses)"
    echo.forget()
    assert said(echo) == [("system", "Sois bref.")]
    assert echo.ask("Trois ?") == "lu 2"


def test_an_answer_left_unread_is_kept_so_far(echo):
    pieces = echo.stream("Un ?")
    assert next(pieces) == "lu "
    pieces.close()
    assert said(echo)[1:] == [("user", "Un ?"), ("assistant", "lu ")]


def test_a_question_that_fails_is_not_kept():
    def respond(messages):
        yield "à moitié"
        raise DataError("panne", expected="rien", remedy="recommencez")

    talk = Chat(respond)
    with pytest.raises(DataError):
        talk.ask("Un ?")
    assert said(talk) == []
    with pytest.raises(ConfigurationError, match="`question` vaut 3"):
        talk.ask(3)


def test_a_card_shows_what_was_said_as_text(echo):
    echo.ask(HOSTILE)
    assert "onerror=alert(1)" in read_cell(echo._repr_html_()).text


def test_a_model_answers_by_its_template():
    """Chaque question suit, dans le gabarit, tout ce qui la précède."""
    torch.manual_seed(0)
    shape = {"context_length": 64, "emb_dim": 16, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0}
    model = GPTModel(GPTConfig(vocab_size=TOKENIZER.vocab_size, **shape)).eval()
    known = {"model": model, "tokenizer": TOKENIZER, "device": torch.device("cpu")}
    with pytest.raises(ConfigurationError, match="pas de gabarit de conversation"):
        chat(GPT(**known))
    gpt = GPT(**known, metadata={"chat_template": DEFAULT_CHAT_TEMPLATE})
    settings = {"max_tokens": 5, "temperature": 1.0, "seed": 3}
    talk = chat(gpt, **settings)
    for question in ("bonjour", "encore"):
        asked = [*talk.messages, {"role": "user", "content": question}]
        expected = "".join(gpt.stream(gpt.chat_prompt(asked), **settings))
        assert talk.ask(question) == expected
    assert len(talk) == 2
    with pytest.raises(ConfigurationError, match="réglage inconnu : temprature"):
        chat(gpt, temprature=1)
