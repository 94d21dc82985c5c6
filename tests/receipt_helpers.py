"""Des reçus pris sous charge : un modèle minuscule servi, des requêtes de toutes sortes, à rejouer.

Les tests en prennent quelques dizaines, `benchmarks/receipts.py` autant qu'on veut.
"""

import hashlib
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch

from gpt_architecture import load, train
from gpt_architecture.formats.model_file import read_model, save_model

TEMPLATE = (
    "{%- for message in messages -%}{{ message.role }} : {{ message.content }}\n{% endfor -%}"
    "{%- if add_generation_prompt -%}assistant : {%- endif -%}"
)
TEXT = (
    "Le passeur leva la lampe deux fois, puis il détacha le bateau. L'eau frottait les graviers ; "
    "elle se taisait au milieu. — Regarde l'eau, dit-il. Elle regarda l'eau, et la lampe, où un "
    "insecte tournait sans se brûler. Le passeur ne parlait pas ; il comptait les coups de rame. "
)
KEY = "clef-" + "0123456789abcdef"
KINDS = ("fp32", "int8", "int4")
"""Précisions servies ; en fp32, le modèle propose aussi ses tokens d'avance."""

SHAPE = {"context_length": 256, "emb_dim": 32, "n_heads": 2, "n_layers": 2}


def build(folder):
    """Un modèle minuscule aux choix variés, son gabarit et son vocabulaire ; rend son fichier."""
    path = folder / "gpt-model.pt"
    train(
        "la-lampe-du-passeur",
        **SHAPE,
        tokenizer="bpe-300",
        max_steps=2,
        engine="autograd",
        device="cpu",
        progress=False,
        output_dir=folder,
    )
    content = read_model(path)
    model = content.build()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.15)
    save_model(
        path,
        model,
        content.config,
        tokenizer=content.tokenizer,
        metadata={**content.metadata, "chat_template": TEMPLATE},
    )
    return path


def loaded(path, kind):
    """Le modèle d'un fichier, quantifié s'il le faut, toujours par les noyaux."""
    return load(path, quant=None if kind == "fp32" else kind, device="cpu", compile_from=0)


def draw_request(draws):
    """Une requête au hasard : (route, corps)."""
    body = {"receipt": True, "max_tokens": draws.choice((1, 4, 8, 16, 24))}
    maybe = draws.random
    if maybe() < 0.25:
        body["temperature"] = 0
    elif maybe() < 0.6:
        body["temperature"] = draws.choice((0.7, 1.3, 2.0))
    for name, values in (
        ("top_p", (0.5, 0.9, 1.0)),
        ("top_k", (1, 5, 40)),
        ("min_p", (0.05, 0.2)),
        ("repetition_penalty", (1.2, 0.8)),
        ("frequency_penalty", (0.5, -0.5)),
        ("presence_penalty", (1.0,)),
        ("n", (2, 3, 4)),
        ("stop", ("e", [" la", "il "], ["\n"])),
        ("stop_token_ids", ([33, 40],)),
        ("logit_bias", ({"35": 4.0, "40": -100},)),
        ("min_tokens", (1,)),
        ("lookup", (4, 8)),
        ("seed", (0, 7, -3, 2**62)),
        ("user", ("quelqu'un",)),
    ):
        if maybe() < 0.15:
            body[name] = draws.choice(values)
    if "lookup" in body and maybe() < 0.5:
        body["lookup_ngram"] = 1
    if maybe() < 0.2:
        body = {name: each for name, each in body.items() if name not in _ENDS} | _constraint(draws)
    else:
        body["ignore_eos"] = maybe() < 0.5
    if maybe() < 0.4:
        body["stream"] = True
        if maybe() < 0.5:
            body["stream_options"] = {"include_usage": True}
    if maybe() < 0.3:
        return "/v1/chat/completions", body | _chat(draws)
    return "/v1/completions", body | _prompt(draws)


def _constraint(draws):
    schema = {
        "type": "object",
        "properties": {"zone": {"type": "integer"}, "age": {"enum": [1, 22]}},
        "required": ["zone", "age"],
    }
    return draws.choice(
        (
            {"regex": "( dort,){1,4} fin"},
            {"choices": ["oui", "non", "peut-être"]},
            {"json_schema": schema},
            {"response_format": {"type": "json_object"}},
            {"structured_outputs": {"json": json.dumps(schema)}},
        )
    ) | {"max_tokens": 40}


def _chat(draws):
    messages = [{"role": "system", "content": TEXT[: draws.choice((0, 40))]}]
    messages.append({"role": "user", "content": _piece(draws)})
    more = {"logprobs": True, "top_logprobs": draws.choice((0, 3))} if draws.random() < 0.3 else {}
    return {"messages": messages, **more}


