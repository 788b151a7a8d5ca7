"""A model that answers gives the same greedy answers in the programs that it is exported for, on 20 conversations."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import homespun
from homespun.language_model import load
from homespun.model_formats.formats import EXPORTS, open_model
from homespun.tokenizer import Message
from tests.training.fine_tuning.talks import NAMES, THINGS, talks

pytestmark = [pytest.mark.judges, pytest.mark.filterwarnings("ignore")]

N_TOKENS = 24
Answers = list[str]


def conversations() -> list[list[Message]]:
    """Twenty conversations that end with a question, half of them with an earlier one."""
    found: list[list[Message]] = []
    for n in range(20):
        name, thing = NAMES[n % 4], THINGS[n // 4 % 4]
        before = [
            {"role": "user", "content": f"{name} has the {thing}. Who has it?"},
            {"role": "assistant", "content": f"{name}."},
        ]
        asked = {"role": "user", "content": f"{name} has the {thing}. Who has it? What is it?"}
        found.append([*before, asked] if n % 2 else [asked])
    return found


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has learned from conversations."""
    import json

    from homespun.stories import stories

    place = tmp_path_factory.mktemp("answering")
    text = "\n<|endoftext|>\n".join(stories(60, seed=3, plain=True))
    (place / "text.txt").write_text(text, encoding="utf-8")
    lines = "".join(json.dumps(talk) + "\n" for talk in talks())
    (place / "chats.jsonl").write_text(lines, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        homespun.train_tokenizer(data_file="text.txt", vocab_size=400)
        shape = {"architecture": "llama", "n_layers": 1, "d_model": 32, "n_heads": 1}
        pace: dict[str, Any] = {"precision": "float32", "threads": 1, "batch_size": 4}
        homespun.train(
            **shape,
            **pace,
            model_size="pico",
            seq_len=128,
            max_steps=20,
            learning_rate=0.01,
            data_file="text.txt",
            checkpoint_dir="base",
        )
        homespun.train(
            **pace, init_from="base", data_file="chats.jsonl", max_steps=200, learning_rate=0.01
        )
    return place / "checkpoints"


@pytest.fixture(scope="module")
def ours(answering: Path) -> Answers:
    model = load(answering, engine="numpy")
    return [model.chat(talk, temperature=0, max_tokens=N_TOKENS) for talk in conversations()]


def exported(answering: Path, folder: Path, to: str) -> Path:
    export = EXPORTS[to]
    path = folder / "model.gguf" if export.is_file else folder
    export.write(open_model(answering), path, "float32")
    return path


def test_answers_of_transformers(answering: Path, ours: Answers, tmp_path: Path) -> None:
    path = exported(answering, tmp_path, "huggingface")
    tokenizer, model = (
        kind.from_pretrained(path) for kind in (AutoTokenizer, AutoModelForCausalLM)
    )
    for talk, answer in zip(conversations(), ours, strict=True):
        asked = tokenizer.apply_chat_template(
            talk, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            ids = model.generate(**asked, do_sample=False, max_new_tokens=N_TOKENS)[0]
        written = tokenizer.decode(ids[asked["input_ids"].shape[1] :], skip_special_tokens=True)
        assert written.strip() == answer
    assert len(set(ours)) > 3


def test_answers_of_mlx_lm(answering: Path, ours: Answers, tmp_path: Path) -> None:
    mlx_lm = pytest.importorskip("mlx_lm")
    model, tokenizer = mlx_lm.load(str(exported(answering, tmp_path, "mlx")))
    for talk, answer in zip(conversations(), ours, strict=True):
        prompt = tokenizer.apply_chat_template(talk, add_generation_prompt=True)
        written = mlx_lm.generate(model, tokenizer, prompt, max_tokens=N_TOKENS)
        assert written.strip() == answer


def test_answers_of_llama_cpp(answering: Path, ours: Answers, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    path = exported(answering, tmp_path, "gguf")
    float32 = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    model = llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, verbose=False, **float32)
    for talk, answer in zip(conversations(), ours, strict=True):
        found = model.create_chat_completion(
            talk, temperature=0, top_k=1, max_tokens=N_TOKENS, repeat_penalty=1.0
        )
        assert found["choices"][0]["message"]["content"].strip() == answer
