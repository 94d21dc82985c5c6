"""`gpt-architecture infer` : continuer un texte."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 infer.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import MODEL_NAME, CommonOptions, read_prompt, starts
from gpt_architecture.cli.judging import nothing_to_judge, show_judgements
from gpt_architecture.cli.options import (
    COMPUTING,
    PROMPTING,
    ModelChoice,
    ModelSource,
    Prompt,
    ResultOptions,
    ServerChoice,
    model_path,
)
from gpt_architecture.cli.sampling import (
    FilterOptions,
    SamplingOptions,
    ShapeOptions,
    generation_config,
    warn_cut,
)
from gpt_architecture.cli.sources import Finder, source_finder
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import counted, decimal, french_number
from gpt_architecture.reports.console import output_console, say_aside
from gpt_architecture.reports.trace import TRACE_TITLE, TraceFormat, write_trace
from gpt_architecture.storage import check_outputs, json_of, page_of, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt_architecture.api import GPT
    from gpt_architecture.decoding.config import GenerationConfig
    from gpt_architecture.decoding.generator import Generation
    from gpt_architecture.decoding.sequence import Piece, TokenScore


@Parameter(name="*", group=Group("Sortie", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Ce qui est rendu."""

    prompts: Annotated[Path | None, Parameter(group=PROMPTING)] = None
    """Fichier d'invites, une par ligne : leurs textes sont générés ensemble."""

    score: bool = False
    """Ne génère rien : donne la log-probabilité, en nats, de chaque token de l'invite."""

    trace: bool = False
    """Montre, pour chaque token généré, les candidats et ce que chaque filtre en a fait."""

    trace_format: TraceFormat = "table"
    """Forme de cette trace : table, json ou html."""

    trace_file: Path | None = None
    """Fichier où écrire la trace ; sans lui, la sortie standard."""

    sources: Annotated[Path | None, Parameter(metavar="DOSSIER")] = None
    """Montre, sous le texte, d'où viennent ses mots ; l'index des données d'entraînement est dans
    ce dossier, où « prepare » ou « evaluate » l'ont construit."""

    echo: Annotated[bool, Parameter(parse=False)] = True
    """Vrai : l'invite précède le texte généré."""

    @property
    def traced(self) -> bool:
        """Vrai si une trace est demandée, fût-ce par sa forme ou son fichier."""
        return self.trace or self.trace_file is not None or self.trace_format != "table"


