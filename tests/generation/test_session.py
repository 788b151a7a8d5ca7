"""The decoding loop, compared with a plain loop without cache, batch or stream."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.config import SamplingConfig
from homespun.errors import UserError
from homespun.generation.sampler import Sampler
from homespun.generation.session import MAX_BATCH, Session


def prompt_ids(tokenizer, prompt, context):
    return Session(None, tokenizer, context).prompt_ids(prompt)


def uncached(model, prompt, config, context, sample=0):
    """The tokens of one sample, decoded without a cache: the model reads the whole window again for every token."""
    sampler, written, window = Sampler(config, config.seed, sample, prompt[1:]), [], list(prompt)
    while len(written) < config.max_tokens:
        token = sampler(model(tuple(window)))
        if token == 0:
            break
        written.append(token)
        full = len(window) == context
        window = [*window, token]
        if full:
            window = window[-(context // 2) :]
    return tuple(written)


@pytest.mark.parametrize("context", [2, 3, 8, 9, 200])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_cached_equals_uncached_also_past_the_context(decoders, tokenizer, context, penalty):
    config = SamplingConfig(max_tokens=50, temperature=1, seed=3, repetition_penalty=penalty)
    factory = decoders(eot=-100)
    prompt = None if context < 4 else "ab"
    ids = prompt_ids(tokenizer, prompt, context)
    results = Session(factory, tokenizer, context).generate(prompt, config, 3)
    for sample, result in enumerate(results):
        assert result.token_ids == uncached(factory.model, ids, config, context, sample)
        assert result.finish == "length"
        assert len(result.token_ids) == 50
    assert any(decoder.rewinds for decoder in factory.decoders) == (context < 53)


def test_the_window_after_a_full_cache_is_the_newer_half(decoders, tokenizer):
    """With a context of 8, the last 4 tokens are read again as positions 0 to 3 when the cache is full."""
    factory = decoders(eot=-100)
    config = SamplingConfig(max_tokens=9, seed=0)
    (result,) = Session(factory, tokenizer, 8).generate(None, config)
    fed = [0, *result.token_ids]
    assert factory.made[0].cache[0] == fed[5:9]


def test_a_prompt_that_fills_the_context_is_continued(decoders, tokenizer):
    factory = decoders(eot=-100)
    config = SamplingConfig(max_tokens=3, seed=0)
    (result,) = Session(factory, tokenizer, 8).generate("1234567", config)
    ids = prompt_ids(tokenizer, "1234567", 8)
    assert result.token_ids == uncached(factory.model, ids, config, 8)


def test_texts_of_a_batch_end_each_in_its_time(decoders, tokenizer):
    factory = decoders(eot=8)
    config = SamplingConfig(max_tokens=12, temperature=1, min_p=0, seed=5)
    results = Session(factory, tokenizer, 10).generate("x", config, 8)
    for sample, result in enumerate(results):
        ids = prompt_ids(tokenizer, "x", 10)
        assert result.token_ids == uncached(factory.model, ids, config, 10, sample)
        assert 0 not in result.token_ids
    assert {result.finish for result in results} == {"end", "length"}
    assert len({len(result.token_ids) for result in results}) > 2


def test_a_sample_does_not_depend_on_how_many_there_are(decoders, tokenizer):
    config = SamplingConfig(max_tokens=5, temperature=1, seed=11)
    many = Session(decoders(), tokenizer, 64).generate("x", config, MAX_BATCH + 3)
    few = Session(decoders(), tokenizer, 64).generate("x", config, 3)
    assert [r.token_ids for r in many[:3]] == [r.token_ids for r in few]
    assert len({r.token_ids for r in many}) == MAX_BATCH + 3


def test_a_sample_is_given_as_soon_as_it_and_those_before_it_have_ended(decoders, tokenizer):
    config = SamplingConfig(max_tokens=40, temperature=1, min_p=0.2, seed=11)
    factory = decoders(eot=3)
    expected = Session(factory, tokenizer, 64).generate("x", config, 4)
    lengths = [len(sample.token_ids) for sample in expected]
    assert lengths[0] < max(lengths)
    factory = decoders(eot=3)
    samples = Session(factory, tokenizer, 64).samples("x", config, 4)
    read = []
    for sample, same in zip(samples, expected, strict=True):
        assert sample == same
        [first] = factory.made
        read.append(first.copies[0].tokens_read)
    assert read == sorted(read)
    assert read[0] < read[-1]


def test_many_samples_run_in_bounded_batches_and_caches_fit_the_text(decoders, tokenizer):
    factory = decoders()
    config = SamplingConfig(max_tokens=4, seed=0)
    Session(factory, tokenizer, 64).generate("xyz", config, MAX_BATCH + 1)
    assert [len(decoder.cache) for decoder in factory.decoders] == [1, MAX_BATCH, 1]
    assert {decoder.max_len for decoder in factory.decoders} == {8}


def test_the_prompt_is_computed_once_for_all_samples(decoders, tokenizer):
    factory = decoders(eot=-100)
    config = SamplingConfig(max_tokens=4, seed=0)
    Session(factory, tokenizer, 64).generate("x" * 40, config, 5)
    [first] = factory.made
    assert first.tokens_read == 41
    assert [copy.tokens_read for copy in first.copies] == [5 * 3]


@pytest.mark.parametrize("context", [6, 9, 64])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_prompts_of_unequal_length_give_the_texts_that_each_gives_alone(
    decoders, tokenizer, context, penalty
):
    config = SamplingConfig(max_tokens=30, temperature=1, seed=3, repetition_penalty=penalty)
    prompts = ["a", None, "abcde", "bc", "abcde"]
    factory = decoders(eot=3)
    session = Session(factory, tokenizer, context)
    together = session.generate_batch(prompts, config)
    for prompt, result in zip(prompts, together, strict=True):
        [alone] = session.generate(prompt, config)
        assert result == alone
        ids = prompt_ids(tokenizer, prompt, context)
        assert result.token_ids == uncached(factory.model, ids, config, context)
    assert len({len(result.token_ids) for result in together}) > 1


def test_a_list_of_ids_is_the_prompt_as_it_is(decoders, tokenizer):
    config = SamplingConfig(max_tokens=12, temperature=0)
    session = Session(decoders(), tokenizer, 16)
    ids = session.prompt_ids("abc")
    by_text, by_ids, inside = session.generate_batch(["abc", ids, ids[2:]], config)
    assert by_ids == by_text
    assert inside.token_ids == uncached(decoders().model, ids[2:], config, 16)
    for bad in ([], [1] * 17):
        with pytest.raises(UserError, match=f"the prompt has {len(bad)} tokens: 1 to 16"):
            session.generate_batch([bad], config)
    for bad in ([0, -1], [tokenizer.vocab_size]):
        with pytest.raises(UserError, match="not in the vocabulary"):
            session.generate_batch([bad], config)


def test_a_bad_prompt_among_others_is_refused_before_anything_runs(decoders, tokenizer):
    factory = decoders()
    with pytest.raises(UserError, match="the prompt is empty"):
        Session(factory, tokenizer, 8).generate_batch(["a", ""], SamplingConfig())
    assert not factory.made


def test_without_a_seed_two_runs_differ_and_with_one_they_agree(decoders, tokenizer):
    def run(seed):
        config = SamplingConfig(max_tokens=20, temperature=1, min_p=0, seed=seed)
        return Session(decoders(), tokenizer, 64).generate(None, config)[0].token_ids

    assert run(7) == run(7)
    assert run(None) != run(None)


@pytest.mark.parametrize(
    ("stop", "text", "finish"),
    [
        ((), "one, two, three", "end"),
        ((", t",), "one", "stop"),
        (("three!",), "one, two, three", "end"),
        (("nothing", "two"), "one, ", "stop"),
        (("ne, two", "e"), "on", "stop"),
        (("e", "ne"), "o", "stop"),
        (("one",), "", "stop"),
        (("three",), "one, two, ", "stop"),
    ],
)
def test_a_stop_string_ends_the_text_and_is_not_part_of_it(scripted, tokenizer, stop, text, finish):
    config = SamplingConfig(stop=stop)
    (result,) = Session(scripted(b"one, two, three"), tokenizer, 64).generate(None, config)
    assert (result.text, result.finish) == (text, finish)
    pieces = Session(scripted(b"one, two, three"), tokenizer, 64).stream(None, config)
    assert "".join(pieces) == text


def test_the_token_limit_releases_what_was_held_back(scripted, tokenizer):
    config = SamplingConfig(max_tokens=6, stop=("two!",))
    (result,) = Session(scripted(b"one two three"), tokenizer, 64).generate(None, config)
    assert (result.text, result.finish) == ("one tw", "length")


def test_only_whole_characters_are_streamed(scripted, tokenizer):
    text = "né, 好, 🧵."
    pieces = list(Session(scripted(text.encode()), tokenizer, 64).stream(None, SamplingConfig()))
    assert pieces == list(text)


def test_a_character_cut_off_by_the_limit_is_marked(scripted, tokenizer):
    config = SamplingConfig(max_tokens=3)
    (result,) = Session(scripted("a🧵".encode()), tokenizer, 64).generate(None, config)
    assert result.text == "a\N{REPLACEMENT CHARACTER}"


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    text=st.text("abc", max_size=12),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3).map(tuple),
    chunk=st.integers(1, 5),
)
def test_the_stop_that_completes_first_ends_the_text_however_it_is_cut_into_tokens(
    scripted, tokenizer, text, stop, chunk
):
    config = SamplingConfig(stop=stop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "chunk", chunk, raising=False)
        (result,) = Session(scripted(text.encode()), tokenizer, 64).generate(None, config)
    expected = text
    for end, word in itertools.product(range(len(text) + 1), sorted(stop, key=len, reverse=True)):
        if text[:end].endswith(word):
            expected = text[: end - len(word)]
            break
    assert result.text == expected


def test_stream_gives_the_text_of_generate_and_returns_the_whole(decoders, tokenizer):
    config = SamplingConfig(max_tokens=30, seed=2)
    (whole,) = Session(decoders(), tokenizer, 16).generate("x", config)
    pieces = Session(decoders(), tokenizer, 16).stream("x", config)
    text = ""
    while True:
        try:
            text += next(pieces)
        except StopIteration as stopped:
            result = stopped.value
            break
    assert text == result.text == whole.text
    assert result.token_ids == whole.token_ids


def test_closing_a_stream_stops_the_model(decoders, tokenizer):
    factory = decoders(eot=-100)
    pieces = Session(factory, tokenizer, 64).stream(None, SamplingConfig(max_tokens=10**6))
    next(pieces)
    length = factory.made[0].length
    pieces.close()
    assert factory.made[0].length == length < 20


def test_the_mark_at_the_start_is_no_repetition(decoders, tokenizer):
    config = SamplingConfig(temperature=0, repetition_penalty=1e6)
    (result,) = Session(decoders(eot=20), tokenizer, 64).generate(None, config)
    assert (result.finish, result.token_ids, result.text) == ("end", (), "")


def test_rows_beyond_the_vocabulary_are_never_drawn(decoders, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "vocab_size", 3, raising=False)
    config = SamplingConfig(max_tokens=40, seed=0)
    (result,) = Session(decoders(), tokenizer, 64).generate(None, config)
    assert set(result.token_ids) <= {1, 2}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty: leave --prompt out"),
        ("x" * 8, "the prompt is 9 tokens long .* context is 8"),
        ("ab\udcff", "not valid UTF-8 from character 3"),
    ],
)
def test_a_bad_prompt_is_refused_before_anything_runs(decoders, tokenizer, prompt, message):
    factory = decoders()
    with pytest.raises(UserError, match=message) as caught:
        Session(factory, tokenizer, 8).generate(prompt, SamplingConfig())
    assert "\n" not in str(caught.value)
    assert not factory.made


def test_an_empty_stop_string_is_refused(decoders, tokenizer):
    with pytest.raises(UserError, match="stop string is empty"):
        Session(decoders(), tokenizer, 8).generate(None, SamplingConfig(stop=("a", "")))


class LongText(list):
    """Token ids that are too many to be read for each new token."""

    def __getitem__(self, index):
        assert not isinstance(index, slice), "the text is copied"
        return super().__getitem__(index)

    def __iter__(self):
        raise AssertionError("the text is read again")


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_the_work_for_a_token_does_not_grow_with_the_text(tokenizer, penalty):
    config = SamplingConfig(max_tokens=9, repetition_penalty=penalty, temperature=0)
    session = Session(None, tokenizer, 64)
    [text] = session.texts([0, 98], config, 1)
    text.ids = LongText(text.ids)
    logits = np.zeros(tokenizer.vocab_size, dtype=np.float32)
    logits[[98, 99, 100]] = 3.0, 2.9, 2.8
    drawn = []
    for _ in range(3):
        text.extend(session.draw([text], [logits])[0])
        drawn.append(text.ids[-1])
    assert drawn == ([98, 98, 98] if penalty == 1 else [99, 100, 98])
