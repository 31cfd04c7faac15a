"""``predict`` for many videos: a file of results for each, by one process or several.

What is done is noted beside the results, so that the same command goes on after an interrupt.

    out/a.json, out/sub/b.json    results, called like the videos
    out/summary.json              frames, people, seconds and error of each video
    out/.run                      settings, a lock, and what was done of each video
"""

from __future__ import annotations

import errno
import glob
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from posewarper.data.formats import load_labels
from posewarper.files import read_json, write_json
from posewarper.shares import Sharing, plain_settings, read_note, settled_folder
from posewarper.streaming.merging import merge_results
from posewarper.streaming.pipeline import Summary

OnError = Literal["skip", "stop"]
#: Predicts one video: the video, file of its results, of its overlay, and of its boxes.
Predict = Callable[[str, Path, Path | None, Path | None], Summary]

_NOTES, _SUMMARY = ".run", "summary"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what the next video would not survive either
_TOLD = 5  # failed videos in a message


@dataclass(frozen=True)
class Entry:
    """One of many videos.

    Attributes:
        name: of its results, below the folder and without an ending.
        video: a file or a folder of images.
        size: bytes; a rough measure of the work.
    """

    name: str
    video: str
    size: int


@dataclass
class ManySummary(Summary):
    """What became of many videos: the sums, and those of each.

    Attributes:
        videos: of each name, video, size, frames, people, left_out (a count), seconds, error.
    """

    videos: list[dict[str, Any]] = field(default_factory=list)


def find_videos(video: str) -> list[Path] | None:
    """The videos that a pattern or a list stands for; None for a single video, camera or stream.

    Args:
        video: a pattern with ``*``, ``?`` or ``[ ]``, ``**`` for folders of any depth; or a .txt
            file of one video per line, as seen from the current folder.

    Raises:
        FileNotFoundError: nothing has such a name; names the line of a list.
        ValueError: the list is empty, or names a video twice.
    """
    if "://" in video or Path(video).is_dir():
        return None
    if video.lower().endswith(".txt") and Path(video).is_file():
        return _listed(Path(video))
    if Path(video).exists() or not any(sign in video for sign in "*?["):
        return None
    found = [Path(name) for name in sorted(glob.glob(video, recursive=True))]
    if not found:
        raise FileNotFoundError(f"video: no file or folder is called {video!r}")
    return found


def _listed(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"video: {path} is no list of videos: {error}") from None
    numbered = [(n, Path(text)) for n, line in enumerate(lines, 1) if (text := line.strip())]
    for number, video in numbered:
        if not video.exists():
            raise FileNotFoundError(
                f"video: {path}, line {number}: there is no file or folder {str(video)!r} (as seen "
                "from the current folder)"
            )
    if not numbered:
        raise ValueError(f"video: the list {path} is empty")
    videos = [video for _, video in numbered]
    twice = next((str(v) for v, times in Counter(videos).items() if times > 1), None)
    if twice is not None:
        raise ValueError(f"video: {path} names {twice!r} more than once")
    return videos


def check_places(
    videos: Sequence[Path], out: Path | None, overlay: Path | None, box_file: Path | None
) -> Path:
    """The folder of the results; an error before the work, not after it.

    Raises:
        ValueError: no folder was given, or a file; boxes that do not say of which video they are.
    """
    if out is None:
        raise ValueError("out: many videos need a folder to write to, got none")
    for name, path in (("out", out), ("overlay", overlay)):
        if path is None:
            continue
        if path.is_file() or path.suffix.lower() in (".json", ".csv", ".mp4"):
            raise ValueError(f"{name}: expected a folder, as there are many videos, got {path}")
    if box_file is not None and not box_file.is_dir() and len(videos) > 1:
        listed = box_file.suffix.lower() == ".json" and isinstance(read_json(box_file), list)
        if listed or len(load_labels(box_file, poses=False).videos) == 1:
            raise ValueError(
                f"box_file: expected labels of several videos, or a folder with a file for each, "
                f"called like its results, got {box_file}, which has those of one"
            )
    return out


