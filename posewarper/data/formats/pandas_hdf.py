"""DeepLabCut's HDF5 files: a table as pandas stores it, read and written through h5py.

pandas itself would need PyTables, and would unpickle what it finds. Here nothing is unpickled but
lists and tuples of strings and numbers. Two layouts occur: "fixed" (labels, and what is written
here) and "table" (predictions).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.data.entries import MOST_FRAMES, whole
from posewarper.data.formats.deeplabcut import LEVELS, Table, from_table, to_table
from posewarper.data.formats.label_file import LabelFile
from posewarper.data.formats.optional import import_optional
from posewarper.data.tables import PoseDataset
from posewarper.files import whole_file

_KEY = "df_with_missing"  # the name under which DeepLabCut looks for the table


def read_hdf(path: Path) -> LabelFile:
    """Labels or predictions of DeepLabCut from an HDF5 file.

    Raises:
        ValueError: it is no such table, holds other objects than numbers and strings, or h5py is
            missing.
    """
    h5py = import_optional("h5py", path)
    try:
        with h5py.File(path, "r") as file:
            group = _group(file)
            if group is None:
                raise ValueError(
                    f"{path}: holds no table of pandas; of HDF5 files those of DeepLabCut, SLEAP "
                    "(projects and analysis files), NWB and JABS can be read"
                )
            fixed = _text(group.attrs["pandas_type"]) == "frame"
            columns, index, values = _read_fixed(group) if fixed else _read_table(group)
    except Exception as error:  # a damaged file: h5py, numpy and pickle fail in any way they have
        if str(path) in str(error) and isinstance(error, ValueError):
            raise
        raise ValueError(
            f"{path}: cannot be read as a table of pandas: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'damaged'}"
        ) from None
    depth = {len(column) for column in columns}
    if depth not in ({3}, {4}):
        raise ValueError(
            f"{path}: no table of DeepLabCut: expected three or four rows of column names, got "
            f"{sorted(depth)}"
        )
    if len(values) != len(index):
        raise ValueError(f"{path}: {len(index)} names of rows, but {len(values)} rows")
    levels = LEVELS if depth == {4} else (LEVELS[0], *LEVELS[2:])
    return from_table(Table(levels, columns, index, values), path)


def _group(file: Any) -> Any:
    for name in file:
        if _text(file[name].attrs.get("pandas_type", b"")) in ("frame", "frame_table"):
            return file[name]
    return None


_Parts = tuple[list[tuple[str, ...]], list[Any], np.ndarray]


def _read_fixed(group: Any) -> _Parts:
    columns, index = _axis(group, "axis0"), _axis(group, "axis1")
    place = {column: i for i, column in enumerate(columns)}
    values = np.full((len(index), len(columns)), np.nan)
    for block in range(int(group.attrs["nblocks"])):
        node = group[f"block{block}_values"]
        numbers = node[()] if node.attrs.get("transposed", 0) else node[()].T
        items = _axis(group, f"block{block}_items")
        values[:, [place[item] for item in items]] = numbers.astype(np.float64)
    return columns, [_key(key) for key in index], values


def _axis(group: Any, name: str) -> list[Any]:
    """Labels of an axis; tuples where it has several levels."""
    if _text(group.attrs[f"{name}_variety"]) != "multi":
        return _strings(group[name][()])
    count = int(group.attrs[f"{name}_nlevels"])
    levels = [_strings(group[f"{name}_level{i}"][()]) for i in range(count)]
    codes = [group[f"{name}_label{i}"][()].tolist() for i in range(count)]
    return [
        tuple(level[code] for level, code in zip(levels, row, strict=True))
        for row in zip(*codes, strict=True)
    ]


def _read_table(group: Any) -> _Parts:
    table = group["table"]
    rows = table[()]
    columns: list[tuple[str, ...]] = []
    values = []
    for block in range(len(rows.dtype.names)):
        name = f"values_block_{block}"
        if name in rows.dtype.names:
            items = _PlainUnpickler(io.BytesIO(table.attrs[f"{name}_kind"])).load()
            columns += [tuple(str(part) for part in item) for item in items]
            values.append(rows[name].reshape(len(rows), -1).astype(np.float64))
    index = [_key(key) for key in _strings(rows["index"])]
    return columns, index, np.concatenate(values, 1)


class _PlainUnpickler(pickle.Unpickler):
    """Lists, tuples, strings and numbers; nothing that would run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds an object of type {module}.{name}")


