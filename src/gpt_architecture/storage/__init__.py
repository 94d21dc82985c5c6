"""Le disque : n'ouvrir que des fichiers, n'en croire que ce qui tient, écrire en entier ou rien.

- `reading` : Lire : n'ouvrir que des fichiers, n'en croire que ce qui tient.
- `writing` : Écrire en entier ou rien.
"""

from gpt_architecture.storage.reading import (
    MAX_DEPTH,
    MAX_TEXT_BYTES,
    SAVE_AS_UTF8,
    NotAFileError,
    check_plain,
    check_regular,
    decode_text,
    foreign_format,
    open_regular,
    parse_json,
    read_at_most,
    read_json,
    read_json_object,
    read_text,
)
from gpt_architecture.storage.writing import (
    check_free,
    check_writable,
    sweep,
    sync,
    write_atomically,
    write_directory,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_TEXT_BYTES",
    "SAVE_AS_UTF8",
    "NotAFileError",
    "check_free",
    "check_plain",
    "check_regular",
    "check_writable",
    "decode_text",
    "foreign_format",
    "open_regular",
    "parse_json",
    "read_at_most",
    "read_json",
    "read_json_object",
    "read_text",
    "sweep",
    "sync",
    "write_atomically",
    "write_directory",
]
