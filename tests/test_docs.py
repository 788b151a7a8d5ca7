"""README and docs agree with the settings, commands, files and pages that they describe."""

import dataclasses
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from homespun.cli.arguments import parse
from homespun.cli.commands import COMMANDS
from homespun.config import OptimizerConfig, TrainConfig
from homespun.config.checked import flag, preset_defaults
from homespun.planning.recipe import plan

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks" / "README.md",
]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def shown(value: object) -> str:
    """A value as the table of settings writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(f'"{text}"' for text in value)
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def test_the_table_of_settings_agrees_with_the_settings() -> None:
    settings = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    settings = settings.partition("\n## Settings\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(--.*?)` \|(.*)\|(.*)\|(.*)\|(.*)\|$", settings, re.MULTILINE)
    own = TrainConfig.__annotations__  # listed first, as in the help
    fields = sorted(dataclasses.fields(TrainConfig), key=lambda field: field.name not in own)
    assert [row[0] for row in rows] == [flag(field.name) for field in fields]

    usual = preset_defaults(TrainConfig)
    recipe = plan(TrainConfig(), vocab_size=500, n_samples=500, flops_per_second=1.0).config
    for (name, *cells), field in zip(rows, fields, strict=True):
        default, with_preset, by_recipe, on_resume = map(str.strip, cells)
        if field.default is None:
            assert not re.search(r"\d", default), name
        else:
            assert default == shown(field.default), name
        rules = field.metadata
        if field.name in usual:
            assert with_preset == (rules["with_preset_words"] or shown(usual[field.name])), name
        elif rules["with_preset_words"] != "no limit":
            assert with_preset == (rules["with_preset_words"] or ""), name
        if rules["recipe"]:
            assert by_recipe == rules["recipe"], name
        value = getattr(recipe, field.name)
        if field.name in OptimizerConfig.__annotations__ and value != field.default:
            assert by_recipe.split(" ")[0] == shown(value), name
        assert on_resume == field.metadata.get("on_resume", "free"), name


def test_the_figures_in_words_are_those_of_the_run_in_the_readme() -> None:
    words = (ROOT / "docs" / "words.md").read_text(encoding="utf-8")
    pages = [ROOT / "README.md", ROOT / "docs" / "02-tokenizer.md"]  # about the same text
    shown = " ".join(" ".join(page.read_text(encoding="utf-8") for page in pages).split())
    settings = ("--", "gpt2", "0.9", "256 tokens")
    quotes = [q for q in re.findall(r"`([^`]*\d[^`]*)`", words) if not q.startswith(settings)]
    assert len(quotes) > 15
    assert [quote for quote in quotes if quote not in shown] == []


@EVERY_PAGE
def test_links_have_a_target(page: Path) -> None:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        there = page.parent / target if target else page
        assert there.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [
                re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings
            ], f"{target}#{heading}"


@EVERY_PAGE
def test_commands_parse(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for script in (ROOT / "scripts").glob("*.py"):
        [name] = re.findall(r'main\(\["(\w+)"', script.read_text(encoding="utf-8"))
        text = text.replace(f"python scripts/{script.name}", f"homespun {name}")
    blocks = [*FENCED.findall(text), *re.findall(r"^ {4}.*$", text, re.MULTILINE)]
    for block in blocks:
        for words in re.findall(r"^\s*(?:\$ )?homespun (.*)$", block, re.MULTILINE):
            name, *given = shlex.split(words, comments=True)
            COMMANDS[name].config(**parse(COMMANDS[name], given))


@EVERY_PAGE
def test_commands_in_sentences_have_these_flags(page: Path) -> None:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for span in map(" ".join, map(str.split, INLINE.findall(text))):
        found = re.fullmatch(r"(?:.*\bpython -m )?homespun ([a-z]+)((?: .*)?)", span)
        if found is None or found[1] not in COMMANDS:
            continue
        kind = COMMANDS[found[1]].config
        known = {"--help", "--debug", *(flag(field.name) for field in dataclasses.fields(kind))}
        given = re.findall(r"(?<= )--[a-z][a-z-]*", found[2].replace("--no-", "--"))
        assert set(given) <= known, span


@EVERY_PAGE
def test_files_and_modules_of_the_project_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w./])(?:homespun|tests|benchmarks|scripts)/[\w/]+(?:\.\w+)?", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    modules = re.findall(r"python -m ((?:homespun|benchmarks|tests)[\w.]*\w)", text)
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = {ROOT / target for target in re.findall(r"\]\(([^)#]+)", readme)}
    assert set(PAGES) - {ROOT / "README.md"} - linked == set()


def test_the_readme_shows_every_part_of_the_package() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("    homespun/\n")[2]
    parts = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in (ROOT / "homespun").iterdir()
        if path.name[0] not in "_." and (path.is_dir() or path.suffix == ".py")
    ]
    assert len(parts) > 20
    assert [part for part in parts if f" {part}" not in tree.partition("\n\n")[0]] == []
