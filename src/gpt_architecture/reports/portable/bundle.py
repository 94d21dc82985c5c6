"""Les modules JavaScript de la page, mis bout à bout dans un seul script.

Une page ouverte depuis un fichier ne peut pas importer un module voisin. Chaque module devient une
fonction appelée sur-le-champ, qui rend ce qu'il exporte ; ceux dont il dépend le précèdent. Ne sont
compris que les `import { … } from "./x.js";` et les `export` devant une déclaration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_IMPORT = re.compile(r'^import \{([^}]+)\} from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function\*?|class|const) (\w+))", re.MULTILINE)


def bundle(modules: Mapping[str, str], entry: str) -> str:
    """Le script du module `entry` et de ce qu'il importe.

    Args:
        modules: le source de chaque module, par son nom sans extension.
        entry: le nom de celui qui commence.

    Raises:
        ValueError: un cercle d'imports, ou un source qui fermerait le script de la page.
    """
    done: dict[str, str] = {}
    _add(modules, entry, done, ())
    script = "\n".join(done.values())
    if re.search("</script|<!--", script, re.IGNORECASE):
        raise ValueError("un module contient une balise qui fermerait le script de la page")
    return script


def _add(
    modules: Mapping[str, str], name: str, done: dict[str, str], above: tuple[str, ...]
) -> None:
    if name in above:
        raise ValueError(f"{' → '.join((*above, name))} : des modules qui s'importent en rond")
    source = modules[name]
    for _, needed in _IMPORT.findall(source):
        if needed not in done:
            _add(modules, needed, done, (*above, name))
    exports = ", ".join(_EXPORT.findall(source))
    body = _EXPORT.sub("", _IMPORT.sub(r"const {\1} = from_\2;", source))
    done[name] = f"const from_{name} = (() => {{\n{body}\nreturn {{ {exports} }};\n}})();"
