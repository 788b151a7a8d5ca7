"""Reads a trace of strace, and finds violations of the order of writes that a power cut requires.

A power cut may lose all data that was not flushed, and reorder the rest. So a file must be flushed before it is
renamed. Its folder must be flushed before a rename or removal that relies on the new name. A checkpoint must not refer
to records that are not on the disk.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

CALLS = ("write", "fsync", "rename", "unlink")
_LINE = re.compile(r"(?P<thread>\d+) +(?P<call>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")
_FILE = re.compile(r"\d+<([^>]*)>")
_NAMES = re.compile(r'"([^"]*)"')


def calls(trace: Path, within: Path) -> list[tuple[str, list[str], int]]:
    """Call, files and result of each successful call on the folder `within` or on files in it."""
    found = []
    for line in _lines(trace):
        match = _LINE.match(line)
        if not match or int(match["result"]) < 0:
            continue
        call, arguments = match["call"], match["arguments"]
        names = (
            _NAMES.findall(arguments)
            if call in ("rename", "unlink")
            else _FILE.findall(arguments)[:1]
        )
        names = [str(within.parent / name) for name in names]  # unchanged if absolute
        if names and all(Path(name).is_relative_to(within) for name in names):
            found.append((call, names, int(match["result"])))
    return found


def _lines(trace: Path) -> Iterator[str]:
    """The lines of a trace. A call interrupted by another thread is joined into one line, at its return."""
    begun: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        if interrupted := re.fullmatch(r"((\d+) .*) <unfinished \.\.\.>", line):
            begun[interrupted[2]] = interrupted[1]
        elif resumed := re.fullmatch(r"(\d+) +<\.\.\. \w+ resumed>(.*)", line):
            yield begun.pop(resumed[1], "") + resumed[2]
        else:
            yield line


def count(trace: Path) -> Counter[str]:
    """The largest number of each call in any thread. `when=` of strace counts calls per thread."""
    by_thread: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in trace.read_text(errors="replace").splitlines():
        if match := re.match(r"(\d+) +(\w+)\(", line):
            by_thread[match[1]][match[2]] += 1
    return Counter({c: max(one[c] for one in by_thread.values()) for c in CALLS})


def number(trace: Path, call: str, name: str) -> int:
    """Number of the first `call` that mentions `name`, counted from 1 within its thread."""
    seen: Counter[str] = Counter()
    for line in trace.read_text(errors="replace").splitlines():
        if match := re.match(rf"(\d+) +{call}\(", line):
            seen[match[1]] += 1
            if name in line:
                return seen[match[1]]
    raise AssertionError(f"no {call} of {name}")


def violations(trace: Path, folder: Path) -> list[str]:
    """Places where the order of calls would let a power cut destroy a checkpoint."""
    found = []
    unflushed: set[str] = set()
    renamed: set[str] = set()  # since the folder was last flushed
    for call, names, _ in calls(trace, folder):
        where = Path(names[-1]).name
        if call == "write":
            unflushed.add(names[0])
            if re.fullmatch(r"(checkpoint|best).*\.npz", where):
                found.append(f"{where} was written under its own name")
        elif call == "fsync" and names[0] == str(folder):
            renamed.clear()
        elif call == "fsync":
            unflushed.discard(names[0])
        elif where.startswith(("checkpoint", "best")) and not (
            call == "unlink" and where.endswith(".tmp")
        ):
            if call == "rename" and names[0] in unflushed:
                found.append(f"{where} was renamed before it was flushed")
            if renamed:
                found.append(f"{call} of {where} before the folder was flushed")
            if call == "rename":
                renamed.add(names[1])
    return found + [
        f"the folder was not flushed after {Path(name).name}" for name in sorted(renamed)
    ]


def records_on_disk(trace: Path, folder: Path) -> dict[int, int]:
    """Flushed bytes of metrics.jsonl at the commit of each checkpoint, by step."""
    written = flushed = 0
    found = {}
    for call, names, result in calls(trace, folder):
        name = Path(names[-1]).name
        if name == "metrics.jsonl" and call == "write":
            written += result
        elif name == "metrics.jsonl" and call == "fsync":
            flushed = written
        elif call == "rename" and (
            step := re.fullmatch(r"checkpoint_step_(\d+)\.state\.npz", name)
        ):
            found[int(step[1])] = flushed
    return found
