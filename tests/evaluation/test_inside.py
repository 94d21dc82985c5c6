"""Ce qui se regarde dans un modèle, comparé à des crochets posés sur lui, et compté à la main."""

import math
from dataclasses import replace

import pytest
import torch
from decoding_helpers import LetterTokenizer, sharp_model
from inside_helpers import IDS, MODELS, watched, without

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.attention_maps import attention_of
from gpt_architecture.evaluation.inside.ablation import Part, parts_of, study_ablation
from gpt_architecture.evaluation.inside.embeddings import (
    embedding_plane,
    nearest_tokens,
    principal_plane,
)
from gpt_architecture.evaluation.inside.heads import (
    Removal,
    find_heads,
    pattern_notes,
    repeated_tokens,
)
from gpt_architecture.evaluation.inside.lens import read_layers
from gpt_architecture.evaluation.inside.neurons import (
    neuron_logits,
    neuron_peaks,
    study_neuron,
)
from gpt_architecture.evaluation.inside.sentence import single_token

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
TEXT = [(7 * place * place + 3 * place) % 31 for place in range(80)]
"""Un texte plus long que le contexte (24 tokens)."""


def shares(model, x):
    """Les probabilités (T, V) que la tête de sortie lit d'un flux."""
    return model.out_head(model.final_norm(x))[0].softmax(-1)


# --- La lentille ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_each_layer_is_read_as_the_hooks_would(name):
    model = MODELS[name]()
    found = read_layers(model, IDS, top=4)
    seen, logits = watched(model, IDS)
    final = logits[0].softmax(-1)
    assert found.tokens == tuple(IDS)
    assert found.top_ids.shape == (3, len(IDS), 4)
    for row, x in enumerate(seen["residual"]):
        with torch.inference_mode():
            expected = shares(model, x)
        values, ids = expected.topk(4)
        assert torch.equal(found.top_ids[row], ids)
        torch.testing.assert_close(found.top_probabilities[row], values, **CLOSE)
        following = [float(expected[place, token]) for place, token in enumerate(IDS[1:])]
        torch.testing.assert_close(found.next_probabilities[row], torch.tensor(following), **CLOSE)
        entropy = -(expected * expected.log2()).sum(-1)
        torch.testing.assert_close(found.entropies[row], entropy, **CLOSE)
        gap = (final * (final / expected).log2()).sum(-1)
        torch.testing.assert_close(found.divergences[row], gap, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.norms[row], x[0].norm(dim=-1), **CLOSE)
    for site in ("attention", "feed_forward"):
        expected = torch.stack([value[0].norm(dim=-1) for value in seen[site]])
        torch.testing.assert_close(getattr(found, f"{site}_norms"), expected, **CLOSE)
    assert found.divergences[-1].max() == 0


def test_the_last_row_is_the_model():
    model = sharp_model().train()
    found = read_layers(model, IDS, top=1)
    assert model.training
    with torch.inference_mode():
        expected = model.eval()(torch.tensor([IDS]))[0].argmax(-1)
    assert torch.equal(found.top_ids[-1, :, 0], expected)


# --- L'ablation ----------------------------------------------------------------------------------


def usual(model, ids, part, mode):
    """Ce qui remplace une pièce, par les crochets : site → valeur."""
    seen, _ = watched(model, ids)
    found = {}
    for site in part.sites:
        value = seen[site][part.layer].mean(dim=(0, 1))
        value = value if part.head is None else value[part.head]
        found[site] = value if mode == "mean" else torch.zeros_like(value)
    return found


@pytest.mark.parametrize("mode", ["mean", "zero"])
@pytest.mark.parametrize("name", MODELS)
def test_each_part_is_removed_as_a_hook_would(name, mode):
    """Toutes les têtes, attentions, perceptrons et blocs, un à un."""
    model = MODELS[name]()
    found = study_ablation(model, IDS, mode=mode, target=7)
    whole = watched(model, IDS)[1][0, -1].softmax(-1)
    assert found.probability == pytest.approx(float(whole[7]), rel=1e-4)
    assert found.token == int(whole.argmax())
    parts = [part for layer in range(2) for part in parts_of(model, layer)]
    assert [each.part for each in found.effects] == parts
    assert len(parts) == 2 * (3 + 3)
    for effect in found.effects:
        fill = usual(model, IDS, effect.part, mode)
        row = without(model, IDS, effect.part, fill)[0, -1].softmax(-1)
        assert effect.probability == pytest.approx(float(row[7]), rel=1e-3, abs=1e-6)
        assert effect.token == int(row.argmax())
        assert effect.token_probability == pytest.approx(float(row.max()), rel=1e-3)
        gap = float((whole * (whole / row).log2()).sum())
        assert effect.divergence == pytest.approx(gap, rel=1e-2, abs=1e-5)
    gaps = [each.divergence for each in found.strongest]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.01


