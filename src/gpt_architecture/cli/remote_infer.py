"""`infer --server` : la suite d'un texte, écrite par un service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt_architecture.cli.options import warn_cut
from gpt_architecture.cli.remote import Service, remote_settings

if TYPE_CHECKING:
    from gpt_architecture.cli.results import ResultOptions
    from gpt_architecture.decoding.config import GenerationConfig


def infer_remotely(
    server: str,
    prompts: list[str],
    config: GenerationConfig,
    results: ResultOptions,
    *,
    parse_special: bool = False,
) -> None:
    """Écrit les suites comme le fait `infer` : au fil de l'eau s'il n'y en a qu'une.

    Args:
        server: adresse du service.
        prompts: débuts, au moins un.
        config: comment générer.
        results: sous quelle forme les rendre.
        parse_special: les noms de tokens spéciaux d'un début en sont.

    Raises:
        ConfigurationError: adresse ou réglage impossible à distance.
        ServiceError: le service ne répond pas, ou refuse.
    """
    service, settings = Service(server), remote_settings(config)
    if parse_special:
        settings["parse_special"] = True
    if not results.wants_json and len(prompts) == 1 and config.n == 1:
        pieces = service.stream(prompts[0], settings)
        first = next(pieces, "")  # un refus s'écrit seul, sans le début
        print(prompts[0] + first, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        warn_cut(config, [service.finish])
        return
    blocks, ends, records = [], [], []
    for prompt in prompts:
        answer = service.complete(prompt, settings)
        for choice in answer["choices"]:
            blocks.append(prompt + choice["text"])
            ends.append(choice["finish_reason"])
            if results.wants_json:
                record = {
                    "prompt": prompt,
                    "completion": choice["text"],
                    "finish": choice["finish_reason"],
                    "model": answer["model"],
                    "settings": config.to_dict(),
                }
                if config.logprobs is not None:
                    record["logprobs"] = choice["logprobs"]
                records.append(record)
                results.show(record)  # sans attendre les suivants
    results.save(records, "infer")
    if not results.as_json:
        print("\n\n---\n\n".join(blocks))
    warn_cut(config, ends)