def infer(
    model: ModelSource = None,
    *,
    prompt: Annotated[Prompt, Parameter(group=PROMPTING)] = None,
    chat: Annotated[Prompt, Parameter(group=PROMPTING)] = None,
    sampling: SamplingOptions = SamplingOptions(),  # noqa: B008 — immuable
    filters: FilterOptions = FilterOptions(),  # noqa: B008
    shape: ShapeOptions = ShapeOptions(),  # noqa: B008
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    draft: Annotated[Path | None, Parameter(group=COMPUTING, metavar="MODÈLE")] = None,
    server: ServerChoice = ServerChoice(),  # noqa: B008
    parse_special: Annotated[bool, Parameter(group=PROMPTING)] = False,
    output: OutputOptions = OutputOptions(),
    results: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Continue un texte, et l'affiche à mesure qu'il est généré ; d'un modèle qui classe, le juge.

    Args:
        prompt: Texte à continuer ; « - » le lit sur l'entrée standard. Sans lui, l'invite des
            exemples de l'entraînement.
        chat: Question à poser à un modèle qui a un gabarit de conversation ; seule la réponse est
            écrite.
        parse_special: Lit comme des tokens spéciaux, et non comme du texte, leurs noms écrits dans
            l'invite ou la question.
        draft: Modèle auxiliaire, de même tokenizer, dont le décodage spéculatif vérifie les
            propositions.
    """
    config = generation_config(sampling, filters, shape)
    _check_together(output, results, config, prompt, chat, draft)
    source = None if server.server is not None else model_path(model, whole=True)
    signature = {"html": page_of("trace"), "json": json_of("infer --trace")}
    check_outputs(
        {
            "--trace-file": (
                output.trace_file,
                signature.get(output.trace_format, text_of(TRACE_TITLE)),
            ),
            "--json-file": (results.json_file, json_of("infer")),
        },
        reads=(source, prompt, chat, draft, shape, output, common),
        force=results.force,
    )
    if server.server is not None:
        from gpt_architecture.cli.remote import check_remote, infer_remotely

        given = {"--model": model, **choice.asked, "--draft": draft, "--chat": chat}
        local = {"--score": output.score or None, "--trace": output.traced or None}
        check_remote({**given, **local, "--sources": output.sources})
        texts = starts(prompt, output.prompts, {}, parse_special=False)  # le service les lira
        infer_remotely(
            *(server.server, texts, config, results),
            model=server.server_model,
            parse_special=parse_special,
        )
        return

    from gpt_architecture.api import load

    gpt = load(
        source or MODEL_NAME,
        device=choice.device,
        quant=choice.quant,
        draft=draft,
        drafts=choice.drafts,
    )
    if gpt.config.head is not None:
        writes = chat is not None or output.score or output.traced or output.sources is not None
        if not writes and prompt is None and output.prompts is None:
            raise nothing_to_judge()
        texts = [] if writes else starts(prompt, output.prompts, {}, parse_special=False)
        show_judgements(gpt, texts, results)
        return
    sources = source_finder(gpt, output.sources)
    if chat is not None:
        messages = [{"role": "user", "content": read_prompt(chat)}]
        prompt, output = gpt.chat_prompt(messages), replace(output, echo=False)
    texts = starts(prompt, output.prompts, gpt.metadata, parse_special=parse_special)
    if output.score:
        _score(gpt, texts[0], config, results)
    elif output.prompts is not None or config.n > 1 or config.lookup or draft is not None:
        _whole(gpt, texts, config, results, sources, echo=output.echo)
    elif output.traced:
        _trace(gpt, texts[0], config, output)
    else:
        _stream(gpt, texts[0], config, results, sources, echo=output.echo)
    is_drawn = config.is_sampling and sampling.given()["seed"] is None
    if is_drawn and not results.as_json and not output.score:
        say_aside(f"(graine {config.seed} : --seed {config.seed} redonne ce texte)")


def _trace(gpt: GPT, prompt: str, config: GenerationConfig, output: OutputOptions) -> None:
    """Écrit un texte, et montre ce que chaque filtre en a retiré."""
    from gpt_architecture.decoding.trace import Tracer

    tracer = Tracer(gpt.generator.encode(prompt), config, gpt.tokenizer)
    for _ in tracer.follow(gpt.pieces(prompt, config, observer=tracer.observe)):
        pass
    warn_cut(config, [tracer.trace.finish])
    form, path = output.trace_format, output.trace_file
    write_trace(tracer.trace, output_console(), form=form, path=path)
    if path is not None:
        say_aside(f"Trace : {path}")


def _check_together(
    output: OutputOptions,
    results: ResultOptions,
    config: GenerationConfig,
    prompt: str | None,
    chat: str | None,
    draft: Path | None,
) -> None:
    """Refuse ce qui ne va pas ensemble, avant de charger le modèle."""
    several, asked = output.prompts is not None, prompt is not None
    pairs = {
        ("--chat", "--prompt"): chat is not None and asked,
        ("--chat", "--prompts"): chat is not None and several,
        ("--prompt", "--prompts"): asked and several,
        ("--score", "--trace"): output.score and output.traced,
        ("--score", "--prompts"): output.score and several,
        ("--score", "--sources"): output.score and output.sources is not None,
        ("--trace", "--sources"): output.traced and output.sources is not None,
        ("--trace", "--prompts"): output.traced and several,
        ("--trace", "--n"): output.traced and config.n > 1,
        ("--trace", "--lookup"): output.traced and config.lookup > 0,
        ("--trace", "--draft"): output.traced and draft is not None,
        ("--trace", "--strategy beam"): output.traced and config.strategy == "beam",
        ("--trace", "--json (--trace-format json)"): output.traced and results.wants_json,
    }
    for (first, second), found in pairs.items():
        if found:
            raise ConfigurationError.together(first, second, remedy="retirez l'un des deux")


def _stream(
    gpt: GPT,
    text: str,
    config: GenerationConfig,
    results: ResultOptions,
    sources: Finder | None,
    *,
    echo: bool,
) -> None:
    """Un texte, au fil de l'eau ; ce qui le refuserait est dit avant que l'invite soit écrit."""
    start = time.perf_counter()
    pieces: list[Piece] = []
    for piece in gpt.pieces(text, config):
        shown = text + piece.text if echo and not pieces else piece.text
        pieces.append(piece)
        if shown and not results.as_json:
            print(shown, end="", flush=True)
    if not results.as_json:
        print()
    warn_cut(config, [pieces[-1].finish])
    tokens = [piece.token for piece in pieces if piece.token is not None]
    found = None if sources is None else sources(tokens)
    if found is not None and not results.as_json:
        print(f"\n{found}")
    record = _record(
        gpt,
        text,
        "".join(piece.text for piece in pieces),
        config,
        [piece.score for piece in pieces if piece.score is not None],
        finish=pieces[-1].finish,
        tokens=tokens,
        seconds=time.perf_counter() - start,
        sources=found and found.to_dict(),
    )
    results.emit([record], "infer")


def _whole(
    gpt: GPT,
    texts: list[str],
    config: GenerationConfig,
    results: ResultOptions,
    sources: Finder | None,
    *,
    echo: bool,
) -> None:
    """Tous les textes, une fois achevés."""
    start = time.perf_counter()
    found = gpt.generate_batch(texts, config)
    seconds = time.perf_counter() - start
    pairs = [(text, each) for text, group in zip(texts, found, strict=True) for each in group]
    traced = [None if sources is None else sources(list(each.tokens)) for _, each in pairs]
    ends = [each.finish for _, each in pairs]
    records = [
        _record(
            gpt,
            text,
            each.text,
            config,
            each.scores,
            seed=each.seed,
            finish=each.finish,
            tokens=list(each.tokens),
            score=each.score,
            speculation=each.speculation and each.speculation.to_dict(),
            seconds=seconds,
            sources=origin and origin.to_dict(),
        )
        for (text, each), origin in zip(pairs, traced, strict=True)
    ]
    if results.emit(records, "infer"):
        warn_cut(config, ends)
        return
    shown = [
        (text if echo else "") + each.text + ("" if origin is None else f"\n\n{origin}")
        for (text, each), origin in zip(pairs, traced, strict=True)
    ]
    print("\n\n---\n\n".join(shown))
    warn_cut(config, ends)
    say_aside(_summary(seconds, [each for _, each in pairs]))


def _summary(seconds: float, generations: list[Generation]) -> str:
    """Débit, et ce que le décodage spéculatif a fait accepter, s'il a servi."""
    count = sum(len(each.tokens) for each in generations)
    speed = french_number(round(count / seconds))
    pace = f"{counted(count, 'token')} en {decimal(seconds, 1)} s ({speed} tokens/s)"
    stats = [each.speculation for each in generations if each.speculation is not None]
    proposed = sum(each.proposed for each in stats)
    if not proposed:
        return pace
    accepted = sum(each.accepted for each in stats)
    passes = sum(each.passes for each in stats)
    return (
        f"{pace} ; décodage spéculatif : {counted(accepted, 'token accepté')} sur {proposed} "
        f"({100 * accepted / proposed:.0f} %), {decimal(count / passes, 1)} tokens par passe"
    )


def _score(gpt: GPT, text: str, config: GenerationConfig, results: ResultOptions) -> None:
    """La log-probabilité (nats) de chaque token de l'invite."""
    scores = gpt.score(text, top=config.logprobs or 0)
    total = sum(each.logprob for each in scores)
    record = {
        "prompt": text,
        "logprob": total,
        "tokens": len(scores),
        "scores": [_score_dict(gpt, each) for each in scores],
    }
    if results.emit([record], "infer"):
        return
    for each in scores:
        word = json.dumps(gpt.tokenizer.decode([each.token]), ensure_ascii=False)
        print(f"{decimal(each.logprob, 3):>8}  {word}")
    if scores:
        mean = decimal(total / len(scores), 3)
        print(f"Log-probabilité moyenne : {mean} nats, sur {counted(len(scores), 'token')}")


def _score_dict(gpt: GPT, score: TokenScore) -> dict[str, Any]:
    decode = gpt.tokenizer.decode
    return {
        "token": score.token,
        "text": decode([score.token]),
        "logprob": score.logprob,
        "top": [
            {"token": token, "text": decode([token]), "logprob": logprob}
            for token, logprob in score.top
            if token < gpt.tokenizer.vocab_size
        ],
    }


def _record(
    gpt: GPT,
    text: str,
    completion: str,
    config: GenerationConfig,
    scores: Sequence[TokenScore],
    **more: Any,
) -> dict[str, Any]:
    """Un texte, pour un programme ; de `more`, seul ce qui n'est pas None."""
    record = {
        "prompt": text,
        "completion": completion,
        "strategy": config.strategy,
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
        "k": config.top_k,
        "p": config.top_p,
        "seed": config.seed,
        "settings": config.to_dict(),
    }
    record |= {name: value for name, value in more.items() if value is not None}
    if config.logprobs is not None:
        record["scores"] = [_score_dict(gpt, each) for each in scores]
    return record


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["infer", *sys.argv[1:]])
