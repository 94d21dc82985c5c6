"""`infer --server` : la suite d'un texte, écrite par un service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gpt_architecture.scripts._options import warn_cut
from gpt_architecture.scripts._remote import Service, remote_settings

if TYPE_CHECKING:
    from gpt_architecture.decoding.config import GenerationConfig


def infer_remotely(
    server: str, prompts: list[str], config: GenerationConfig, *, as_json: bool
) -> None:
    """Écrit les suites comme le fait `infer` : au fil de l'eau s'il n'y en a qu'une.

    Args:
        server: adresse du service.
        prompts: débuts, au moins un.
        config: comment générer.
        as_json: écrit un objet JSON par suite.

    Raises:
        ConfigurationError: adresse ou réglage impossible à distance.
        ServiceError: le service ne répond pas, ou refuse.
    """
    service, settings = Service(server), remote_settings(config)
    if not as_json and len(prompts) == 1 and config.n == 1:
        pieces = service.stream(prompts[0], settings)
        first = next(pieces, "")  # un refus s'écrit seul, sans le début
        print(prompts[0] + first, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        warn_cut(config, [service.finish])
        return
    blocks, ends = [], []
    for prompt in prompts:
        answer = service.complete(prompt, settings)
        for choice in answer["choices"]:
            blocks.append(prompt + choice["text"])
            ends.append(choice["finish_reason"])
            if as_json:
                record = {
                    "prompt": prompt,
                    "completion": choice["text"],
                    "finish": choice["finish_reason"],
                    "model": answer["model"],
                    "settings": config.to_dict(),
                }
                if config.logprobs is not None:
                    record["logprobs"] = choice["logprobs"]
                print(json.dumps(record, ensure_ascii=False), flush=True)
    if not as_json:
        print("\n\n---\n\n".join(blocks))
    warn_cut(config, ends)
