"""People in single images, found by torchvision's detectors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import numpy as np
import torch

from posewarper.data.tables import Floats
from posewarper.data.video import Image

#: From an image RGB [H, W, 3] to boxes [P, 4] (x, y, width, height) and scores [P], 0 to 1.
Detect = Callable[[Image], tuple[Floats, Floats]]

DetectorName = Literal[
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "ssdlite320_mobilenet_v3_large",
]
_PERSON = 1  # category in COCO, which all of them were trained on


def person_detector(
    name: DetectorName, weights: Path | None, device: torch.device, threshold: float
) -> Detect:
    """A detector of torchvision, trained on COCO.

    Args:
        name: of the function in ``torchvision.models.detection``.
        weights: file of its weights; by default torchvision's own, which are downloaded once.
        device: where it runs.
        threshold: boxes with a lower score are left out.

    Raises:
        ValueError: the weights cannot be downloaded (says what to do), or do not fit.
        OSError: the file cannot be read.
    """
    from torchvision.models import get_model, get_model_weights  # takes a second

    if weights is None:
        weights = _downloaded(get_model_weights(name).DEFAULT.url, name)
    network = get_model(name, weights=None, weights_backbone=None)
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except (RuntimeError, TypeError, ValueError, EOFError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"detector_weights: {weights} does not fit {name}: {first}") from None
    except OSError:
        raise
    except Exception as error:  # what unpickling raises depends on the damage
        raise ValueError(f"detector_weights: {weights} holds no weights ({error})") from None
    network.eval().to(device)

    @torch.inference_mode()
    def detect(image: Image) -> tuple[Floats, Floats]:
        pixels = torch.tensor(image, device=device).permute(2, 0, 1).float() / 255
        found = network([pixels])[0]
        keep = (found["labels"] == _PERSON) & (found["scores"] >= threshold)
        corners = found["boxes"][keep].double().cpu().numpy()
        scores = found["scores"][keep].double().cpu().numpy()
        return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1), scores

    return detect


def _downloaded(url: str, name: str) -> Path:
    """The file of weights in PyTorch's cache, which is filled if need be."""
    file = url.rpartition("/")[2]
    place = Path(torch.hub.get_dir()) / "checkpoints" / file
    if place.is_file():
        return place
    try:
        os.makedirs(place.parent, exist_ok=True)
        # torchvision's file names end in the beginning of their SHA-256.
        digest = Path(file).stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(place), hash_prefix=digest)
    except (URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"detector: the weights of {name} cannot be downloaded ({error}). On a machine with a "
            f"network fetch {url}, and put the file into {place.parent} here or name it with "
            "detector_weights. Without a detector: boxes from a file (box_file), from a start box "
            "(start_box), or the whole frame (boxes frame)"
        ) from None
    return place