def predict_many(
    videos: Sequence[Path],
    out: Path,
    predict: Predict,
    *,
    suffix: str,
    settings: Mapping[str, Any],
    overlay: Path | None = None,
    box_file: Path | None = None,
    on_error: OnError = "skip",
    merge: Path | None = None,
    sharing: Sharing | None = None,
) -> ManySummary:
    """Each video once, the largest first; those that were done before are left as they are.

    Args:
        videos: files and folders of images.
        out: folder of the results.
        predict: does one of them.
        suffix: of the results, ".json" or ".csv".
        settings: all options that results depend on; other results in ``out`` are refused.
        overlay: folder of films, called like the results.
        box_file: a file for all, or a folder of files called like the results.
        on_error: after a video that cannot be read go on with the others, or stop.
        merge: also write all results as one file, see ``merge_results``.
        sharing: with whom the videos are shared.

    Returns:
        With several processes, in all but the first what this one did.

    Raises:
        ValueError: some videos failed, which is told after the others are done; videos whose
            results would have the same name; see ``settled_folder``.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what is done stays.
    """
    sharing = sharing or Sharing()
    done: list[dict[str, Any]] = []
    with ExitStack() as held:

        def prepare() -> list[dict[str, Any]]:
            wanted = plain_settings(settings)
            _check_merge_place(merge, entries, out, suffix)
            held.enter_context(settled_folder(out / _NOTES, out, wanted))
            return [asdict(entry) for entry in _left(entries, out, suffix, sharing.attempt)]

        entries = _entries(videos, suffix) if sharing.is_first else []
        todo = [Entry(**entry) for entry in sharing.from_first(prepare)]
        if sharing.is_first and len(todo) < len(entries):
            print(f"{len(entries) - len(todo)} of {len(entries)} videos are done already")
        for number in sharing.take(len(todo)):
            entry = todo[number]
            film = None if overlay is None else overlay / f"{entry.name}.mp4"
            note = _one(entry, out / f"{entry.name}{suffix}", film, box_file, predict, on_error)
            write_json(_note_of(entry, out), note)
            done.append(note)
            told = note["error"] or f"{note['people']} people in {note['frames']} frames"
            line = f"[{number + 1}/{len(todo)}] {entry.name}: {told}"
            print(line.encode(errors="replace").decode(), flush=True)  # names may be no text
        if not sharing.is_first:
            return _summed(done)
        sharing.wait()
        done = [read_note(_note_of(entry, out)) for entry in entries]
        summary = _summed(done)
        write_json(out / f"{_SUMMARY}.json", {"total": _total(summary), "videos": done})
        whole = [(note["name"], Path(note["video"])) for note in done if not note["error"]]
        if merge is not None and whole:
            merge_results(whole, _base([entry.video for entry in entries]), out, merge)
            print(f"{len(whole)} videos -> {merge}")
    failed = [f"{note['name']}: {note['error']}" for note in done if note["error"]]
    if failed:
        more = "; .." if len(failed) > _TOLD else ""
        raise ValueError(
            f"{len(failed)} of {len(done)} videos failed (all in {out / _SUMMARY}.json): "
            f"{'; '.join(failed[:_TOLD])}{more}"
        )
    print(f"{summary.people} people in {summary.frames} frames of {len(done)} videos -> {out}")
    return summary


def _one(
    entry: Entry,
    result: Path,
    film: Path | None,
    box_file: Path | None,
    predict: Predict,
    on_error: OnError,
) -> dict[str, Any]:
    """Predict one video, and what became of it."""
    start, summary, problem = time.perf_counter(), Summary(), ""
    try:
        boxes = box_file
        if box_file is not None and box_file.is_dir():
            boxes = _boxes_of(entry.name, box_file)
        summary = predict(entry.video, result, film, boxes)
    except (ValueError, OSError) as error:
        if on_error == "stop" or (isinstance(error, OSError) and error.errno in _FULL):
            raise
        problem = str(error) or type(error).__name__
    return {
        **asdict(entry),
        "frames": summary.frames,
        "people": summary.people,
        "left_out": len(summary.left_out),
        "seconds": round(time.perf_counter() - start, 3),
        "error": problem,
    }


