"""Documents keep up with the code: their commands parse, their Python compiles."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import jsonargparse
import pytest

from posewarper import cli
from posewarper.arguments import Parser
from posewarper.training import RunConfig, recipe_names

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PACKAGES = ("pwkernels", "posewarper")


def blocks(language: str) -> Iterator[tuple[Path, int, str]]:
    """File, line and text of the fenced blocks of a language."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            yield path, text.count("\n", 0, match.start()) + 2, match[1]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where a call of ``posewarper`` stands, and its arguments."""
    for path, start, text in blocks("bash"):
        for match in re.finditer(r"^(?:.*\\\n)*.+$", text, re.MULTILINE):
            words = shlex.split(match[0].replace("\\\n", " "), comments=True)
            place = f"{path.name}:{start + text.count(chr(10), 0, match.start())}"
            at = words.index("posewarper") if "posewarper" in words else None
            if at == 0 or (at is not None and words[at - 1] == "-m"):  # or torchrun -m posewarper
                yield place, words[at + 1 :]


COMMANDS = dict(commands())
CODE = {f"{path.name}:{line}": text for path, line, text in blocks("python")}


def parsed(arguments: list[str]) -> jsonargparse.Namespace:
    """The options of a subcommand, made as the command line makes them, but not run."""
    name = arguments[0]
    parser = jsonargparse.auto_parser(
        {name: cli.command(name)}, as_positional=True, parser_class=Parser
    )
    options = parser.parse_args(cli._with_recipes(arguments))
    # the second one is the name before jsonargparse 4.49
    make = getattr(parser, "instantiate", None) or parser.instantiate_classes
    return make(options)[name]


@pytest.mark.parametrize("place", COMMANDS)
def test_commands_parse(place: str) -> None:
    arguments = COMMANDS[place]
    assert arguments[0] in cli.COMMANDS, f"{place}: no such command"
    try:
        options = parsed(arguments)
    except SystemExit:
        pytest.fail(f"{place}: posewarper {shlex.join(arguments)} does not parse")
    if arguments[0] == "train":  # options that contradict each other, or the stage
        given = {field.name: options.get(field.name) for field in fields(RunConfig)}
        RunConfig(**{**given, "out": given["out"] or Path("runs")})


def test_every_command_and_recipe_is_told_of() -> None:
    assert {arguments[0] for arguments in COMMANDS.values()} == set(cli.COMMANDS)
    training = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert [name for name in recipe_names() if f"`{name}`" not in training] == []


@pytest.mark.parametrize("options", ["--loop.steps 3", "--optimizer.lr=fast", "--loop.epochs 0"])
def test_mistakes_would_be_found(options: str) -> None:
    line = f"train --data.train a.json --data.images frames {options}"
    with pytest.raises((SystemExit, ValueError)):
        parsed(line.split())


@pytest.mark.parametrize("place", CODE)
def test_python_compiles_and_names_exist(place: str) -> None:
    """Our packages have what is imported, and it takes the keywords that it is called with."""
    tree = ast.parse(CODE[place], place)
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            module = importlib.import_module(node.module or "")
            for name in node.names:
                known[name.asname or name.name] = getattr(module, name.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
            keywords = [keyword.arg for keyword in node.keywords if keyword.arg]
            inspect.signature(known[node.func.id]).bind_partial(
                *node.args, **dict.fromkeys(keywords)
            )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    targets = re.findall(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)", text)
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (path.parent / target).exists()] == []
