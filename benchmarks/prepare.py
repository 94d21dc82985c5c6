"""Préparer un corpus : codage, hygiène, quasi-doublons, mémoire.

Questions : combien d'octets par seconde et par cœur, contre datatrove et contre les `datasets` et
`tokenizers` de Hugging Face, même texte et même vocabulaire ; combien de quasi-doublons plantés
sont trouvés, combien le sont à tort ; combien de mémoire, et croît-elle avec le corpus.

Les débits sont par seconde de processeur, dans un seul processus : d'autres travaux sur la machine
les troublent peu. Le corpus est tiré des textes donnés, coupés en documents de 300 à 6 000 signes.

    python benchmarks/prepare.py --data TEXTE… [--megabytes N] [--quick] [--json FICHIER]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")

import numpy as np
from _machine import announce
from _measure import Row, absent, alternate, compare, lone_row, write_rows

from gpt_architecture.data.hygiene import minhash
from gpt_architecture.data.hygiene.batch import Batch
from gpt_architecture.data.hygiene.config import HygieneConfig
from gpt_architecture.data.hygiene.run import Reading, clean_corpus
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.texts.corpus import find_texts
from gpt_architecture.data.tokenizer import get_tokenizer, tokenizer_json

OURS, DATATROVE, DATASETS = "ce projet", "datatrove", "datasets + tokenizers"
SEED = 19
Pass = Callable[[Path], None]


def corpus(texts: Sequence[Path], path: Path, size: int) -> int:
    """Écrit un JSONL d'environ `size` octets de documents ; rend les octets de texte.

    Au-delà des textes donnés, leurs phrases sont mêlées : rien n'y est un doublon.
    """
    rng = random.Random(SEED)  # noqa: S311 — un corpus d'essai
    lines = [line for text in texts for line in text.read_text("utf-8").split("\n") if line]
    written, fresh = 0, iter(lines)
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            wanted, document = rng.randrange(300, 6000), list[str]()
            while wanted > 0:
                line = next(fresh, None) or rng.choice(lines)
                document.append(line)
                wanted -= len(line)
            text = "\n".join(document)
            written += len(text.encode("utf-8"))
            file.write(json.dumps({"text": text, "id": str(written)}, ensure_ascii=False) + "\n")
    return written


def cpu(work: Pass, folder: Path) -> Callable[[], float]:
    """Secondes de processeur d'un passage, dans un dossier neuf."""

    def measure() -> float:
        place = folder / "essai"
        shutil.rmtree(place, ignore_errors=True)
        start = time.process_time()
        with contextlib.redirect_stderr(io.StringIO()):
            work(place)
        return time.process_time() - start

    return measure


def encoders(source: Path, vocabulary: Path) -> dict[str, Pass]:
    """Coder le même JSONL avec le vocabulaire de GPT-2."""
    tokenizer = get_tokenizer("gpt2")

    def ours(out: Path) -> None:
        prepare_tokens([source], out, tokenizer=tokenizer, workers=1)

    found: dict[str, Pass] = {OURS: ours}
    try:
        from datatrove.executor import LocalPipelineExecutor
        from datatrove.pipeline.readers import JsonlReader
        from datatrove.pipeline.tokens import DocumentTokenizer

        def trove(out: Path) -> None:
            steps = [
                JsonlReader(str(source.parent), glob_pattern=source.name),
                DocumentTokenizer(
                    str(out / "tokens"),
                    str(vocabulary),
                    eos_token="<|endoftext|>",  # noqa: S106
                    shuffle_documents=False,
                ),
            ]
            LocalPipelineExecutor(steps, logging_dir=str(out / "journal"), workers=1).run()

        found[DATATROVE] = trove
    except ImportError as error:
        print(absent(DATATROVE, error))
    try:
        import datasets
        from tokenizers import Tokenizer

        def hugging(out: Path) -> None:
            datasets.disable_progress_bars()
            quick = Tokenizer.from_file(str(vocabulary))
            rows = datasets.load_dataset(
                "json", data_files=str(source), split="train", cache_dir=str(out)
            )

            def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
                return {"ids": [each.ids for each in quick.encode_batch(batch["text"])]}

            rows.map(encode, batched=True, remove_columns=rows.column_names)

        found[DATASETS] = hugging
    except ImportError as error:
        print(absent(DATASETS, error))
    return found


def cleaners(source: Path) -> dict[str, Pass]:
    """L'hygiène : la nôtre entière ; chez datatrove, Gopher et signatures MinHash seulement.

    Ses mots sont ceux de l'expression `\\w+`, comme les nôtres : ses découpeurs demandent des
    modèles à télécharger.
    """
    reading = Reading(
        field="text", max_record_bytes=32 << 20, seed=0, val_fraction=0.01, skip_bad=False
    )
    config = HygieneConfig.preset("neutre", languages=("fr", "en"))

    def ours(out: Path) -> None:
        clean_corpus(find_texts([source])[0], out, config, reading, workers=1)

    found: dict[str, Pass] = {OURS: ours}
    try:
        from datatrove.executor import LocalPipelineExecutor
        from datatrove.pipeline.dedup import minhash as theirs
        from datatrove.pipeline.filters import (
            GopherQualityFilter,
            GopherRepetitionFilter,
            gopher_quality_filter,
            gopher_repetition_filter,
        )
        from datatrove.pipeline.readers import JsonlReader
        from datatrove.utils.hashing import HashConfig

        def words(text: str, _language: str = "") -> list[str]:
            return re.findall(r"\w+", text)

        for module in (theirs, gopher_quality_filter, gopher_repetition_filter):
            if hasattr(module, "split_into_words"):
                module.split_into_words = words

        class Simple:
            """Le découpage que les signatures demandent."""

            word_tokenize = staticmethod(words)

        theirs.load_word_tokenizer = lambda _language: Simple()

        def trove(out: Path) -> None:
            steps = [
                JsonlReader(str(source.parent), glob_pattern=source.name),
                GopherRepetitionFilter(language="fra"),
                GopherQualityFilter(language="fra", min_stop_words=0),
                theirs.MinhashDedupSignature(
                    str(out / "signatures"),
                    config=theirs.MinhashConfig(
                        num_buckets=32,
                        hashes_per_bucket=8,
                        hash_config=HashConfig(hash_fc="sha1"),  # son xxhash veut des octets
                    ),
                    language="fra",
                ),
            ]
            LocalPipelineExecutor(steps, logging_dir=str(out / "journal"), workers=1).run()

        found[DATATROVE] = trove
    except ImportError as error:
        print(absent(DATATROVE, error))
    return found


