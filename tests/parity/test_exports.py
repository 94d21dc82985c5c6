"""La même phrase, la même suite gloutonne : ici et chez tous ceux qui lisent nos exports.

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
from gpt_architecture.data.tokenizer import GPT2Tokenizer, tokenizer_from_dict
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.interop.gguf import export_gguf
from gpt_architecture.interop.hf_export import export_hf
from gpt_architecture.interop.onnx import export_onnx

for package in ("transformers", "gguf", "onnx", "onnxruntime", "xllamacpp", "ctranslate2"):
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
    return build(*request.param)


def build(vocabulary, mode, **changes):
    """Un modèle dont la suite ne tourne pas en rond et ne rencontre pas la fin de texte."""
    tokenizer = tokenizer_of(vocabulary)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=64,
        emb_dim=32,
        n_heads=2,
        n_layers=2,
        **MODES[mode],
        **changes,
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


def with_cache(path, file):
    """Identifiants d'onnxruntime, un token à la fois, comme optimum les demande."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    empty = np.zeros((1, file.config.n_heads, 0, file.config.head_dim), dtype=np.float32)
    past = dict.fromkeys([each.name for each in session.get_inputs()][3:], empty)
    new, end, found = tokenizer_from_dict(file.tokenizer).encode(PROMPT), 0, []
    for _ in range(COUNT):
        start, end = end, end + len(new)
        given = {
            "input_ids": np.array([new], dtype=np.int64),
            "attention_mask": np.ones((1, end), dtype=np.int64),
            "position_ids": np.arange(start, end, dtype=np.int64)[None],
        }
        logits, *present = session.run(None, {**given, **past})
        past = dict(zip(past, present, strict=True))
        new = [int(logits[0, -1].argmax())]
        found += new
    return found


def ctranslate2(folder, converted):
    """Identifiants de CTranslate2, qui convertit le dossier de Transformers et son vocabulaire."""
    from ctranslate2 import Generator as Peer
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoTokenizer

    TransformersConverter(str(folder)).convert(str(converted))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    sent = tokenizer.convert_ids_to_tokens(tokenizer(PROMPT)["input_ids"])
    (found,) = Peer(str(converted), device="cpu", inter_threads=1, intra_threads=1).generate_batch(
        [sent], max_length=COUNT, include_prompt_in_result=False, sampling_topk=1
    )
    return found.sequences_ids[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"inner_dim": 48}, {"norm_eps": 0.9}, {"inner_dim": 160, "norm_eps": 0.5}],
    ids=["largeur cachée", "eps", "les deux"],
)
def test_llama_cpp_computes_the_variants_it_can_read(tmp_path, changes):
    file = build("gpt2", "gpt2", **changes)
    plain = build("gpt2", "gpt2")
    assert ours(file) != ours(plain)
    export_gguf(file, tmp_path / "m.gguf")
    with llama(tmp_path / "m.gguf") as peer:
        assert peer.greedy(PROMPT, COUNT) == ours(file)


@pytest.mark.slow
def test_an_untied_head_changes_nothing_but_the_file(tmp_path):
    """« output.weight » est écrit, pour les lecteurs qui l'exigent."""
    from gguf import GGUFReader

    file = build("moderne", "gpt2")
    apart = file.untied()
    assert apart.untied() is apart
    export_gguf(file, tmp_path / "liée.gguf")
    export_gguf(apart, tmp_path / "à part.gguf")
    for name, expected in (("liée", False), ("à part", True)):
        tensors = {each.name for each in GGUFReader(tmp_path / f"{name}.gguf").tensors}
        assert ("output.weight" in tensors) is expected
    with llama(tmp_path / "à part.gguf") as peer:
        assert peer.greedy(PROMPT, COUNT) == ours(file) == ours(apart)
    export_hf(apart, tmp_path / "hf")
    assert transformers(tmp_path / "hf") == ours(file)


@pytest.mark.slow
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
    export_onnx(file, tmp_path / "cache.onnx", cache=True)
    assert with_cache(tmp_path / "cache.onnx", file) == tokens
    assert ctranslate2(tmp_path / "hf", tmp_path / "ct2") == tokens
