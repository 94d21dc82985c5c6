"""Fenêtres glissantes et chargeurs de lots, sur des suites écrites à la main."""

import inspect

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_architecture.config import END_OF_TEXT, TrainingConfig
from gpt_architecture.data.loader import (
    GPTDatasetV1,
    create_dataloader_v1,
    create_train_val_loaders,
    split_text,
)
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import ConfigurationError, DataError

property_test = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class LetterTokenizer:
    """Une lettre, un token : a → 0, b → 1… Retient les tokens spéciaux permis."""

    name = "lettres"
    vocab_size = 26
    eos_id = None

    def __init__(self):
        self.allowed = None

    def encode(self, text, *, allowed_special=frozenset()):
        self.allowed = allowed_special
        return [ord(letter) - ord("a") for letter in text]

    def decode(self, tokens):
        return "".join(chr(ord("a") + token) for token in tokens)

    def to_dict(self):
        return {"name": self.name}


class CodePointTokenizer(LetterTokenizer):
    """Un caractère, un token, sans limite."""

    def encode(self, text, *, allowed_special=frozenset()):
        return [ord(character) for character in text]


def alphabet(n):
    return "abcdefghijklmnopqrstuvwxyz"[:n]


def windows(text, max_length, stride):
    """Les fenêtres et leurs cibles, en lettres."""
    tokenizer = LetterTokenizer()
    dataset = GPTDatasetV1(text, tokenizer, max_length, stride)
    return [
        (tokenizer.decode(inputs.tolist()), tokenizer.decode(targets.tolist()))
        for inputs, targets in (dataset[index] for index in range(len(dataset)))
    ]


class TestDataset:
    @pytest.mark.parametrize(
        ("max_length", "stride", "expected"),
        [
            (2, 1, [("ab", "bc"), ("bc", "cd"), ("cd", "de"), ("de", "ef")]),  # chevauchées
            (2, 2, [("ab", "bc"), ("cd", "de")]),  # jointives
            (2, 3, [("ab", "bc"), ("de", "ef")]),  # espacées
            (5, 1, [("abcde", "bcdef")]),  # tout le texte
            (1, 1, [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "f")]),
            (2, 100, [("ab", "bc")]),
        ],
    )
    def test_windows_of_six_letters(self, max_length, stride, expected):
        assert windows(alphabet(6), max_length, stride) == expected

    @pytest.mark.parametrize(("length", "count"), [(4, 1), (5, 1), (6, 1), (7, 2), (9, 2), (10, 3)])
    def test_last_window_exactly_when_its_target_exists(self, length, count):
        """Fenêtre de 3, pas de 3 : la n-ième demande 3n lettres, plus une pour la cible."""
        found = windows(alphabet(length), 3, 3)
        assert len(found) == count
        assert found[-1][1][-1] <= alphabet(length)[-1]

    @property_test
    @given(
        text=st.text("abcdefghij", min_size=2, max_size=30),
        max_length=st.integers(1, 12),
        stride=st.integers(1, 12),
    )
    def test_windows_are_the_slices_of_the_text(self, text, max_length, stride):
        expected = [
            (text[start : start + max_length], text[start + 1 : start + 1 + max_length])
            for start in range(0, len(text), stride)
            if start + max_length + 1 <= len(text)
        ]
        if expected:
            assert windows(text, max_length, stride) == expected
        else:
            with pytest.raises(DataError, match="trop court"):
                windows(text, max_length, stride)

    def test_windows_are_int64_views_of_one_tensor(self):
        dataset = GPTDatasetV1(alphabet(20), LetterTokenizer(), 4, 1)
        storage = dataset.token_ids.untyped_storage().data_ptr()
        for index in range(len(dataset)):
            for window in dataset[index]:
                assert window.dtype == torch.int64
                assert window.shape == (4,)
                assert window.untyped_storage().data_ptr() == storage
        assert dataset.token_ids.untyped_storage().nbytes() == 20 * 8

    def test_ends_like_a_sequence(self):
        dataset = GPTDatasetV1(alphabet(6), LetterTokenizer(), 2, 2)
        with pytest.raises(IndexError):
            dataset[2]
        assert len(list(dataset)) == 2

    def test_document_separator_is_allowed(self):
        tokenizer = LetterTokenizer()
        GPTDatasetV1(alphabet(6), tokenizer, 2, 2)
        assert END_OF_TEXT in tokenizer.allowed

    @pytest.mark.parametrize("text", ["", "   ", "\n\t"])
    def test_empty_text(self, text):
        with pytest.raises(DataError, match="texte vide"):
            GPTDatasetV1(text, LetterTokenizer(), 2, 2)

    @pytest.mark.parametrize("length", [1, 3, 4])
    def test_text_shorter_than_a_window_and_its_target(self, length):
        with pytest.raises(DataError, match=rf"court : {length} tokens?\b") as caught:
            GPTDatasetV1(alphabet(length), LetterTokenizer(), 4, 1)
        assert "5" in caught.value.expected

    @pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
    @pytest.mark.parametrize("name", ["max_length", "stride"])
    def test_lengths_are_positive_integers(self, name, value):
        arguments = {"max_length": 2, "stride": 2, name: value}
        with pytest.raises(ConfigurationError, match=name):
            GPTDatasetV1(alphabet(6), LetterTokenizer(), **arguments)


