"""Labels in the files of labelling tools: DeepLabCut, SLEAP, Label Studio, CVAT, NWB, COCO, CSV."""

from posewarper.data.formats.labels import (
    FORMATS,
    LabelFormat,
    format_to_write,
    load_labels,
    load_track_names,
    save_labels,
)

__all__ = [
    "FORMATS",
    "LabelFormat",
    "format_to_write",
    "load_labels",
    "load_track_names",
    "save_labels",
]
