"""Les textes de la page : aucun signe double ne commence une ligne."""

import re
from html.parser import HTMLParser

import pytest
from http_helpers import ScriptedEngine, client_of, make_context
from studio_helpers import WEB, needs_node, run_node

LOOSE = re.compile(r" [;:!?»%]|« ")
"""Une espace ordinaire là où il en faut une insécable."""

SPOKEN = ("aria-label", "title", "placeholder", "alt")


class Texts(HTMLParser):
    """Ce qu'une page HTML donne à lire, attributs compris."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        del tag
        self.found += [value for name, value in attributes if name in SPOKEN and value]

    def handle_data(self, data):
        self.found.append(data)


def page_texts(html):
    reader = Texts()
    reader.feed(html)
    return reader.found


TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |(?P<regex>(?<=[(=,:!&|?;{}\[])\s*/(?:\\.|\[(?:\\.|[^\]\n])*\]|[^/\\\n\[])+/[a-z]*)
    |(?P<mark>[`{}])""",
    re.VERBOSE | re.DOTALL,
)
PIECE = re.compile(r"((?:\\.|\$(?!\{)|[^`\\$])*)(`|\$\{)", re.DOTALL)


def script_texts(source):
    """Les textes d'un script : chaînes, et morceaux fixes des gabarits."""
    found, depths, place = [], [], 0
    while (token := TOKEN.search(source, place)) is not None:
        place = token.end()
        if token["text"]:
            found.append(token["text"][1:-1])
        elif token["mark"] == "{" and depths:
            depths[-1] += 1
        elif token["mark"] == "}" and depths and depths[-1]:
            depths[-1] -= 1
        elif token["mark"] in ("`", "}") and (token["mark"] == "`" or depths):
            if token["mark"] == "}":
                depths.pop()
            piece = PIECE.match(source, place)
            found.append(piece[1])
            place = piece.end()
            if piece[2] == "${":
                depths.append(0)
    return found


def test_the_reader_finds_what_is_shown():
    source = '// « a »\nx = y ? `b ${c ? `d : ${e}` : { f: \'g !\' }} h ;` : /i \\? "/.test("j »");'
    assert script_texts(source) == ["b ", "d : ", "", "g !", " h ;", "j »"]
    assert page_texts("<p title='a ;'>b &nbsp;: <b>c</b></p>") == ["a ;", "b \xa0: ", "c"]


@pytest.mark.parametrize(
    "path", sorted({*WEB.glob("*.html"), *WEB.glob("*.js")}), ids=lambda path: path.name
)
def test_no_sign_begins_a_line(path):
    source = path.read_text(encoding="utf-8")
    texts = page_texts(source) if path.suffix == ".html" else script_texts(source)
    assert [each for each in texts if LOOSE.search(each)] == []


@pytest.mark.parametrize("state", ["starting", "draining", "dead"])
def test_nor_in_the_page_that_waits(state):
    with client_of(make_context(ScriptedEngine(state=state))) as client:
        texts = page_texts(client.get("/studio/").text)
    assert [each for each in texts if LOOSE.search(each)] == []


@needs_node
def test_nor_in_what_the_service_says(tmp_path):
    message = "le modèle « b » n'est pas servi ; ceux-ci le sont : « a », à 5 % !"
    (found,) = run_node(tmp_path, "api", "data.map(found.sentence)", [message])
    assert found.split() == message.replace("le", "Le", 1).split()
    assert LOOSE.search(found) is None
