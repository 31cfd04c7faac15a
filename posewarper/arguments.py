"""Command lines: made regular before jsonargparse reads them, and one line for each mistake.

What is understood beyond jsonargparse: ``--smooth`` alone for ``--smooth true``, dashes for
underscores in names of options, ``288,384`` for lists of numbers, and several positional values for
a command that takes a list of them, before and after its options.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import jsonargparse

_TRUTH = ("true", "false", "yes", "no", "null")
_NUMBERS = re.compile(r"[-+.\deE\s]+(,[-+.\deE\s]+)+")
_KEY = re.compile(r'(?:Parser key|Key) "([^"]+)"')


class UsageError(ValueError):
    """A mistake in a command line, in one line."""


class Parser(jsonargparse.ArgumentParser):
    """A parser that takes what the module's docstring says, and raises ``UsageError``."""

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:  # type: ignore[override]
        """Parse; at the top only the name of the command is looked at."""
        given = list(args or ())
        if self._subcommands_action is None:
            given = _regular(given, self)
        return super().parse_args(given, *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message as one line."""
        parser = getattr(ex, "subcommand_parser", None) or self
        raise UsageError(_one_line(parser, str(message))) from ex


def _regular(given: list[str], parser: Parser) -> list[str]:
    """Every option as ``--name=value``, and a list of positional values as one."""
    options = {name: action for action in parser._actions for name in action.option_strings}
    places = [action for action in parser._actions if not action.option_strings]
    regular: list[str] = []
    values: list[str] = []
    waiting = list(given)
    while waiting:
        word = waiting.pop(0)
        if word == "--":  # what follows is no option, whatever it begins with
            values += waiting
            break
        if not re.match(r"--?[A-Za-z]", word):
            values.append(word)
            continue
        name, equals, value = word.partition("=")
        if name not in options:
            name = _known_name(name, options, parser)
        action = options[name]
        if action.nargs is not None:  # --help, --print_config
            regular.append(word)
            continue
        if not equals:
            truth = _allows(action, bool)
            if truth and not (waiting and waiting[0].lower() in _TRUTH):
                value = "true"
            elif not waiting or waiting[0].partition("=")[0] in options:
                raise UsageError(f"{name}: expected {_expected(action)}, got nothing")
            else:
                value = waiting.pop(0)
        if not value.strip():  # Path("") would be the current folder
            raise UsageError(f"{name}: expected {_expected(action)}, got nothing")
        if _NUMBERS.fullmatch(value) and (_allows(action, tuple) or _allows(action, list)):
            value = f"[{value}]"
        regular.append(f"{name}={value}")
    if places and not all(value.strip() for value in values):
        raise UsageError(f"{places[-1].dest}: expected {_expected(places[-1])}, got nothing")
    if len(values) > len(places):
        if len(places) != 1 or not _allows(places[0], list):
            takes = " ".join(place.dest.upper() for place in places) or "none"
            raise UsageError(
                f"{_command(parser)}: expected {len(places)} values without an option's name "
                f"({takes}), got {len(values)}: {' '.join(values)}"
            )
        values = [json.dumps(values)]
    return [*regular, *(["--", *values] if any(v.startswith("-") for v in values) else values)]


def _known_name(name: str, options: dict[str, argparse.Action], parser: Parser) -> str:
    """The option that is meant by a name with dashes in place of underscores.

    Raises:
        UsageError: there is none; names the ones that are nearest.
    """
    plain = "--" + name.lstrip("-").replace("-", "_")
    if plain in options:
        return plain
    hint = _nearest(plain, options, 0.7) or f"see {_help(parser)}"
    raise UsageError(f"{name}: {_command(parser)} has no such option; {hint}")


def _nearest(name: str, known: Iterable[str], likeness: float) -> str:
    """A question after the names that are like this one; empty if none is."""
    near = difflib.get_close_matches(name, list(known), 2, likeness)
    return f"did you mean {' or '.join(near)}?" if near else ""


def _one_line(parser: jsonargparse.ArgumentParser, message: str) -> str:
    """What is wrong, from jsonargparse's message of several lines."""
    missing = re.search(r"arguments are required: (.*)", message) or re.search(
        r'Key "([\w.]+)" is required', message
    )
    if missing:
        names = [name.strip() for name in missing[1].split(",")]
        action = parser._subcommands_action
        if action is not None:
            parser = action._name_parser_map.get(names[0].partition(".")[0], parser)
        names = [name.removeprefix(f"{_command(parser)}.") for name in names]
        wanted = [_named(parser, name) for name in names]
        return f"{', '.join(wanted)}: missing; see {_help(parser)}"
    if (choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)) is not None:
        names = re.findall(r"[\w-]+", choice[2])
        hint = _nearest(choice[1], names, 0.6) or f"expected one of {', '.join(names)}"
        return f"{choice[1]}: no such command; {hint}"
    if "subcommand" in message and parser._subcommands_action is not None:
        return f"expected a command: {', '.join(parser._subcommands_action.choices)}"
    if (found := _KEY.search(message)) is not None:
        option, parser = _action_of(parser, found[1])
        if option is not None:
            value = _given(parser, option)
            came = "" if value is None else f", got {value!r}"
            where = " (from a file of options)" if value is None else ""
            if option.dest == "config" and not Path(str(value)).is_file():
                where = ", which is no file"
            return f"{_named(parser, option.dest)}: expected {_expected(option)}{came}{where}"
    return re.sub(r"\s+", " ", message.strip())


