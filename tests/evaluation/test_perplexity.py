"""Perplexité par fenêtres : contre une boucle lente, chaque token une fois, bords."""

import math

import pytest
import torch

from gpt_architecture.errors import ConfigurationError, DataError
from gpt_architecture.evaluation.likelihood import perplexity_of
from gpt_architecture.evaluation.perplexity import (
    MIN_DOCUMENTS,
    TokenDocument,
    document_spans,
    measure_documents,
    window_ends,
)


def document(length, *, seed=0, name="a", num_bytes=100):
    tokens = torch.randint(61, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return TokenDocument(name=name, tokens=tokens, num_bytes=num_bytes, first_bytes=3)


def slow_losses(model, tokens, *, window, stride, prefix):
    """−log p de chaque token, l'un après l'autre, avec le contexte que sa fenêtre lui laisse."""
    sequence = list(tokens) if prefix is None else [prefix, *tokens]
    losses = []
    for place in range(1, len(sequence)):
        end = window  # fin de la fenêtre qui prédit ce token
        while end < place:
            end += stride
        end = min(end, len(sequence) - 1)
        context = sequence[max(0, end - window) : place]
        with torch.no_grad():
            logits = model(torch.tensor([context]))[0, -1]
        losses.append(-logits.log_softmax(-1)[sequence[place]].item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [None, 60])
@pytest.mark.parametrize("stride", [1, 5, 8, 16])
@pytest.mark.parametrize("length", [2, 16, 17, 18, 45])
def test_the_slow_loop_agrees(tiny_model, length, stride, prefix):
    each = document(length)
    found = measure_documents(tiny_model, [each], window=16, stride=stride, prefix=prefix)
    losses = slow_losses(tiny_model, each.tokens, window=16, stride=stride, prefix=prefix)
    assert found.total.tokens == len(losses)
    assert found.total.loss == pytest.approx(sum(losses) / len(losses), abs=1e-5)


@pytest.mark.parametrize("stride", [1, 3, 16])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 100])
def test_each_token_is_scored_once(count, stride):
    ranges = [range(start, end) for start, end in window_ends(count, 16, stride)]
    assert [place for each in ranges for place in each] == list(range(count))


def test_windows_of_a_long_document_have_one_length():
    """Un lot n'y perd rien : la dernière fenêtre recule au lieu de raccourcir."""
    spans = list(document_spans(list(range(50)), window=16, stride=6, prefix=None))
    assert {len(span.tokens) for span in spans} == {17}
    assert all(span.scored <= 6 for span in spans[1:])


def test_total_and_documents(tiny_model):
    """Le total pèse chaque token autant ; les unités sont perplexité et bits par octet."""
    documents = [document(30, num_bytes=70), document(9, seed=1, name="b", num_bytes=20)]
    steps = []
    found = measure_documents(
        *(tiny_model, documents),
        window=16,
        prefix=60,
        on_progress=lambda done, total: steps.append((done, total)),
    )
    first, second = found.documents
    assert (first.name, second.name) == ("a", "b")
    assert found.stride == 8
    assert found.total.loss == pytest.approx((30 * first.loss + 9 * second.loss) / 39)
    assert found.total.perplexity == pytest.approx(math.exp(found.total.loss))
    assert found.total.bits_per_byte == pytest.approx(found.total.loss * 39 / math.log(2) / 90)
    assert steps[-1] == (39, 39)
    low, high = found.total.interval
    assert low < found.total.loss < high
    assert found.total.perplexity_interval == (math.exp(low), math.exp(high))


def test_a_given_first_token_has_no_bytes(tiny_model):
    """Sans début de texte, le premier token n'est ni prédit ni compté."""
    (loss,) = measure_documents(tiny_model, [document(10)], window=16).documents
    assert (loss.tokens, loss.num_bytes) == (9, 97)
    assert loss.interval is None  # une seule fenêtre


def test_many_documents_are_the_units(tiny_model):
    """À partir de vingt documents, l'intervalle du total les rééchantillonne."""
    documents = [document(8, seed=seed) for seed in range(MIN_DOCUMENTS)]
    found = measure_documents(tiny_model, documents, window=16, prefix=60)
    assert found.total.interval is not None
    assert all(each.interval is None for each in found.documents)


def test_documents_without_prediction_are_counted(tiny_model):
    found = measure_documents(tiny_model, [document(1), document(5)], window=16)
    assert (found.skipped, len(found.documents)) == (1, 1)
    with pytest.raises(DataError, match="aucun token à prédire"):
        measure_documents(tiny_model, [document(1)], window=16)


def test_batches_change_nothing(tiny_model):
    one, many = (
        measure_documents(tiny_model, [document(80)], window=16, max_rows=rows) for rows in (1, 64)
    )
    assert one.total.loss == pytest.approx(many.total.loss, abs=1e-6)


@pytest.mark.parametrize(("window", "stride"), [(0, None), (17, None), (16, 0), (8, 9)])
def test_bounds(tiny_model, window, stride):
    with pytest.raises(ConfigurationError, match=r"window|stride"):
        measure_documents(tiny_model, [document(9)], window=window, stride=stride)


def test_huge_losses():
    assert perplexity_of(1e4) == math.inf
