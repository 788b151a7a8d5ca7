"""The questions of the chat page: answers are those of the model elsewhere, and a saved conversation can be learned."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import homespun
from homespun.config import SamplingConfig
from homespun.data.conversations import conversations
from tests.server.conftest import Start
from tests.server.studio.asking import ask, told
from tests.server.studio.made import EVIL, HELLO

ANSWERS = "answers/best.npz"
TALK = [
    {"role": "user", "content": "Who is sad?"},
    {"role": "assistant", "content": "Tom."},
    {"role": "user", "content": "Why?"},
]
DONE = TALK[:2]


def question(messages: Any = None, **more: Any) -> dict[str, Any]:
    settings = {"max_tokens": "12", "seed": "5"} | more.pop("settings", {})
    return {"model": ANSWERS, "messages": messages or TALK, "settings": settings} | more


def text_of(events: list[Any]) -> str:
    return "".join(one["text"] for one in events[1:-1])


def test_models_that_answer_come_first(address: str) -> None:
    status, facts = ask(address, "/api/chat")
    assert status == 200
    told = [(model["path"], model["answers"]) for model in facts["models"]]
    assert told[:2] == [(ANSWERS, True), ("evil-answers/best.npz", True)]
    assert not any(answers for _, answers in told[2:])
    assert facts["models"][2]["teach"][1].startswith("homespun train --init-from checkpoints ")
    names = {field["name"] for field in facts["settings"]}
    assert {"temperature", "seed", "stop"} <= names
    assert "num_samples" not in names


def test_the_answer_is_that_of_the_model_and_of_the_server(
    address: str, work: Path, start: Start
) -> None:
    messages = [{"role": "system", "content": "Be brief."}, TALK[0]]
    first, *tokens, last = events = told(address, "/api/chat/answer", question(messages))
    model = homespun.load(work / ANSWERS)
    config = SamplingConfig(max_tokens=12, seed=5)
    assert text_of(events).rstrip() == model.chat(messages, config)
    assert first["seed"] == 5
    assert first["n_left_out"] == 0
    assert first["n_prompt"] == len(model.fitting(messages, config)[1])
    assert last["tokens"] == len([one for one in tokens if "token" in one])
    same = {"temperature": config.temperature, "min_p": config.min_p, "max_tokens": 12, "seed": 5}
    body = {"model": "small", "messages": messages} | same
    choices = start(model).ask("/v1/chat/completions", body).json["choices"]
    assert choices[0]["message"]["content"] == text_of(events).rstrip()


def test_messages_that_no_longer_fit_are_counted(address: str) -> None:
    first, *_ = told(address, "/api/chat/answer", question([*DONE * 30, TALK[0]]))
    assert 0 < first["n_left_out"] < 60
    assert first["n_left_out"] % 2 == 0


def test_text_of_a_model_comes_as_it_is(address: str) -> None:
    body = question([{"role": "user", "content": HELLO}], model="evil-answers/best.npz")
    events = told(address, "/api/chat/answer", body | {"settings": {"max_tokens": "100"}})
    assert text_of(events) == EVIL
    assert events[-2]["finish"] == "end"


@pytest.mark.parametrize(
    ("wrong", "field", "message"),
    [
        ({"model": "checkpoints/best.npz"}, "messages", "has not learned to answer"),
        ({"model": "nothing"}, "model", "no such model"),
        ({"model": None}, "model", "missing"),
        ({"messages": [*TALK, TALK[0]]}, "messages", "user follows user"),
        ({"messages": DONE}, "messages", "the last message has to be one of the user"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "it is empty"),
        ({"messages": [{"role": "user", "content": "word " * 300}]}, "messages", "shorten it"),
        ({"messages": DONE * 200}, "messages", "at most 256"),
        ({"messages": "Hello"}, "messages", "a list of messages"),
        ({"settings": {"temperature": "nan"}}, "temperature", "Temperature"),
        ({"settings": {"max_tokens": "1000000"}}, "max_tokens", "Max tokens"),
        ({"settings": {"stop": ["x"] * 5}}, "stop", "at most 4 stop strings"),
        ({"settings": {"num_samples": "2"}}, "num_samples", "no such setting"),
        ({"more": 1}, "more", "unknown field"),
    ],
)
def test_bad_input_is_refused_with_its_field(
    address: str, wrong: dict[str, Any], field: str, message: str
) -> None:
    status, refused = ask(address, "/api/chat/answer", question() | wrong)
    assert status == 400
    assert refused["error"]["param"] == field
    assert message in refused["error"]["message"]
    assert ask(address, "/api/chat")[0] == 200


def saved(place: str, name: str, messages: Any = None) -> tuple[int, str]:
    """Status and message of an attempt to save."""
    status, told = ask(place, "/api/chat/save", {"file": name, "messages": messages or DONE})
    return status, told["error"]["message"] if "error" in told else str(told["n_messages"])


def test_a_saved_conversation_is_one_to_learn_from(
    studio: Callable[[Path], str], tmp_path: Path
) -> None:
    place = studio(tmp_path)
    system = {"role": "system", "content": "Be “brief”."}
    assert saved(place, "talks.jsonl", [system, *DONE]) == (200, "3")
    assert saved(place, "talks.jsonl") == (200, "2")
    first, second = conversations(tmp_path / "talks.jsonl")
    assert list(first.messages) == [system, *DONE]
    assert list(second.messages) == DONE


def test_only_files_of_conversations_below_the_folder_are_written(
    studio: Callable[[Path], str], tmp_path: Path
) -> None:
    (folder := tmp_path / "inner").mkdir()
    (folder / "link.jsonl").symlink_to(tmp_path / "outside.jsonl")
    (folder / ".homespun-studio").mkdir()
    record = json.dumps({"step": 1, "loss": 2.0}) + "\n"
    (folder / "metrics.jsonl").write_text(record)
    (folder / "text.jsonl").write_text("\n" + record)
    place = studio(folder)
    for name, message in (
        ("talks.txt", "ends in .jsonl"),
        ("", "ends in .jsonl"),
        ("../talks.jsonl", "leads out"),
        (str(tmp_path / "talks.jsonl"), "not below"),
        ("link.jsonl", "not below"),
        (".homespun-studio/talks.jsonl", "the studio's own"),
        ("metrics.jsonl", "metrics.jsonl holds something other than messages"),
        ("text.jsonl", "holds something other"),
        ("none/talks.jsonl", "cannot be written"),
    ):
        status, told = saved(place, name)
        assert status == 400, name
        assert message in told
    assert saved(place, "talks.jsonl", TALK)[0] == 400  # the last message has no answer
    assert (folder / "metrics.jsonl").read_text() == record
    assert not list(tmp_path.rglob("talks.*")) + list(tmp_path.glob("outside*"))


def test_a_model_that_was_trained_anew_answers_with_its_new_weights(
    studio: Callable[[Path], str], work: Path, tmp_path: Path
) -> None:
    shutil.copytree(work, tmp_path / "work")
    place = studio(tmp_path / "work")
    assert told(place, "/api/chat/answer", question())
    shutil.copy(work / "checkpoints" / "best.npz", tmp_path / "work" / ANSWERS)
    status, refused = ask(place, "/api/chat/answer", question())
    assert status == 400
    assert "has not learned to answer" in refused["error"]["message"]
