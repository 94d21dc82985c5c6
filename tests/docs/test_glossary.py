"""Un seul nom par notion : ce que l'on lit suit le glossaire, et le glossaire dit vrai."""

import ast
import io
import re
import tokenize
from html.parser import HTMLParser
from pathlib import Path

import pytest

import gpt_architecture

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(gpt_architecture.__file__).resolve().parent
GLOSSARY = ROOT / "docs/reference/glossaire.md"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])

BANNED = {
    "invite": [
        r"(?<!token de )\bdébuts? de (?:texte|l'invite)\b",
        r"\b(?:un|le|du|chaque|aucun|même|seul) débuts? (?:donné|demandé|vide|connu|inédit|commun)",
        r"\b(?:mêmes?|plusieurs|chaque|aucun) débuts?\b",
        r"\bdébuts? \(",
        r"\btokens (?:de|du) début\b(?! et de fin)",
        r"\bcontinuer (?:un|le|ce) début\b",
        r"\b(?:le|un|du|des|les|chaque) prompts?\b",
    ],
    "texte généré": [
        r"\bsuites? (?:générée|écrite|demandée|produite|contrainte|permise|achevée|abandonnée)",
        r"\b(?:écrit|écrire|continuer) (?:la|une|des|les|sa|ses) suites?\b(?! de)",
        r"\b(?:la|une|chaque) suite d'un (?:texte|début)\b",
        r"\bsuites? par (?:début|requête|invite)\b",
        r"\bsuites? qui (?:avance|attend|récite|s'arrête)",
        r"\b(?:plusieurs|toutes les|leurs) suites\b(?! de| possibles)",
        r"\bsuites? de front\b",
    ],
    "décodage spéculatif": [r"\bpropositions? vérifiées?\b", r"\bpropose,? puis vérifie\b"],
    "modèle auxiliaire": [
        r"\bmodèle d'appoint\b",
        r"\bpetit modèle (?:qui )?propose",
        r"\bsecond modèle\b",
        r"\bque le grand vérifie\b",
    ],
    "rétropropagation": [
        r"\b[Ll]'arrière\b(?!-)",
        r"\ben avant et en arrière\b",
        r"\bavant et arrière\b",
        r"\bpasse arrière\b",
    ],
    "étape": [
        r"\b[Pp]as (?:d'entraînement|d'optimisation)\b",
        r"\bs/pas\b",
        r"\bpas d'AdamW\b",
        r"\b(?<!n'est )pas fusionnés?\b",
    ],
    "dropout": [
        r"\b(?:probabilité|taux|masques?|seuil) d'abandon\b",
        r"\babandon \(dropout\)",
        r"\bsans abandon\b",
    ],
    "thread": [r"(?<!au )(?<!perdre le )(?<!du )\bfils?\b(?! de Joseph)"],
    "emplacement": [
        r"\b\d+ places\b",
        r"\bplaces? rendues?\b",
        r"\bplaces? (?:libre|vide|tenue|prise)s?\b",
        r"\battend(?:ent|re|)? une place\b",
        r"\bplaces? du (?:moteur|service|cache)\b",
        r"\bmême place du cache\b",
    ],
    "contexte d'entraînement": [r"\bcontextes? appris\b", r"\bfenêtres? apprises?\b"],
    "échantillonner": [
        r"\btir(?:er|e|é|és) (?:un|des|le|les) tokens?\b",
        r"\btokens? (?:est |sont |)tirés?\b(?! d'un)",
        r"\bgraines? (?:du|d'un|de son) tirage\b",
        r"\btirés? à \S+ %",
        r"\b(?:[Tt]irer|[Tt]irage) au sort\b",
        r"\bpuis tirer\b",
        r"\b[Tt]irages? (?:dans|parmi|simples?|libres?)\b",
        r"\bhasard du tirage\b",
        r"\bdeviner le tirage\b",
        r"\btexte tiré à\b",
    ],
    "tête de sortie": [
        r"\btêtes? (?:liée|indépendante|non liée)s?\b",
        r"\bla tête et l'embedding\b",
    ],
    "lot": [r"\b(?:le|un|du|des|les|par) batch(?:es|s)?\b(?![_-])"],
    "affinage": [r"\bfine-?tun(?:ing|er|é)\b"],
    "taux d'apprentissage": [r"\blearning rate\b"],
    "point de reprise": [r"\b(?:un|le|du|des|les) checkpoints?\b(?!/|[-_])"],
}
"""Terme du glossaire → les façons de l'écrire autrement, chacune ne visant que lui.

« Début » au sens de commencement, « suite » au sens d'une liste ordonnée ou de ce qui vient après,
« place » au sens d'un endroit et « pas » de la négation restent permis.
"""

