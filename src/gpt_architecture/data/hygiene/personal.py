"""Les données personnelles d'un document : e-mails, téléphones, IBAN et NIR, repérés ou masqués.

Un IBAN ou un NIR n'en est un que si sa clé est juste : un numéro de série qui leur ressemble reste.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

# [0-9] et non \d, qui admet les chiffres de toutes les écritures
_GAP = "[ .\u00a0\u202f-]?"
_SPACE = "[ \u00a0\u202f]?"
_EMAIL = re.compile(
    r"(?<![\w.%+-])[^\W_][\w.%+-]{0,63}@"
    r"(?:[^\W_](?:[\w-]{0,62})\.){1,8}[^\W\d_]{2,24}(?![\w-])"
)
_IBAN = re.compile(
    rf"(?<!\w)[A-Z]{{2}}[0-9]{{2}}(?:{_SPACE}[A-Z0-9]{{4}}){{2,7}}{_SPACE}[A-Z0-9]{{0,4}}"
)
_NIR = re.compile(
    rf"(?<![0-9])[1-478]{_SPACE}[0-9][0-9]{_SPACE}(?:0[1-9]|1[0-2]|[2-9][0-9]){_SPACE}"
    rf"(?:[0-9][0-9]|2[AB]){_SPACE}[0-9]{{3}}{_SPACE}[0-9]{{3}}{_SPACE}[0-9][0-9](?![0-9])"
)
_PHONE = re.compile(
    rf"(?<![\w.,+/-])(?:(?:\+|00)33{_GAP}(?:\(0\){_GAP})?|0)[1-9]"
    rf"(?:{_GAP}[0-9][0-9]){{4}}(?![0-9-]|[.,][0-9])"
    rf"|(?<![\w+])\+(?!33)[0-9]{{1,3}}(?:{_GAP}[0-9]{{2,4}}){{3,5}}(?![0-9])"
)
_EIGHT_DIGITS = re.compile(r"[0-9](?:[^\w\n]{0,3}[0-9]){7}")  # moins : rien à chercher
_ONLY_CODE = re.compile(r"[^A-Z0-9]")

MASKS = {"e-mail": "[e-mail]", "téléphone": "[téléphone]", "IBAN": "[IBAN]", "NIR": "[NIR]"}


@dataclass(frozen=True, kw_only=True)
class Personal:
    """Un texte masqué, et combien de données de chaque genre il portait."""

    text: str
    found: dict[str, int] = field(default_factory=dict)


def mask_personal(text: str) -> Personal:
    """Remplace chaque donnée personnelle par son genre, entre crochets (`MASKS`)."""
    found: dict[str, int] = {}
    searches: list[tuple[str, re.Pattern[str], Callable[[str], int]]] = []
    if _EIGHT_DIGITS.search(text):  # l'IBAN d'abord : il contient de quoi faire un téléphone
        searches += [("IBAN", _IBAN, _iban_length), ("NIR", _NIR, _nir_length)]
        searches += [("téléphone", _PHONE, len)]
    if "@" in text:
        searches += [("e-mail", _EMAIL, len)]
    for kind, pattern, length_of in searches:
        text, count = _masked(text, pattern, length_of, MASKS[kind])
        if count:
            found[kind] = count
    return Personal(text=text, found=found)


def _masked(
    text: str, pattern: re.Pattern[str], length_of: Callable[[str], int], mask: str
) -> tuple[str, int]:
    """Masque les trouvailles ; `length_of` dit combien de caractères de chacune le sont."""
    parts, position, count = list[str](), 0, 0
    for match in pattern.finditer(text):
        length = length_of(match[0])
        if length:
            parts += [text[position : match.start()], mask]
            position = match.start() + length
            count += 1
    if not count:
        return text, 0
    return "".join([*parts, text[position:]]), count


def _iban_length(found: str) -> int:
    """Caractères de l'IBAN au début de `found`, qui mord peut-être sur la suite ; 0 : aucun."""
    for end in range(len(found), 14, -1):
        if found[end - 1].isalnum() and (end == len(found) or not found[end].isalnum()):
            code = _ONLY_CODE.sub("", found[:end])
            if 15 <= len(code) <= 34 and is_iban(code):
                return end
    return 0


def is_iban(code: str) -> bool:
    """Vrai si la clé d'un IBAN sans espaces est juste (ISO 13616 : reste 1 modulo 97)."""
    turned = code[4:] + code[:4]
    return int("".join(str(int(each, 36)) for each in turned)) % 97 == 1


def _nir_length(found: str) -> int:
    return len(found) if is_nir(_ONLY_CODE.sub("", found)) else 0


def is_nir(code: str) -> bool:
    """Vrai si la clé d'un numéro de sécurité sociale de quinze signes, sans espaces, est juste.

    Un département corse compte pour 19 (2A) ou 18 (2B).
    """
    number = int(code[:13].replace("2A", "19", 1).replace("2B", "18", 1))
    return int(code[13:]) == 97 - number % 97
