"""Pieces of a stream: together the text, never half a character, never a part of a stop string."""

from hypothesis import given
from hypothesis import strategies as st

from allometry.data.tokenizer import Bytes, train_bpe
from allometry.lm.inference.text_stream import StopStrings, TextStream

TEXT = "the cat sat on the mat — naïve café, 日本語 and 🙂 the end\n" * 3
SUBWORDS = train_bpe("bpe:300", 300, [TEXT])


@given(st.binary(max_size=60))
def test_bytes_are_decoded_as_at_once(content):
    stream = TextStream(Bytes())
    pieces = [stream.push([byte]) for byte in content] + [stream.finish()]
    assert "".join(pieces) == Bytes().decode(list(content))


@given(st.text(max_size=30))
def test_subwords_are_decoded_as_at_once(text):
    tokens = SUBWORDS.encode(text)
    stream = TextStream(SUBWORDS)
    pieces = [stream.push([token]) for token in tokens] + [stream.finish()]
    assert "".join(pieces) == text


def test_a_character_is_never_shown_in_halves():
    for tokenizer in (Bytes(), SUBWORDS):
        stream = TextStream(tokenizer)
        pieces = [stream.push([token]) for token in tokenizer.encode(TEXT)]
        assert "\ufffd" not in "".join(pieces)


@given(st.lists(st.integers(0, SUBWORDS.vocab_size - 1), max_size=40))
def test_any_tokens_end_in_some_text(tokens):
    """Tokens that are no valid text: nothing is held back for ever."""
    stream = TextStream(SUBWORDS)
    waiting = 0
    for token in tokens:
        waiting = 0 if stream.push([token]) else waiting + 1
        assert waiting <= 6
    stream.finish()


@given(st.lists(st.text("ab", max_size=3), max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_before_the_first_stop_string(pieces, strings):
    text = "".join(pieces)
    places = [place for string in strings if (place := text.find(string)) >= 0]
    stops, shown = StopStrings(strings), ""
    for piece in pieces:
        shown += stops.push(piece)
        assert not any(string in shown for string in strings)
    shown += stops.finish()
    assert stops.stopped == bool(places)
    if places:  # a string that ends earlier wins over one that begins earlier and ends later
        assert text.startswith(shown)
        assert any(text[len(shown) :].startswith(string) for string in strings)
    else:
        assert shown == text
