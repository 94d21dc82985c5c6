"""Le disque : n'ouvrir que des fichiers, n'en croire que ce qui tient, écrire en entier ou rien.

- `archives` : Les archives de `torch.save` : le CRC32 de chaque enregistrement, relu sans attendre
  PyTorch.
- `chain` : Une chaîne d'empreintes : chaque maillon scelle celui d'avant, et une clé peut signer le
  dernier.
- `overwriting` : Ce qu'une sortie peut remplacer : ses propres écrits, jamais ce qui est lu.
- `reading` : Lire : n'ouvrir que des fichiers, n'en croire que ce qui tient.
- `writing` : Écrire en entier ou rien.
"""

from gpt_architecture.storage.overwriting import (
    GENERATOR,
    Signature,
    check_free,
    check_not_read,
    check_outputs,
    exists,
    is_folder,
    is_own,
    json_of,
    nothing,
    own_figure,
    page_of,
    sealed,
    sealed_text,
    text_of,
)
from gpt_architecture.storage.reading import (
    MAX_DEPTH,
    MAX_TEXT_BYTES,
    SAVE_AS_UTF8,
    NotAFileError,
    check_plain,
    check_regular,
    decode_text,
    encoding_remedy,
    foreign_format,
    is_plain,
    json_bytes,
    likely_encoding,
    open_regular,
    parse_json,
    read_at_most,
    read_json,
    read_json_object,
    read_text,
)
from gpt_architecture.storage.writing import (
    check_writable,
    sweep,
    sync,
    system_error,
    write_atomically,
    write_directory,
    write_figure,
)

__all__ = [
    "GENERATOR",
    "MAX_DEPTH",
    "MAX_TEXT_BYTES",
    "SAVE_AS_UTF8",
    "NotAFileError",
    "Signature",
    "check_free",
    "check_not_read",
    "check_outputs",
    "check_plain",
    "check_regular",
    "check_writable",
    "decode_text",
    "encoding_remedy",
    "exists",
    "foreign_format",
    "is_folder",
    "is_own",
    "is_plain",
    "json_bytes",
    "json_of",
    "likely_encoding",
    "nothing",
    "open_regular",
    "own_figure",
    "page_of",
    "parse_json",
    "read_at_most",
    "read_json",
    "read_json_object",
    "read_text",
    "sealed",
    "sealed_text",
    "sweep",
    "sync",
    "system_error",
    "text_of",
    "write_atomically",
    "write_directory",
    "write_figure",
]