def letters_loader(length=26, **options):
    defaults = {"batch_size": 2, "max_length": 2, "stride": 2, "tokenizer": LetterTokenizer()}
    return create_dataloader_v1(alphabet(length), **(defaults | options))


def first_tokens(loader):
    """Premier token de chaque fenêtre, dans l'ordre où le chargeur les donne."""
    return torch.cat([inputs[:, 0] for inputs, _ in loader]).tolist()


class TestLoader:
    def test_frozen_signature(self):
        parameters = inspect.signature(create_dataloader_v1).parameters.values()
        positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert [(p.name, p.default) for p in positional] == [
            ("txt", inspect.Parameter.empty),
            ("batch_size", 4),
            ("max_length", 256),
            ("stride", 128),
            ("shuffle", True),
            ("drop_last", True),
            ("num_workers", 0),
            ("tokenizer", None),
        ]
        extra = [p for p in parameters if p.kind is not p.POSITIONAL_OR_KEYWORD]
        assert all(
            p.kind is p.KEYWORD_ONLY and p.default is not inspect.Parameter.empty for p in extra
        )

    def test_batches_by_hand(self):
        batches = list(letters_loader(9, shuffle=False))
        assert [(x.tolist(), y.tolist()) for x, y in batches] == [
            ([[0, 1], [2, 3]], [[1, 2], [3, 4]]),
            ([[4, 5], [6, 7]], [[5, 6], [7, 8]]),
        ]

    @pytest.mark.parametrize(("drop_last", "sizes"), [(True, [2, 2]), (False, [2, 2, 1])])
    def test_incomplete_last_batch(self, drop_last, sizes):
        loader = letters_loader(11, shuffle=False, drop_last=drop_last)
        assert [len(inputs) for inputs, _ in loader] == sizes
        assert len(loader) == len(sizes)

    def test_shuffle_visits_every_window_once(self):
        loader = letters_loader(generator=torch.Generator().manual_seed(0))
        order = first_tokens(loader)
        assert sorted(order) == list(range(0, 24, 2))
        assert order != sorted(order)

    def test_shuffle_is_reproducible_and_changes_at_each_pass(self):
        def passes(seed):
            loader = letters_loader(generator=torch.Generator().manual_seed(seed))
            return [first_tokens(loader) for _ in range(3)]

        first, second, _ = passes(7)
        assert passes(7) == passes(7)
        assert first != second
        assert passes(7) != passes(8)

    def test_explicit_generator_leaves_the_global_one_alone(self):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first_tokens(letters_loader(generator=torch.Generator().manual_seed(0)))
        assert torch.equal(torch.get_rng_state(), before)

    def test_without_generator_the_global_seed_decides(self):
        orders = []
        for _ in range(2):
            torch.manual_seed(3)
            orders.append(first_tokens(letters_loader()))
        assert orders[0] == orders[1]

    def test_no_worker_process(self):
        assert letters_loader().num_workers == 0

    def test_default_tokenizer_is_gpt2(self):
        text = "Every effort moves you, and every effort moves me."
        loader = create_dataloader_v1(text, batch_size=1, max_length=4, stride=4, shuffle=False)
        inputs, targets = next(iter(loader))
        ids = get_tokenizer("gpt2").encode(text)
        assert inputs.tolist() == [ids[:4]]
        assert targets.tolist() == [ids[1:5]]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("batch_size", 0),
            ("batch_size", -2),
            ("batch_size", 2.0),
            ("max_length", 0),
            ("stride", 0),
            ("stride", -1),
            ("num_workers", -1),
        ],
    )
    def test_arguments_out_of_bounds(self, name, value):
        with pytest.raises(ConfigurationError, match=name):
            letters_loader(**{name: value})

    def test_too_few_windows_for_a_batch(self):
        with pytest.raises(DataError, match=r"2 fenêtres de 2 tokens") as caught:
            letters_loader(5, batch_size=3)
        assert "3" in caught.value.expected

    def test_too_few_windows_is_fine_when_partial_batches_are_kept(self):
        loader = letters_loader(5, batch_size=3, drop_last=False)
        assert [len(inputs) for inputs, _ in loader] == [2]

    def test_exactly_one_batch(self):
        assert len(letters_loader(5, batch_size=2)) == 1


