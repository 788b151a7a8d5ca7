"""PEFT computes the same with an exported adapter on the exported base."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from homespun.architectures.families import FAMILIES
from homespun.architectures.lora import Lora
from homespun.language_model import load
from homespun.model_formats import huggingface, peft
from homespun.model_formats.formats import open_model
from tests.model_formats.conftest import VOCAB_SIZE, small_config, small_model
from tests.model_formats.test_lora_checkpoint import saved
from tests.reference import relative_error

their_peft = pytest.importorskip("peft")
pytestmark = [pytest.mark.judges, pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        *((name, (target,)) for name in FAMILIES for target in ("all", "attention")),
        ("gpt2", ("mlp.c_proj", "0.attn.c_attn")),
        ("llama", ("q_proj", "v_proj")),
    ],
    ids=str,
)
def test_logits_are_the_same(name: str, targets: tuple[str, ...], tmp_path: Path) -> None:
    model = small_model(small_config(name))
    run = saved(model, tmp_path / "run", Lora(4, 6.0, targets))
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
    huggingface.write_folder(model, base, "float32")
    peft.write_folder(open_model(run), adapter, "float32")
    alone = AutoModelForCausalLM.from_pretrained(base)
    ids = np.random.default_rng(1).integers(0, VOCAB_SIZE, (2, 40))
    with torch.no_grad():
        without = alone(torch.tensor(ids)).logits.numpy()
        theirs = their_peft.PeftModel.from_pretrained(alone, adapter)
        expected = theirs(torch.tensor(ids)).logits.numpy()
    ours = load(run)(ids)
    assert relative_error(ours, expected) < 1e-5
    assert np.abs(expected - without).max() > 0.1
