"""Relire un journal : les lignes entières, les nombres finis."""

import json
import math

import pytest

from gpt_architecture.formats.journal import append_record, finite_number, read_records


def test_only_whole_lines_are_read(tmp_path):
    """Une ligne coupée, d'un autre genre ou trop profonde est passée."""
    path = tmp_path / "journal.jsonl"
    path.touch()
    append_record(path, "step", step=1, loss=math.nan)
    with path.open("ab") as file:
        file.write(b'[1]\n{"kind": 3}\n\xff\n' + b"[" * 100_000 + b'\n{"kind": "step", "st')
    with path.open("rb") as lines:
        assert list(read_records(lines)) == [{"kind": "step", "step": 1, "loss": "nan"}]


def test_a_journal_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        append_record(tmp_path / "absent.jsonl", "step", step=1)


@pytest.mark.parametrize(
    ("value", "found"),
    [(2, 2), (0.5, 0.5), ("nan", None), (math.inf, None), (True, None), (10**400, None)],
    ids=["entier", "réel", "texte", "infini", "booléen", "démesuré"],
)
def test_numbers_are_finite(value, found):
    assert finite_number(value) == found
    assert json.dumps(finite_number(value)) == json.dumps(found)