class TestSplit:
    @pytest.mark.parametrize(
        ("ratio", "first", "second"),
        [(0.9, "abcdefghi", "j"), (0.5, "abcde", "fghij"), (0.05, "", "abcdefghij")],
    )
    def test_by_hand(self, ratio, first, second):
        assert split_text(alphabet(10), ratio) == (first, second)

    def test_default_keeps_nine_tenths(self):
        assert [len(part) for part in split_text("x" * 1000)] == [900, 100]

    @pytest.mark.slow
    @property_test
    @given(
        st.text(max_size=80), st.floats(0, 1, exclude_min=True, exclude_max=True, allow_nan=False)
    )
    def test_parts_put_together_are_the_text(self, text, ratio):
        train, validation = split_text(text, ratio)
        assert train + validation == text
        assert abs(len(train) - ratio * len(text)) < 1

    @pytest.mark.parametrize("ratio", [0, 1, 0.0, 1.0, -0.1, 1.1, float("nan"), "0.9", True])
    def test_bad_ratio(self, ratio):
        with pytest.raises(ConfigurationError, match="train_ratio"):
            split_text("texte", ratio)

    def test_no_training_window_touches_the_validation_text(self):
        """Découper le texte avant les fenêtres : aucune fuite d'un jeu dans l'autre."""
        text = "".join(chr(0x4E00 + index) for index in range(200))
        parts = split_text(text, 0.7)
        seen = []
        for part in parts:
            loader = create_dataloader_v1(
                part, batch_size=1, max_length=8, stride=3, tokenizer=CodePointTokenizer()
            )
            seen.append(
                {
                    token
                    for batch in loader
                    for window in batch
                    for token in window.flatten().tolist()
                }
            )
        assert seen[0].isdisjoint(seen[1])


class TestTrainAndValidation:
    TEXT = "".join(chr(0x4E00 + index) for index in range(100))

    def loaders(self, text=TEXT, context_length=4, **settings):
        return create_train_val_loaders(
            text,
            CodePointTokenizer(),
            context_length=context_length,
            training=TrainingConfig(**({"batch_size": 3, "train_ratio": 0.8} | settings)),
        )

    def test_windows_side_by_side_by_default(self):
        """80 caractères : 19 fenêtres de 4, six lots entiers ; 20 : quatre, toutes lues."""
        train, validation = self.loaders()
        assert sorted(train.dataset[n][0][0].item() - 0x4E00 for n in range(19)) == [
            *range(0, 76, 4)
        ]
        assert [len(inputs) for inputs, _ in train] == [3] * 6
        assert [len(inputs) for inputs, _ in validation] == [3, 1]

    def test_stride(self):
        train, _ = self.loaders(stride=1)
        assert len(train.dataset) == 76

    def test_validation_is_read_in_order(self):
        _, validation = self.loaders()
        assert first_tokens(validation) == [0x4E00 + n for n in (80, 84, 88, 92)]

    def test_training_is_shuffled_by_the_global_generator(self):
        """Comme dans l'entraînement de référence : une graine fixe tout."""
        orders = []
        for global_seed in (1, 1, 2):
            torch.manual_seed(global_seed)
            orders.append(first_tokens(self.loaders()[0]))
        assert orders[0] == orders[1]
        assert orders[0] != orders[2]
        assert orders[0] != sorted(orders[0])

    @pytest.mark.parametrize(
        ("text", "settings", "part"),
        [
            (TEXT[:12], {"train_ratio": 0.5}, "entraînement"),  # une fenêtre, pas un lot
            (TEXT, {"train_ratio": 0.01}, "entraînement"),
            (TEXT, {"train_ratio": 0.97}, "validation"),
            (TEXT[:95] + "     ", {"train_ratio": 0.95}, "validation"),
        ],
    )
    def test_the_part_that_is_too_short_is_named(self, text, settings, part):
        with pytest.raises(DataError, match=f"part d.*{part}"):
            self.loaders(text, **settings)


def test_verdict_with_the_original_settings(verdict_path):
    """Réglages du document d'origine : 9 lots d'entraînement de 2 × 256, 1 de validation."""
    train, validation = split_text(load_corpus([verdict_path]).text, 0.9)
    train_loader = create_dataloader_v1(train, batch_size=2, max_length=256, stride=256)
    validation_loader = create_dataloader_v1(
        validation, batch_size=2, max_length=256, stride=256, shuffle=False, drop_last=False
    )
    assert [tuple(x.shape) for x, _ in train_loader] == [(2, 256)] * 9
    assert [tuple(x.shape) for x, _ in validation_loader] == [(2, 256)]

    both = create_train_val_loaders(
        train + validation, get_tokenizer("gpt2"), context_length=256, training=TrainingConfig()
    )
    assert [len(loader) for loader in both] == [9, 1]
