"""What ``fit`` works on: videos, the human labels of some of their frames, and every other frame.

Everything that is wrong with the input is found here, before anything is trained.
"""

from __future__ import annotations

import os
import posixpath
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from posewarper.data.formats import LabelFormat, load_labels
from posewarper.data.formats.attach import attach, images_of
from posewarper.data.formats.pictures import image_size
from posewarper.data.images import decode_image, image_files
from posewarper.data.linking import find_links
from posewarper.data.people import usable_people
from posewarper.data.tables import Frames, PoseDataset, Regions, Video
from posewarper.data.tracks import human_labels
from posewarper.data.video import VIDEO_SUFFIXES, VideoFile
from posewarper.files import visible
from posewarper.fitting.label_checks import check_text, clean_people
from posewarper.skeleton import Skeleton, find_skeleton


@dataclass(frozen=True, eq=False)
class Inputs:
    """Videos and their labels.

    Attributes:
        dataset: every frame that the videos have, by video and number, with its size; frames of
            video files count from 0. An image folder may lack numbers, which then are no rows. Only
            human labels are in it, frames with such are ``labelled``. Paths start at ``root``. Who
            is labelled but cannot serve, with fewer than two different joints for instance, has
            area 0, so that ``usable_people`` leaves it out and nobody takes it for absent.
        root: folder for ``FrameSource``, which should be given the data set as well, since names of
            images need not follow a pattern.
        notes: what a user should know: what was left out, what was decided; a sentence each.
    """

    dataset: PoseDataset
    root: Path
    notes: tuple[str, ...]


def read_inputs(
    videos: Sequence[Path],
    labels: Path,
    skeleton: Path | str | None = None,
    *,
    format: LabelFormat | None = None,
    predicted_as_labels: bool = False,
) -> Inputs:
    """Read the labels of videos, and check that they belong together.

    One video and labels of one video belong together, whatever they are called. Several are matched
    by the ends of their paths (``films/mouse1/clip.mp4`` and ``mouse1/clip`` or ``clip``). A folder
    without images stands for the videos in it. Frames are matched as ``attach`` does it, by number,
    in folders by name. Where the labels' images are at hand, a few are compared with the frames.

    Joints outside the image become unlabelled; people who then have fewer than two different joints
    are not used, nor are those who are in a frame twice. Boxes are made where there are none that
    serve. People without a track get one where that is safe (``data.linking``).

    Args:
        videos: video files, folders of images, folders of these.
        labels: file of labels, in any format that ``load_labels`` reads.
        skeleton: posetrack, coco, or a YAML or JSON file; by default the joints of the labels.
        format: of the labels, where name and content do not tell.
        predicted_as_labels: take people with scores for labelled by hand. Otherwise they are left
            out.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a video cannot be read, has no labels, or is not the one that was labelled;
            labels of frames or joints that do not exist; numbers that are none; nobody is left who
            can serve. Names file, and frame and joint where there is one.
    """
    if not videos:
        raise ValueError("videos: expected at least one video file or folder of images, got none")
    notes: list[str] = []
    joints = _skeleton(skeleton)
    check_text(labels, format)
    dataset = _load(labels, joints, format, notes)
    _note_other_joints(dataset, labels, joints, format, notes)
    dataset = _only_labels(dataset, predicted_as_labels, notes)

    given = _expand([Path(video) for video in videos], dataset)
    chosen = _match(given, dataset, notes)
    for path in given:
        _check_readable(path, notes)
    before = dataset.select(videos=np.array(list(chosen)))
    paths = list(chosen.values())
    named = {video.name: path for video, path in zip(before.videos, paths, strict=True)}
    with _noted(notes):
        attached = attach(before, named)

    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    dataset = _with_all_frames(attached, paths, root, notes)
    dataset = clean_people(dataset, notes)
    links = find_links(dataset)
    notes += links.notes
    dataset = replace(dataset, people=replace(dataset.people, track_id=links.track_id))
    _check_counts(dataset, notes)
    return Inputs(dataset, root, tuple(notes))


