"""`homespun chat` on a real terminal, with real keys and signals, and in a pipe."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from homespun.data.conversations import conversations
from tests.generation.test_interactive import Terminal, answer

PROGRAM = textwrap.dedent(
    """
    import fcntl, sys, termios, threading
    if sys.stdin.isatty():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C becomes a signal

    from homespun.config import SamplingConfig
    from homespun.errors import UserError
    from homespun.generation.chat import chat

    def answer(messages, config):
        said = " ".join(f"{m['role'][0]}:{m['content']}" for m in messages)
        if "bad" in messages[-1]["content"]:
            raise UserError("the message is too long")

        def pieces():
            if messages[-1]["content"] == "silent":
                print("(silence)", flush=True)
                threading.Event().wait()
            yield f"[{said}]"
            if messages[-1]["content"] == "endless":
                threading.Event().wait()
            yield f" t={config.temperature}"

        return (2 if "long" in messages[-1]["content"] else 0), pieces()

    chat(answer, SamplingConfig(), *sys.argv[1:])
    print("left")
    """
)


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)
    with Terminal(tmp_path, program=PROGRAM) as terminal:
        terminal.wait_for("Ctrl-D leaves.\r\n")
        terminal.wait_for("> ")
        yield terminal


def test_the_model_sees_the_whole_conversation(terminal: Terminal) -> None:
    assert answer(terminal, "one") == ["[u:one] t=0.9"]
    assert answer(terminal, "two") == ["[u:one a:[u:one] t=0.9 u:two] t=0.9"]
    assert answer(terminal, "/new") == ["A new conversation."]
    assert answer(terminal, "/system Be brief.") == ["system Be brief."]
    assert answer(terminal, "/temperature 0.5") == ["temperature 0.5"]
    assert answer(terminal, "three") == ["[s:Be brief. u:three] t=0.5"]
    assert answer(terminal, "/system off") == ["system off"]
    assert answer(terminal, "/again") == ["[u:three] t=0.5"]


def test_the_last_message_is_edited_on_its_line(terminal: Terminal) -> None:
    answer(terminal, "first")
    answer(terminal, "secund")
    terminal.type("/edit\r")
    terminal.wait_for("> secund")
    assert answer(terminal, "\x7f\x7f\x7fond")[-1].endswith("u:second] t=0.9")
    assert answer(terminal, "/edit third")[-1] == "[u:first a:[u:first] t=0.9 u:third] t=0.9"
    assert answer(terminal, "/undo") == ["Taken back: third"]
    assert answer(terminal, "/undo") == ["Taken back: first"]
    assert answer(terminal, "/undo") == ["error: there is no message yet"]


def test_control_c_keeps_what_was_written(terminal: Terminal) -> None:
    terminal.type("endless\r")
    terminal.wait_for("[u:endless]")
    terminal.interrupt("[stopped]")
    terminal.wait_for("> ")
    assert answer(terminal, "on") == ["[u:endless a:[u:endless] u:on] t=0.9"]


def test_a_mistake_keeps_the_conversation(terminal: Terminal) -> None:
    answer(terminal, "one")
    assert answer(terminal, "bad") == ["error: the message is too long"]
    assert answer(terminal, "/nothing")[0].startswith("error: there is no '/nothing'")
    assert answer(terminal, "quit")[0].startswith("(to leave")
    assert (
        answer(terminal, "long")[0]
        == "(2 messages at the beginning no longer fit into the context)"
    )
    assert answer(terminal, "long")[0].startswith("[u:one"), "it is said once"


def test_an_edit_that_gets_no_answer_takes_nothing_away(terminal: Terminal) -> None:
    answer(terminal, "one")
    assert answer(terminal, "/edit bad") == ["error: the message is too long"]
    assert answer(terminal, "two")[-1].startswith("[u:one a:[u:one] t=0.9 u:two]")
    terminal.type("/edit silent\r")
    terminal.wait_for("(silence)")
    terminal.interrupt("[stopped]")
    terminal.wait_for("> ")
    assert answer(terminal, "/undo") == ["Taken back: two"]


def test_conversations_are_saved_one_after_the_other(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "my talk.jsonl"
    assert answer(terminal, f"/save {file.name}") == ["error: there is no message yet"]
    answer(terminal, "/system S")
    answer(terminal, "<|endoftext|>e")
    assert answer(terminal, f"/save {file.name}")[-1].startswith("2 messages added to")
    file.write_text(file.read_text().rstrip())  # as an editor may leave it
    answer(terminal, "two")
    answer(terminal, f"/save {file.name}")
    first, second = conversations(file)
    assert [m["content"] for m in first.messages] == [
        "S",
        "<|endoftext|>e",
        "[s:S u:<|endoftext|>e] t=0.9",
    ]
    assert len(second.messages) == 5
    assert "give a file name that ends in .jsonl" in answer(terminal, "/save talk.txt")[0]
    assert "cannot be written" in answer(terminal, "/save /nowhere/talk.jsonl")[0]
    record = tmp_path / "metrics.jsonl"
    record.write_text('{"step": 1}\n')
    assert "holds something other than messages" in answer(terminal, f"/save {record.name}")[0]
    assert record.read_text() == '{"step": 1}\n'


def test_a_pipe_is_a_message_per_line(tmp_path: Path) -> None:
    lines = "one\n\n/edit two\nbad\n\xff\n/save talk.jsonl\n"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=lines.encode("latin-1"),
        capture_output=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines() == [
        "[u:one] t=0.9",
        "[u:two] t=0.9",
        "error: the message is too long",
        "error: the message is not valid UTF-8 from character 1 on: check the encoding of the terminal",
        "2 messages added to talk.jsonl",
        "left",
    ]
    [saved] = (tmp_path / "talk.jsonl").read_text().splitlines()
    assert json.loads(saved)["messages"][0]["content"] == "two"
