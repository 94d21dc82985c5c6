"""Les lecteurs de textes : un fichier par famille de formats, qui s'y inscrit lui-même.

Ajouter un format, c'est écrire un fichier qui appelle `base.register`, et l'importer ici.

- `base` : Une source, un bloc d'enregistrements, un format, et le registre des formats.
- `books` : EPUB : les chapitres d'un livre, dans l'ordre de sa lecture.
- `columns` : Parquet et Arrow (Feather compris) : une rangée, un document.
- `isolation` : Les documents composés, lus dans un processus à part, borné en temps et en mémoire.
- `json_records` : JSON et JSONL : un objet, un document.
- `layers` : Ce qui enveloppe un fichier : compressions et archives ZIP, ouvertes sans rien écrire.
- `markup` : D'un arbre HTML ou XML à des paragraphes.
- `office` : DOCX et ODT : les paragraphes et les tableaux d'un traitement de texte.
- `packages` : Les documents qui sont des archives ZIP, ouverts et bornés d'avance.
- `pdf` : PDF : la couche de texte, page après page.
- `plain` : Texte suivi : le fichier est le document.
- `tables` : CSV et TSV : une ligne, un document.
- `web` : HTML : le texte principal d'une page.
"""

from gpt_architecture.data.texts.readers import (
    books,
    columns,
    json_records,
    office,
    pdf,
    plain,
    tables,
    web,
)

__all__ = ["books", "columns", "json_records", "office", "pdf", "plain", "tables", "web"]
