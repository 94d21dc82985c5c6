"""Une préparation partagée : ce que coûte chaque étape, et ce qu'elle coûterait pour 10 To.

Questions : combien d'octets par seconde et par cœur font les tâches (lire et nettoyer, appliquer et
coder) et la réunion (décider, mettre bout à bout) ; combien d'octets restent sur le disque ; et,
d'après cela, à partir de combien de cœurs ajouter des machines ne sert plus.

Tout est mesuré sur un petit corpus, en secondes de processeur d'un seul processus. Le plan n'est
qu'une extrapolation : débits constants, disque qui suit, tâches égales.

    python benchmarks/scale.py --data TEXTE… [--megabytes N] [--quick] [--json FICHIER]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from _machine import announce
from _measure import Row, french, lone_row, write_rows
from prepare import corpus

from gpt_architecture.data.hygiene.config import HygieneConfig
from gpt_architecture.data.shards.parts import part_folder, part_store
from gpt_architecture.data.shards.prepare import PreparedTokens, prepare_tokens
from gpt_architecture.data.texts.shares import Share
from gpt_architecture.data.tokenizer import get_tokenizer

TASKS = 2
NODE = 16
"""Cœurs de la machine qui réunit : elle y met bout à bout plusieurs fragments à la fois."""
TERA, HOUR = 10**12, 3600.0
CORES = (16, 128, 1024, 8192, 65536)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Ce que coûte un corpus de `size` octets.

    Attributes:
        size: octets de texte.
        documents: documents lus.
        read: secondes de processeur de la première passe.
        decide: des décisions d'ensemble.
        code: de la seconde passe et du codage.
        merge: de la réunion.
        texts: octets des textes nettoyés, entre les deux passes.
        prints: octets des empreintes.
        tokens: octets des fragments.
    """

    size: int
    documents: int
    read: float
    decide: float
    code: float
    merge: float
    texts: int
    prints: int
    tokens: int


def measured(source: Path, size: int, folder: Path) -> Costs:
    """Une préparation partagée en `TASKS` tâches, étape par étape."""
    out, hygiene = folder / "tokens", HygieneConfig.preset("neutre", languages=("fr", "en"))
    tokenizer, shares = get_tokenizer("gpt2"), [Share(n, TASKS) for n in range(1, TASKS + 1)]

    def step(share: Share | None) -> PreparedTokens:
        return prepare_tokens(
            [source],
            out,
            tokenizer=tokenizer,
            hygiene=hygiene,
            workers=1,
            task=share,
            merge=share is None,
        )

    def tasks() -> None:
        for share in shares:
            step(share)

    read = seconds(tasks)
    stores = [part_store(out, share).folder for share in shares]
    texts = weight(stores, "lu_*.jsonl")
    prints = weight(stores, "lu_*.safetensors")
    decide = seconds(lambda: step(None))
    code = seconds(tasks)
    tokens = weight([part_folder(out, share) for share in shares], "*.bin")
    found: list[PreparedTokens] = []
    merge = seconds(lambda: found.append(step(None)))
    hygiene_found = found[0].hygiene or {}
    return Costs(
        size=size,
        documents=hygiene_found["read"]["documents"],
        read=read,
        decide=decide,
        code=code,
        merge=merge,
        texts=texts,
        prints=prints,
        tokens=tokens,
    )


def seconds(work: Callable[[], object]) -> float:
    """Secondes de processeur."""
    start = time.process_time()
    work()
    return time.process_time() - start


def weight(folders: Sequence[Path], pattern: str) -> int:
    """Octets des fichiers de ce nom."""
    return sum(path.stat().st_size for folder in folders for path in folder.glob(pattern))


def show(costs: Costs) -> list[Row]:
    """Ce qui est mesuré."""
    size, rows = costs.size, list[Row]()
    print(f"\nUn corpus de {size / 1e6:.0f} Mo, {costs.documents} documents, {TASKS} tâches")
    for name, cost in (
        ("lire et nettoyer", costs.read),
        ("décider", costs.decide),
        ("appliquer et coder", costs.code),
        ("réunir", costs.merge),
    ):
        print(f"{name:<30} {french(size / cost / 1e6):>9} Mo/s par cœur")
        rate = [size / cost / 1e6]
        rows.append(lone_row(f"Partage, {name}", "ce projet", rate, "Mo/s par cœur"))
    for name, stored in (
        ("textes nettoyés", costs.texts),
        ("empreintes", costs.prints),
        ("tokens", costs.tokens),
    ):
        print(f"{name:<30} {french(stored / size):>9} octet par octet de texte")
    return rows


def plan(costs: Costs, size: int, cores: Sequence[int]) -> None:
    """La même chose pour `size` octets : ce qui est stocké, combien de temps, où cela s'arrête."""
    scale = size / costs.size
    shared, joined = (costs.read + costs.code) * scale, costs.merge * scale / NODE
    alone = costs.decide * scale + joined
    print(f"\nPlan simulé pour {size / TERA:.0f} To")
    print(f"textes nettoyés, entre les passes {costs.texts * scale / TERA:8.1f} To")
    print(f"empreintes                        {costs.prints * scale / TERA:8.1f} To")
    print(f"tokens des tâches, puis réunis    {2 * costs.tokens * scale / TERA:8.1f} To")
    print(f"travail partagé                   {shared / HOUR:8.0f} heures de cœur")
    print(f"décisions, sur un cœur            {(alone - joined) / HOUR:8.1f} heures")
    print(f"réunion, sur {NODE} cœurs             {joined / HOUR:8.1f} heures")
    print("\n              avec décisions       sans étape qui compare")
    print("   cœurs    heures  dont seul      heures  dont seul")
    for count in cores:
        columns = [f"{count:8}"]
        for serial in (alone, joined):
            total = shared / count + serial
            columns.append(f"{total / HOUR:9.1f} {100 * serial / total:8.0f} %")
        print("  ".join(columns))
    print(
        f"autant des deux à {shared / alone:.0f} cœurs, ou à {shared / joined:.0f} sans décisions"
    )


def main() -> None:
    """Lit les options, mesure, imprime, écrit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="textes")
    parser.add_argument("--megabytes", type=int, default=20, help="taille du corpus mesuré")
    parser.add_argument("--terabytes", type=float, default=10.0, help="taille du plan")
    parser.add_argument("--quick", action="store_true", help="moins d'une minute")
    parser.add_argument("--json", type=Path, help="fichier de résultats")
    options = parser.parse_args()
    announce()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "corpus.jsonl"
        megabytes = 4 if options.quick else options.megabytes
        size = corpus(options.data, source, megabytes * 10**6)
        costs = measured(source, size, Path(name))
    rows = show(costs)
    plan(costs, int(options.terabytes * TERA), CORES)
    write_rows(options.json, rows)


if __name__ == "__main__":
    main()
