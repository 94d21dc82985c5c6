"""Les paquets qui portent de la prose française : trouvés, nommés, lus comme un dossier."""

import re

import pytest
from test_readers import epub_of

from gpt_architecture.data.texts import installed
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.errors import DataError


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Un système où un seul de ces paquets est installé."""
    folder = tmp_path / "usr/share/developers-reference/fr"
    folder.mkdir(parents=True)
    (folder / "developers-reference.epub").write_bytes(epub_of())
    monkeypatch.setattr(installed, "ROOT", tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("root")
def test_an_installed_package_is_a_corpus():
    found = load_corpus(["developers-reference-fr"])
    assert found.text.startswith("La lampe du passeur")
    assert found.name == "developers-reference-fr"
    with pytest.raises(DataError, match="sudo apt install maint-guide-fr"):
        load_corpus(["maint-guide-fr"])


@pytest.mark.usefixtures("root")
def test_the_list_says_what_is_there(cli):
    """« prepare --corpus » : chaque corpus, sa licence, et la commande qui manque."""
    outcome = cli("prepare", "--corpus")
    assert outcome.code == 0, outcome.err
    lines = {line.split()[0]: line for line in outcome.out.splitlines() if line}
    assert {"the-verdict", "la-lampe-du-passeur", "bel-ami"} < set(lines)
    starts = {re.match(r"\S+ +", line).end() for line in lines.values()}
    assert starts == {max(map(len, lines)) + 2}  # une seule colonne, au plus juste
    assert "9 romans" in lines["romans-fr"]
    assert "installé, GPL-2+" in lines["developers-reference-fr"]
    assert "sudo apt install debian-reference-fr" in lines["debian-reference-fr"]