def test_the_most_probable_token_is_followed_by_default():
    found = study_ablation(sharp_model(), IDS)
    assert found.target == found.token
    assert found.mode == "mean"


def test_a_mean_over_one_position_changes_nothing():
    """À un seul token, la moyenne d'une pièce est ce qu'elle rend : rien n'est retiré."""
    found = study_ablation(sharp_model(), [3], mode="mean")
    for effect in found.effects:
        assert effect.divergence == pytest.approx(0.0, abs=1e-5)
        assert effect.probability == pytest.approx(found.probability, rel=1e-4)


# --- Les têtes -----------------------------------------------------------------------------------


def test_pure_heads_have_pure_notes():
    """Induction, répétition, token d'avant, premier : chacune a 1 chez elle."""
    length, size = 4, 8
    weights = torch.zeros(2, 4, size, size)
    for place in range(size):
        again = place >= length
        weights[:, 0, place, place - length + 1 if again else 0] = 1.0
        weights[:, 1, place, place - length if again else 0] = 1.0
        weights[:, 2, place, max(0, place - 1)] = 1.0
        weights[:, 3, place, 0] = 1.0
    induction, duplicate, previous, first = pattern_notes(weights, length)
    assert induction[0] == duplicate[1] == previous[2] == first[3] == 1.0
    assert induction[2] == 0.0
    assert duplicate[0] == 0.0


@pytest.mark.parametrize("name", MODELS)
def test_notes_are_those_of_the_attention_maps(name):
    """Recomptées suite par suite, position par position."""
    model = MODELS[name]()
    found = find_heads(model, length=6, rows=3, seed=4, checked=2)
    tokens = repeated_tokens(32, length=6, rows=3, seed=4)
    for layer in range(2):
        for head in range(3):
            notes = {"induction": [], "duplicate": [], "previous": [], "first": []}
            for row in tokens.tolist():
                weights = attention_of(model, row)[layer, head]
                for place in range(6, 12):
                    notes["induction"].append(float(weights[place, place - 5]))
                    notes["duplicate"].append(float(weights[place, place - 6]))
                for place in range(2, 12):
                    notes["previous"].append(float(weights[place, place - 1]))
                    notes["first"].append(float(weights[place, 0]))
            for pattern, values in notes.items():
                mine = float(getattr(found, pattern)[layer, head])
                assert mine == pytest.approx(sum(values) / len(values), rel=1e-4), pattern
    assert found.chance == pytest.approx(sum(1 / each for each in range(7, 13)) / 6)


@pytest.mark.parametrize("name", MODELS)
def test_losses_with_and_without_a_head_are_those_of_the_hooks(name):
    model = MODELS[name]()
    found = find_heads(model, length=6, rows=3, seed=4, checked=2)
    tokens = repeated_tokens(32, length=6, rows=3, seed=4)

    def losses(logits):
        logs = logits.log_softmax(-1)
        every = [
            [-float(logs[row, place, tokens[row, place + 1]]) for place in range(11)]
            for row in range(3)
        ]
        first = [each for row in every for each in row[:5]]
        again = [each for row in every for each in row[6:]]
        return sum(first) / len(first), sum(again) / len(again)

    with torch.inference_mode():
        first, again = losses(model(tokens))
    assert found.first_loss == pytest.approx(first, rel=1e-4)
    assert found.repeat_loss == pytest.approx(again, rel=1e-4)
    best = [(layer, head) for layer, head, _ in found.best("induction", 2)]
    assert [(each.layer, each.head) for each in found.removals] == best
    for each in found.removals:
        part = Part(kind="head", layer=each.layer, head=each.head)
        logits = without(model, tokens, part, usual(model, tokens.tolist(), part, "mean"))
        assert each.loss == pytest.approx(losses(logits)[1], rel=1e-4)


