"""De la prose française que des paquets Debian installent : des corpus connus par leur nom.

Rien n'est téléchargé : un paquet absent est nommé, avec la commande qui l'installe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpt_architecture.errors import DataError

ROOT = Path("/")


@dataclass(frozen=True)
class Package:
    """Un paquet : son nom, ce qu'il contient, la licence de ses textes, et où ils sont."""

    name: str
    about: str
    licence: str
    pattern: str

    def files(self) -> list[Path]:
        """Ses textes, triés ; aucun s'il n'est pas installé."""
        return sorted(ROOT.glob(self.pattern))


PACKAGES = (
    Package(
        "debian-reference-fr",
        "La référence Debian, guide de l'utilisateur",
        "GPL-2+",
        "usr/share/debian-reference/*.fr.html",
    ),
    Package(
        "developers-reference-fr",
        "La référence du développeur Debian",
        "GPL-2+",
        "usr/share/developers-reference/fr/*.epub",
    ),
    Package(
        "maint-guide-fr",
        "Le guide du nouveau responsable Debian",
        "GPL-2+",
        "usr/share/doc/maint-guide-fr/html/*.fr.html",
    ),
    Package(
        "aptitude-doc-fr",
        "Le manuel d'aptitude",
        "GPL-2+",
        "usr/share/doc/aptitude/html/fr/*.html",
    ),
    Package(
        "debian-faq-fr",
        "La foire aux questions de Debian",
        "libre, copies et dérivés sous la même licence",
        "usr/share/doc/debian/FAQ/fr/*.fr.html",
    ),
    Package(
        "debian-edu-doc-fr",
        "Le manuel de Debian Edu",
        "GPL-2+",
        "usr/share/doc/debian-edu-doc-fr/*.html",
    ),
    Package(
        "ubuntu-packaging-guide-epub-fr",
        "Le guide d'empaquetage d'Ubuntu",
        "CC-BY-SA-3.0",
        "usr/share/doc/ubuntu-packaging-guide-epub-fr/*.epub",
    ),
)


def package_files(name: str) -> list[Path] | None:
    """Les textes d'un paquet connu ; None : ce nom n'en est pas un.

    Raises:
        DataError: le paquet n'est pas installé.
    """
    package = next((each for each in PACKAGES if each.name == name), None)
    if package is None:
        return None
    found = package.files()
    if not found:
        raise DataError(
            f"le paquet Debian {name} n'est pas installé",
            expected=f"ses textes dans {ROOT / package.pattern}",
            remedy=f"installez-le : sudo apt install {name}",
        )
    return found