def _skeleton(skeleton: Path | str | None) -> Skeleton | None:
    if skeleton is None:
        return None
    try:
        return find_skeleton(str(skeleton))
    except (yaml.YAMLError, TypeError, UnicodeDecodeError, IsADirectoryError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"skeleton: {skeleton} is no list of joints in YAML: {text}") from None


def _load(
    labels: Path, skeleton: Skeleton | None, format: LabelFormat | None, notes: list[str]
) -> PoseDataset:
    """``load_labels``, whose warnings become notes."""
    with _noted(notes):
        # Sizes are not known before the videos are read; see ``clean_people``.
        warnings.filterwarnings("ignore", message=".* lie outside the image")
        try:
            dataset = load_labels(labels, skeleton=skeleton, format=format)
        except ValueError as error:
            if str(labels) in str(error):
                raise
            raise ValueError(f"{labels}: {error}") from None
    return dataset


@contextmanager
def _noted(notes: list[str]) -> Iterator[None]:
    """Warnings become notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    notes += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def _note_other_joints(
    dataset: PoseDataset,
    labels: Path,
    skeleton: Skeleton | None,
    format: LabelFormat | None,
    notes: list[str],
) -> None:
    """Say which joints of the file the skeleton does not take."""
    if len(dataset.skeleton) < 2:
        raise ValueError(
            f"{labels}: expected at least two joints, from which a box can be made, got "
            f"{list(dataset.skeleton.joints)}"
        )
    if skeleton is None:
        return
    try:
        everything = _load(labels, None, format, [])
    except ValueError:  # a file that does not name its joints, and has others than PoseTrack's
        return
    other = [j for j in everything.skeleton.joints if j not in skeleton.joints]
    if other and len(everything.skeleton) != len(skeleton):
        notes.append(
            f"{labels}: joints {', '.join(other)} are not in skeleton {skeleton.name!r} and are "
            "left out"
        )


def _only_labels(dataset: PoseDataset, predicted_as_labels: bool, notes: list[str]) -> PoseDataset:
    """Frames with human labels and the people in them."""
    predicted = dataset.people.predicted
    if predicted.any() and predicted_as_labels:
        notes.append(
            f"{dataset.source}: {predicted.sum()} of {len(predicted)} people have scores, so they "
            "were predicted; they are taken for labels"
        )
        scores = np.full_like(dataset.people.joint_scores, np.nan)
        dataset = replace(dataset, people=replace(dataset.people, joint_scores=scores))
    elif predicted.any():
        notes.append(
            f"{dataset.source}: {predicted.sum()} of {len(predicted)} people have scores, so they "
            "were predicted, not labelled; they are left out"
        )
        dataset = human_labels(dataset)
    inhabited = np.bincount(dataset.people.frame, minlength=len(dataset.frames)) > 0
    if not inhabited.any():
        raise ValueError(
            f"{dataset.source}: no labels: "
            + (
                "everybody in it was predicted (has scores)"
                if predicted.any()
                else "nobody is labelled"
            )
        )
    kept = dataset.frames.labelled | inhabited
    frames = replace(dataset.frames, labelled=kept)
    return replace(dataset, frames=frames).select(frames=kept)


def _expand(videos: Sequence[Path], dataset: PoseDataset) -> list[Path]:
    """The videos, where a folder without images stands for those in it that have labels."""
    found: list[Path] = []
    for path in videos:
        if not path.exists():
            raise FileNotFoundError(f"{path}: there is no such video file or folder of images")
        if path.is_file() or _has_images(path):
            found.append(path)
            continue
        inside = [path / video.path for video in dataset.videos if video.path != "."]
        inside += [p.with_name(p.name + suffix) for p in inside for suffix in VIDEO_SUFFIXES]
        inside += visible(path.iterdir())
        there = [
            p
            for p in dict.fromkeys(inside)
            if (p.is_file() and p.suffix.lower() in VIDEO_SUFFIXES)
            or (p.is_dir() and _has_images(p))
        ]
        labelled = [p for p in there if any(_in_common(p, v) for v in dataset.videos)]
        if not there or (not labelled and len(there) > 1):
            raise ValueError(
                f"{path}: no images in this folder, and "
                + (f"no video that {dataset.source} has labels of" if there else "no videos")
            )
        found += labelled or there
    absolute = [os.path.realpath(path) for path in found]
    for path, real in zip(found, absolute, strict=True):
        if absolute.count(real) > 1:
            raise ValueError(f"videos: {path} is given twice")
    return found


def _has_images(folder: Path) -> bool:
    return bool(image_files(folder))


def _in_common(path: Path, video: Video) -> int:
    """How many parts of the paths agree, from the last one on; that one without its ending."""
    common = 0
    for ours, theirs in zip(_parts(path.absolute().as_posix()), _parts(video.path), strict=False):
        if ours != theirs:
            break
        common += 1
    return common


def _parts(path: str) -> list[str]:
    """Parts of a path, the last one first."""
    pure = PurePosixPath(path)
    return list(
        (pure.with_suffix("") if pure.suffix.lower() in VIDEO_SUFFIXES else pure).parts[::-1]
    )


def _match(given: Sequence[Path], dataset: PoseDataset, notes: list[str]) -> dict[int, Path]:
    """The given path of each video of the labels, by its position, in the order of the labels."""
    names = ", ".join(repr(video.name) for video in dataset.videos[:6])
    names += ", ..." if len(dataset.videos) > 6 else ""
    labelled = np.unique(dataset.frames.video).tolist()
    common = np.array(
        [[_in_common(path, dataset.videos[v]) for v in labelled] for path in given]
    ).reshape(len(given), len(labelled))
    places = {dataset.videos[v].path for v in labelled}
    if len(given) == 1 and given[0].is_dir() and len(places) == 1 and len(labelled) > 1:
        return dict.fromkeys(labelled, given[0])  # images of several videos in one folder
    if common.shape == (1, 1):
        video = dataset.videos[labelled[0]]
        if not common[0, 0] and video.path != ".":
            notes.append(f"{dataset.source}: the labels of {video.name!r} are taken for {given[0]}")
        return {labelled[0]: given[0]}

    chosen: dict[int, Path] = {}
    for row, path in enumerate(given):
        most = common[row].max()
        # A longer agreement of another path takes a video away from this one.
        best = [
            column
            for column in range(len(labelled))
            if common[row, column] == most > 0 and most == common[:, column].max()
        ]
        if not best:
            raise ValueError(
                f"{path}: {dataset.source} has no labels of this video; its videos are {names}"
            )
        if len(best) > 1 or labelled[best[0]] in chosen:
            rivals = [str(p) for r, p in enumerate(given) if common[r, best[0]] == most]
            several = [dataset.videos[labelled[column]].name for column in best]
            raise ValueError(
                f"{dataset.source}: video: it is not clear which labels belong to which video: "
                f"{', '.join(rivals)} could be {', '.join(map(repr, several))}"
            )
        chosen[labelled[best[0]]] = path
    rest = [dataset.videos[v].name for v in labelled if v not in chosen]
    if rest:
        people = int((~np.isin(dataset.frames.video[dataset.people.frame], list(chosen))).sum())
        listed = ", ".join(rest[:6]) + (", ..." if len(rest) > 6 else "")
        notes.append(
            f"{dataset.source}: {people} labels of {len(rest)} videos that were not given are left "
            f"out: {listed}"
        )
    return dict(sorted(chosen.items()))


def _check_readable(path: Path, notes: list[str]) -> None:
    """Raise ValueError where a video file has no frames; note where it lost some."""
    damage = VideoFile(path).damage() if path.is_file() else None
    if damage is not None:
        notes.append(damage)


def _with_all_frames(
    dataset: PoseDataset, paths: Sequence[Path], root: Path, notes: list[str]
) -> PoseDataset:
    """The data set with a row for every frame of its videos, and with paths below ``root``.

    Raises:
        ValueError: a labelled image cannot be read.
    """
    frames = dataset.frames
    videos = _relative(dataset.videos, paths, root)
    known = dataset.frame_rows()
    rows: list[int] = []  # in the labels, -1 for frames that are not there
    video_of: list[int] = []
    numbers: list[int] = []
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    for position, (video, path) in enumerate(zip(videos, paths, strict=True)):
        listed = _images(path, video, notes)
        size = VideoFile(path).size_wh() if path.is_file() else (0, 0)
        for number, name in listed.items():
            row = known.get((position, number), -1)
            if path.is_dir():
                image = path / posixpath.basename(name)
                if row >= 0:
                    decode_image(image)  # a labelled one has to be whole
                size = image_size(image)
            rows.append(row)
            video_of.append(position)
            numbers.append(number)
            names.append(name)
            sizes.append(size)
    old = np.array(rows)
    there = old >= 0
    of_old = np.full(len(frames), -1)
    of_old[old[there]] = np.flatnonzero(there)
    image_id = frames.image_id.max(initial=0) + np.cumsum(~there)
    frame_id = np.array(numbers)
    labelled = np.zeros(len(old), np.bool_)
    image_id[there], frame_id[there] = frames.image_id[old[there]], frames.frame_id[old[there]]
    labelled[there] = frames.labelled[old[there]]
    complete = Frames.make(
        videos,
        video_of,
        numbers,
        size_wh=sizes,
        labelled=labelled,
        image_id=image_id,
        frame_id=frame_id,
        file_name=names,
        original_file_name=["" if r < 0 else frames.original_file_name[r] for r in rows],
        ignore=Regions.make([[] if r < 0 else frames.ignore.of(r) for r in rows]),
    )
    people = replace(dataset.people, frame=of_old[dataset.people.frame])
    people = people[np.argsort(people.frame, kind="stable")]
    return replace(dataset, videos=videos, frames=complete, people=people)


def _relative(videos: Sequence[Video], paths: Sequence[Path], root: Path) -> tuple[Video, ...]:
    """The videos with paths below ``root``, named by them without the ending of a file; names
    differ, or the videos could not have been matched.
    """
    places = [Path(os.path.relpath(path.absolute(), root)).as_posix() for path in paths]
    names = [
        posixpath.splitext(p)[0]
        if video.is_file
        else posixpath.join(p, video.pattern) * (places.count(p) > 1) or p
        for video, p in zip(videos, places, strict=True)
    ]
    return tuple(
        replace(video, name=name, path=p)
        for video, name, p in zip(videos, names, places, strict=True)
    )


def _images(path: Path, video: Video, notes: list[str]) -> dict[int, str]:
    """Name below the root of every frame that a video has, by number."""
    if path.is_file():
        return {number: video.file_name(number) for number in range(video.frame_count)}
    names = images_of(path, video.pattern)
    images = {number: posixpath.join(video.path, name) for number, name in names.items()}
    missing = [n for n in range(video.first_frame, video.last_frame + 1) if n not in images]
    if missing:
        listed = ", ".join(map(str, missing[:6])) + (", ..." if len(missing) > 6 else "")
        notes.append(
            f"{path}: {len(missing)} of the frames {video.first_frame} to {video.last_frame} have "
            f"no image: {listed}"
        )
    return dict(sorted(images.items()))


def _check_counts(dataset: PoseDataset, notes: list[str]) -> None:
    """Raise ValueError where a video has nothing to learn from; note where it has little."""
    rows, _ = usable_people(dataset)
    video_of = dataset.frames.video[dataset.people.frame]
    for position, video in enumerate(dataset.videos):
        of_video = rows[video_of[rows] == position]
        if not len(of_video):
            raise ValueError(
                f"{dataset.source}: none of the {(video_of == position).sum()} labels of video "
                f"{video.name!r} can serve: they need two joints at different places in the image"
            )
        if len(np.unique(dataset.people.frame[of_video])) == 1:
            number = dataset.frames.number[dataset.people.frame[of_video[0]]]
            examples = f"{len(of_video)} example{'s' if len(of_video) > 1 else ''}"
            notes.append(
                f"{video.name}: only frame {number} is labelled: other frames have a label on one "
                f"side only, and this video gives {examples} to learn from"
            )
