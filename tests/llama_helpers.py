"""llama.cpp, par xllamacpp, sur un fichier GGUF : coder, décoder, continuer une invite."""

import json
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest


class Llama:
    """Le serveur de llama.cpp à cette adresse, sans tirage ni rappel d'invite."""

    def __init__(self, address):
        self._address = address

    def _ask(self, route, request):
        sent = urllib.request.Request(
            f"{self._address}{route}",
            data=json.dumps(request).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(sent, timeout=60) as answer:
            return json.load(answer)

    def encode(self, text):
        """Texte → identifiants, tokens ajoutés d'office compris."""
        return self._ask("/tokenize", {"content": text, "add_special": True})["tokens"]

    def decode(self, tokens):
        """Identifiants → texte."""
        return self._ask("/detokenize", {"tokens": tokens})["content"]

    def chat(self, messages, **options):
        """L'invite que le gabarit de conversation donne à des messages."""
        return self._ask("/apply-template", {"messages": messages, **options})["prompt"]

    def greedy(self, prompt, count, *, ignore_eos=True):
        """(identifiants, texte) de la suite gloutonne d'un texte ou d'identifiants."""
        found = self._ask(
            "/completion",
            {
                "prompt": prompt,
                "n_predict": count,
                "temperature": 0,
                "samplers": ["temperature"],
                "cache_prompt": False,
                "ignore_eos": ignore_eos,
                "return_tokens": True,
            },
        )
        return found["tokens"], found["content"]


SERVER = """
import sys
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_parallel = 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.cache_ram_mib = params.n_ctx_checkpoints = params.verbosity = 0
server = xllamacpp.Server(params)
print("adresse", server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def llama(path):
    """Un `Llama` sur ce fichier, au contexte qu'il annonce, dans un processus à lui.

    Détruire un de ses serveurs attend parfois sans fin un de ses threads : le processus est tué.
    """
    pytest.importorskip("xllamacpp", reason="llama.cpp (xllamacpp) n'est pas installé")
    command = [sys.executable, "-c", SERVER, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as child:
        try:
            said = (line.split() for line in child.stdout)
            address = next((words[1] for words in said if words[:1] == ["adresse"]), None)
            assert address is not None, f"llama.cpp n'a pas pu servir {path}"
            yield Llama(address)
        finally:
            child.kill()
