"""Un même texte dans chaque format : les mêmes documents, par toutes les portes."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import docx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from odf.opendocument import OpenDocumentText
from odf.text import H, P
from pyarrow import feather

from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.shards.reader import open_shards
from gpt_architecture.data.texts.corpus import SourceTexts, load_corpus
from gpt_architecture.data.texts.ingest import find_sources
from gpt_architecture.data.tokenizer import get_tokenizer

PARAGRAPHS = (
    "La lampe du passeur",
    "Le passeur leva la lampe deux fois, puis il détacha le bateau. L'eau frottait les graviers ; "
    "elle se taisait au milieu, là où le fleuve est le plus profond.",
    "« Regarde l'eau », dit-il. Elle regarda l'eau, longtemps, jusqu'à ce que la lampe s'éteigne "
    "et que la rive d'en face ne soit plus qu'une ligne noire.",
    "Au matin, ils étaient arrivés.",
)
TEXT = "\n\n".join(PARAGRAPHS)


def html_of(paragraphs=PARAGRAPHS, *, around=True):
    title, *rest = paragraphs
    body = f"<h1>{title}</h1>" + "".join(f"<p>{each}</p>" for each in rest)
    menu = '<nav><ul><li><a href="/">Accueil</a></li><li><a href="/b">Blog</a></li></ul></nav>'
    foot = "<footer>Mentions légales</footer><script>alert('non')</script>"
    head = '<head><meta charset="utf-8"><title>Une page</title><style>p {}</style></head>'
    content = f"{menu}<main>{body}</main>{foot}" if around else body
    return f"<!DOCTYPE html><html>{head}<body>{content}</body></html>".encode()


def epub_of(paragraphs=PARAGRAPHS):
    namespace = 'xmlns="http://www.idpf.org/2007/opf"'
    items = "".join(
        f'<item id="c{i}" href="c%20{i}.xhtml" media-type="application/xhtml+xml"/>'
        for i in range(len(paragraphs))
    )
    spine = "".join(f'<itemref idref="c{i}"/>' for i in range(len(paragraphs)))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as book:
        book.writestr("mimetype", "application/epub+zip")
        container = '<container><rootfiles><rootfile full-path="OPS/livre.opf"/></rootfiles>'
        book.writestr("META-INF/container.xml", f"{container}</container>")
        book.writestr(
            "OPS/livre.opf",
            f"<package {namespace}><manifest>{items}"
            '<item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>'
            f'</manifest><spine><itemref idref="nav"/>{spine}</spine></package>',
        )
        book.writestr("OPS/nav.xhtml", "<html><body><p>Table</p></body></html>")
        for i, each in enumerate(paragraphs):
            page = f'<?xml version="1.0" encoding="utf-8"?><html><body><p>{each}</p></body></html>'
            book.writestr(f"OPS/c {i}.xhtml", page)
    return out.getvalue()


def docx_of(paragraphs=PARAGRAPHS):
    document, out = docx.Document(), io.BytesIO()
    document.add_heading(paragraphs[0], 1)
    for each in paragraphs[1:]:
        document.add_paragraph(each)
    document.save(out)
    return out.getvalue()


def odt_of(paragraphs=PARAGRAPHS):
    document, out = OpenDocumentText(), io.BytesIO()
    document.text.addElement(H(outlinelevel=1, text=paragraphs[0]))
    for each in paragraphs[1:]:
        document.text.addElement(P(text=each))
    document.write(out)
    return out.getvalue()


def pdf_of(paragraphs=PARAGRAPHS):
    """Des lignes d'une page, coupées comme dans un livre."""
    import textwrap

    figure, out, y = Figure(figsize=(8.3, 11.7)), io.BytesIO(), 0.95
    for each in paragraphs:
        for line in textwrap.wrap(each, 70):
            figure.text(0.1, y, line, fontsize=10)
            y -= 0.016
        y -= 0.016
    FigureCanvasPdf(figure).print_pdf(out)
    return out.getvalue()


