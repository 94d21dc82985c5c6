"""Un même texte dans chaque format : les mêmes documents, par toutes les portes."""

import bz2
import csv
import gzip
import html
import io
import json
import lzma
import textwrap
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

from gpt_architecture.config import END_OF_TEXT, TrainingConfig
from gpt_architecture.data.datasets import load_training_data
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.shards.reader import open_shards
from gpt_architecture.data.texts.corpus import load_corpus, read_documents
from gpt_architecture.data.texts.ingest import find_sources, read_blocks
from gpt_architecture.data.texts.readers import base
from gpt_architecture.data.texts.source_texts import SourceTexts
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import DataError
from gpt_architecture.evaluation.perplexity import read_token_documents

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


def pdf_of(paragraphs=PARAGRAPHS, width=70):
    """Des lignes d'une page, coupées comme dans un livre."""
    figure, out, y = Figure(figsize=(8.3, 11.7)), io.BytesIO(), 0.95
    for each in paragraphs:
        for line in textwrap.wrap(each, width):
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


SEPARATED = ("Un premier récit, assez long pour en être un.", "Un second récit, tout aussi long.")
MARKED = END_OF_TEXT.join(SEPARATED)
MARKED_FILES = {
    "a.txt": MARKED.encode(),
    "a.jsonl": json.dumps({"text": MARKED}).encode(),
    "a.json": json.dumps([{"text": MARKED}]).encode(),
    "a.csv": csv_of(texts=[MARKED]),
    "a.parquet": table_of("parquet", [MARKED]),
    "a.arrow": table_of("arrow", [MARKED]),
    "a.html": html_of([html.escape(MARKED)], around=False),
    "a.epub": epub_of([html.escape(MARKED)]),
    "a.docx": docx_of([MARKED]),
    "a.odt": odt_of([MARKED]),
    "a.pdf": pdf_of([MARKED], width=200),
    "a.txt.gz": gzip.compress(MARKED.encode()),
    "a.zip": zip_of({"a.txt": MARKED.encode()}),
}


def learned(path, folder):
    """Les documents d'un entraînement, retrouvés dans ses tokens."""
    training = TrainingConfig(batch_size=1, train_ratio=0.5)
    data = load_training_data([str(path)], "gpt2", window=4, training=training)
    parts = [part.read(0, part.num_tokens).tolist() for part in (data.train, data.val)]
    return "".join(map(data.tokenizer.decode, parts)).split(END_OF_TEXT)


def prepared(path, folder):
    """Ceux d'une préparation, ses deux parts réunies dans l'ordre du texte."""
    gpt2 = get_tokenizer("gpt2")
    result = prepare_tokens([path], folder, tokenizer=gpt2)
    parts = [open_shards(folder, split).read(0, result.tokens[split]) for split in result.tokens]
    texts = [text for part in parts for text in gpt2.decode(part.tolist()).split(END_OF_TEXT)[1:]]
    assert result.separated == 1
    return sorted(texts)


DOORS = {
    "train": learned,
    "prepare": prepared,
    "tokenizer": lambda path, _folder: list(SourceTexts([str(path)])),
    "evaluate": lambda path, _folder: [
        get_tokenizer("gpt2").decode(each.tokens)
        for each in read_token_documents([str(path)], get_tokenizer("gpt2"))
    ],
    "Python": lambda path, _folder: [each.text for each in read_documents([path])],
}


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_a_written_separator_means_the_same_everywhere(tmp_path, door):
    """Par chaque porte et dans chaque format, <|endoftext|> sépare deux documents."""
    for name, data in MARKED_FILES.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert DOORS[door](path, tmp_path / f"d-{name}") == list(SEPARATED), name


def test_a_list_is_read_one_value_at_a_time(tmp_path, monkeypatch):
    """Une longue liste JSON se lit par blocs, où que tombent les lectures."""
    monkeypatch.setattr(base, "BLOCK_BYTES", 4096)
    rows = [{"text": f"été {i} " + "mot " * (i % 97), "n": i} for i in range(3000)]
    path = tmp_path / "a.json"
    for text in (json.dumps(rows), json.dumps(rows, indent=1, ensure_ascii=False)):
        path.write_text(text, encoding="utf-8")
        (source,), _ = find_sources([path])
        blocks = list(read_blocks(source, field=None, max_record_bytes=1 << 20))
        found = [b.text_of(record, None) for b in blocks for _, record in b.records]
        assert found == [row["text"] for row in rows]
        assert len(blocks) > 20
        assert sum(block.consumed for block in blocks) == path.stat().st_size


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_two_columns_of_the_same_name(tmp_path, kind):
    """Deux colonnes du nom demandé : dit, ou écarté ; d'un autre nom, elles ne gênent pas."""
    rows, path = pa.array(["un"]), tmp_path / f"a.{kind}"
    (tmp_path / "b.txt").write_text("deux", encoding="utf-8")

    def write(names):
        table = pa.Table.from_arrays([rows] * len(names), names=names)
        if kind == "parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(str(path), table.schema) as writer:
                writer.write_table(table)

    write(["text", "text"])
    with pytest.raises(DataError, match="text : plusieurs colonnes de ce nom"):
        load_corpus([tmp_path])
    assert load_corpus([tmp_path], skip_bad=True).text == "deux"
    write(["x", "x", "text"])
    assert load_corpus([path]).text == "un"


@pytest.mark.parametrize("start", ["BZh est une signature", "PAR1 sera dit", "%PDF-1.7 en est une"])
def test_a_text_may_begin_like_a_binary(tmp_path, start):
    """Quelques lettres ne font pas d'un texte un fichier binaire ; un PDF en .txt en reste un."""
    path = tmp_path / "a.txt"
    path.write_text(f"{start}.\nÉté.", encoding="utf-8")
    assert load_corpus([path]).text == f"{start}.\nÉté."
    path.write_bytes(pdf_of())
    assert [each.kind for each in find_sources([path])[0]] == ["pdf"]


def test_a_csv_header_may_span_lines(tmp_path):
    """Une fin de ligne entre guillemets, dans l'en-tête, ne décale rien."""
    path = tmp_path / "a.csv"
    path.write_text('"un\nnuméro",text\n1,oui\n2,"non\nplus"\n', encoding="utf-8")
    assert [each.text for each in read_documents([path])] == ["oui", "non\nplus"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('id,text\n1,un\n2,"deux\n3,trois\n', "rangée 3 : un guillemet ouvert n'est jamais fermé"),
        ('id,text\n1,"un" deux\n', "rangée 2 : guillemets"),
        ("id,text\n1,un\n2,deux,trois,quatre\n", "a.csv:3 (4 cases pour 2 colonnes)"),
        ("id,text\n1,un\n2\n", "a.csv:3 (1 case pour 2 colonnes)"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, content, words):
    """Un tableau mal formé n'est pas avalé ; `skip_bad` garde ce qui précède."""
    path = tmp_path / "a.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_corpus([path])
    assert words in str(caught.value)
    assert "tableau mal formé" in str(caught.value)
    (tmp_path / "b.txt").write_text("sain", encoding="utf-8")
    text = load_corpus([path, tmp_path / "b.txt"], skip_bad=True).text
    assert text.endswith("sain")
    assert ("un" in text) == ("1,un" in content)


def test_empty_cells_and_rows_of_a_table_are_not_faults(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,text\n1,un,,\n\n2,deux\n", encoding="utf-8")
    assert load_corpus([path]).text == "un<|endoftext|>deux"
