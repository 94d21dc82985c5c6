"""La même phrase, la même suite gloutonne : ici, Transformers, llama.cpp et onnxruntime.

Chacun part du texte et rend du texte, avec le tokenizer de son propre fichier.

Formes : B lot, T tokens, V vocabulaire.
"""

import numpy as np
import pytest
import torch
from conftest import FRENCH_TEXT
from llama_helpers import llama
from parity_helpers import random_model

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.weights import ModelFile
from gpt_architecture.data.bpe import BPETokenizer
from gpt_architecture.data.tokenizer import GPT2Tokenizer, tokenizer_from_dict
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.interop.gguf import export_gguf
from gpt_architecture.interop.hf_export import export_hf
from gpt_architecture.interop.onnx import export_onnx

for package in ("transformers", "gguf", "onnx", "onnxruntime", "xllamacpp"):
    pytest.importorskip(package, reason=f"parité : le paquet {package} n'est pas installé")

PROMPT = "L'été, où naît l'œuvre ? « Regarde l'eau ! » dit-il"
COUNT = 24
MODES = {"gpt2": {"qkv_bias": True, "tie_weights": True}, "livre": {}}


def tokenizer_of(name):
    """Le vocabulaire de GPT-2, ou un vocabulaire appris sur du français."""
    if name == "gpt2":
        return GPT2Tokenizer()
    return BPETokenizer.from_text(FRENCH_TEXT + 3 * PROMPT, 400, pattern=name)


@pytest.fixture(
    params=[("gpt2", "gpt2"), ("gpt2", "livre"), ("moderne", "gpt2"), ("moderne", "livre")],
    ids="-".join,
)
def file(request):
    """Un modèle dont la suite ne tourne pas en rond et ne rencontre pas la fin de texte."""
    vocabulary, mode = request.param
    tokenizer = tokenizer_of(vocabulary)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=64,
        emb_dim=32,
        n_heads=2,
        n_layers=2,
        **MODES[mode],
    )
    model = random_model(config)
    with torch.no_grad():
        model.pos_emb.weight.mul_(4)
        model.out_head.weight[tokenizer.eos_id] = 0.0
    return ModelFile(
        config=config, state_dict=model.state_dict(), tokenizer=tokenizer.to_dict(), metadata={}
    )


def ours(file):
    """(identifiants, texte) de notre générateur."""
    generator = Generator(file.build(), tokenizer_from_dict(file.tokenizer))
    pieces = list(generator.stream(PROMPT, GenerationConfig(strategy="greedy", max_tokens=COUNT)))
    tokens = [piece.token for piece in pieces if piece.token is not None]
    return tokens, "".join(piece.text for piece in pieces)


def transformers(folder):
    """(identifiants, texte) de Transformers, qui ne connaît que le dossier."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    sent = tokenizer(PROMPT, return_tensors="pt")
    found = model.generate(
        **sent, do_sample=False, max_new_tokens=COUNT, pad_token_id=tokenizer.eos_token_id
    )
    tokens = found[0, sent["input_ids"].size(1) :].tolist()
    return tokens, tokenizer.decode(tokens, clean_up_tokenization_spaces=False)


def onnxruntime(path, tokenizer):
    """(identifiants, texte) d'onnxruntime, une passe entière par token."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ids = tokenizer.encode(PROMPT)
    start = len(ids)
    for _ in range(COUNT):
        (logits,) = session.run(["logits"], {"input_ids": np.array([ids], dtype=np.int64)})
        ids.append(int(logits[0, -1].argmax()))
    return ids[start:], tokenizer.decode(ids[start:])


def test_same_continuation_everywhere(file, tmp_path):
    tokens, text = ours(file)
    assert len(set(tokens)) > 8  # une boucle ne prouverait rien
    export_hf(file, tmp_path / "hf")
    export_gguf(file, tmp_path / "m.gguf")
    export_onnx(file, tmp_path / "m.onnx")
    assert transformers(tmp_path / "hf") == (tokens, text)
    with llama(tmp_path / "m.gguf") as peer:
        assert peer.greedy(PROMPT, COUNT) == (tokens, text)
    assert onnxruntime(tmp_path / "m.onnx", tokenizer_from_dict(file.tokenizer)) == (tokens, text)