def table_of(kind, texts=(TEXT,)):
    table, out = pa.table({"id": list(range(len(texts))), "contenu": list(texts)}), io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, out)
    elif kind == "feather":
        feather.write_feather(table, out)
    else:
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    return out.getvalue()


def csv_of(separator=",", texts=(TEXT,), name="contenu"):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator)
    writer.writerow(["id", name])
    writer.writerows(enumerate(texts))
    return out.getvalue().encode()


def zip_of(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


ROW = {"id": 1, "texte": TEXT}
PLAIN = TEXT.encode()
CONTENTS = {
    "a.txt": PLAIN,
    "a.md": PLAIN,
    "a.jsonl": json.dumps(ROW).encode(),
    "liste.json": json.dumps([ROW], indent=2).encode(),
    "objet.json": json.dumps(ROW, indent=2).encode(),
    "a.csv": csv_of(),
    "excel.csv": b"\xef\xbb\xbf" + csv_of(";"),
    "a.tsv": csv_of("\t"),
    "a.parquet": table_of("parquet"),
    "a.feather": table_of("feather"),
    "a.arrow": table_of("arrow"),
    "a.html": html_of(),
    "a.epub": epub_of(),
    "a.docx": docx_of(),
    "a.odt": odt_of(),
    "a.pdf": pdf_of(),
    "a.txt.gz": gzip.compress(PLAIN),
    "a.txt.bz2": bz2.compress(PLAIN),
    "a.txt.xz": lzma.compress(PLAIN[:50]) + b"\0" * 4 + lzma.compress(PLAIN[50:]),
    "a.txt.zst": zstandard.compress(PLAIN[:50]) + zstandard.compress(PLAIN[50:]),
    "a.jsonl.zst": zstandard.compress(json.dumps(ROW).encode()),
    "a.csv.gz": gzip.compress(csv_of()),
    "a.parquet.xz": lzma.compress(table_of("parquet")),
    "a.html.gz": gzip.compress(html_of()),
    "texte.zip": zip_of({"dossier/a.txt": PLAIN, "__MACOSX/._a.txt": b"\0", ".cache/b.txt": b"x"}),
    "livre.zip": zip_of({"a.epub": epub_of()}),
    "boîte.zip": zip_of({"interne.zip": zip_of({"a.txt.gz": gzip.compress(PLAIN)})}),
    # Le contenu décide quand l'extension se trompe, ou se tait
    "faux.txt": pdf_of(),
    "sans-extension": docx_of(),
    "page": html_of(),
    "mal-nommé.html": gzip.compress(html_of()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTENTS)
def test_the_same_text_in_every_format(tmp_path, name):
    """Un format n'est qu'une façon d'écrire : le texte est le même, au caractère près."""
    path = tmp_path / name
    path.write_bytes(CONTENTS[name])
    corpus = load_corpus([path])
    assert corpus.text == TEXT
    assert corpus.origins[0].startswith(str(path))
    assert load_corpus([tmp_path]).text == TEXT  # dans un dossier aussi


@pytest.mark.slow
def test_a_folder_of_everything(tmp_path):
    """Un dossier de tout : chaque fichier y est, et prepare y compte les mêmes documents."""
    source = tmp_path / "vrac"
    source.mkdir()
    for name, data in CONTENTS.items():
        (source / name).write_bytes(data)
    (source / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    sources, skips = find_sources([source])
    assert len(sources) == len(CONTENTS)
    assert [Path(skip.where).name for skip in skips] == ["image.png"]
    gpt2 = get_tokenizer("gpt2")
    for workers in (1, 2):
        out = tmp_path / f"d{workers}"
        result = prepare_tokens([source], out, tokenizer=gpt2, workers=workers)
        assert sum(result.documents.values()) == len(CONTENTS)
        assert set(result.skipped) == {"extension inconnue"}
    ids = [
        open_shards(out, "train").read(0, result.tokens["train"]).tolist()
        for out in (tmp_path / "d1", tmp_path / "d2")
    ]
    assert ids[0] == ids[1]
    assert "".join(SourceTexts([str(source)])) == TEXT * len(CONTENTS)