def _prompt(draws):
    kind = draws.random()
    prompt = _piece(draws)
    if kind < 0.15:
        prompt = [_piece(draws) for _ in range(draws.choice((2, 3)))]
    elif kind < 0.25:
        prompt = [draws.randrange(300) for _ in range(draws.choice((1, 9, 30)))]
    elif kind < 0.3:
        prompt = ""
    found = {"prompt": prompt, "echo": draws.random() < 0.15}
    if draws.random() < 0.3:
        found["logprobs"] = draws.choice((0, 2))
    if found["echo"] and draws.random() < 0.3:
        found["max_tokens"] = 0
    return found


def _piece(draws):
    """Un début du texte, souvent déjà lu par un autre, ou un passage."""
    start = draws.choice((0, 0, 0, draws.randrange(200)))
    return TEXT[start : start + draws.choice((3, 30, 60, 90))]


@dataclass
class Taken:
    """Ce qu'une charge a donné : des reçus, à côté de ce que le client a lu."""

    pairs: list = field(default_factory=list)
    cancelled: int = 0
    full: int = 0


def ask(url, route, body, *, leave_after=None):
    """Envoie une requête ; rend (textes, reçu), ou None si le client s'en va au milieu."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    asked = Request(url + route, json.dumps(body).encode(), headers)
    with urlopen(asked, timeout=120) as response:
        if not body.get("stream"):
            answer = json.load(response)
            return [_text(each) for each in answer["choices"]], answer["receipt"]
        texts, receipt = {}, None
        for number, line in enumerate(response):
            if leave_after is not None and number >= leave_after:
                return None
            data = line.decode().removeprefix("data: ").strip()
            if not data or data == "[DONE]" or data.startswith(":"):
                continue
            event = json.loads(data)
            assert receipt is None, "le reçu vient en dernier"
            for choice in event["choices"]:
                index = choice["index"]
                texts[index] = texts.get(index, "") + _text(choice)
            receipt = event.get("receipt")
        return [texts[index] for index in sorted(texts)], receipt


def _text(choice):
    if "text" in choice:
        return choice["text"]
    return choice.get("message", choice.get("delta", {})).get("content", "")


def take(url, count, *, seed, clients=12):
    """Prend `count` reçus sous charge ; un client sur douze s'en va au milieu d'un flux."""
    taken = Taken()

    def patiently(route, body, **options):
        for _ in range(600):
            try:
                return ask(url, route, body, **options)
            except HTTPError as error:
                if error.code != 429:
                    raise AssertionError((body, error.read().decode())) from error
                taken.full += 1
                time.sleep(0.05)
        raise AssertionError("le service est resté plein")

    def one(number):
        draws = random.Random(f"{seed}-{number}")  # noqa: S311 — un essai qui se refait
        if draws.random() < 1 / 12:
            route, body = draw_request(draws)
            body = {name: each for name, each in body.items() if name not in _SHORT}
            body |= {"stream": True, "max_tokens": 60, "ignore_eos": True}
            patiently(route, body, leave_after=draws.randrange(1, 12))
            taken.cancelled += 1
        route, body = draw_request(draws)
        taken.pairs.append((body, *patiently(route, body)))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(count)))
    return taken


_ENDS = ("stop", "stop_token_ids", "min_tokens")  # une contrainte dit déjà où finir
_SHORT = (
    *_ENDS,
    *("regex", "choices", "json_schema", "response_format", "structured_outputs"),
    *("logprobs", "top_logprobs", "echo"),
)


def attests(texts, receipt):
    """Vrai si le reçu dit bien les octets que le client a lus."""
    found = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    return found == [each["sha256"] for each in receipt["answers"]]


def resealed(receipt, **changes):
    """Le reçu d'un faussaire : retouché, son empreinte refaite, sans signature."""
    content = {**receipt, **changes}
    for name in ("sha256", "signature"):
        content.pop(name, None)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {**content, "sha256": digest, "signature": None}


def with_metadata(gpt, **metadata):
    """Le même modèle, d'autres métadonnées."""
    return replace(gpt, metadata={**gpt.metadata, **metadata})


def key_pairs(folder):
    """Deux paires de clés, « une » et « autre », en PEM ; rend le dossier."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    pem = serialization.Encoding.PEM
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    for name in ("une", "autre"):
        key = ed25519.Ed25519PrivateKey.generate()
        path = folder / f"{name}.pem"
        path.write_bytes(key.private_bytes(pem, *private))
        path.chmod(0o600)
        public = serialization.PublicFormat.SubjectPublicKeyInfo
        (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(pem, public))
    return folder
