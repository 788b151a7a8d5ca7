"""Losses and gradients of conversations: those of `transformers` with masked labels, on every engine, packed or not."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from homespun.config import ModelConfig
from homespun.data import chat_samples
from homespun.data.batch import IGNORED, Batch
from homespun.data.chat_samples import ChatDataset, ChatEncoder, as_batch
from homespun.data.conversations import document_of
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.numpy.engine import NumpyEngine
from homespun.engine.torch.engine import TorchEngine
from homespun.tokenizer import ChatTemplate, Message, Rendered, train
from tests.reference import (
    GPT2,
    LLAMA,
    QWEN3,
    HuggingFace,
    random_weights,
    relative_error,
)

TOLERANCE = 1e-5
TOKENIZER = train(["Who has the ball? Anna has it in the barn."] * 9, 257)
TEMPLATE = ChatTemplate(TOKENIZER)
LENGTH = 96


def talk(*answers: str) -> list[Message]:
    return [
        message
        for answer in answers
        for message in (
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": answer},
        )
    ]


TALKS = [
    talk("Anna."),
    talk("Zoe has it.", "I do."),
    talk("No", "one", "!"),
    talk("Tim, in a barn"),
]
SETTINGS = OptimizerSettings("adamw", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)

Engine = Callable[[ModelConfig, EngineOptions], TorchEngine | MlxEngine]
ENGINES = pytest.mark.parametrize("kind", [TorchEngine, MlxEngine], ids=["torch", "mlx"])
CONFIGS = pytest.mark.parametrize("config", [QWEN3, LLAMA], ids=["qwen3", "llama"])


def fitted(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, vocab_size=257, seq_len=LENGTH)


def engine(kind: Engine, config: ModelConfig, **options: Any) -> TorchEngine | MlxEngine:
    made = kind(
        config,
        EngineOptions(
            optimizer=SETTINGS,
            precision="float32",
            threads=1,
            document_mark=TOKENIZER.eot_id,
            **options,
        ),
    )
    made.load(random_weights(config).items())
    return made


def packed() -> Batch:
    data = ChatDataset(ChatEncoder(TEMPLATE).join(map(document_of, TALKS)), LENGTH - 1)
    batch = data.rows(range(data.samples_per_pass))
    assert len(batch.inputs) < len(TALKS), "no row has two conversations"
    return batch


@functools.cache
def of_transformers(config: ModelConfig) -> tuple[float, dict[str, npt.NDArray[np.float64]]]:
    """Mean loss and gradients over all answers; each conversation is computed alone, with the library's own loss."""
    theirs = HuggingFace(config, random_weights(config))
    conversations = TEMPLATE.render_all(TALKS)
    n_targets = sum(int(one.in_answer.sum()) for one in conversations)
    total = 0.0
    for one in conversations:
        ids = torch.from_numpy(one.ids).long()[None]
        labels = torch.where(torch.from_numpy(one.in_answer)[None], ids, -100)
        loss = theirs.model(ids, labels=labels, num_items_in_batch=n_targets).loss
        loss.backward()
        total += loss.item()
    gradients = {
        name: parameter.grad.numpy().T if theirs.is_transposed(name) else parameter.grad.numpy()
        for name, parameter in theirs.model.named_parameters()
        if parameter.grad is not None
    }
    return total, gradients


def errors(config: ModelConfig, kind: Engine, batches: list[Batch]) -> Iterator[float]:
    """Relative errors of the loss and of each gradient."""
    loss, gradients = of_transformers(config)
    ours = engine(kind, config)
    sums = [ours.loss(batch) for batch in batches]
    yield relative_error(sum(total for total, _ in sums) / sum(n for _, n in sums), loss)
    found = dict(ours.gradients(batches))
    assert found.keys() == gradients.keys()
    yield from (relative_error(gradient, gradients[name]) for name, gradient in found.items())


@ENGINES
@CONFIGS
def test_losses_and_gradients_are_those_of_transformers(kind: Engine, config: ModelConfig) -> None:
    config = fitted(config)
    alone = as_batch(TEMPLATE.render_all(TALKS), LENGTH - 1)
    parts = [as_batch(TEMPLATE.render_all(some)) for some in (TALKS[:1], TALKS[1:])]
    for batches in ([packed()], [alone], parts):
        assert max(errors(config, kind, batches)) < TOLERANCE


def shifted(rendered: Rendered) -> Rendered:
    """Answers that begin and end a token later."""
    return dataclasses.replace(rendered, in_answer=np.roll(rendered.in_answer, 1))


SABOTAGES: dict[str, Callable[[Batch], Batch]] = {
    "loss on the prompt": lambda batch: dataclasses.replace(batch, targets=_all_targets(batch)),
    "documents by their mark": lambda batch: dataclasses.replace(batch, documents=None),
    "one document in each row": lambda batch: dataclasses.replace(
        batch, documents=np.zeros_like(batch.inputs)
    ),
    "no end of the answer": lambda batch: dataclasses.replace(
        batch, targets=np.where(batch.targets == TOKENIZER.eot_id, IGNORED, batch.targets)
    ),
}


def _all_targets(batch: Batch) -> npt.NDArray[np.int32]:
    following = np.append(batch.inputs[:, 1:], batch.targets[:, -1:], axis=1)
    assert batch.documents is not None
    is_real = batch.documents >= 0
    return np.where(is_real & (batch.targets == IGNORED), following, batch.targets)


@ENGINES
@pytest.mark.parametrize("name", SABOTAGES)
def test_mistakes_are_noticed(kind: Engine, name: str) -> None:
    batch = SABOTAGES[name](packed())
    assert max(errors(fitted(QWEN3), kind, [batch])) > 1e-3


def test_answers_that_are_off_by_a_token_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = chat_samples._marked
    monkeypatch.setattr(chat_samples, "_marked", lambda rendered: original(shifted(rendered)))
    assert max(errors(fitted(QWEN3), TorchEngine, [packed()])) > 1e-3


@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
def test_all_engines_agree(config: ModelConfig) -> None:
    config, batch = fitted(config), packed()
    numpy_engine = NumpyEngine(config, 1, TOKENIZER.eot_id)
    numpy_engine.load(random_weights(config).items())
    expected, count = numpy_engine.loss(batch)
    assert count == batch.n_targets
    for kind in (TorchEngine, MlxEngine):
        for compiled in (False, True) if kind is MlxEngine else (False,):
            found, _ = engine(kind, config, compiled=compiled).loss(batch)
            assert found == pytest.approx(expected, rel=1e-5)


@ENGINES
def test_no_conversation_sees_another(kind: Engine) -> None:
    """The loss of a row is that of its conversations alone, whatever stands beside them."""
    config = fitted(QWEN3)
    ours, batch = engine(kind, config), packed()
    alone = sum(ours.loss(as_batch([one]))[0] for one in TEMPLATE.render_all(TALKS))
    assert ours.loss(batch)[0] == pytest.approx(alone, rel=1e-5)


def test_both_engines_take_the_same_steps() -> None:
    config, losses = fitted(QWEN3), []
    for kind in (TorchEngine, MlxEngine):
        ours = engine(kind, config)
        rates = {"adamw": 1e-3}
        losses.append([ours.train_step([packed()], rates, n).result().loss for n in range(8)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert losses[0][-1] < losses[0][0]
