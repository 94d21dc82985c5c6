"""Le cache : mêmes logits que sans lui, quelle que soit la découpe."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.attention import eager_attention, use_attention_
from gpt_architecture.core.kv_cache import CacheView, KVCache
from gpt_architecture.core.model import GPTModel

CONTEXT = 16
MODES = {
    "livre": GPTConfig(
        vocab_size=61, context_length=CONTEXT, emb_dim=24, n_heads=3, n_layers=2, drop_rate=0.1
    ),
    "gpt2": GPTConfig(
        vocab_size=61,
        context_length=CONTEXT,
        emb_dim=24,
        n_heads=3,
        n_layers=2,
        drop_rate=0.1,
        qkv_bias=True,
        tie_weights=True,
    ),
}


def build(mode):
    """Modèle du mode demandé, en évaluation, aux poids assez grands pour se distinguer."""
    torch.manual_seed(0)
    model = GPTModel(MODES[mode]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


MODELS = {mode: build(mode) for mode in MODES}
each_mode = pytest.mark.parametrize("mode", sorted(MODES))


@pytest.fixture(autouse=True)
def no_gradients():
    """Le cache sert à la génération, sans graphe."""
    with torch.no_grad():
        yield


def random_ids(batch, length, seed=0):
    """Identifiants (B, T) int64."""
    return torch.randint(61, (batch, length), generator=torch.Generator().manual_seed(seed))


def cached_logits(model, idx, sizes, **options):
    """Logits (B, T, V) obtenus morceau par morceau."""
    cache = model.new_cache(idx.size(0), **options)
    return torch.cat([model(chunk, cache) for chunk in idx.split(sizes, dim=1)], dim=1)


@st.composite
def chunk_sizes(draw):
    """Une découpe quelconque d'une séquence de 1 à CONTEXT tokens."""
    total = draw(st.integers(1, CONTEXT))
    cuts = sorted(draw(st.sets(st.integers(0, CONTEXT))) & set(range(1, total)))
    return [end - start for start, end in zip([0, *cuts], [*cuts, total], strict=True)]


class TestEquality:
    @each_mode
    @pytest.mark.parametrize("batch", [1, 3])
    def test_token_by_token(self, mode, batch):
        model, idx = MODELS[mode], random_ids(batch, CONTEXT)
        logits = cached_logits(model, idx, [1] * CONTEXT)
        torch.testing.assert_close(logits, model(idx), rtol=0, atol=1e-5)

    @settings(deadline=None, max_examples=25)
    @given(
        mode=st.sampled_from(sorted(MODES)),
        batch=st.integers(1, 4),
        sizes=chunk_sizes(),
        seed=st.integers(0, 1000),
    )
    def test_any_chunks(self, mode, batch, sizes, seed):
        with torch.no_grad():
            model, idx = MODELS[mode], random_ids(batch, sum(sizes), seed)
            logits = cached_logits(model, idx, sizes)
            torch.testing.assert_close(logits, model(idx), rtol=0, atol=1e-5)

    @each_mode
    def test_with_the_readable_engine(self, mode):
        model, idx = build(mode), random_ids(2, CONTEXT)
        use_attention_(model, eager_attention)
        logits = cached_logits(model, idx, [5, 1, 1, 7, 2])
        torch.testing.assert_close(logits, MODELS[mode](idx), rtol=0, atol=1e-5)

    def test_the_past_matters(self):
        """Sans le passé, les logits diffèrent : l'égalité ci-dessus n'est pas vide."""
        model, idx = MODELS["livre"], random_ids(1, 6)
        cache = model.new_cache(1)
        model(idx[:, :5], cache)
        with_past = model(idx[:, 5:], cache)
        assert (with_past - model(idx[:, 5:])).abs().max() > 1e-2

    def test_rows_of_a_batch_do_not_mix(self):
        model, idx = MODELS["gpt2"], random_ids(3, 8)
        together = cached_logits(model, idx, [3, 1, 4])
        alone = torch.cat([cached_logits(model, row[None], [3, 1, 4]) for row in idx])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


