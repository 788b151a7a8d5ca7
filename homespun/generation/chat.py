"""Messages flow in from a terminal or a pipe; answers are printed while the model writes them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from homespun.config import SamplingConfig
from homespun.errors import UserError
from homespun.generation.conversation_file import SUFFIX, add_conversation
from homespun.generation.interactive import (
    COMMAND_WORDS,
    LEAVE,
    SETTINGS,
    check_input,
    going_on,
    line_editing,
    next_line,
    run_command,
    write,
)
from homespun.terminal import counted, printable, put
from homespun.tokenizer import Message
from homespun.tokenizer.messages import ASSISTANT, SYSTEM, USER

Answer = Callable[[Sequence[Message], SamplingConfig], tuple[int, Iterator[str]]]
"""(messages, settings) -> the number of old messages that do not fit into the context, and the answer, piece by
piece."""

HELP = f"""Type a message and press Enter; Ctrl-C stops an answer, which then ends there.
  /edit            change your last message; /edit TEXT replaces it
  /again           another answer to your last message
  /undo            take your last message back, with its answer
  /new             begin a new conversation
  /system TEXT     how the model should answer; "off" removes it
  /save FILE       add the conversation to a file ({SUFFIX}), from which models can learn
  /help            this list
  /quit            leave, like Ctrl-D
  /SETTING VALUE   change a setting; /SETTING shows it
The settings are {", ".join(SETTINGS)}.
A message that begins with a slash, or is one of {", ".join(COMMAND_WORDS)}, needs a blank before it."""


class Chat:
    """One conversation after another."""

    def __init__(self, answer: Answer, config: SamplingConfig, system: str | None = None) -> None:
        self._answer = answer
        self.config = config
        self.system = system
        self.messages: list[Message] = []
        """Of user and assistant in turn. It ends with an answer."""
        self._begun = ""
        """Text on the next line at a terminal, to be edited."""
        self._told_left_out = 0

    def run(self, terminal: bool) -> None:
        """Answer each line of the standard input, until its end or /quit. A mistake prints one line."""
        while (line := next_line(terminal, self._take_begun())) is not None:
            if line.strip() in LEAVE:
                return
            with going_on(terminal):
                if line.startswith("/"):
                    self._run_command(line.strip(), terminal)
                elif terminal and line in COMMAND_WORDS:
                    put("(to leave: /quit or Ctrl-D; /help lists the commands)")
                elif line.strip():
                    self.say(line.strip())

    def say(self, text: str) -> None:
        """Add a message of the user, and print and keep the answer. An answer that is stopped ends there; without any
        answer, the message is not kept.

        Raises:
            UserError: the message is not valid text, or too long.
        """
        system = [{"role": SYSTEM, "content": self.system}] if self.system else []
        question = {"role": USER, "content": _valid(text)}
        left_out, pieces = self._answer([*system, *self.messages, question], self.config)
        if left_out > self._told_left_out:
            put(f"({counted(left_out, 'message')} at the beginning no longer fit into the context)")
        self._told_left_out = left_out
        written: list[str] = []

        def kept() -> Iterator[str]:
            for piece in pieces:
                written.append(piece)
                yield piece

        try:
            write("", kept())
        finally:
            if answer := "".join(written).strip():
                self.messages += [question, {"role": ASSISTANT, "content": answer}]

    def _take_begun(self) -> str:
        begun, self._begun = self._begun, ""
        return begun

    def _run_command(self, line: str, terminal: bool) -> None:
        command, _, value = line.partition(" ")
        value = value.strip()
        match command:
            case "/help":
                put(HELP)
            case "/edit":
                if value:
                    self._say_instead(value)
                    return
                last = self._undo()
                if terminal and "\n" not in last:
                    self._begun = last
                else:
                    put(f"Taken back: {printable(last)}")
            case "/again":
                self._say_instead(None)
            case "/undo":
                put(f"Taken back: {printable(self._undo())}")
            case "/new":
                self.messages, self._told_left_out = [], 0
                put("A new conversation.")
            case "/system":
                if value:
                    self.system = None if value == "off" else _valid(value)
                put(f"system {printable(self.system or 'off')}")
            case "/save":
                put(printable(self._save(value)))
            case _:
                self.config = run_command(line, self.config)

    def _say_instead(self, text: str | None) -> None:
        """Answer another last message, or the same one again. Without a new answer, the old ones stay.

        Raises:
            UserError: as `say`, or there is no message yet.
        """
        before = list(self.messages)
        last = self._undo()
        n_left = len(self.messages)
        try:
            self.say(text or last)
        finally:
            if len(self.messages) == n_left:
                self.messages = before

    def _undo(self) -> str:
        """Remove the last message of the user with its answer; returns the message.

        Raises:
            UserError: there is none.
        """
        if not self.messages:
            raise UserError("there is no message yet")
        *self.messages, question, _ = self.messages
        return question["content"]

    def _save(self, name: str) -> str:
        """Add the conversation to a file; returns a line that says so.

        Raises:
            UserError: there is nothing to save, or the file cannot be written.
        """
        if not self.messages:
            raise UserError("there is no message yet")
        if not name:
            raise UserError(f"/save: give a file name that ends in {SUFFIX}")
        try:
            path = Path(name).expanduser()
        except RuntimeError:
            raise UserError(f"/save {name}: there is no such user") from None
        system = [{"role": SYSTEM, "content": self.system}] if self.system else []
        add_conversation(path, [*system, *self.messages])
        return f"{counted(len(self.messages), 'message')} added to {path}"


def chat(answer: Answer, config: SamplingConfig, system: str | None = None) -> None:
    """Talk with a model on standard input and output. At a terminal, lines can be edited, and the history of lines
    outlives the session.

    Raises:
        UserError: standard input is closed.
    """
    terminal = check_input("the messages are read from it")
    with line_editing() if terminal else contextlib.nullcontext():
        if terminal:
            put("/help lists the commands, Ctrl-D leaves.")
        Chat(answer, config, system).run(terminal)


def _valid(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the message is not valid UTF-8 from character {error.start + 1} on: "
            "check the encoding of the terminal"
        ) from None
    return text