def test_repeats_are_drawn_once_and_without_doubles():
    found = repeated_tokens(32, length=10, rows=4, seed=1)
    assert torch.equal(found[:, :10], found[:, 10:])
    assert all(len(set(row[:10])) == 10 for row in found.tolist())
    assert torch.equal(found, repeated_tokens(32, length=10, rows=4, seed=1))
    assert not torch.equal(found, repeated_tokens(32, length=10, rows=4, seed=2))
    assert repeated_tokens(3, length=10, rows=2, seed=0).shape == (2, 20)  # peu de mots : répétés


def induction_model():
    """Deux couches écrites à la main, dont la tête 1 de la couche 2 recopie (Elhage et al., 2021).

    Le flux porte le token, puis la position, puis le token d'avant, mis là par la couche 1.
    """
    vocabulary, context = 12, 16
    width = vocabulary + context + vocabulary
    model = GPTModel(
        GPTConfig(
            vocab_size=vocabulary,
            context_length=context,
            emb_dim=width,
            n_heads=1,
            n_layers=2,
            drop_rate=0.0,
        )
    ).eval()
    token, place, before = (
        slice(0, vocabulary),
        slice(vocabulary, vocabulary + context),
        slice(vocabulary + context, width),
    )
    sharp = 60.0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for norm in [*(n for b in model.trf_blocks for n in (b.norm1, b.norm2)), model.final_norm]:
            norm.scale.fill_(1.0)
        model.tok_emb.weight[:, token] = torch.eye(vocabulary)
        model.pos_emb.weight[:, place] = torch.eye(context)
        first, second = (block.att for block in model.trf_blocks)
        # Couche 1 : la position i cherche i − 1, et en rapporte le token.
        first.W_query.weight[place, place] = sharp * torch.eye(context).roll(-1, 0)
        first.W_key.weight[place, place] = torch.eye(context)
        first.W_value.weight[before, token] = torch.eye(vocabulary)
        first.out_proj.weight[before, before] = torch.eye(vocabulary)
        # Couche 2 : le token cherche la place dont il est le token d'avant, et en rapporte le sien.
        second.W_query.weight[before, token] = sharp * torch.eye(vocabulary)
        second.W_key.weight[before, before] = torch.eye(vocabulary)
        second.W_value.weight[token, token] = torch.eye(vocabulary)
        second.out_proj.weight[token, token] = 4 * torch.eye(vocabulary)
        model.out_head.weight[:, token] = 4 * torch.eye(vocabulary)
    return model


def test_a_hand_made_induction_head_is_found():
    """La couche 1 regarde avant, la couche 2 recopie, et sans elle la répétition se perd."""
    found = find_heads(induction_model(), length=6, rows=4)
    assert found.best("previous", 1)[0][:2] == (0, 0)
    assert found.previous[0, 0] > 0.9
    assert found.best("induction", 1)[0][:2] == (1, 0)
    assert found.induction[1, 0] > 0.9
    assert found.repeat_loss < 1.5 < found.first_loss
    removal = found.removals[0]
    assert (removal.layer, removal.head) == (1, 0)
    assert removal.loss > found.repeat_loss + 1.0
    assert found.copying == (1, 0)


@pytest.mark.parametrize(
    ("note", "repeat_loss", "without", "copies"),
    [
        (0.3, 4.0, 4.6, True),
        (0.3, 4.0, 4.3, False),  # d'autres têtes recopient aussi
        (0.1, 4.0, 4.6, False),  # elle sert, mais à autre chose
        (0.3, 5.1, 5.3, False),  # le modèle ne recopie pas
    ],
)
def test_a_head_copies_if_the_model_needs_it(note, repeat_loss, without, copies):
    """De 5 nats à `repeat_loss` quand la suite se répète, à `without` sans elle ; hasard 0,04."""
    found = find_heads(induction_model(), length=6, rows=2)
    changed = replace(
        found,
        induction=torch.tensor([[0.02], [note]]),
        chance=0.04,
        first_loss=5.0,
        repeat_loss=repeat_loss,
        removals=(
            Removal(layer=0, head=0, loss=repeat_loss),
            Removal(layer=1, head=0, loss=without),
        ),
    )
    assert changed.copying == ((1, 0) if copies else None)
    assert ("Celle qui recopie" in changed.verdict) is copies
    assert ("ce modèle ne recopie pas" in changed.verdict) is (repeat_loss > 5)