def throughput(
    question: str, works: dict[str, Pass], folder: Path, size: int, turns: int
) -> list[Row]:
    """Octets de texte par seconde de processeur, passages alternés."""
    measures = {name: cpu(work, folder) for name, work in works.items()}
    seconds = alternate(measures, turns, retries=0)
    values = {name: [size / each / 1e6 for each in found] for name, found in seconds.items()}
    return compare(question, values, "Mo/s par cœur", OURS, [*works][1:])


def near_duplicates(documents: Sequence[str], pairs: int) -> list[Row]:
    """Rappel et précision sur des paires plantées, Jaccard exact de 0,3 à 1."""
    rng = random.Random(SEED)  # noqa: S311 — un corpus d'essai
    texts: list[str] = []
    for number, text in enumerate(documents[:pairs]):
        words = text.split()
        changed = list(words)
        for _ in range(int(len(words) * 0.1 * number / pairs)):
            changed[rng.randrange(len(words))] = f"autre{rng.randrange(10**6)}"
        texts += [text, " ".join(changed)]
    sets = [set(_shingles(text)) for text in texts]
    exact = {
        (first, first + 1): len(sets[first] & sets[first + 1])
        / max(1, len(sets[first] | sets[first + 1]))
        for first in range(0, len(texts), 2)
    }
    signatures, bands = minhash.signatures_of(Batch(texts))
    removed = minhash.near_duplicates(
        np.ones(len(texts), np.bool_),
        lambda band: bands[band],
        lambda ids: signatures[ids],
        texts.__getitem__,
        0.8,
    )
    found = {(first, second) for second, first in removed.items()}
    wanted = {pair for pair, value in exact.items() if value >= 0.8}
    recall = len(wanted & found) / max(1, len(wanted))
    rows = [lone_row("Quasi-doublons, rappel à 0,8", OURS, [recall], "part")]
    print(f"\nQuasi-doublons : {len(wanted)} paires à Jaccard ≥ 0,8 sur {len(exact)}")
    print(f"rappel {recall:.3f}")
    for floor in (0.8, 0.75, 0.7):
        right = sum(exact.get(pair, 0.0) >= floor for pair in found) / max(1, len(found))
        print(f"précision, une paire étant juste à partir de {floor} : {right:.3f}")
        rows.append(lone_row(f"Quasi-doublons, précision à {floor}", OURS, [right], "part"))
    return rows


def _shingles(text: str) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return list(zip(*(words[n:] for n in range(minhash.SHINGLE)), strict=False))


MEMORY = """
import sys
from gpt_architecture.core.machine import peak_resident
from gpt_architecture.data.hygiene.config import HygieneConfig
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.tokenizer import get_tokenizer
prepare_tokens([sys.argv[1]], sys.argv[2], tokenizer=get_tokenizer("gpt2"), workers=1,
               hygiene=HygieneConfig.preset("neutre", languages=("fr", "en")))
print(peak_resident() / 2**20)
"""


def memory(texts: Sequence[Path], folder: Path, sizes: Sequence[int]) -> list[Row]:
    """Pic de mémoire d'une préparation avec hygiène, à plusieurs tailles."""
    rows = []
    for size in sizes:
        source = folder / "memoire.jsonl"
        corpus(texts, source, size * 10**6)
        command = [sys.executable, "-c", MEMORY, str(source), str(folder / f"m{size}")]
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"Pic de mémoire, {size} Mo : {peak:.0f} Mio", flush=True)
        rows.append(lone_row(f"Pic de mémoire, {size} Mo", OURS, [peak], "Mio", lower=True))
    return rows


def main() -> None:
    """Lit les options, mesure, imprime, écrit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="textes")
    parser.add_argument("--megabytes", type=int, default=20, help="taille du corpus mesuré")
    parser.add_argument("--memory", type=int, nargs="*", default=[50, 200], help="tailles, en Mo")
    parser.add_argument("--turns", type=int, default=3, help="passages")
    parser.add_argument("--quick", action="store_true", help="moins d'une minute")
    parser.add_argument("--json", type=Path, help="fichier de résultats")
    options = parser.parse_args()
    if options.quick:
        options.megabytes, options.memory, options.turns = 3, [], 1
    announce()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "corpus" / "corpus.jsonl"
        source.parent.mkdir()
        size = corpus(options.data, source, options.megabytes * 10**6)
        documents = [json.loads(line)["text"] for line in source.open(encoding="utf-8")]
        vocabulary = folder / "tokenizer.json"
        vocabulary.write_text(json.dumps(tokenizer_json(get_tokenizer("gpt2"))), "utf-8")
        rows += throughput("Codage", encoders(source, vocabulary), folder, size, options.turns)
        rows += throughput("Hygiène", cleaners(source), folder, size, options.turns)
        rows += near_duplicates(documents, 600)
        rows += memory(options.data, folder, options.memory)
    write_rows(options.json, rows)


if __name__ == "__main__":
    main()
