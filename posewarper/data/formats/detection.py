"""Which format a file or folder of labels has: by its content, where endings do not tell."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from posewarper.data.formats.cells import first_cell
from posewarper.data.formats.deeplabcut_project import CONFIG
from posewarper.data.formats.labelme import is_labelme
from posewarper.data.formats.optional import import_optional
from posewarper.data.formats.yolo import read_config
from posewarper.data.images import IMAGE_SUFFIXES
from posewarper.data.video import VIDEO_SUFFIXES
from posewarper.files import read_json, visible

LabelFormat = Literal[
    "coco",
    "csv",
    "cvat",
    "deeplabcut",
    "label-studio",
    "nwb",
    "sleap",
    # Only read:
    "alphapose",
    "coco-results",
    "deeplabcut-project",
    "jabs",
    "labelme",
    "mmpose",
    "openpose",
    "sleap-analysis",
    "yolo",
]
FORMATS: tuple[LabelFormat, ...] = get_args(LabelFormat)
HDF_SUFFIXES = (".h5", ".hdf5", ".hdf")

#: Formats that are written, too, and the endings of their files.
WRITTEN: dict[LabelFormat, tuple[str, ...]] = {
    "coco": (".json",),
    "csv": (".csv",),
    "cvat": (".xml",),
    "deeplabcut": (".csv", *HDF_SUFFIXES),
    "label-studio": (".json",),
    "nwb": (".nwb",),
    "sleap": (".slp",),
}
_KNOWN = (
    "COCO or Label Studio (.json), DeepLabCut (.csv, .h5), a plain table (.csv), "
    "SLEAP (.slp), NWB (.nwb), CVAT (.xml)"
)
_READ_TOO = (
    "; a SLEAP analysis or JABS file (.h5), AlphaPose, MMPose, OpenPose or LabelMe (.json), or the "
    "folder or .yaml file of a DeepLabCut project or a YOLO-pose data set"
)
_PROJECT_KEYS = {"bodyparts", "multianimalbodyparts", "video_sets"}
_HDF5 = b"\x89HDF\r\n\x1a\n"  # the first bytes of such a file
_YOLO_LINE = re.compile(rb"\d+( +[0-9.]+){4,} *\r?(\n|$)")
#: What is not read, by the ending, and the nearest way in.
_OTHERS = {
    **dict.fromkeys(
        (".zip", ".gz", ".tgz", ".tar", ".7z", ".rar", ".bz2", ".xz"),
        "an archive: unpack it; it is the file or folder in it that holds the labels",
    ),
    **dict.fromkeys(
        (".pickle", ".pkl"),
        "a pickle, which can run code when it is read: of DeepLabCut take the .h5 or .csv file "
        "beside it, of MMPose the .json predictions",
    ),
    ".mat": "a MATLAB file: export it as a table (.csv), from SLEAP or LEAP as .slp or .h5",
    **dict.fromkeys(
        (*VIDEO_SUFFIXES, ".gif"),
        "a video, no labels: give the label file, and the video beside it where a command asks",
    ),
    **dict.fromkeys(IMAGE_SUFFIXES, "an image, no labels: give the label file"),
    **dict.fromkeys(
        (".tfrecord", ".record", ".tfrecords"), "a TFRecord: export the data set as COCO"
    ),
    **dict.fromkeys(
        (".npy", ".npz", ".parquet", ".feather", ".xlsx", ".xls", ".ods"),
        "a table in a binary format: save it as .csv with columns frame_idx, track, JOINT.x, "
        "JOINT.y",
    ),
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt", ".onnx", ".safetensors"), "a model, no labels: give the label file"
    ),
    ".ndjson": "an export of Labelbox: export as COCO",
    ".jsonl": "a list of JSON lines: export as COCO or Label Studio's format JSON",
    ".trc": "marker trajectories in 3D, no labels of a video",
    ".c3d": "marker trajectories in 3D, no labels of a video",
    ".bvh": "motion of a skeleton in 3D, no labels of a video",
}


def format_of(path: Path, content: Any = None) -> LabelFormat:
    """The format of a file or folder that exists; ``content`` is that of a JSON file, if known.

    Raises:
        ValueError: it is none that is read; names what it seems to be and the nearest way in.
    """
    if path.is_dir():
        return _format_of_folder(path)
    suffix = path.suffix.lower()
    if suffix in (".slp", ".nwb", ".xml"):
        return {".slp": "sleap", ".nwb": "nwb", ".xml": "cvat"}[suffix]  # type: ignore[return-value]
    if suffix == ".csv":
        return "deeplabcut" if first_cell(path).lower() == "scorer" else "csv"
    if suffix in HDF_SUFFIXES:
        return _format_of_hdf(path)
    if suffix == ".json":
        return _format_of_json(path, read_json(path) if content is None else content)
    if suffix in (".yaml", ".yml"):
        return _format_of_yaml(path)
    what = _OTHERS.get(suffix)
    if what is None and zipfile.is_zipfile(path):
        what = _OTHERS[".zip"]
    if suffix == ".txt" and _YOLO_LINE.match(path.read_bytes()):
        what = "labels of YOLO for one image: give the data.yaml of the data set"
    if what is not None:
        raise ValueError(f"{path}: {what}")
    with open(path, "rb") as file:
        start = file.read(16)
    if start.startswith(_HDF5):
        return _format_of_hdf(path)
    if start.lstrip()[:1] in (b"{", b"["):
        return _format_of_json(path, read_json(path) if content is None else content)
    raise ValueError(f"{path}: labels of which tool? Expected {_KNOWN}{_READ_TOO}")


def folder_format(path: Path) -> LabelFormat | None:
    """The format of a folder of labels; None if it holds none that is known."""
    if next(iter(visible(path.glob("*_keypoints.json"))), None) is not None:
        return "openpose"
    if (path / CONFIG).is_file() and _keys(path / CONFIG) & _PROJECT_KEYS:
        return "deeplabcut-project"
    for name in ("data.yaml", "data.yml"):
        if (path / name).is_file():
            return "yolo"
    first = next(iter(visible(path.glob("*.json")) or visible(path.glob("*/*.json"))), None)
    if first is not None and is_labelme(read_json(first)):
        return "labelme"
    return None


def _format_of_folder(path: Path) -> LabelFormat:
    found = folder_format(path)
    if found is not None:
        return found
    patterns = ("*.slp", "*.nwb", "*.xml", "CollectedData*.csv", "CollectedData*.h5", "*.csv")
    inside = [
        p for at in ("", "*/") for pattern in patterns for p in visible(path.glob(at + pattern))
    ]
    inside += visible(path.glob("*/*.json"))
    endings = sorted({p.suffix.lower() for p in path.iterdir()})
    hint = ""
    if inside:
        hint = f"; give the file with the labels, perhaps {inside[0].relative_to(path).as_posix()}"
    elif ".txt" in endings:
        hint = "; labels of YOLO are read with the data.yaml of their data set"
    elif set(endings) & {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES}:
        hint = "; these are images or videos, no labels"
    raise ValueError(
        f"{path}: expected a file with labels, got a folder that is no DeepLabCut project "
        f"(config.yaml), no YOLO-pose data set (data.yaml) and holds no JSON files of PoseTrack, "
        f"OpenPose or LabelMe{hint}"
    )


def _format_of_yaml(path: Path) -> LabelFormat:
    keys = _keys(path)
    if "kpt_shape" in keys or {"train", "names"} <= keys:
        return "yolo"
    if keys & _PROJECT_KEYS:
        return "deeplabcut-project"
    what = "; it lists joints: give it as the skeleton" if "joints" in keys else ""
    raise ValueError(
        f"{path}: neither a DeepLabCut project ('bodyparts', 'video_sets') nor a YOLO-pose data "
        f"set ('kpt_shape'), got keys {sorted(keys)[:8]}{what}"
    )


def _keys(path: Path) -> set[str]:
    return {str(key) for key in read_config(path)}


def _format_of_hdf(path: Path) -> LabelFormat:
    h5py = import_optional("h5py", path)
    try:
        with h5py.File(path, "r") as file:
            if "poseest" in file:
                return "jabs"
            if {"tracks", "node_names"} <= set(file):
                return "sleap-analysis"
            if "nwb_version" in file.attrs:
                return "nwb"
            if {"videos_json", "metadata"} <= set(file):
                return "sleap"
    except (KeyError, OSError, RuntimeError, ValueError) as error:  # h5py has no error of its own
        raise ValueError(f"{path}: no valid HDF5: {error}") from None
    return "deeplabcut"


def _format_of_json(path: Path, data: Any) -> LabelFormat:
    entries = data if isinstance(data, list) else []
    first = entries[0] if entries and isinstance(entries[0], Mapping) else {}
    keys = set(data) if isinstance(data, Mapping) else set()
    if {"images", "annotations"} <= keys:
        return "coco"
    boxes = _boxes_of(entries)
    if boxes is not None:
        raise ValueError(f"{path}: {boxes}")
    if entries and all(
        isinstance(task, Mapping) and {"annotations", "completions"} & set(task) for task in entries
    ):
        return "label-studio"
    if {"image_id", "keypoints"} <= set(first):
        if isinstance(first["image_id"], str):
            return "alphapose"
        raise ValueError(
            f"{path}: COCO results name images by ids of another file (the first is "
            f"{first['image_id']!r}): posewarper evaluate takes them together with that file; if "
            "the ids are frame numbers of one video, from 0, say --format coco-results"
        )
    if "instance_info" in keys or {"keypoints", "keypoint_scores"} <= set(first):
        return "mmpose"
    if {"frame_id", "instances"} <= set(first):
        return "mmpose"
    if is_labelme(data):
        return "labelme"
    if "people" in keys and path.name.endswith("_keypoints.json"):
        return "openpose"
    values = list(data.values()) if isinstance(data, Mapping) else []
    if values and all(isinstance(v, Mapping) and {"people", "bodies"} & set(v) for v in values):
        return "alphapose"
    raise ValueError(f"{path}: {_other_json(data, keys, first, values)}")


def _boxes_of(entries: list[Any]) -> str | None:
    """What a list is whose entries have annotations and are no tasks of Label Studio."""
    first = entries[0] if entries and isinstance(entries[0], Mapping) else {}
    inside = first.get("annotations")
    one = inside[0] if isinstance(inside, list) and inside else {}
    if isinstance(one, Mapping) and "coordinates" in one:
        return "an export in CreateML's format, which has boxes only: export as COCO keypoints"
    if isinstance(one, Mapping) and "class" in one and "filename" in first:
        return "labels of AlphaTracker: sleap-io turns them into a SLEAP project (.slp)"
    return None


def _other_json(data: Any, keys: set[str], first: Mapping[str, Any], values: list[Any]) -> str:
    """What the content of a JSON file is that is not read, and the nearest way in."""
    via = "_via_img_metadata" in keys or (
        bool(values) and all(isinstance(v, Mapping) and "regions" in v for v in values)
    )
    if via:
        return "a project of VIA (VGG Image Annotator): export it as COCO (Annotation, Export)"
    if "annolist" in keys:
        return "a file of PoseTrack17: give the folder that it is in"
    if {"skeletons", "labels", "videos"} <= keys:
        return "a project of SLEAP before version 1.1: open it in SLEAP and save it as .slp"
    if {"directed", "graph", "nodes"} <= keys:
        return "a skeleton of SLEAP, no labels: give the project (.slp)"
    if {"assets", "activeLearningSettings"} <= keys:
        return "a project of VoTT, which has boxes only"
    if {"categories", "items"} <= keys:
        return "a data set of Datumaro: export it as COCO (datum convert -f coco)"
    if {"objects", "size"} <= keys:
        return "annotations of Supervisely: export the project as COCO"
    if "data_row" in first or "DataRow ID" in first or "Labeled Data" in first:
        return "an export of Labelbox: convert it to COCO"
    if {"image_id", "category_id", "bbox"} <= set(first):
        return "COCO results of boxes, without keypoints: no poses are in it"
    if {"images", "categories"} <= keys:
        return "a COCO file without 'annotations', as test sets have them: no labels are in it"
    found = f"keys {sorted(map(str, data))[:8]}" if keys else f"a {type(data).__name__}"
    return (
        "neither COCO ('images' and 'annotations') nor Label Studio (a list of tasks with "
        f"'annotations') nor one of LabelMe, AlphaPose, MMPose, OpenPose; got {found}"
    )


def format_to_write(path: str | Path, format: LabelFormat | None = None) -> LabelFormat:
    """The format in which ``save_labels`` writes a file.

    Raises:
        ValueError: it cannot be told, is only read, or does not go with the ending.
    """
    path = Path(path)
    by_suffix: dict[str, LabelFormat] = {
        ".json": "coco",
        ".csv": "csv",
        ".slp": "sleap",
        ".nwb": "nwb",
        ".xml": "cvat",
        **dict.fromkeys(HDF_SUFFIXES, "deeplabcut"),
    }
    suffix = path.suffix.lower()
    if format is None and suffix not in by_suffix:
        raise ValueError(f"{path}: expected a name that ends like {_KNOWN}")
    chosen = format or by_suffix[suffix]
    check_format(chosen)
    if chosen not in WRITTEN:
        raise ValueError(
            f"{path}: format {chosen!r} is read, not written; written are {', '.join(WRITTEN)}"
        )
    if suffix not in WRITTEN[chosen]:
        raise ValueError(
            f"{path}: format {chosen!r} wants a name that ends in {WRITTEN[chosen][0]}"
        )
    return chosen


def check_format(format: str) -> None:
    """Raise ValueError where there is no such format."""
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