def test_without_a_removal_no_head_is_said_to_copy():
    found = find_heads(induction_model(), length=6, rows=2, checked=0)
    assert found.copying is None
    assert found.verdict.endswith("quand la suite se répète.")


# --- Les neurones --------------------------------------------------------------------------------


def hooked_neurons(model, layer):
    """Les activations du texte, fenêtre par fenêtre, comptées à la main : chaque token une fois."""
    rows, done = [], 0
    while done < len(TEXT):
        end = min(done + (24 if not done else 12), len(TEXT))
        seen, _ = watched(model, TEXT[max(0, end - 24) : end])
        rows += seen["neurons"][layer][0][done - end :].tolist()
        done = end
    return torch.tensor(rows)


@pytest.mark.parametrize("name", MODELS)
def test_examples_are_the_highest_activations(name):
    model, layer, neuron = MODELS[name](), 1, 5
    expected = hooked_neurons(model, layer)
    found = study_neuron(model, TEXT, layer, neuron, top=6)
    column = expected[:, neuron]
    order = sorted(range(len(TEXT)), key=lambda place: (-float(column[place]), place))[:6]
    assert [each.position for each in found.examples] == order
    for each in found.examples:
        assert each.activation == pytest.approx(float(column[each.position]), rel=1e-4)
        assert each.token == TEXT[each.position]
        around = (*each.before, each.token, *each.after)
        start = max(0, each.position - 8)
        assert list(around) == TEXT[start : each.position + 9]
    assert found.tokens == len(TEXT)
    assert found.mean == pytest.approx(float(column.mean()), rel=1e-4)
    assert found.deviation == pytest.approx(float(column.std(correction=0)), rel=1e-4)
    peaks = {each.neuron: each for each in neuron_peaks(model, TEXT, layer)}
    assert len(peaks) == model.cfg.inner_width
    for each in peaks.values():
        column = expected[:, each.neuron]
        assert each.maximum == pytest.approx(float(column.max()), rel=1e-4, abs=1e-6)
        assert each.position == int(column.argmax())
        assert each.deviation == pytest.approx(float(column.std(correction=0)), rel=1e-3, abs=1e-6)
    sharp = [each.sharpness for each in neuron_peaks(model, TEXT, layer)]
    assert sharp == sorted(sharp, reverse=True)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_neuron_writes_is_its_column(name):
    """Une unité de plus dans le neurone, par un crochet : le flux change d'autant."""
    model, layer, neuron = MODELS[name](), 0, 3
    bare, _ = watched(model, IDS)

    def one_more(_, args, out):
        out = out.clone()
        out[..., neuron] += 1.0
        return out

    handle = model.trf_blocks[layer].ff.layers[1].register_forward_hook(one_more)
    more, _ = watched(model, IDS)
    handle.remove()
    with torch.inference_mode():
        pushed = more["feed_forward"][layer] - bare["feed_forward"][layer]
        expected = model.out_head(pushed)[0, 0]
    found = neuron_logits(model, layer, neuron)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    study = study_neuron(model, TEXT, layer, neuron, top=3)
    assert [token for token, _ in study.raised] == found.topk(3).indices.tolist()
    assert [token for token, _ in study.lowered] == (-found).topk(3).indices.tolist()


# --- Les embeddings ------------------------------------------------------------------------------


def test_neighbours_are_those_of_the_cosine():
    model = sharp_model()
    vectors = model.tok_emb.weight.detach()
    found = nearest_tokens(model, 4, top=31)
    cosines = {
        token: float(
            (vectors[token] * vectors[4]).sum() / vectors[token].norm() / vectors[4].norm()
        )
        for token in range(32)
        if token != 4
    }
    assert [each.token for each in found] == sorted(cosines, key=lambda token: -cosines[token])
    for each in found:
        assert each.similarity == pytest.approx(cosines[each.token], abs=1e-5)
    assert {each.token for each in nearest_tokens(model, 4, vocab_size=10)} == {*range(10)} - {4}


