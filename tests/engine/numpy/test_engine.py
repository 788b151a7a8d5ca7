"""NumPy reads a model as PyTorch does, and token by token as all at once."""

import dataclasses

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from homespun.config import LoadConfig, ModelConfig, SamplingConfig
from homespun.data.batch import IGNORED, Batch
from homespun.engine import select
from homespun.engine.base import EngineOptions
from homespun.engine.numpy import engine as numpy_engine
from homespun.engine.numpy.engine import NumpyEngine
from homespun.engine.torch.engine import TorchEngine
from homespun.generation.sampler import Sampler
from tests.reference import GPT2, QWEN3, random_batch, random_weights, relative_error

TIED = dataclasses.replace(QWEN3, tie_embeddings=True)
ALL = pytest.mark.parametrize("config", [GPT2, QWEN3, TIED], ids=["gpt2", "qwen3", "tied"])


def reader(config: ModelConfig) -> NumpyEngine:
    made = NumpyEngine(config)
    made.load(random_weights(config).items())
    return made


def torch_reader(config: ModelConfig) -> TorchEngine:
    made = TorchEngine(config, EngineOptions(precision="float32", threads=2, seed=None))
    made.load(random_weights(config).items())
    return made


@ALL
def test_logits_and_loss_are_those_of_the_other_engine(config: ModelConfig) -> None:
    batch = random_batch(config)
    targets = batch.targets.copy()
    targets[:, ::5] = IGNORED
    batch = Batch(batch.inputs, targets)
    ours, other = reader(config), torch_reader(config)
    assert relative_error(ours.logits(batch.inputs), other.logits(batch.inputs)) < 1e-5
    assert ours.loss(batch) == pytest.approx(other.loss(batch), rel=1e-6)


@ALL
@pytest.mark.parametrize("prefilled", [1, 7, 23])
def test_a_cached_model_gives_the_logits_of_the_whole_text(
    config: ModelConfig, prefilled: int
) -> None:
    ours, inputs = reader(config), random_batch(config).inputs
    decoder = ours.decoder(len(inputs), config.seq_len)
    found = [decoder.prefill(inputs[:, :prefilled])]
    found += [decoder.step(inputs[:, i]) for i in range(prefilled, config.seq_len)]
    assert decoder.length == config.seq_len
    whole = ours.logits(inputs)[:, prefilled - 1 :]
    assert relative_error(np.stack(found, axis=1), whole) < 1e-5
    decoder.rewind(5)
    again = decoder.prefill(inputs[:, 5:9])
    assert relative_error(again, ours.logits(inputs)[:, 8]) < 1e-5


@ALL
def test_a_long_text_is_read_in_slices(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, inputs = reader(config), random_batch(config).inputs
    whole = ours.logits(inputs)
    monkeypatch.setattr(numpy_engine, "PREFILL", 7)
    assert relative_error(ours.logits(inputs), whole) < 1e-5


@ALL
def test_no_position_sees_what_follows_it(config: ModelConfig) -> None:
    ours, inputs = reader(config), random_batch(config).inputs
    changed = inputs.copy()
    changed[:, 10:] = (changed[:, 10:] + 1) % config.vocab_size
    before, after = ours.logits(inputs), ours.logits(changed)
    np.testing.assert_array_equal(before[:, :10], after[:, :10])
    assert not np.array_equal(before[:, 10:], after[:, 10:])


@ALL
def test_both_engines_write_the_same_text(config: ModelConfig) -> None:
    def written(decoder: object) -> list[int]:
        sampler = Sampler(SamplingConfig(temperature=1.0, min_p=0.0), seed=3)
        logits, ids = decoder.prefill(np.array([[1]], dtype=np.int32)), [1]  # type: ignore[attr-defined]
        for _ in range(config.seq_len - 1):
            ids.append(sampler(logits[0]))
            logits = decoder.step(np.array(ids[-1:], dtype=np.int32))  # type: ignore[attr-defined]
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


def test_numpy_reads_what_is_small_and_asked_for_in_nothing_else() -> None:
    large = dataclasses.replace(GPT2, vocab_size=4_000_000)
    assert isinstance(select.reader(GPT2, LoadConfig()), NumpyEngine)
    assert isinstance(select.reader(GPT2, LoadConfig(precision="float32")), NumpyEngine)
    assert isinstance(select.reader(GPT2, LoadConfig(precision="bfloat16")), TorchEngine)
    assert isinstance(select.reader(GPT2, LoadConfig(engine="torch")), TorchEngine)
    assert isinstance(select.reader(large, LoadConfig()), TorchEngine)
    assert isinstance(select.reader(large, LoadConfig(engine="numpy")), NumpyEngine)


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
