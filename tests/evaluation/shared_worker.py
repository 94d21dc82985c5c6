"""Ce que chaque rang mesure pour test_shared_evaluation.py : `shared_worker.py DOSSIER`."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.nn.functional import cross_entropy

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.data.tokenizer import GPT2Tokenizer
from gpt_architecture.evaluation.harness import HarnessModel
from gpt_architecture.evaluation.minimal_pairs import Pair, Phenomenon, measure_pairs
from gpt_architecture.evaluation.perplexity import TokenDocument, measure_documents
from gpt_architecture.evaluation.tasks import LastWord, measure_last_words
from gpt_architecture.training.distributed.group import distributed_world
from gpt_architecture.training.losses import LossEvaluator

WINDOW, BATCH = 16, 3
TEXTS = [
    "Le passeur leva la lampe, puis détacha le bateau sans un mot.",
    "La nuit tombait.",
    "Personne ne vit, cette année-là, l'eau du fleuve prendre la couleur du miel ; et puis si.",
    "Il avait gardé la corde et perdu le manteau de son père, près du dernier pont de pierre.",
    "Oui.",
]


def tiny():
    """Un modèle minuscule, le même partout, et son tokenizer."""
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=50257, context_length=WINDOW, emb_dim=8, n_heads=2, n_layers=1, drop_rate=0.0
    )
    return GPTModel(config), GPT2Tokenizer()


def requests(*arguments):
    return [SimpleNamespace(args=each) for each in arguments]


def measures(world):
    """Tout ce qui se partage ; et les fenêtres que ce processus a lues à l'entraînement."""
    model, tokenizer = tiny()
    reads = {"window": WINDOW, "max_rows": BATCH, "crew": world}
    prefix = tokenizer.eos_id
    documents = [
        TokenDocument(name=str(n), tokens=tokenizer.encode(text), num_bytes=len(text))
        for n, text in enumerate(TEXTS * 3)
    ]
    found = measure_documents(model, documents, prefix=prefix, stride=4, **reads)
    words = [LastWord(line=n, context=text, word="miel") for n, text in enumerate(TEXTS)]
    guessed = measure_last_words(model, tokenizer, words, **reads)
    pairs = [Pair(phenomenon="a", good=f"le {n}", bad=f"la {n}") for n in range(80)]
    phenomenon = Phenomenon(name="a", family="nom", title="A")
    scored = measure_pairs(model, tokenizer, [phenomenon], pairs, **reads | {"max_rows": 1})
    harness = HarnessModel(model, tokenizer, **reads)
    until = {"until": ["."], "max_gen_toks": 3}
    starts, seen = torch.arange(0, 80, 8).numpy(), []

    def loss(inputs, targets, _documents):
        seen.extend(inputs[:, 0].tolist())
        return cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    source = TokenArray(torch.arange(200))
    sets = [(source, starts), (source, starts[:5])]
    evaluator = LossEvaluator(model, sets, WINDOW, BATCH, loss, world=world)
    with torch.no_grad():
        trained = evaluator(lambda: False)
    return {
        "total": [found.total.loss, found.total.tokens, *found.total.interval],
        "documents": [each.loss for each in found.documents],
        "words": [guessed.log_probs, guessed.correct],
        "pairs": scored.scores[phenomenon].margins,
        "suites": harness.loglikelihood(requests(*((text, " miel") for text in TEXTS))),
        "textes": harness.loglikelihood_rolling(requests(*((text,) for text in TEXTS))),
        "générations": harness.generate_until(requests(*((text, until) for text in TEXTS * 2))),
        "pertes": [trained.train, trained.val],
        "fenêtres": seen,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed_world(60.0, device="cpu") as joined:
        result = json.dumps(measures(joined))
    Path(sys.argv[1], f"rang-{os.environ['RANK']}.json").write_text(result, encoding="utf-8")