def test_the_plane_is_the_exact_analysis():
    """Les axes diagonalisent la covariance, et portent ses deux plus grandes valeurs propres."""
    model = sharp_model()
    tokens = [1, 5, 9, 5, 20, 30, 2]
    found = embedding_plane(model, tokens)
    assert found.tokens == (1, 5, 9, 20, 30, 2)
    vectors = model.tok_emb.weight.detach()[list(found.tokens)].double()
    covariance = torch.cov(vectors.T, correction=0)
    values = torch.linalg.eigvalsh(covariance).flip(0)
    mine = torch.cov(found.points.T, correction=0)
    torch.testing.assert_close(mine.diagonal(), values[:2])
    assert mine[0, 1].abs() < 1e-12
    assert found.shares == pytest.approx([float(each / values.sum()) for each in values[:2]])


def test_a_plane_of_the_plane_keeps_distances():
    points = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 1.0], [0.0, 3.0]]).double()
    found, shares = principal_plane(points)
    torch.testing.assert_close(torch.cdist(found, found), torch.cdist(points, points))
    assert sum(shares) == pytest.approx(1.0)
    again, _ = principal_plane(points)
    assert torch.equal(found, again)
    line, (first, second) = principal_plane(points[:, :1])
    assert line.shape == (4, 2)
    assert (first, second) == (pytest.approx(1.0), 0.0)
    still, shares = principal_plane(torch.ones(4, 3).double())
    assert still.abs().max() == 0
    assert shares == (0.0, 0.0)


# --- Les refus -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: read_layers(model, []), "0 token"),
        (lambda model: read_layers(model, [1] * 25), "1 à 24 tokens"),
        (lambda model: read_layers(model, [99]), "0 à 31"),
        (lambda model: read_layers(model, IDS, window=4), "1 à 4 tokens"),
        (lambda model: read_layers(model, IDS, most=5), "1 à 5 tokens"),
        (lambda model: read_layers(model, IDS, top=0), "top vaut 0"),
        (lambda model: read_layers(lambda ids: ids, IDS), "non quantifié"),
        (lambda model: study_ablation(model, IDS, mode="autre"), "mode vaut"),
        (lambda model: study_ablation(model, IDS, target=32), "target vaut 32"),
        (lambda model: study_ablation(model, []), "0 token"),
        (lambda model: find_heads(model, length=13), "length vaut 13"),
        (lambda model: find_heads(model, rows=0), "rows vaut 0"),
        (lambda model: find_heads(model, checked=-1), "checked vaut -1"),
        (lambda model: find_heads(model, window=3), "contexte de 2 tokens"),
        (lambda model: study_neuron(model, TEXT, 2, 0), "layer vaut 2"),
        (lambda model: study_neuron(model, TEXT, 0, 96), "neuron vaut 96"),
        (lambda model: study_neuron(model, [], 0, 0), "aucun token"),
        (lambda model: neuron_peaks(model, [], 0), "aucun token"),
        (lambda model: neuron_peaks(model, [1, 99], 0), "0 à 31"),
        (lambda model: nearest_tokens(model, 32), "token vaut 32"),
        (lambda model: nearest_tokens(model, 0, top=0), "top vaut 0"),
        (lambda model: embedding_plane(model, [1, 1, 2]), "2 tokens différents"),
        (lambda model: embedding_plane(model, [1, 2, 32]), "token vaut 32"),
    ],
)
def test_refusals_are_one_sentence(call, words):
    with pytest.raises(ConfigurationError, match=words):
        call(sharp_model())


def test_a_word_is_one_token_with_its_space():
    """Un mot qui n'est un token que précédé de son espace : l'erreur dit de l'ajouter."""
    known = {" lampe": [330], " passeur": [6, 7]}

    def encode(text):
        if text not in known:
            raise ConfigurationError("pas d'espace ici", expected="un caractère connu", remedy="…")
        return known[text]

    assert single_token([7], "a", encode) == 7
    for ids, text, words in (
        ([535, 328], "lampe", "« lampe » fait 2 tokens .* ajoutez cette espace : « ␣lampe »"),
        ([1, 2], "passeur", "donnez un token"),
        ([1, 2], "été", "donnez un token"),
        ([], "", "fait 0 token"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            single_token(ids, text, encode)


def test_the_vocabulary_of_the_tests_is_that_of_the_model():
    assert LetterTokenizer.vocab_size == 32
    assert math.isclose(sharp_model().cfg.inner_width, 96)