def _entries(videos: Sequence[Path], suffix: str) -> list[Entry]:
    """The videos, largest first, and names for their results: paths below the folder that all are
    in, without an ending where that tells them apart.
    """
    places = [Path(os.path.abspath(video)) for video in videos]
    base = _base(places)
    paths = [place.relative_to(base) for place in places]
    short = [(path.with_suffix("") if place.is_file() else path).as_posix()
             for path, place in zip(paths, places, strict=True)]  # fmt: skip
    times = Counter([*short, _SUMMARY] if suffix == ".json" else short)
    names = [
        path.as_posix() if times[name] > 1 else name
        for path, name in zip(paths, short, strict=True)
    ]
    taken = Counter(names)
    for name, place in zip(names, places, strict=True):
        if taken[name] > 1 or (name == _SUMMARY and suffix == ".json"):
            raise ValueError(f"video: the results of {place} have no name of their own: {name}")
    entries = [
        Entry(name, str(place), _size(place)) for name, place in zip(names, places, strict=True)
    ]
    return sorted(entries, key=lambda entry: (-entry.size, entry.name))


def _check_merge_place(
    merge: Path | None, entries: Sequence[Entry], out: Path, suffix: str
) -> None:
    if merge is None:
        return
    taken = {f"{entry.name}{suffix}" for entry in entries} | {f"{_SUMMARY}.json"}
    if os.path.relpath(merge, out) in taken:
        raise ValueError(f"merge: {merge} is a file of results or the summary; choose another name")


def _base(videos: Sequence[Path | str]) -> Path:
    """The folder that all of these absolute paths lie below."""
    return Path(os.path.commonpath([Path(video).parent for video in videos]))


def _size(video: Path) -> int:
    if not video.is_dir():
        return video.stat().st_size
    with os.scandir(video) as files:
        return sum(file.stat().st_size for file in files if file.is_file())


def _left(entries: Iterable[Entry], out: Path, suffix: str, attempt: int) -> list[Entry]:
    """What is still to do. Failed videos are tried again by a new command, but not each time that
    ``torchrun`` starts its processes anew.
    """
    todo = []
    for entry in entries:
        place = _note_of(entry, out)
        known = read_json(place) if place.exists() else None
        if known is not None and known["size"] != entry.size and known["video"] != entry.video:
            raise ValueError(
                f"out: {out / entry.name}{suffix} has the poses of {known['video']}, and would get "
                f"those of {entry.video}; choose another folder"
            )
        if known is not None and known["size"] == entry.size:
            if known["error"] and attempt:
                continue
            if not known["error"] and (out / f"{entry.name}{suffix}").exists():
                continue
        place.unlink(missing_ok=True)
        todo.append(entry)
    for folder in {(out / entry.name).parent for entry in todo}:
        # What killed processes left; nobody else is at work here.
        for pattern in (".*.lines", ".*.partial"):
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
    return todo


def _note_of(entry: Entry, out: Path) -> Path:
    return out / _NOTES / "done" / f"{entry.name}.json"


def _boxes_of(name: str, folder: Path) -> Path:
    """The one file of a folder that is called like the results of a video."""
    place = folder / name
    found = [p for p in sorted(place.parent.glob(f"{glob.escape(place.name)}.*")) if p.is_file()]
    if len(found) != 1:
        raise ValueError(
            f"box_file: expected one file {place}.*, got {', '.join(map(str, found)) or 'none'}"
        )
    return found[0]


def _summed(notes: Sequence[Mapping[str, Any]]) -> ManySummary:
    """``left_out`` has no numbers of frames: they would be those of different videos."""
    return ManySummary(
        frames=sum(note["frames"] for note in notes),
        people=sum(note["people"] for note in notes),
        written=any(not note["error"] for note in notes),
        videos=[dict(note) for note in notes],
    )


def _total(summary: ManySummary) -> dict[str, Any]:
    return {
        "videos": len(summary.videos),
        "failed": sum(bool(note["error"]) for note in summary.videos),
        "frames": summary.frames,
        "people": summary.people,
        "seconds": round(sum(note["seconds"] for note in summary.videos), 3),
    }