class TestCapacity:
    def test_defaults_to_the_context(self):
        cache = MODELS["livre"].new_cache(1)
        assert (cache.capacity, cache.length) == (CONTEXT, 0)

    def test_length_counts_positions_and_buffers_do_not_move(self):
        model, idx = MODELS["livre"], random_ids(2, 8)
        cache = model.new_cache(2)
        address = cache.storage.data_ptr()
        for step, chunk in enumerate(idx.split(2, dim=1), start=1):
            model(chunk, cache)
            assert cache.length == 2 * step
        assert cache.storage.data_ptr() == address

    def test_more_than_the_context_is_refused_and_changes_nothing(self):
        model, idx = MODELS["livre"], random_ids(1, CONTEXT)
        cache = model.new_cache(1, capacity=2 * CONTEXT)
        model(idx[:, :-1], cache)
        with pytest.raises(ValueError, match=rf"{CONTEXT + 1} positions.*{CONTEXT}"):
            model(idx[:, :2], cache)
        assert cache.lengths == [CONTEXT - 1]
        last = model(idx[:, -1:], cache)
        torch.testing.assert_close(last, model(idx)[:, -1:], rtol=0, atol=1e-5)

    def test_more_than_the_capacity_is_refused_and_changes_nothing(self):
        model, idx = MODELS["livre"], random_ids(1, 4)
        cache = model.new_cache(1, capacity=4)
        model(idx[:, :3], cache)
        with pytest.raises(ValueError, match=r"cache plein : 5 positions pour 4"):
            model(idx[:, :2], cache)
        assert cache.lengths == [3]
        last = model(idx[:, 3:], cache)
        torch.testing.assert_close(last, model(idx)[:, -1:], rtol=0, atol=1e-5)

    def test_reset_forgets_everything(self):
        model, first, second = MODELS["gpt2"], random_ids(1, CONTEXT, 1), random_ids(1, 5, 2)
        cache = model.new_cache(1)
        model(first, cache)
        cache.reset()
        assert cache.length == 0
        torch.testing.assert_close(model(second, cache), model(second), rtol=0, atol=1e-5)

    def test_follows_the_type_of_the_model(self):
        model = build("livre").double()
        cache = model.new_cache(2)
        logits = model(random_ids(2, 3), cache)
        assert logits.dtype == torch.float64
        assert cache.storage.dtype == torch.float64


