"""Every `playloom` command of README and docs parses, and every Python block imports what exists."""

import ast
import importlib
import re
import shlex
from importlib.metadata import metadata
from pathlib import Path

import pytest
import typer

from playloom.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")] if p.name not in {"CHANGELOG.md", "log.md"})
"""A history names what is no more."""
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SHELL = {"", "bash", "console", "sh", "shell"}
PROGRAM = typer.main.get_command(app)
BEFORE_A_COMMAND = re.compile(r"[;&|(]+|\w+=.*|until|while|do|--no-python|--|\$")


def blocks(*languages: str) -> list:
    found = []
    for page in PAGES:
        matches = [m for m in BLOCK.finditer(page.read_text(encoding="utf-8")) if m[2] in languages]
        found += [pytest.param(m[3], id=f"{page.relative_to(ROOT)}-{i}") for i, m in enumerate(matches)]
    return found


def commands(text: str, program: str) -> list[list[str]]:
    """The words after each call of a program in a shell block."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # not shell: a quotation mark of prose, or a JSON body over several lines
            continue
        for at, word in enumerate(words):
            if word == program and (not at or BEFORE_A_COMMAND.fullmatch(words[at - 1])):
                end = next((i for i in range(at, len(words)) if re.fullmatch(r"[;&|()<>]+", words[i])), len(words))
                found.append([w for w in words[at + 1 : end] if w not in {"…", "..."}])
    return found


def parse(words: list[str]) -> None:
    """Parse a command line by the real program, without running it. An unknown flag or value raises."""
    command, context = PROGRAM, None
    while True:
        context = command.make_context(command.name or "playloom", list(words), parent=context)
        rest = [*context._protected_args, *context.args]
        if not hasattr(command, "resolve_command") or (not rest and command.invoke_without_command):
            return
        _, command, words = command.resolve_command(context, rest)


@pytest.mark.parametrize("text", blocks(*SHELL))
def test_shell_blocks_name_what_exists(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in commands(text, "playloom"):
        for path in (Path(word) for word in words if re.fullmatch(r"\w[\w./-]*", word)):  # an option may want it there
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch() if path.suffix else path.mkdir(exist_ok=True)
        parse(words)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in commands(text, "make"):
        assert {w for w in words if "=" not in w} <= targets, words
    for names in re.findall(r"(?:playloom|\.)\[([\w,]+)\]", text):
        assert set(names.split(",")) <= set(metadata("playloom").get_all("Provides-Extra") or [])


@pytest.mark.parametrize("text", blocks("python"))
def test_python_blocks_import_what_exists(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "playloom":
            assert hasattr(importlib.import_module("playloom"), node.attr), f"playloom has no {node.attr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_sentences_have_the_flags_named_there(page):
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for words in (words for span in re.findall(r"`(playloom [^`]+)`", prose) for words in commands(span, "playloom")):
        command = PROGRAM
        while words and words[0].islower() and words[0].isalpha() and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {flag for option in command.params for flag in [*option.opts, *option.secondary_opts]} | {"--help"}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known
