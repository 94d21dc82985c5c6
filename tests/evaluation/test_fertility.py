"""La fertilité comptée à la main, le découpage qui rend le texte, la page qui se suffit."""

import pytest
from conftest import FRENCH_TEXT
from hypothesis import given, settings
from hypothesis import strategies as st
from page_helpers import HOSTILE, read_page

from gpt_architecture.data.tokenizer import SimpleTokenizerV2, get_tokenizer
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.data.tokenizers.simple import CharTokenizer
from gpt_architecture.errors import DataError
from gpt_architecture.evaluation.fertility import measure_fertility, split_text
from gpt_architecture.reports.vocabularies import vocabulary_page


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.from_text(FRENCH_TEXT, 300)


class TestFertility:
    def test_hand_counted(self):
        measured = measure_fertility("été à la", CharTokenizer.from_text("été à labcdefgh"))
        assert (measured.tokens, measured.words, measured.text_bytes) == (8, 3, 11)
        assert (measured.used, measured.vocab_size) == (
            6,
            13,
        )  # « é », « t », « à », « l », « a », « »
        assert measured.tokens_per_word == pytest.approx(8 / 3)
        assert measured.bytes_per_token == pytest.approx(11 / 8)
        assert measured.share_used == pytest.approx(6 / 13)
        assert measured.label == "char"

    def test_one_s_own_vocabulary_beats_gpt2_on_its_text(self):
        gpt2 = measure_fertility(FRENCH_TEXT, get_tokenizer("gpt2"))
        own = measure_fertility(FRENCH_TEXT, BPETokenizer.from_text(FRENCH_TEXT, 400))
        assert own.tokens_per_word < gpt2.tokens_per_word

    @pytest.mark.slow
    def test_long_text_is_counted_by_pieces(self, bpe):
        once, many = (measure_fertility(FRENCH_TEXT * n, bpe) for n in (1, 600))
        assert many.tokens == pytest.approx(600 * once.tokens, rel=0.01)
        assert many.words == 600 * once.words

    def test_no_word(self, bpe):
        with pytest.raises(DataError, match="aucun mot"):
            measure_fertility(" \n", bpe)


class TestSplit:
    @settings(deadline=None)
    @given(text=st.text(st.characters(exclude_categories=["Cs"])))
    def test_segments_make_the_text_and_the_ids(self, bpe, text):
        segments = list(split_text(text, bpe))
        assert "".join(segment.text for segment in segments) == text
        assert [token for segment in segments for token in segment.ids] == bpe.encode(text)
        assert all(segment.text for segment in segments)

    def test_a_character_in_several_tokens_stays_whole(self, bpe):
        (segment,) = split_text("😀", bpe)
        assert (segment.text, len(segment.ids)) == ("😀", 4)

    def test_words(self):
        tokenizer = SimpleTokenizerV2.from_text("le chat dort")
        assert [each.text for each in split_text("le chien dort", tokenizer)] == [
            *("le", "<|unk|>", "dort")
        ]


class TestPage:
    def test_shows_each_split_and_needs_nothing(self, bpe):
        page = vocabulary_page(
            f"L'eau\n{HOSTILE}", {"gpt2": get_tokenizer("gpt2"), "mon.json": bpe}
        )
        reader = read_page(page)
        assert "script" not in reader.tags
        for words in ("gpt2", "mon.json", "Tokens par mot", "50\u00a0257", "⏎"):
            assert words in reader.text
        titles = [value for name, value in reader.attributes if name == "title"]
        assert any(title.endswith(f" : {bpe.encode('L')[0]}") for title in titles)

    def test_label_is_escaped(self, bpe):
        assert "<img" not in vocabulary_page("a b", {HOSTILE: bpe})
