"""The NumPy engine agrees with `transformers` and PyTorch, and its cached decoding with the whole forward pass."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from homespun.config import ModelConfig, ReaderConfig, SamplingConfig
from homespun.data.batch import IGNORED, Batch, Tokens
from homespun.engine import select
from homespun.engine.base import Decoder, EngineOptions, Floats
from homespun.engine.numpy import engine as numpy_engine
from homespun.engine.numpy.engine import NumpyEngine
from homespun.engine.numpy.models import qwen3_moe
from homespun.engine.torch.engine import TorchEngine
from homespun.generation.sampler import Sampler
from tests.reference import (
    GPT2,
    LLAMA,
    QWEN3,
    TIED_AND_UNTIED,
    HuggingFace,
    random_batch,
    random_weights,
    relative_error,
)

CONFIGS = TIED_AND_UNTIED | {"llama tied": dataclasses.replace(LLAMA, tie_embeddings=True)}
ALL = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
TOLERANCE = 1e-5


def reader(config: ModelConfig) -> NumpyEngine:
    made = NumpyEngine(config)
    made.load(random_weights(config).items())
    return made


def torch_reader(config: ModelConfig) -> TorchEngine:
    made = TorchEngine(config, EngineOptions(precision="float32", threads=2, seed=None))
    made.load(random_weights(config).items())
    return made


def decoded(decoder: Decoder, tokens: Tokens) -> Floats:
    """Append the tokens one by one; returns the logits after each: [B, T] -> [B, T, V]."""
    return np.stack([decoder.step(tokens[:, i]) for i in range(tokens.shape[1])], axis=1)


@ALL
def test_logits_are_those_of_transformers(config: ModelConfig) -> None:
    batch = random_batch(config)
    theirs = HuggingFace(config, random_weights(config)).logits(batch)
    assert relative_error(reader(config).logits(batch.inputs), theirs) < TOLERANCE


@ALL
def test_the_loss_is_that_of_the_other_engine(config: ModelConfig) -> None:
    batch = random_batch(config)
    targets = batch.targets.copy()
    targets[:, ::5] = IGNORED
    batch = Batch(batch.inputs, targets)
    assert reader(config).loss(batch) == pytest.approx(torch_reader(config).loss(batch), rel=1e-6)


@ALL
@pytest.mark.parametrize("prefilled", [1, 7, 23])
def test_a_cached_model_gives_the_logits_of_the_whole_text(
    config: ModelConfig, prefilled: int
) -> None:
    ours, inputs = reader(config), random_batch(config).inputs
    decoder = ours.decoder(len(inputs), config.seq_len)
    whole = ours.logits(inputs)
    first = decoder.prefill(inputs[:, :prefilled])
    assert relative_error(first, whole[:, prefilled - 1]) < TOLERANCE
    assert relative_error(decoded(decoder, inputs[:, prefilled:]), whole[:, prefilled:]) < TOLERANCE
    assert decoder.length == config.seq_len
    decoder.rewind(5)
    assert relative_error(decoder.prefill(inputs[:, 5:9]), whole[:, 8]) < TOLERANCE


def each_row_alone(
    config: ModelConfig, tokens: Tokens, lengths: Sequence[int], n_steps: int
) -> Floats:
    """Decode each row in a batch of one: the logits after its first `lengths` tokens and after each of the next
    `n_steps`, [B, 1 + steps, V]."""
    ours, found = reader(config), []
    for row, length in zip(tokens, lengths, strict=True):
        decoder = ours.decoder(1, config.seq_len)
        first = decoder.prefill(row[None, :length])[:, None]
        steps = decoded(decoder, row[None, length : length + n_steps])
        found.append(np.concatenate((first, steps), axis=1)[0])
    return np.stack(found)


def next_tokens(tokens: Tokens, lengths: Sequence[int], n: int) -> Tokens:
    """The `n` tokens that follow the first `lengths` of each row."""
    return np.stack([row[at : at + n] for row, at in zip(tokens, lengths, strict=True)])


def padded(tokens: Tokens, lengths: Sequence[int], to: int, padding: int) -> Tokens:
    """The first `lengths` tokens of each row, and padding up to `to` tokens."""
    inside = np.arange(to) < np.asarray(lengths)[:, None]
    return np.where(inside, tokens[:, :to], padding).astype(np.int32)


@ALL
@pytest.mark.parametrize("lengths", [(1, 9, 4), (12, 12, 3), (5, 5, 5)])
def test_rows_of_different_length_are_read_as_each_alone(
    config: ModelConfig, lengths: tuple[int, ...]
) -> None:
    n_steps, tokens = 8, random_batch(config).inputs
    expected = each_row_alone(config, tokens, lengths, n_steps)
    following = next_tokens(tokens, lengths, n_steps)
    decoder = reader(config).decoder(3, config.seq_len)
    for padding in (0, 50):
        decoder.rewind(0)
        first = decoder.prefill(padded(tokens, lengths, 12, padding), lengths)
        assert relative_error(first, expected[:, 0]) < TOLERANCE
        assert decoder.length == max(lengths)
        assert relative_error(decoded(decoder, following), expected[:, 1:]) < TOLERANCE
        assert decoder.length == max(lengths) + n_steps


@ALL
def test_rewound_rows_of_different_length_go_on_where_they_were(config: ModelConfig) -> None:
    tokens, lengths = random_batch(config).inputs, (2, 9, 4)
    decoder = reader(config).decoder(3, config.seq_len)
    decoder.prefill(padded(tokens, lengths, 9, padding=0), lengths)
    decoder.rewind(6)
    kept = (2, 6, 4)
    assert decoder.length == 6
    expected = each_row_alone(config, tokens, kept, 3)[:, 1:]
    assert relative_error(decoded(decoder, next_tokens(tokens, kept, 3)), expected) < TOLERANCE
    decoder.rewind(2)  # every row has at least two positions
    expected = each_row_alone(config, tokens, (6, 6, 6), 1)[:, 0]
    assert relative_error(decoder.prefill(tokens[:, 2:6]), expected) < TOLERANCE


@ALL
def test_padding_to_one_length_changes_no_bit(config: ModelConfig) -> None:
    ours, tokens = reader(config), random_batch(config).inputs
    plain, with_padding = ours.decoder(3, config.seq_len), ours.decoder(3, config.seq_len)
    expected = plain.prefill(tokens[:, :6])
    np.testing.assert_array_equal(with_padding.prefill(tokens[:, :9], [6, 6, 6]), expected)
    expected = decoded(plain, tokens[:, 6:])
    np.testing.assert_array_equal(decoded(with_padding, tokens[:, 6:]), expected)


def test_rows_of_different_length_need_an_empty_cache() -> None:
    tokens = random_batch(GPT2).inputs
    decoder = reader(GPT2).decoder(3, GPT2.seq_len)
    decoder.prefill(tokens[:, :4])
    with pytest.raises(ValueError, match="need an empty cache"):
        decoder.prefill(tokens[:, 4:8], [1, 2, 3])
    decoder.rewind(0)
    decoder.prefill(tokens[:, :4], [1, 2, 3])
    with pytest.raises(ValueError, match="differ in length: rewind"):
        decoder.prefill(tokens[:, 4:8])


@ALL
def test_a_repeated_decoder_is_as_many_that_read_the_same(config: ModelConfig) -> None:
    ours, tokens = reader(config), random_batch(config).inputs
    one = ours.decoder(1, config.seq_len)
    one.prefill(tokens[:1, :7])
    three = one.repeated(3)
    copies = ours.decoder(3, config.seq_len)
    copies.prefill(np.repeat(tokens[:1, :7], 3, axis=0))
    assert three.length == copies.length == 7
    found, expected = decoded(three, tokens[:, 7:12]), decoded(copies, tokens[:, 7:12])
    assert relative_error(found, expected) < TOLERANCE
    # Tokens that the copies read do not change the original.
    again = decoded(one, tokens[:1, 7:12])
    assert relative_error(again, found[:1]) < TOLERANCE
    with pytest.raises(ValueError, match="only one sequence can be repeated, not 3"):
        three.repeated(2)


@ALL
def test_a_long_text_is_read_in_slices(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, inputs = reader(config), random_batch(config).inputs
    whole = ours.logits(inputs)
    monkeypatch.setattr(numpy_engine, "SLICE_LENGTH", 7)
    monkeypatch.setattr(qwen3_moe, "TOKENS_AT_A_TIME", 3)
    assert relative_error(ours.logits(inputs), whole) < TOLERANCE


@ALL
def test_no_position_sees_the_tokens_after_it(config: ModelConfig) -> None:
    ours, inputs = reader(config), random_batch(config).inputs
    changed = inputs.copy()
    changed[:, 10:] = (changed[:, 10:] + 1) % config.vocab_size
    before, after = ours.logits(inputs), ours.logits(changed)
    # How many tokens an expert reads at a time changes the last bits of its products.
    assert relative_error(after[:, :10], before[:, :10]) <= (1e-6 if config.experts else 0)
    assert relative_error(after[:, 10:], before[:, 10:]) > 1e-3


@ALL
def test_both_engines_write_the_same_text(config: ModelConfig) -> None:
    def written(decoder: Decoder) -> list[int]:
        sampler = Sampler(SamplingConfig(temperature=1.0, min_p=0.0), seed=3)
        logits, ids = decoder.prefill(np.array([[1]], dtype=np.int32)), [1]
        for _ in range(config.seq_len - 1):
            ids.append(sampler(logits[0]))
            logits = decoder.step(np.array(ids[-1:], dtype=np.int32))
        return ids

    size = (1, config.seq_len)
    assert written(reader(config).decoder(*size)) == written(torch_reader(config).decoder(*size))


@ALL
def test_weights_come_back_as_they_were(config: ModelConfig) -> None:
    given, found = random_weights(config), dict(reader(config).state())
    assert list(found) == list(given)
    for name, weight in given.items():
        np.testing.assert_array_equal(found[name], weight)
        assert found[name].flags.c_contiguous


def test_weights_of_another_model_are_refused() -> None:
    weights = random_weights(GPT2)
    name = "transformer.wpe.weight"
    with pytest.raises(ValueError, match=r"ln_f\.bias is missing"):
        NumpyEngine(GPT2).load((n, w) for n, w in weights.items() if "ln_f.bias" not in n)
    with pytest.raises(ValueError, match=r"wpe\.weight is given twice"):
        NumpyEngine(GPT2).load([*weights.items(), (name, weights[name])])
    with pytest.raises(ValueError, match="extra is not part of this model"):
        NumpyEngine(GPT2).load([*weights.items(), ("extra", weights[name])])
    with pytest.raises(
        ValueError, match=r"wpe\.weight is float32\[24, 31\], not float32\[24, 32\]"
    ):
        NumpyEngine(GPT2).load((weights | {name: weights[name][:, :-1]}).items())


def test_a_decoder_has_no_more_positions_than_the_model() -> None:
    with pytest.raises(ValueError, match="25 positions are more than the model's 24"):
        reader(GPT2).decoder(1, 25)


def test_a_model_leaves_the_threads_of_its_process_alone() -> None:
    def threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info()]

    with threadpool_limits(2):
        before = threads()
        ours, batch = reader(QWEN3), random_batch(QWEN3)
        ours.logits(batch.inputs)
        ours.loss(batch)
        ours.decoder(2, 8).prefill(batch.inputs[:2, :4])
        assert threads() == before


def test_numpy_reads_small_models_unless_another_engine_is_asked_for() -> None:
    large = dataclasses.replace(GPT2, vocab_size=4_000_000)
    assert isinstance(select.reader(GPT2, ReaderConfig()), NumpyEngine)
    assert isinstance(select.reader(GPT2, ReaderConfig(precision="float32")), NumpyEngine)
    assert isinstance(select.reader(GPT2, ReaderConfig(engine="torch")), TorchEngine)
    assert isinstance(select.reader(large, ReaderConfig(), generates=False), TorchEngine)
    assert isinstance(select.reader(large, ReaderConfig(engine="numpy")), NumpyEngine)


@ALL
@pytest.mark.parametrize("slice_length", [7, 256])
def test_documents_are_kept_apart_as_in_training(
    config: ModelConfig, slice_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numpy_engine, "SLICE_LENGTH", slice_length)
    batch, mark = random_batch(config), 5
    inputs = np.where(batch.inputs == mark, 6, batch.inputs)
    inputs[0, 9] = inputs[1, [0, 3, 14]] = mark
    batch = Batch(inputs, batch.targets)
    ours = NumpyEngine(config, document_mark=mark)
    options = EngineOptions(precision="float32", document_mark=mark, threads=2, seed=None)
    theirs = TorchEngine(config, options)
    for engine in (ours, theirs):
        engine.load(random_weights(config).items())
    assert relative_error(ours.logits(inputs), theirs.logits(inputs)) < TOLERANCE
    assert ours.loss(batch)[0] == pytest.approx(theirs.loss(batch)[0], rel=1e-5)
    assert ours.loss(batch)[0] != pytest.approx(reader(config).loss(batch)[0], rel=1e-4)
