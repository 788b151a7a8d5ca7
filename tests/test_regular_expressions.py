"""No regular expression takes more than linear time on a text: each gets the texts that are its worst case.

A quadratic search of these texts takes many minutes, far more than `LIMIT`. All of these together take seconds.
"""

import ast
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from homespun.data.text_formats.cutting import MAX_DOCUMENT

PACKAGE = Path(__file__).parent.parent / "homespun"
LIMIT = 60
"""Seconds for all searches of one module."""

TEXTS = """
N = 300_000
MARK = "<|endoftext|>"
parts = [".", '"', '."', ". ", ".x", "x", "x ", "x\\t", "?! ", "<", "漢", "1s"]
parts += [" ", "\\n", "\\r", "\\t", "\\n ", "\\n\\r", "\\r "]
texts = [part * (N // len(part)) for part in [*parts, MARK, MARK + "\\n", MARK + " "]]
texts += ["x" + text + "x" for text in texts]
"""

SEARCHES = {
    "data.text_formats.cutting": """
        from homespun.data.text_formats.cutting import blocks
        for text in texts:
            blocks(text.encode(), N // 2)
        """,
    "data.text_formats.plain_text": """
        import io, json
        from homespun.data import documents
        for text in texts:
            encoded = text.encode()
            value = json.dumps(text, ensure_ascii=False).encode()
            for name, content in (("a.txt", encoded), ("a.txt", (MARK + "\\n").encode() + encoded), ("a.jsonl", value)):
                for _ in documents.read(io.BytesIO(content), name):
                    pass
        """,
    "data.download_file": """
        from pathlib import Path
        from homespun.data.download_file import Partial
        partial = Partial(Path("out.txt"), {}, print)
        for text in texts:
            partial.add(text, None)
        """,
    "tokenizer.splitting": """
        from homespun.tokenizer import splitting
        for kind in (splitting.BEFORE_SPACE, splitting.BEFORE_SPACE_OR_LINE_FEED_OR_ANYWHERE):
            for text in texts:
                for _ in kind.pieces(text, 1 << 16):
                    pass
                kind.words(text)
                kind.may_cut(text)
        """,
    "tokenizer.training": """
        from homespun.tokenizer.training import sample
        for text in texts:
            sample([text], 1 << 30, 1 << 30)
        """,
    "tokenizer.chat_template": """
        from homespun.tokenizer import ChatTemplate, train
        template = ChatTemplate(train(["a text"], 257))
        for text in texts:
            template.prompt([{"role": "user", "content": text}])
        """,
    "tokenizer.jinja_bounds": """
        from homespun.tokenizer.jinja_bounds import FIELD, ODD_NAME
        for text in [*texts, "%" * N, "%(" * (N // 2), "%(a" * (N // 3)]:
            FIELD.findall(text)
            ODD_NAME.search(text)
        """,
    "training.reinforcement.rollouts": """
        from homespun.training.reinforcement.rollouts import first_words
        for text in [*texts, "word " * 20, "word " * (N // 5)]:
            for n in (1, 2, 21, 1000):
                first_words(n).match(text)
        """,
    "data.cleaning.rules": """
        from homespun.data.cleaning.rules import fault_of
        for text in texts:
            fault_of(text)
        """,
    "data.cleaning.duplicates": """
        from homespun.data.cleaning.duplicates import signatures
        for text in texts:
            signatures([text[:50_000]])
        """,
    "tokenizer.decoding": """
        from homespun.tokenizer.decoding import known_decoding
        steps = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}]
        decoding = known_decoding({"type": "Sequence", "decoders": steps})
        for text in texts:
            decoding.token_bytes(text)
        """,
    "stories.judge": """
        from homespun.stories.judge import judge
        for text in texts:
            judge(text[:50_000])
        """,
    "config.checked": """
        from homespun.config.checked import seconds
        from homespun.errors import UserError
        for text in [*texts, "1" * N, "1." * (N // 2), "1 " * (N // 2)]:
            try:
                seconds(text)
            except UserError:
                pass
        """,
}
"""For each module with regular expressions on texts: a program that runs them over `texts`."""
SHORT = {
    "checkpoint.archive": "names in a manifest",
    "checkpoint.lock": "a line of a lock file, of limited length",
    "checkpoint.names": "names of files",
    "config.data": "two numbers",
    "data.corpus": "names of files",
    "data.dataset_files": "names of datasets and of their files",
    "data.download": "names of datasets and of their files",
    "data.files": "the mark between documents",
    "data.hub": "headers and addresses of the hub",
    "data.hub_model": "names of files, and ETags",
    "data.known_tokenizers": "names of folders",
    "data.remote": "names of files",
    "data.text_file": "a size in a settings file",
    "data.text_formats.compression": "the first bytes of a file",
    "data.text_formats.encodings": "a part of a text, of limited length",
    "data.text_formats.foreign": "the first bytes of a file",
    "data.text_formats.parquet": "the first bytes of a file",
    "durable": "names of files",
    "engine.mlx.machine": "the name of a chip",
    "planning.machines": "the name of a machine, as it was typed",
    "tokenizer.jinja": "the source of a template, of limited length",
    "preparing.cluster": "a path",
    "preparing.one_machine": "names of files",
    "server.studio.form": "messages about settings",
    "server.studio.processes": "the lines of a plan",
    "stories.outline": "sentences that the judge has cut",
    "stories.pairs": "stories of the package itself",
    "stories.teller": "the forms of the package itself",
}
"""Modules whose regular expressions see short texts only."""


@pytest.mark.parametrize("module", SEARCHES)
def test_the_worst_texts_take_linear_time(module: str, tmp_path: Path) -> None:
    lines = [line.removeprefix(" " * 8) for line in SEARCHES[module].split("\n")]
    program = TEXTS + "\n".join(lines)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, timeout=LIMIT, check=True)


def test_every_module_with_a_regular_expression_is_known() -> None:
    with_expressions = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) and "re" in [alias.name for alias in node.names]
    }
    assert with_expressions == SEARCHES.keys() | SHORT.keys()


def test_a_cut_can_be_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends the reading of a document of dots."""
    (tmp_path / "dots.txt").write_text("<|endoftext|>\n" + "." * (8 * MAX_DOCUMENT))
    program = (
        "from pathlib import Path; from homespun.data.documents import documents\n"
        "print('begin', flush=True)\n"
        "while True:\n"
        "    for _ in documents(Path('dots.txt')): pass\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "begin\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert "KeyboardInterrupt" in error