def _action_of(
    parser: jsonargparse.ArgumentParser, key: str
) -> tuple[argparse.Action | None, jsonargparse.ArgumentParser]:
    """The option of a key, which may begin with the name of the command."""
    commands = parser._subcommands_action
    if commands is not None:
        command, _, rest = key.partition(".")
        if command in commands._name_parser_map:
            return _action_of(commands._name_parser_map[command], rest)
    found = [action for action in parser._actions if action.dest == key]
    return (found[0] if found else None), parser


def _given(parser: jsonargparse.ArgumentParser, action: argparse.Action) -> str | None:
    """The text that was given for an option; None if it was not on the command line."""
    arguments = list(getattr(parser, "args", None) or ())
    if not action.option_strings:
        values = [word for word in arguments if not word.startswith("--")]
        places = [a.dest for a in parser._actions if not a.option_strings]
        place = places.index(action.dest)
        return values[place] if place < len(values) else None
    for argument in reversed(arguments):
        name, equals, value = argument.partition("=")
        if equals and name in action.option_strings:
            return value
    return None


def _named(parser: jsonargparse.ArgumentParser, dest: str) -> str:
    action = next((action for action in parser._actions if action.dest == dest), None)
    return action.option_strings[0] if action is not None and action.option_strings else dest


def _command(parser: jsonargparse.ArgumentParser) -> str:
    return str(parser.prog).replace(" [options]", "").split()[-1]


def _help(parser: jsonargparse.ArgumentParser) -> str:
    return f"{str(parser.prog).replace(' [options]', '')} --help"


def _kinds(kind: Any) -> list[Any]:
    """The members of a union, without None."""
    if get_origin(kind) in (Union, types.UnionType):
        return [one for member in get_args(kind) for one in _kinds(member)]
    return [] if kind is type(None) else [kind]


def _allows(action: argparse.Action, wanted: type) -> bool:
    kinds = _kinds(getattr(action, "_typehint", None))
    return any(kind is wanted or get_origin(kind) is wanted for kind in kinds)


def _expected(action: argparse.Action) -> str:
    """What an option takes, in words."""
    kind = getattr(action, "_typehint", None)
    if kind is None:
        return "a file of options" if action.dest == "config" else "a value"
    return " or ".join(dict.fromkeys(_words(member) for member in _kinds(kind)))


def _words(kind: Any) -> str:
    simple = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if kind in simple:
        return simple[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        texts = [str(choice) for choice in arguments]
        return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"
    if isinstance(kind, type) and issubclass(kind, Path):
        return "a path"
    if dataclasses.is_dataclass(kind):
        return f"options ({', '.join(field.name for field in dataclasses.fields(kind))})"
    if origin in (tuple, list) and arguments:
        plural = {int: "whole numbers", float: "numbers", Path: "paths"}
        member = plural.get(arguments[0], f"values, each {_words(arguments[0])}")
        if origin is tuple and arguments[-1] is not Ellipsis:
            return f"{len(arguments)} {member} such as {','.join('12345678'[: len(arguments)])}"
        return f"a list of {member}"
    return getattr(kind, "__name__", str(kind))
