"""Un modèle, plusieurs fils, plusieurs processus : les textes sont ceux d'un seul."""

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest

import pytest
import torch
from conftest import FRENCH_TEXT
from kernel_helpers import as_batch, pair, random_batch

from gpt_architecture.api import load
from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.data.tokenizer import SimpleTokenizerV2, get_tokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.errors import GenerationError, NonFiniteError
from gpt_architecture.formats.model_file import save_model
from gpt_architecture.kernels.decode.packed import pack

pytestmark = pytest.mark.timeout(180)  # un blocage est le défaut cherché

TOKENIZER = SimpleTokenizerV2.from_text(FRENCH_TEXT)
PROMPTS = ("Le passeur", "La lampe", "Le bateau", "Le passeur leva la lampe")
SETTINGS = (
    {"strategy": "greedy"},
    {"strategy": "top_p", "p": 0.9},
    {"strategy": "beam", "beams": 2},
    {"strategy": "greedy", "lookup": 3},
)


def save(path="m.pt", **changes):
    """Un petit modèle aux choix tranchés, enregistré."""
    settings = {"context_length": 32, "emb_dim": 32, "n_heads": 4, "n_layers": 2, "drop_rate": 0.1}
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(vocab_size=TOKENIZER.vocab_size, **settings | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(2.0)
    save_model(path, model, model.cfg, tokenizer=TOKENIZER.to_dict(), metadata={})
    return model


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=["packed", "torch"])
def gpt(request, threads):
    save()
    return load("m.pt", device="cpu", engine=request.param)


def together(work, count, workers=4):
    """Les résultats de `work(0) … work(count - 1)`, par plusieurs fils."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, range(count)))


class TestThreads:
    @pytest.mark.slow
    def test_texts_are_those_of_one_thread(self, gpt):
        def write(number):
            settings = SETTINGS[number % len(SETTINGS)]
            return gpt.generate(
                PROMPTS[number % 3], max_tokens=16, ignore_eos=True, seed=number, **settings
            )

        expected = [write(number) for number in range(12)]
        assert together(write, 12) == expected

    @pytest.mark.slow
    def test_batches_and_scores(self, gpt):
        def work(number):
            if number % 2:
                return gpt.score(FRENCH_TEXT[number * 20 : number * 20 + 200], top=2)
            return gpt.generate_batch(PROMPTS, max_tokens=8, ignore_eos=True, seed=number, n=2)

        gpt.generate(PROMPTS[0], max_tokens=40)  # les grandes pages, qui changent la forme du pas
        expected = [work(number) for number in range(6)]
        assert together(work, 6) == expected

    @pytest.mark.slow
    def test_a_draft_model_is_shared_too(self, threads):
        save()
        save("petit.pt", n_layers=1)
        gpt = load("m.pt", device="cpu", draft="petit.pt")

        def write(number):
            return gpt.generate(PROMPTS[number % 3], max_tokens=16, ignore_eos=True)

        assert together(write, 6) == [write(number) for number in range(6)]

    @pytest.mark.slow
    def test_interleaved_streams(self, gpt):
        configs = [GenerationConfig(max_tokens=20, ignore_eos=True, **SETTINGS[i]) for i in (0, 3)]
        expected = ["".join(gpt.stream(PROMPTS[0], config)) for config in configs]
        found = list(zip_longest(*(gpt.stream(PROMPTS[0], c) for c in configs), fillvalue=""))
        assert ["".join(texts) for texts in zip(*found, strict=True)] == expected

    @pytest.mark.slow
    def test_an_abandoned_stream_holds_nothing(self, gpt):
        config = GenerationConfig(max_tokens=20, ignore_eos=True)
        abandoned = gpt.stream(PROMPTS[0], config)
        next(abandoned)
        expected = gpt.generate(PROMPTS[1], config)
        assert together(lambda _: gpt.generate(PROMPTS[1], config), 2, workers=2) == [expected] * 2
        abandoned.close()

    def test_served_parts(self, threads):
        """Ce qu'emploie le service : lectures de toutes longueurs et propositions."""
        packed = pack(save().eval())
        cache = packed.new_cache(2)
        packed.read_uniform([[1, 2, 3], [4]], cache)
        expected = packed.draft([5, 6], cache, 4)

        def work(number):
            mine = packed.new_cache(2)
            packed.read_uniform([[1, 2, 3], [4]], mine)
            logits = packed.read_uniform([[number], [number, 8]], packed.new_cache(2))
            return packed.draft([5, 6], mine, 4), logits

        for number, (drafted, logits) in enumerate(together(work, 12)):
            alone = packed.read_uniform([[number], [number, 8]], packed.new_cache(2))
            assert drafted == expected
            assert torch.equal(logits, alone)

    @pytest.mark.parametrize("name", ["gpt2", "bpe-300", "char", "simple-v2"])
    def test_tokenizers(self, name):
        tokenizer = get_tokenizer(name, text=FRENCH_TEXT)

        def work(number):
            ids = tokenizer.encode(FRENCH_TEXT[number * 10 :], allowed_special="all")
            return ids, tokenizer.decode(ids)

        assert together(work, 12) == [work(number) for number in range(12)]

    @pytest.mark.slow
    def test_two_trainings(self, threads):
        def losses(_number):
            torch_step, inputs = steps[_number], batches[0]
            return [torch_step.forward_backward(as_batch(*inputs)) for _ in range(4)]

        steps = [pair()[0] for _ in range(5)]
        batches = [random_batch(steps[0])]
        expected = losses(4)
        for found in together(losses, 4):
            assert torch.equal(torch.stack(found), torch.stack(expected))


