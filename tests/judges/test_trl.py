"""TRL's supervised fine-tuning and its DPO have the same loss and the same gradients on the same conversations."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from homespun.data.batch import Batch
from homespun.data.chat_samples import ChatDataset, ChatEncoder, as_batch
from homespun.data.conversations import document_of
from homespun.data.pair_samples import PairDataset, PairEncoder
from homespun.data.preferences import Pair
from homespun.data.preferences import document_of as pair_document
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.torch.engine import TorchEngine
from homespun.model_formats import huggingface
from homespun.model_formats.stored_model import StoredModel
from homespun.tokenizer import ChatTemplate, Message, Tokenizer
from homespun.tokenizer.chat_template import OWN
from homespun.training.preferences.loss import answer_sums, pair_losses, weighted
from homespun.training.preferences.preparation import figures_of, sums_of
from tests.model_formats.conftest import small_config, small_model, small_tokenizer
from tests.reference import relative_error
from tests.tokenizer import kinds
from tests.tokenizer.test_chat_template import MARKED

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pytestmark = [pytest.mark.judges, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 1e-3
CONTEXT = 256
OWN_MARKED = (
    "{{ eos_token }}{% for message in messages %}{{ message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
)
"""Writes what our template writes, with the tags by which TRL knows the answers."""


def talk(*contents: str) -> list[Message]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": one} for n, one in enumerate(contents)]


TALKS = [
    talk("Who has the ball?", "Anna has it."),
    talk("Who?", "Tim.", "Where is he?", "He is in the barn, with the ball."),
    talk("Why is she sad?", "She lost her kite."),
]


def own() -> tuple[StoredModel, str]:
    model = small_model(dataclasses.replace(small_config("llama", tied=False), seq_len=CONTEXT))
    template = ChatTemplate(small_tokenizer())
    return dataclasses.replace(model, chat_template=template.stored()), OWN_MARKED


def qwen() -> tuple[StoredModel, str]:
    tokenizer = Tokenizer.from_json(kinds.as_json("qwen"))
    config = dataclasses.replace(
        small_config("qwen3"), vocab_size=tokenizer.vocab_size, seq_len=CONTEXT
    )
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    model = small_model(config, tokenizer)
    return dataclasses.replace(model, chat_template={"source": MARKED, **names}), MARKED


def of_trl(model: StoredModel, marked: str, folder: Path) -> tuple[float, dict[str, Any]]:
    """The loss and the gradients of one batch."""
    huggingface.write_folder(model, folder, "float32")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = marked
    tokenizer.pad_token = tokenizer.eos_token
    trainer = trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        args=trl.SFTConfig(
            output_dir=str(folder / "out"),
            assistant_only_loss=True,
            per_device_train_batch_size=len(TALKS),
            max_length=CONTEXT,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        ),
        train_dataset=datasets.Dataset.from_list([{"messages": one} for one in TALKS]),
        processing_class=tokenizer,
    )
    [batch] = trainer.get_train_dataloader()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    grads = {name: p.grad.numpy() for name, p in trainer.model.named_parameters()}
    return float(loss), grads


def errors(model: StoredModel, batch: Batch, loss: float, grads: dict[str, Any]) -> list[float]:
    """Relative errors of our loss and our gradients."""
    ours = reader_of(model)
    total, count = ours.loss(batch)
    found = [relative_error(total / count, loss)]
    found += [relative_error(grad, grads[name]) for name, grad in ours.gradients([batch])]
    assert len(found) == 1 + len(grads)
    return found


@pytest.mark.parametrize("make", [own, qwen])
def test_losses_and_gradients_are_those_of_trl(make: Any, tmp_path: Path) -> None:
    model, marked = make()
    loss, grads = of_trl(model, marked, tmp_path)
    template = model.template()
    assert template is not None
    stream = ChatEncoder(template).join(map(document_of, TALKS))
    data = ChatDataset(stream, model.config.seq_len)
    packed = data.rows(range(data.samples_per_pass))
    assert len(packed.inputs) < len(TALKS)
    alone = as_batch(template.render_all(TALKS))
    for batch in (packed, alone):
        assert max(errors(model, batch, loss, grads)) < TOLERANCE

    following = np.append(packed.inputs[:, 1:], packed.targets[:, -1:], axis=1)
    assert packed.documents is not None
    on_the_prompt = np.where(packed.documents >= 0, following, packed.targets)
    later = np.roll(packed.targets, 1, axis=1)
    for targets in (on_the_prompt, later):
        sabotaged = dataclasses.replace(packed, targets=targets)
        assert max(errors(model, sabotaged, loss, grads)) > TOLERANCE


def test_a_template_that_is_off_by_a_token_is_noticed(tmp_path: Path) -> None:
    model, marked = own()
    loss, grads = of_trl(model, marked, tmp_path)
    wrong = ChatTemplate(model.tokenizer, OWN.replace("'\\n'", "'\\n\\n'"))
    assert max(errors(model, as_batch(wrong.render_all(TALKS)), loss, grads)) > TOLERANCE


PAIRS = [
    Pair(talk("Who has the ball?"), "Anna has it.", "Tim"),
    Pair(talk("Who?", "Tim.", "Where is he?"), "In the barn.", "He is in the barn, with the ball."),
    Pair(talk("Why is she sad?"), "She lost her kite.", "No"),
]
BETA = 0.5


def preferred_by_trl(
    model: StoredModel, initial: StoredModel, folder: Path
) -> tuple[float, dict[str, Any], dict[str, float]]:
    """The loss of DPO, its gradients and its metrics."""
    for one, name in ((model, "model"), (initial, "initial")):
        (folder / name).mkdir()
        huggingface.write_folder(one, folder / name, "float32")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.pad_token = tokenizer.eos_token
    rows = [
        {
            "prompt": pair.messages,
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in PAIRS
    ]
    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        ref_model=AutoModelForCausalLM.from_pretrained(folder / "initial"),
        args=trl.DPOConfig(
            output_dir=str(folder / "out"),
            beta=BETA,
            per_device_train_batch_size=len(PAIRS),
            max_length=CONTEXT,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    [batch] = trainer.get_train_dataloader()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    grads = {name: p.grad.numpy() for name, p in trainer.model.named_parameters()}
    modes = trainer._metrics.values()
    metrics = {name: float(np.mean(found)) for mode in modes for name, found in mode.items()}
    return float(loss), grads, metrics


def reader_of(model: StoredModel) -> TorchEngine:
    settings = OptimizerSettings("adamw", 0.1, 0.9, 0.95, 1.0)
    options = EngineOptions(settings, "float32", document_mark=model.tokenizer.eot_id, threads=1)
    engine = TorchEngine(model.config, options)
    engine.load(model.tensors())
    return engine


def test_preferences_have_the_loss_and_the_gradients_of_trl(tmp_path: Path) -> None:
    model, _ = own()
    rng = np.random.default_rng(1)
    moved = {
        name: (values + 0.02 * rng.standard_normal(values.shape)).astype(np.float32)
        for name, values in model.tensors()
    }
    initial = dataclasses.replace(model, tensors=lambda: iter(moved.items()))
    expected, grads, metrics = preferred_by_trl(model, initial, tmp_path)
    template, ours = model.template(), reader_of(model)
    assert template is not None
    stream = PairEncoder(template).join(map(pair_document, PAIRS))
    batch = PairDataset(stream, CONTEXT - 1).pairs(range(len(PAIRS)))
    new = answer_sums(ours.log_probabilities(batch))
    reference = answer_sums(reader_of(initial).log_probabilities(batch))

    def error(beta: float, reference: Any, order: tuple[int, int] = (0, 1)) -> float:
        found = pair_losses(new[:, order], reference[:, order], beta)
        slopes = found.slopes[:, order]
        errors = [relative_error(float(found.loss.mean()), expected)]
        gradients = dict(ours.gradients(weighted([batch], slopes)))
        assert gradients.keys() == grads.keys()
        errors += [relative_error(gradients[name], grads[name]) for name in grads]
        return max(errors)

    assert error(BETA, reference) < TOLERANCE
    figures = figures_of(sums_of(pair_losses(new, reference, BETA), 0))
    assert metrics["rewards/margins"] == pytest.approx(figures.margin, rel=TOLERANCE)
    assert metrics["rewards/chosen"] == pytest.approx(figures.chosen_reward, rel=TOLERANCE)
    assert metrics["rewards/accuracies"] == pytest.approx(figures.accuracy)
    assert error(2 * BETA, reference) > TOLERANCE
    assert error(BETA, new) > TOLERANCE  # a reference that moves with the model
    assert error(BETA, reference, (1, 0)) > TOLERANCE