def _key(key: Any) -> int | tuple[str, ...]:
    if isinstance(key, tuple):
        return tuple(str(part) for part in key)
    if isinstance(key, int | float):
        return whole(key, "number of a frame", 0, MOST_FRAMES)
    return (str(key),)


def _strings(values: np.ndarray) -> list[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in values.tolist()]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def write_hdf(dataset: PoseDataset, path: Path, names: Mapping[int, str]) -> None:
    """Write the table of a data set as pandas would, layout "fixed".

    Raises:
        ValueError: there is nobody in it, or h5py is missing.
    """
    h5py = import_optional("h5py", path)
    table = to_table(dataset, path, names)
    with whole_file(path) as partial, h5py.File(partial, "w") as file:
        _describe(file, "GROUP", "1.0", PYTABLES_FORMAT_VERSION="2.1")
        group = file.create_group(_KEY)
        _describe(group, "GROUP", "1.0", pandas_type="frame", encoding="UTF-8", errors="strict")
        group.attrs["ndim"], group.attrs["nblocks"] = 2, 1
        for axis in ("axis0", "block0_items"):
            _write_axis(group, axis, table.columns, table.levels)
        paths = [key for key in table.index if not isinstance(key, int)]
        if paths and len(paths[0]) > 1:
            _write_axis(group, "axis1", paths, [b"N."] * len(paths[0]))
        else:
            _describe(group, axis1_variety="regular")
            names_of_rows = _bytes([path[0] for path in paths])
            keys = names_of_rows if paths else np.array(table.index)
            kind = "string" if paths else "integer"
            _array(group, "axis1", keys, kind=kind, name=b"N.", nan_rep="nan")
        _array(group, "block0_values", table.values)


def _write_axis(
    group: Any, name: str, keys: Sequence[tuple[str, ...]], level_names: Sequence[str | bytes]
) -> None:
    _describe(group, **{f"{name}_variety": "multi"})
    group.attrs[f"{name}_nlevels"] = len(level_names)
    for i, level_name in enumerate(level_names):
        column = [key[i] for key in keys]
        level = list(dict.fromkeys(column))
        place = {label: code for code, label in enumerate(level)}
        more: dict[str, str | bytes] = {"kind": "string", "name": level_name, "nan_rep": "nan"}
        _array(group, f"{name}_level{i}", _bytes(level), **more)
        _array(group, f"{name}_label{i}", np.array([place[label] for label in column], np.int32))


def _bytes(texts: Sequence[str]) -> np.ndarray:
    return np.array([text.encode() for text in texts], np.bytes_)


def _array(group: Any, place: str, values: np.ndarray, /, **attributes: str | bytes) -> None:
    node = group.create_dataset(place, data=values)
    _describe(node, "ARRAY", "2.4", FLAVOR="numpy", **attributes)
    node.attrs["transposed"] = 1


def _describe(node: Any, kind: str = "", version: str = "", /, **attributes: str | bytes) -> None:
    """Attributes as PyTables writes them: texts in UTF-8, pickles (``N.`` is None) as bytes."""
    h5py = import_optional("h5py", node.file.filename)
    if kind:
        attributes = {"CLASS": kind, "VERSION": version, **attributes}
    for name, value in attributes.items():
        data = value.encode() if isinstance(value, str) else value
        text = "utf-8" if isinstance(value, str) else "ascii"
        node.attrs.create(name, data, dtype=h5py.string_dtype(text, len(data)))
