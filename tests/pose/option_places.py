"""Whether options arrive: commands are run as from the command line, and what acts is watched.

An option is listed with a value that is not its default, and with the place where it acts:

    "module:Class.attribute"         of every instance, once it is made
    "module:function(parameter)"     of every call; methods as Class.method(parameter)
    a function of the run            what is to be seen in the end: a file, what is printed

The place is to be the last one that takes the value, not the first: what is dropped on the way
there is then noticed. Modules are those in which the name is looked up.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from posewarper import cli


class Enough(BaseException):
    """Ends a run where nothing of interest follows."""


@dataclass(frozen=True)
class Ran:
    """What is left of a run: what it printed, and the folder that it wrote to."""

    out: Path
    printed: str
    logged: str


Place = str | Callable[[Ran], Any]


@dataclass(frozen=True)
class On:
    """A value for an option, where it acts, and what is there then.

    Attributes:
        given: the value.
        place: see the head of this file.
        wanted: what the place has, or a function that tells whether something, not None, is it;
            by default ``given``.
        also: more places that have the same.
    """

    given: Any
    place: Place
    wanted: Any = field(default_factory=lambda: _GIVEN)
    also: tuple[Place, ...] = ()

    def fits(self, seen: Any) -> bool:
        if callable(self.wanted):
            return seen is not None and bool(self.wanted(seen))
        return same(self.given if self.wanted is _GIVEN else self.wanted, seen)


_GIVEN = object()


@dataclass(frozen=True)
class Case:
    """Options that go together, all given in one run.

    Attributes:
        options: by name.
        base: what the run needs besides; the same, and nothing else, is the run without options.
        stubs: what takes the place of "module:name" in both runs.
        until: function "module:name" at which both runs end.
    """

    options: Mapping[str, On]
    base: Mapping[str, Any] = field(default_factory=dict)
    stubs: Mapping[str, Any] = field(default_factory=dict)
    until: str = ""


#: The cases of a command for the folder of the inputs and a folder to write to.
Cases = Callable[[Path, Path], list[Case]]


def option_names(command: str) -> list[str]:
    """All options of a command, those of groups with a dot, as its signature has them."""
    function = cli.command(command)
    hints = get_type_hints(function)
    names = []
    for name in inspect.signature(function).parameters:
        group = hints[name]
        if is_dataclass(group):
            names += [f"{name}.{one}" for one in inspect.signature(group).parameters]
        else:
            names.append(name)
    return names


def same(wanted: Any, seen: Any) -> bool:
    """Equal, lists and tuples and paths and their names alike."""
    if isinstance(wanted, Path) or isinstance(seen, Path):
        return str(wanted) == str(seen)
    if isinstance(wanted, list | tuple | float) and not isinstance(seen, bool | str | None):
        seen = np.asarray(seen)
        return seen.shape == np.shape(wanted) and bool(np.allclose(seen, wanted))
    return type(wanted) is type(seen) and bool(wanted == seen)


def check(
    command: str, cases: Cases, root: Path, folder: Path, monkeypatch: Any, capfd: Any
) -> None:
    """Every option of a command arrives, and what is there differs from a run without it.

    Raises:
        AssertionError: names the options that do not, and those that no case has.
    """
    wrong = []
    given, plain = (folder / name for name in ("given", "plain"))
    for number, (case, other) in enumerate(
        zip(cases(root, given), cases(root, plain), strict=True)
    ):
        options = {name: on.given for name, on in case.options.items()}
        seen = _run(command, {**case.base, **options}, case, given, monkeypatch, capfd)
        usual = _run(command, dict(other.base), other, plain, monkeypatch, capfd)
        for name, on in case.options.items():
            for index, place in enumerate((on.place, *on.also)):
                at = place if isinstance(place, str) else "the end"
                found, before = seen[name][index], usual[name][index]
                label = f"{command}.{name} (case {number + 1})"
                if not found or not all(map(on.fits, found)):
                    wrong.append(f"{label}: gave {on.given!r}; {at} has {_short(found)}")
                elif before and all(map(other.options[name].fits, before)):
                    wrong.append(f"{label}: {at} has {_short(before)} without it, too")
    listed = {name for case in cases(root, given) for name in case.options}
    for name in option_names(command):
        if name not in listed:
            wrong.append(f"{command}.{name}: say in the table of {command} where it acts")
    wrong += [f"{command}.{name}: no such option" for name in listed - {*option_names(command)}]
    assert not wrong, "\n".join(wrong)


def _run(
    command: str, options: Mapping[str, Any], case: Case, out: Path, monkeypatch: Any, capfd: Any
) -> dict[str, list[list[Any]]]:
    """What was seen in the places of each option, in order."""
    out.mkdir(parents=True, exist_ok=True)
    seen: dict[str, list[list[Any]]] = {}
    ends: list[tuple[list[Any], Callable[[Ran], Any]]] = []
    with monkeypatch.context() as patch:
        for place, stub in case.stubs.items():
            owner, name = _owner(place)
            patch.setattr(owner, name, stub)
        if case.until:
            owner, name = _owner(case.until)
            patch.setattr(owner, name, functools.wraps(getattr(owner, name))(_stop))
        for name, on in case.options.items():
            seen[name] = []
            for place in (on.place, *on.also):
                values: list[Any] = []
                seen[name].append(values)
                if isinstance(place, str):
                    _watch(place, values, patch)
                else:
                    ends.append((values, place))
        capfd.readouterr()
        try:
            code = cli.main(_arguments(command, options))
        except Enough:
            code = 0
        printed, logged = capfd.readouterr()
        assert code == 0, f"{command} {dict(options)}: {logged}"
        for values, look in ends:
            values.append(look(Ran(out, printed, logged)))
    return seen


def _stop(*_: Any, **__: Any) -> None:
    raise Enough


def _owner(place: str) -> tuple[Any, str]:
    """What has the last name of "module:name.name" as an attribute."""
    module, _, path = place.partition(":")
    *above, name = path.split(".")
    owner = importlib.import_module(module)
    for part in above:
        owner = getattr(owner, part)
    return owner, name


def _watch(place: str, values: list[Any], patch: Any) -> None:
    if place.endswith(")"):
        function, _, parameter = place[:-1].rpartition("(")
        owner, name = _owner(function)
        if inspect.isclass(getattr(owner, name)):  # it stays the class that others know
            owner, name = getattr(owner, name), "__init__"
        patch.setattr(owner, name, _told(getattr(owner, name), parameter, values))
        return
    module, _, path = place.partition(":")
    class_name, _, attribute = path.partition(".")
    owner = getattr(importlib.import_module(module), class_name)
    made = owner.__init__

    @functools.wraps(made)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        value = self
        for part in attribute.split("."):
            value = getattr(value, part, None)
        values.append(value)

    patch.setattr(owner, "__init__", init)


def _told(function: Any, parameter: str, values: list[Any]) -> Any:
    """The function, which tells what it is given."""
    signature = inspect.signature(function)
    assert parameter in signature.parameters, f"{function} has no parameter {parameter}"

    @functools.wraps(function, updated=())
    def told(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values.append(bound.arguments[parameter])
        return function(*args, **kwargs)

    return told


def _arguments(command: str, options: Mapping[str, Any]) -> list[str]:
    left, found = dict(options), [command]
    for name, parameter in inspect.signature(cli.command(command)).parameters.items():
        if parameter.default is parameter.empty and name in left:
            found.append(_text(left.pop(name)))
    return found + [part for name, value in left.items() for part in (f"--{name}", _text(value))]


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | Path) else json.dumps(value, default=str)


def _short(values: list[Any]) -> str:
    texts = list(dict.fromkeys(repr(value)[:80] for value in values))
    return ", ".join(texts[:4]) or "nothing"
