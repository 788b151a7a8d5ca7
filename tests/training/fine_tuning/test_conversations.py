"""A run on conversations: it learns to answer, resumes exactly, and keeps the template of its model."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun
from homespun.checkpoint.folder import CheckpointFolder
from homespun.cli.main import main
from homespun.config import ImportConfig
from homespun.data.chat_samples import as_batch
from homespun.data.conversations import messages_of
from homespun.data.corpus import survey
from homespun.errors import UserError
from homespun.importing import import_model
from homespun.model_formats import huggingface
from homespun.model_formats.formats import open_model
from homespun.model_formats.stored_model import header_of
from homespun.records.events import TrainResult
from homespun.tokenizer import ChatTemplate
from homespun.tokenizer.chat_template import OWN
from tests.conftest import Command, command, finished, records
from tests.test_resume import assert_equal_runs, killed_when
from tests.training.fine_tuning.talks import CONTEXT
from tests.training.small_runs import PACE, SHAPE, stop_at


@pytest.fixture
def trained(trained_for_talks: Path) -> Path:
    return trained_for_talks


def answering(folder: str = "sft", **settings: Any) -> TrainResult:
    new: dict[str, Any] = {"init_from": "base", "data_file": "chats.jsonl", "max_steps": 8}
    return homespun.train(**{**PACE, "checkpoint_dir": folder, **new, **settings})


def test_a_model_learns_to_answer(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = answering(
        max_steps=300, batch_size=4, learning_rate=0.01, eval_interval=100, sample_interval=100
    )
    assert result.best_val_loss is not None
    assert result.best_val_loss < 0.1
    output = capsys.readouterr().out
    assert "homespun chat sft" in output
    model = homespun.load("sft")
    question = "Zoe has the kite. Who has it? What is it?"
    assert model.chat(question, temperature=0) == "Zoe has a kite."
    pieces = list(model.chat_stream([{"role": "user", "content": question}], temperature=0))
    assert "".join(pieces) == "Zoe has a kite."
    sample = next(record for record in records("sft") if "prompt" in record)
    assert "has the" in sample["prompt"], "a question that is held out"
    [written] = model.generate_batch(
        [model.template.prompt([{"role": "user", "content": question}])]
    )
    assert written.finish == "end"


def test_its_loss_is_that_of_the_answers_alone(place: Path) -> None:
    """The first evaluation, before any step, is the mean over the answers of the held-out conversations."""
    answering(max_steps=1)
    first = next(record for record in records("sft") if "val_loss" in record)
    base = homespun.load("base")
    template = ChatTemplate(base.tokenizer)
    held_out = list(survey(place / "chats.jsonl").validation())
    assert 3 <= len(held_out) <= 20
    rendered = template.render_all([messages_of(one) for one in held_out])
    total, count = base.engine.loss(as_batch(rendered))
    assert count == sum(one.in_answer.sum() for one in rendered)
    assert first["val_loss"] == pytest.approx(total / count, rel=1e-4)
    n_bytes = sum(
        len(message["content"].encode())
        for one in held_out
        for message in messages_of(one)
        if message["role"] == "assistant"
    )
    assert first["val_bits_per_byte"] == pytest.approx(total / np.log(2) / n_bytes, rel=1e-4)


def test_resumed_adapters_are_the_uninterrupted_ones(place: Path) -> None:
    settings = {"dropout": 0.1, "lora_rank": 2}
    answering("control", **settings)

    answering("again", **settings, on_event=stop_at(3))
    homespun.train(resume="latest", checkpoint_dir="again")
    assert_equal_runs(Path("control"), Path("again"), 8)
    assert open_model(Path("again")).chat_template == open_model(Path("control")).chat_template


def test_a_killed_run_is_the_uninterrupted_one(place: Path) -> None:
    run: list[object] = [
        "train", "--init-from", "base", "--data-file", "chats.jsonl", "--max-steps", 9, "--batch-size", 2,
        "--threads", 1, "--log-interval", 1, "--eval-interval", 4, "--save-interval", 4, "--precision", "float32",
        "--sample-interval", 6, "--checkpoint-dir",
    ]  # fmt: skip
    start: Command = command(place)
    finished(start(*run, "control"))
    killed_when(start(*run, "again"), "step 6/9  loss")
    finished(start("train", "--resume", "--checkpoint-dir", "again"))
    assert_equal_runs(place / "control", place / "again", 9)


def test_the_template_goes_with_the_model(place: Path) -> None:
    answering(max_steps=1)
    own = {"source": OWN, "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    assert open_model(Path("sft")).chat_template == own
    assert open_model(Path("base")).chat_template is None
    homespun.train(
        **PACE,
        init_from="sft",
        data_file="first.txt",
        seq_len=CONTEXT,
        max_steps=1,
        checkpoint_dir="next",
    )
    assert open_model(Path("next")).chat_template == own


def test_an_imported_model_keeps_its_own_template(place: Path) -> None:
    source = OWN.replace("'\\n'", "': '").replace("assistant\\n", "assistant: ")
    folder = Path("theirs")
    folder.mkdir()
    huggingface.write_folder(open_model(Path("base")), folder, "float32")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = source
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    import_model(ImportConfig(str(folder), "imported"), lambda line: None)
    answering(init_from="imported", max_steps=2)
    stored = open_model(Path("sft")).chat_template
    assert stored is not None
    assert stored["source"] == source
    model = homespun.load("sft")
    prompt = model.template.prompt([{"role": "user", "content": "Who?"}])
    encode = model.tokenizer.encode
    assert prompt == [0, *encode("user: Who?"), 0, *encode("assistant: ")]


def test_long_conversations_are_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(*contents: str) -> str:
        roles = ("user", "assistant")
        messages = [{"role": roles[n % 2], "content": one} for n, one in enumerate(contents)]
        return json.dumps({"messages": messages})

    two, one = "Anna has it. " * 8, "Anna has it. " * 40
    extra = [line("Who?", two, "Again?", two), line("Who?", one)]
    usual = [line(f"Who {n}?", "Anna.") for n in range(60)]
    Path("long.jsonl").write_text("\n".join([*usual, *extra * 3]) + "\n")
    answering(data_file="long.jsonl", max_steps=1)
    output = " ".join(capsys.readouterr().out.split())
    assert "of more than 65 tokens: cut after the last answer that fits" in output
    assert "left out: the first answer ends after more than 65 tokens" in output


def test_samples_are_as_long_as_conversations_unless_a_length_is_asked_for(place: Path) -> None:
    pace = {**PACE, "max_steps": 1}
    homespun.train(**SHAPE, **pace, data_file="first.txt", seq_len=384, checkpoint_dir="wide")
    lines = [
        {"prompt": f"Who {n}?", "answer": "Anna has it. " * (60 * (n % 2) + 1)} for n in range(20)
    ]
    Path("wide.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lengths = []
    for asked in ({}, {"seq_len": 256}):
        answering(init_from="wide", data_file="wide.jsonl", max_steps=1, batch_size=1, **asked)
        lengths.append(open_model(Path("sft")).header["resolved"]["seq_len"])
    assert lengths[0] > 256
    assert lengths[1] == 256


def test_mistakes_are_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: object) -> str:
        capsys.readouterr()
        assert main(list(map(str, arguments))) == 2
        return capsys.readouterr().err

    chats = ("--data-file", "chats.jsonl")
    assert "from which a trained model learns to answer: name one with --init-from" in said(
        "train", *chats
    )
    assert "a tokenizer is trained on text" in said("tokenizer", *chats)
    assert "`homespun eval` scores text" in said("eval", "base", *chats)
    assert "has not learned to answer" in said("chat", "base")
    Path("bad.jsonl").write_text('{"messages": [{"role": "assistant", "content": "A"}]}\n')
    error = said("train", "--init-from", "base", "--data-file", "bad.jsonl")
    assert "bad.jsonl:1: messages[0].role: assistant comes first, where user is expected" in error
    assert not Path("checkpoints").exists()


def test_a_damaged_template_is_named(place: Path) -> None:
    model = open_model(Path("base"))
    for broken, message in (
        ("{% for", "its chat template cannot be read"),
        ("{{ x }}", "unknown name: 'x'"),
    ):
        folder = CheckpointFolder(Path("broken"))
        header = header_of(model) | {"chat_template": {"source": broken}}
        with folder.lock():
            folder.save_best(1, model.tensors(), header)
        loaded = homespun.load("broken")
        assert loaded.generate("Once", max_tokens=3).startswith("Once")
        with pytest.raises(UserError, match=message):
            loaded.chat("Who?")
        with pytest.raises(UserError, match=message):
            answering(init_from="broken")
        shutil.rmtree("broken")


def test_a_plan_counts_the_tokens_of_conversations(place: Path) -> None:
    settings: dict[str, Any] = {"init_from": "base", "data_file": "chats.jsonl", "max_steps": 4}
    before = set(Path("data").rglob("*.tokens"))
    estimated = homespun.plan(**settings, batch_size=2, threads=1)
    assert estimated.text is not None
    assert set(Path("data").rglob("*.tokens")) == before
    answering()
    counted = homespun.plan(**settings, batch_size=2, threads=1)
    assert counted.text is not None
    assert counted.text.estimated_from is None
    assert estimated.text.training == pytest.approx(counted.text.training, rel=0.2)
