"""Un filtre d'ailleurs, éprouvé de bout en bout dans un processus neuf : écrit un objet JSON.

Tout ce qu'il y a à écrire pour un filtre est dans `keep_after` et l'appel qui l'enregistre.
"""

import contextlib
import io
import json

import torch
from torch import Tensor

from gpt_architecture.decoding.settings import RequestField, Sampler, Setting, register_sampler


def keep_after(token: float):
    """Retire les identifiants inférieurs à `token`."""

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        outside = torch.arange(logits.size(-1)) < token
        return logits.masked_fill(outside, -torch.inf)

    return process


register_sampler(
    Sampler(
        name="keep_after",
        build=keep_after,
        kind=int,
        default=0,
        after="top_p",
        setting=Setting(
            help="Retire les identifiants inférieurs à celui-ci.",
            group="Filtres",
            minimum=0,
            maximum=25,
            is_filter=True,
            request=RequestField(),
        ),
    )
)


def main() -> dict[str, object]:
    """Ce que chaque porte fait du filtre."""
    from decoding_helpers import LetterTokenizer
    from http_helpers import client_of, make_context, running_engine, serving, small_model

    from gpt_architecture.api import GPT
    from gpt_architecture.decoding.named_settings import config_of
    from gpt_architecture.decoding.trace import Tracer
    from gpt_architecture.serving.app import create_app

    gpt = GPT(model=small_model(), tokenizer=LetterTokenizer(), device=torch.device("cpu"))
    config = config_of({"keep_after": 20, "max_tokens": 8, "seed": 1})
    tracer = Tracer(gpt.generator.encode("le lac"), config, gpt.tokenizer)
    list(tracer.follow(gpt.pieces("le lac", config, observer=tracer.observe)))
    found = {
        "help": command("infer", "--help"),
        "settings": config.to_dict(),
        "api": gpt.generate("le lac", keep_after=20, max_tokens=8, seed=1),
        "trace": tracer.trace.to_dict(),
    }
    with running_engine() as engine:
        app = create_app(make_context(engine))
        asked = {"prompt": "le lac", "max_tokens": 8, "seed": 1, "keep_after": 20}
        with client_of(app) as client:
            found["schema"] = client.get("/openapi.json").json()
            found["server"] = client.post("/v1/completions", json=asked).json()
            wrong = client.post("/v1/completions", json=asked | {"keep_after": 26})
            found["refused"] = [wrong.status_code, wrong.json()]
        with serving(app) as url:
            options = ("--prompt", "le lac", "--max-tokens", "8", "--seed", "1")
            found["remote"] = command("infer", "--server", url, *options, "--keep-after", "20")
    return found


def command(*arguments: str) -> str:
    """Ce qu'une commande écrit."""
    from gpt_architecture.main import main as run

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        run(list(arguments))
    return out.getvalue()


if __name__ == "__main__":
    print(json.dumps(main()))
