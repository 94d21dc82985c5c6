"""Le début des exemples générés pendant l'entraînement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt_architecture.errors import ConfigurationError, TokenizerError

if TYPE_CHECKING:
    from gpt_architecture.data.datasets import TrainingData
    from gpt_architecture.data.tokenizer import Tokenizer

SEED_PROMPT = "Every effort moves you"
STORY_PROMPT = "Un soir d'octobre, la cloche"


def choose_prompt(prompt: str | None, data: TrainingData) -> str:
    """Le début des exemples : celui demandé, sinon le premier que le tokenizer sait coder.

    Args:
        prompt: celui demandé, déjà lu ; avec des conversations, une question.
        data: les données.

    Raises:
        ConfigurationError: il ne donne aucun token.
    """
    if prompt is None:
        from gpt_architecture.data.texts.corpus import SHORT_STORY, VERDICT

        known = {VERDICT: SEED_PROMPT, SHORT_STORY: STORY_PROMPT}
        preferred = known.get(data.name, data.opening)
        prompt = preferred if _knows(data.tokenizer, preferred) else data.opening
    elif data.chat_template is not None:
        from gpt_architecture.data.texts.chat import render_chat

        asked = [{"role": "user", "content": prompt}]
        prompt = render_chat(
            asked, data.chat_template, tokenizer=data.tokenizer, add_generation_prompt=True
        )
    from gpt_architecture.data.tokenizers.marked_text import encode_text

    if not encode_text(prompt, data.tokenizer):  # un mot inconnu est dit avant toute étape
        raise ConfigurationError(
            f"le début d'exemple {prompt!r} ne donne aucun token",
            expected="au moins un mot",
            remedy="changez --prompt",
        )
    return prompt


def _knows(tokenizer: Tokenizer, text: str) -> bool:
    """Vrai si chaque mot de `text` est dans le vocabulaire."""
    from gpt_architecture.data.tokenizer import UNKNOWN

    try:
        return UNKNOWN not in tokenizer.decode(tokenizer.encode(text))
    except TokenizerError:
        return False
