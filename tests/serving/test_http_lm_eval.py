"""lm-eval mesure le service par `local-completions`, et trouve ce que dit le modèle."""

import pytest
import torch
from http_helpers import NAME, WINDOW, running_service

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator

PAIRS = (("Le passeur leva", " la lampe deux fois"), ("L'eau", " frottait les graviers"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # ceux des bibliothèques de lm-eval
def test_local_completions_reads_the_same_likelihoods():
    """Vraisemblances et texte glouton : ceux du modèle, tokenizer du service compris."""
    pytest.importorskip("tenacity", reason="lm-eval le demande pour parler à un service")
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    client = pytest.importorskip("lm_eval.models.openai_completions").LocalCompletionsAPI
    torch.manual_seed(0)
    config = GPTConfig(
        context_length=WINDOW, emb_dim=16, n_heads=2, n_layers=1, drop_rate=0.0, tie_weights=True
    )
    model, tokenizer = GPTModel(config).eval(), get_tokenizer("gpt2")
    oracle = Generator(model, tokenizer)
    with running_service(model, tokenizer) as url:
        remote = client(
            model=NAME,
            base_url=f"{url}/v1/completions",
            max_length=WINDOW,
            num_concurrent=1,
            batch_size=2,
        )
        asked = [
            instance(request_type="loglikelihood", doc={}, arguments=pair, idx=index)
            for index, pair in enumerate(PAIRS)
        ]
        found = remote.loglikelihood(asked, disable_tqdm=True)
        until = {"until": ["\n"], "max_gen_toks": 6}
        (text,) = remote.generate_until(
            [
                instance(
                    request_type="generate_until", doc={}, arguments=(PAIRS[0][0], until), idx=0
                )
            ],
            disable_tqdm=True,
        )
    for (context, continuation), (logprob, _) in zip(PAIRS, found, strict=True):
        scores = oracle.score(context + continuation)
        mine = scores[len(tokenizer.encode(context)) - 1 :]
        assert logprob == pytest.approx(sum(each.logprob for each in mine), abs=1e-3)
    (expected,) = oracle.generate([PAIRS[0][0]], GenerationConfig(max_tokens=6, stop=("\n",)))[0]
    assert text == expected.text
