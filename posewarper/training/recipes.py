"""Recipes: configurations of ``train`` that come with the package, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

_SUFFIX = ".yaml"


def recipe_names() -> list[str]:
    """What there is, sorted."""
    return sorted(path.stem for path in _folder().glob(f"*{_SUFFIX}"))


def recipe_path(name: str) -> Path:
    """The file of a recipe.

    Raises:
        ValueError: there is none of this name; lists those that there are.
    """
    path = _folder() / f"{name}{_SUFFIX}"
    if name not in recipe_names():
        raise ValueError(f"recipe: expected one of {', '.join(recipe_names())}, got {name!r}")
    return path


def _folder() -> Path:
    # Not a package of its own: a folder of data inside this one. Wheels are always unpacked.
    return Path(str(files("posewarper"))) / "recipes"
