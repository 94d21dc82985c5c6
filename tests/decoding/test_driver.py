"""La lecture à cache : mêmes logits qu'une lecture entière, quoi qu'on ait lu avant."""

import pytest
import torch
from decoding_helpers import sharp_model

from gpt_architecture.decoding.driver import Driver

WINDOW = 12


@pytest.fixture
def model():
    return sharp_model(vocab_size=9, context_length=16)


def whole(model, rows, count=1):
    """Logits (B, count, V), tout relu."""
    with torch.no_grad():
        return model(torch.tensor([row[-WINDOW:] for row in rows]))[:, -count:]


def check(model, driver, rows, count=1):
    torch.testing.assert_close(
        torch.stack(driver.read(rows, count=count)), whole(model, rows, count)
    )


def random_row(length, seed=0):
    return torch.randint(9, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_growing_shrinking_and_other_texts(model):
    driver = Driver(model, window=WINDOW, capacity=40)
    row = random_row(10)
    check(model, driver, [row[:4]])
    check(model, driver, [row[:5]])
    check(model, driver, [row[:9]], count=4)
    check(model, driver, [[*row[:6], 8]], count=2)  # les propositions suivantes ont été rejetées
    check(model, driver, [row[:3]])
    check(model, driver, [random_row(7, seed=1)], count=7)
    check(model, driver, [row[:4]])


def test_past_the_window(model):
    driver = Driver(model, window=WINDOW, capacity=40)
    row = random_row(30)
    for length in range(WINDOW - 2, 20):
        check(model, driver, [row[:length]])


def test_several_rows(model):
    driver = Driver(model, window=WINDOW, capacity=40)
    rows = [random_row(6, seed) for seed in range(3)]
    check(model, driver, rows)
    driver.select_([2, 0, 0, 2])
    rows = [[*rows[parent], token] for token, parent in enumerate((2, 0, 0, 2))]
    check(model, driver, rows)
    check(model, driver, rows[:2])  # sans prévenir : tout est relu
    check(model, driver, [[*row, 1] for row in rows])


def test_only_what_changed_is_read(model, monkeypatch):
    read = []
    forward = type(model).forward

    def counting(self, in_idx, cache=None, *, at=None):
        read.append(in_idx.size(1))
        return forward(self, in_idx, cache, at=at)

    monkeypatch.setattr(type(model), "forward", counting)
    driver = Driver(model, window=WINDOW, capacity=WINDOW)
    row = random_row(12)
    driver.read([row[:5]])
    driver.read([row[:6]])
    driver.read([row[:9]], count=4)
    driver.read([[*row[:7], 8]])
    assert read == [5, 1, 4, 1]


def test_long_texts_are_read_in_chunks(model):
    for count in (1, 3):
        driver = Driver(model, window=WINDOW, capacity=40, chunk=4)
        check(model, driver, [random_row(11)], count=count)


def test_an_interrupted_reading_leaves_nothing_false(model, monkeypatch):
    driver = Driver(model, window=WINDOW, capacity=40)
    row = random_row(10)
    check(model, driver, [row[:4]])

    def broken(*_arguments, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "forward", broken)
        with pytest.raises(KeyboardInterrupt):
            driver.read([random_row(6, seed=5)])
    check(model, driver, [row[:8]])