class TestCache:
    @pytest.mark.parametrize("engine", ["packed", "torch"])
    def test_two_threads_at_once_are_refused(self, engine):
        model = save().eval()
        model = pack(model) if engine == "packed" else model
        cache, ids = model.new_cache(1), torch.tensor([[1, 2, 3]])

        def read():
            with torch.no_grad():
                return model(ids, cache)

        with cache.alone, ThreadPoolExecutor(1) as other:
            for use in (
                read,
                cache.reset,
                lambda: cache.select_([0]),
                lambda: cache.clear_(0),
            ):
                with pytest.raises(GenerationError, match="un autre thread se sert de ce cache"):
                    other.submit(use).result()
        with ThreadPoolExecutor(1) as other:  # l'un après l'autre, tout va
            other.submit(read).result()
        assert read().shape == (1, 3, TOKENIZER.vocab_size)
        assert cache.lengths == [6]


class TestModes:
    def test_the_last_to_leave_gives_the_mode_back(self):
        """Le premier sorti ne remet pas l'abandon sous les pieds du second."""
        model = save().train()
        model.trf_blocks[0].eval()
        inside, leave = threading.Event(), threading.Event()

        def evaluate():
            with evaluation_mode(model):
                inside.set()
                leave.wait(60)
                return any(module.training for module in model.modules())

        with ThreadPoolExecutor(1) as other:
            with evaluation_mode(model):
                running = other.submit(evaluate)
                assert inside.wait(60)
            assert not model.training
            leave.set()
            assert running.result() is False
        assert model.training
        assert model.trf_blocks[1].training
        assert not model.trf_blocks[0].training


class TestNonFiniteLogits:
    @pytest.mark.parametrize("engine", ["packed", "torch"])
    def test_weights_are_blamed_only_if_they_are_broken(self, engine):
        model = save()
        with torch.no_grad():
            model.final_norm.scale.fill_(3e38)  # fini, mais la tête déborde
        save_model("trop.pt", model, model.cfg, tokenizer=TOKENIZER.to_dict(), metadata={})
        with torch.no_grad():
            model.final_norm.scale[3] = torch.nan
        save_model("nan.pt", model, model.cfg, tokenizer=TOKENIZER.to_dict(), metadata={})
        for use in (lambda gpt: gpt.generate("Le"), lambda gpt: gpt.score("Le passeur")):
            with pytest.raises(NonFiniteError) as found:
                use(load("trop.pt", device="cpu", engine=engine))
            assert "entraînez" not in str(found.value)
            with pytest.raises(NonFiniteError, match=r"final_norm\.scale .* réentraînez"):
                use(load("nan.pt", device="cpu", engine=engine))


FORKS = """
import os, sys, threading, torch
torch.set_num_threads(2)
from gpt_architecture import load
from gpt_architecture.core.utils import evaluation_mode
gpt = load("m.pt", device="cpu", engine=sys.argv[1])
big = torch.ones(400, 400)
(big @ big).exp()  # le parent calcule à deux fils
write = lambda: gpt.generate("Le passeur", max_tokens=20, ignore_eos=True)
text, inside = write(), threading.Event()
def busy():
    with evaluation_mode(gpt.model):
        if gpt.runner is None:
            inside.set()
            threading.Event().wait()
        with gpt.runner._passes.turn:
            inside.set()
            threading.Event().wait()
threading.Thread(target=busy, daemon=True).start()
assert inside.wait(60)
for _ in range(2):
    child = os.fork()
    if not child:
        good = write() == text and torch.get_num_threads() == 1 and bool((big @ big).exp().any())
        gpt.model.train()
        with evaluation_mode(gpt.model):
            good = good and not gpt.model.training
        os._exit(0 if good and gpt.model.training else 3)
    assert os.waitpid(child, 0)[1] == 0
print("justes", flush=True)
os._exit(0)
"""

POOL = """
import multiprocessing, torch
torch.set_num_threads(2)
from gpt_architecture import load
gpt = load("m.pt", device="cpu")
def write(seed):
    return gpt.generate("Le passeur", strategy="temperature", max_tokens=20, seed=seed)
if __name__ == "__main__":
    expected = [write(seed) for seed in range(6)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(write, range(6)) == expected
    print("justes")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="ce système n'a pas de fork")
class TestFork:
    """Chaque fois dans un Python neuf : ceux des tests ne doivent pas se dupliquer."""

    def run(self, script, *arguments):
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
        assert done.stdout == "justes\n", done.stderr

    @pytest.mark.slow
    @pytest.mark.parametrize("engine", ["packed", "torch"])
    def test_children_write_the_same_text(self, engine):
        """Deux enfants, alors qu'un autre fil du parent tient le modèle pour toujours."""
        save()
        self.run(FORKS, engine)

    @pytest.mark.slow
    @pytest.mark.skipif(
        "fork" not in multiprocessing.get_all_start_methods(), reason="pas de fork ici"
    )
    def test_a_pool_of_processes(self):
        save()
        self.run(POOL)
