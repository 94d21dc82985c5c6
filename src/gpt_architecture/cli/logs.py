"""Le journal sur stderr : en texte pour une personne, ou en JSON, une ligne par événement.

Une ligne du journal ne vient jamais que du programme : ce qui suit un saut de ligne est en retrait,
et un caractère de commande est montré, pas envoyé au terminal.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from gpt_architecture.reports.console import shape_asides

LogFormat = Literal["text", "json"]
"""Forme du journal."""

LOGGER = "gpt_architecture"

_LEVELS = {logging.ERROR: "erreur", logging.WARNING: "avertissement", logging.INFO: "info"}
_CONTROLS = {
    code: f"\\u{code:04x}"
    for code in (*range(32), *range(127, 160), 0x2028, 0x2029)
    if chr(code) not in "\n\t"
}


class FrenchText(logging.Formatter):
    """Le niveau, s'il y a lieu, puis le message, et la pile d'appels d'une panne."""

    def format(self, record: logging.LogRecord) -> str:
        """La ligne d'un événement, et celles, en retrait, qui la continuent."""
        level = f"{_level(record)} : " if record.levelno >= logging.WARNING else ""
        return self._shown(f"{level}{record.getMessage()}", record)

    def _shown(self, text: str, record: logging.LogRecord) -> str:
        if record.exc_info:
            text += f"\n{self.formatException(record.exc_info)}"
        return text.translate(_CONTROLS).replace("\n", "\n  ")


class TimedText(FrenchText):
    """Pour un service : aussi l'heure, et la requête dont il s'agit."""

    def format(self, record: logging.LogRecord) -> str:
        """La ligne d'un événement, et celles, en retrait, qui la continuent."""
        request = getattr(record, "request_id", "")
        about = f" [{request}]" if request else ""
        return self._shown(f"{_time(record)} {_level(record)}{about} {record.getMessage()}", record)


class Translated(logging.Filter):
    """Récrit chaque message, par exemple pour nommer les options de la commande en cours.

    Args:
        translate: message → message.
    """

    def __init__(self, translate: Callable[[str], str]) -> None:
        super().__init__()
        self._translate = translate

    def filter(self, record: logging.LogRecord) -> bool:
        """Récrit celui d'un événement ; tous passent."""
        record.msg, record.args = self._translate(record.getMessage()), ()
        return True


class JsonLines(logging.Formatter):
    """Un objet par ligne ; ses niveaux sont ceux que les collecteurs connaissent, en anglais."""

    def format(self, record: logging.LogRecord) -> str:
        """La ligne d'un événement."""
        content = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", "") or None,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False).translate(_CONTROLS)


def configure_logs(formatter: logging.Formatter | None = None, *filters: Any) -> None:
    """Donne sa forme au journal : celui du projet, et ce que Python y ajoute.

    Args:
        formatter: la forme ; None : du texte, sans heure.
        filters: complètent chaque événement (`logging.Filter`, ou une fonction).
    """
    handler = logging.StreamHandler()
    handler.setFormatter(formatter or FrenchText())
    for each in filters:
        handler.addFilter(each)
    for name in (LOGGER, "asyncio", "py.warnings"):
        logging.getLogger(name).handlers[:] = [handler]
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    is_json = isinstance(formatter, JsonLines)
    logging.captureWarnings(is_json)  # sur stderr, rien que des lignes JSON
    shape_asides(in_journal if is_json else None)


def in_journal(message: str, level: int = logging.INFO) -> str | None:
    """Cette phrase telle que le journal JSON la dirait ; None si le journal est du texte."""
    handlers = logging.getLogger(LOGGER).handlers
    formatter = handlers[0].formatter if handlers else None
    if not isinstance(formatter, JsonLines):
        return None
    return formatter.format(logging.LogRecord(LOGGER, level, "", 0, message, (), None))


def _level(record: logging.LogRecord) -> str:
    return next((name for level, name in _LEVELS.items() if record.levelno >= level), "détail")


def _time(record: logging.LogRecord) -> str:
    """L'instant, à la milliseconde, et le décalage horaire d'ici."""
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
