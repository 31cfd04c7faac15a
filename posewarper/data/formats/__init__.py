"""Labels and predictions in the files of other tools; docs/formats.md lists them."""

from posewarper.data.formats.detection import FORMATS, LabelFormat, folder_format, format_to_write
from posewarper.data.formats.labels import (
    load_labels,
    load_track_names,
    save_labels,
)

__all__ = [
    "FORMATS",
    "LabelFormat",
    "folder_format",
    "format_to_write",
    "load_labels",
    "load_track_names",
    "save_labels",
]