EXCEPTIONS = {
    "docs/reference/glossaire.md": "il nomme en anglais chaque notion et liste les mots écartés",
    "docs/reference/sources.md": "les titres d'articles restent dans leur langue",
    "docs/origine.md": "il cite le document d'origine",
}
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`|\]\([^)\s]+\)|<!--.*?-->", re.DOTALL)


def offences(text):
    """(terme, passage) pour chaque mot écarté d'un texte, ramené à une seule ligne."""
    flat = " ".join(text.split())
    return [
        (term, flat[max(0, match.start() - 30) : match.end() + 30])
        for term, patterns in BANNED.items()
        for pattern in patterns
        for match in re.finditer(pattern, flat)
    ]


def entries():
    """(terme, définition, anglais, où) de chaque ligne du glossaire."""
    body = GLOSSARY.read_text(encoding="utf-8").partition("## Les mots que l'on")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in body.splitlines() if "|" in line]
    cells = [tuple(cell.strip() for cell in row) for row in rows]
    return [row for row in cells if row[0] != "terme" and not set(row[0]) <= set("- ")]


def source_texts(path):
    """Ce qu'une personne lit d'un module : chaînes, docstrings et commentaires."""
    content = path.read_text(encoding="utf-8")
    texts = [
        node.value
        for node in ast.walk(ast.parse(content))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    comments = [
        token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(content).readline)
        if token.type == tokenize.COMMENT
    ]
    return [re.sub(r"`[^`\n]*`", "", text) for text in [*texts, " ".join(comments)]]


class PageText(HTMLParser):
    """Les textes d'une page, sans ses balises."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_data(self, data):
        self.found.append(data)


class TestTheGlossary:
    def test_is_large_enough_and_sorted(self):
        rows = entries()
        assert len(rows) >= 50
        assert len({row[0] for row in rows}) == len(rows)

    def test_each_definition_is_a_sentence(self):
        for term, definition, english, where in entries():
            assert definition[0].isupper(), term
            assert definition.endswith("."), term
            assert len(definition.split()) > 6, term
            assert english, term
            assert where, term

    def test_each_module_exists(self):
        modules = [m for row in entries() for m in re.findall(r"`([\w/]+\.py)`", row[3])]
        assert len(modules) > 30
        for module in modules:
            assert (SOURCE / module).is_file(), module

    def test_each_rule_has_its_entry(self):
        terms = " ; ".join(row[0] for row in entries())
        for term in BANNED:
            assert term in terms, term

    @pytest.mark.parametrize(
        ("text", "term"),
        [
            ("les mêmes débuts de texte", "invite"),
            ("il écrit la suite", "texte généré"),
            ("des propositions vérifiées", "décodage spéculatif"),
            ("un modèle d'appoint", "modèle auxiliaire"),
            ("pendant l'arrière", "rétropropagation"),
            ("un pas d'entraînement", "étape"),
            ("un taux d'abandon de 0,1", "dropout"),
            ("deux fils de calcul", "thread"),
            ("une place libre", "emplacement"),
            ("le contexte appris", "contexte d'entraînement"),
            ("le token est tiré", "échantillonner"),
            ("on coupe la traîne, puis tirer", "échantillonner"),
            ("un tirage parmi les k premiers", "échantillonner"),
            ("le hasard du tirage", "échantillonner"),
            ("32 places de part et d'autre", "emplacement"),
            ("une tête liée", "tête de sortie"),
            ("le batch suivant", "lot"),
            ("le fine-tuning", "affinage"),
            ("un checkpoint", "point de reprise"),
        ],
    )
    def test_the_rules_see_what_they_forbid(self, text, term):
        assert term in {found for found, _ in offences(text)}

    @pytest.mark.parametrize(
        "text",
        [
            "au début de l'entraînement, la suite des étapes",
            "une suite de tokens, lue au fil de l'eau",
            "il ne reste pas de place sur le disque",
            "ce n'est pas fusionné",
            "la tête d'attention",
            "tout de suite",
            "le client abandonne",
            "des poids tirés au hasard, et le tirage des masques de dropout",
            "il retire des tokens",
        ],
    )
    def test_the_rules_leave_the_rest(self, text):
        assert offences(text) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_keep_to_the_glossary(page):
    """Chaque page, hors du code qu'elle montre."""
    name = str(page.relative_to(ROOT))
    if name in EXCEPTIONS:
        pytest.skip(EXCEPTIONS[name])
    text = page.read_text(encoding="utf-8")
    assert offences(CODE.sub(" ", FENCE.sub("", text))) == []


@pytest.mark.parametrize("package", sorted(p.name for p in SOURCE.iterdir() if p.is_dir()))
def test_sources_keep_to_the_glossary(package):
    """L'aide, les messages, les docstrings et les commentaires."""
    paths = (
        [*(SOURCE / package).rglob("*.py")]
        if package != "scripts"
        else [
            *(SOURCE / package).rglob("*.py"),
            *SOURCE.glob("*.py"),
        ]
    )
    found = [
        (str(path.relative_to(SOURCE)), *offence)
        for path in paths
        for text in source_texts(path)
        for offence in offences(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.stem
)
def test_notebooks_keep_to_the_glossary(path):
    """Les carnets, par leur texte apparié."""
    assert [found for text in source_texts(path) for found in offences(text)] == []


@pytest.mark.parametrize("folder", ["serving/studio/web", "reports/templates"])
def test_pages_of_the_program_keep_to_the_glossary(folder):
    """Le studio et les pages écrites par les commandes."""
    paths = [path for path in (SOURCE / folder).rglob("*") if path.suffix in (".html", ".js")]
    assert paths
    for path in paths:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".html":
            parser = PageText()
            parser.feed(text)
            text = "\n".join(parser.found)
        assert offences(text) == [], path.name