class TestRaggedRows:
    """Des séquences de longueurs différentes dans un même lot."""

    LENGTHS = (3, 7, 1, 5)

    def prefilled(self, model, ids):
        """Débuts complétés à droite, puis ramenés à leur longueur ; logits de la suite (B, V)."""
        padded = torch.zeros(len(self.LENGTHS), max(self.LENGTHS), dtype=torch.int64)
        for row, length in enumerate(self.LENGTHS):
            padded[row, :length] = ids[row, :length]
        cache = model.new_cache(len(self.LENGTHS))
        at = torch.tensor(self.LENGTHS) - 1
        logits = model(padded, cache, at=at)
        cache.rewind_(self.LENGTHS)
        return cache, logits[:, 0]

    @pytest.mark.slow
    @each_mode
    @pytest.mark.parametrize("engine", [None, eager_attention])
    @pytest.mark.parametrize("size", [1, 3])
    def test_each_row_is_what_it_would_be_alone(self, mode, engine, size):
        model, ids = build(mode), random_ids(4, CONTEXT)
        if engine is not None:
            use_attention_(model, engine)
        cache, logits = self.prefilled(model, ids)
        for row, length in enumerate(self.LENGTHS):
            expected = MODELS[mode](ids[row : row + 1, :length])[0, -1]
            torch.testing.assert_close(logits[row], expected, rtol=0, atol=1e-5)
        for turn in range(3):
            starts = [length + turn * size for length in self.LENGTHS]
            chunk = torch.stack([ids[row, a : a + size] for row, a in enumerate(starts)])
            found = model(chunk, cache)
            for row, start in enumerate(starts):
                whole = MODELS[mode](ids[row : row + 1, : start + size])[0, -size:]
                torch.testing.assert_close(found[row], whole, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("rows", [[3, 0, 0], [1, 0, 2, 2], [0, 1, 2, 3], [2, 2, 0, 1, 3]])
    def test_rows_are_kept_ordered_and_repeated(self, rows):
        model, ids = MODELS["livre"], random_ids(4, CONTEXT)
        cache, _ = self.prefilled(model, ids)
        cache.select_(rows)
        assert cache.lengths == [self.LENGTHS[row] for row in rows]
        tokens = torch.arange(4, 4 + len(rows)).unsqueeze(1)
        found = model(tokens, cache)
        for place, row in enumerate(rows):
            whole = torch.cat([ids[row, : self.LENGTHS[row]], tokens[place]])[None]
            torch.testing.assert_close(found[place, -1], model(whole)[0, -1], rtol=0, atol=1e-5)

    def test_a_cache_is_copied_into_a_larger_one(self):
        model, ids = MODELS["gpt2"], random_ids(4, CONTEXT)
        first, _ = self.prefilled(model, ids)
        second, _ = self.prefilled(model, ids.flip(0))
        joined = model.new_cache(8)
        joined.load_(first, 0)
        joined.load_(second, 4)
        assert joined.lengths == [*self.LENGTHS, *self.LENGTHS]
        tokens = random_ids(8, 1, seed=5)
        expected = torch.cat([model(tokens[:4], first), model(tokens[4:], second)])
        torch.testing.assert_close(model(tokens, joined), expected, rtol=0, atol=1e-5)

    def test_no_room_for_another_cache(self):
        model = MODELS["livre"]
        with pytest.raises(ValueError, match="2 séquences de 0 positions à partir de la ligne 1"):
            model.new_cache(2).load_(model.new_cache(2), 1)

    def test_rewound_positions_are_forgotten(self):
        model, ids = MODELS["livre"], random_ids(1, 9)
        cache = model.new_cache(1)
        model(ids, cache)
        cache.rewind_([4])
        found = model(ids[:, 4:], cache)
        torch.testing.assert_close(found, model(ids)[:, 4:], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("lengths", [[5], [-1]])
    def test_only_present_positions_can_be_forgotten(self, lengths):
        model = MODELS["livre"]
        cache = model.new_cache(1)
        model(random_ids(1, 4), cache)
        with pytest.raises(ValueError, match="longueurs"):
            cache.rewind_(lengths)
        assert cache.lengths == [4]

    def test_one_position_only(self):
        """`at` rend les mêmes logits que la sortie entière, à la place choisie."""
        model, ids = MODELS["gpt2"], random_ids(3, 6)
        at = torch.tensor([5, 0, 2])
        found = model(ids, at=at)
        assert found.shape == (3, 1, 61)
        torch.testing.assert_close(found[:, 0], model(ids)[torch.arange(3), at], rtol=0, atol=1e-5)


class TestPieces:
    def test_layer_returns_all_positions(self):
        cache = KVCache(MODES["livre"], 1, capacity=4)
        k, v = torch.randn(2, 1, 3, 3, 8)
        keys, values, mask = cache.layers[1].append(k, v)
        assert (keys.shape, values.shape, mask) == ((1, 3, 3, 8), (1, 3, 3, 8), None)
        cache.advance_(3)
        k2, v2 = torch.randn(2, 1, 3, 1, 8)
        keys, values, mask = cache.layers[1].append(k2, v2)
        assert torch.equal(keys, torch.cat([k, k2], dim=2))
        assert torch.equal(values, torch.cat([v, v2], dim=2))
        assert mask is None

    def test_keys_and_values_are_distinct_in_each_layer(self):
        cache = KVCache(MODES["livre"], 2, capacity=5)
        assert cache.storage.shape == (2, 2, 2, 3, 5, 8)
        for number, layer in enumerate(cache.layers):
            keys = torch.full((2, 3, 1, 8), 2.0 * number + 1)
            layer.append(keys, keys + 1)
        assert cache.storage[:, :, 0, 0, 0, 0].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("slots", [[0, 1], [2, 0], [1], [3, 1, 2]])
def test_a_view_advances_its_lines_only(tiny_model, slots):
    """Les lignes choisies lisent ce qu'elles liraient seules ; les autres ne bougent pas."""
    ids = torch.randint(61, (4, 9), generator=torch.Generator().manual_seed(1))
    lengths = [3, 5, 1, 3]
    pool = tiny_model.new_cache(4, 16)
    with torch.inference_mode():
        for row, length in enumerate(lengths):
            tiny_model(ids[row : row + 1, :length], CacheView(pool, [row]))
        assert pool.lengths == lengths
        before = pool.storage.clone()
        for count in (1, 2):
            starts = [pool.lengths[slot] for slot in slots]
            pairs = list(zip(slots, starts, strict=True))
            new = torch.stack([ids[slot, start : start + count] for slot, start in pairs])
            logits = tiny_model(new, CacheView(pool, slots))
            for row, (slot, start) in enumerate(pairs):
                whole = tiny_model(ids[slot : slot + 1, : start + count])[0, -count:]
                torch.testing.assert_close(logits[row], whole)
    for row in set(range(4)) - set(slots):
        assert pool.lengths[row] == lengths[row]
        assert torch.equal(pool.storage[:, :, row], before[:, :, row])


def test_a_view_does_not_rearrange_its_pool(tiny_model):
    pool = tiny_model.new_cache(2, 4)
    view = CacheView(pool, [0])
    with pytest.raises(ValueError, match="vue"):
        view.select_([0, 0])
    with pytest.raises(ValueError, match="vue"):
        view.load_(pool, 0)


def test_lines_are_copied_and_cleared(tiny_model):
    pool = tiny_model.new_cache(2, 4)
    tiny_model(torch.tensor([[1, 2, 3]]), CacheView(pool, [0]))
    pool.copy_(0, 1, 2)
    assert pool.lengths == [3, 2]
    assert torch.equal(pool.storage[:, :, 0, :, :2], pool.storage[:, :, 1, :, :2])
    with pytest.raises(ValueError, match="4 positions"):
        pool.copy_(0, 1, 4)
    pool.clear_(0)
    assert pool.lengths == [0, 2]
    assert not pool.storage[:, :, 0].any()


def test_memory_is_given_back_without_the_garbage_collector():
    """Un cycle garderait le tampon, des dizaines de mégaoctets, jusqu'au ramasse-miettes."""
    gc.disable()
    try:
        model = build("livre")
        cache = model.new_cache(1)
        with torch.no_grad():
            model(torch.zeros(1, 2, dtype=torch.int64), cache)
        buffers = [weakref.ref(cache), weakref.ref(CacheView(cache, [0]))]
        del cache
        assert [ref() for ref in buffers] == [None, None]
    finally:
        gc.enable()
