"""Prediction by hand: one person after the other, every step written out."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch


def slow_crop(image, box, crop_wh, padding):
    """One crop [3, H, W], normalised, and the map back to the image: a zoom and a shift."""
    x, y, width, height = box
    wide = max(width, height * crop_wh[0] / crop_wh[1]) * padding
    zoom = crop_wh[0] / wide
    left = x + width / 2 - wide / 2
    top = y + height / 2 - wide * crop_wh[1] / crop_wh[0] / 2
    matrix = np.array([[zoom, 0, -left * zoom], [0, zoom, -top * zoom]])
    crop = cv2.warpAffine(image, matrix, crop_wh, flags=cv2.INTER_LINEAR) / 255.0
    crop = (crop - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return torch.tensor(crop.transpose(2, 0, 1), dtype=torch.float32), zoom, left, top


def slow_decode(heatmaps, zoom, left, top):
    """Joints in the image and heights: the maximum, a quarter pixel towards the higher side."""
    joints, heights = [], []
    for map_ in heatmaps.numpy():
        y, x = np.unravel_index(map_.argmax(), map_.shape)
        height, width = map_.shape
        dx = dy = 0.0
        if 1 < x < width - 1 and 1 < y < height - 1:
            dx = 0.25 * np.sign(map_[y, x + 1] - map_[y, x - 1])
            dy = 0.25 * np.sign(map_[y + 1, x] - map_[y - 1, x])
        heights.append(map_.max())
        joints.append((left + 4 * (x + dx) / zoom, top + 4 * (y + dy) / zoom))
    return np.array(joints), np.array(heights)


def slow_pose(model, read, box, number, last, window):
    """One person by hand: crop every frame of the window, aggregate, decode."""
    crops = []
    for delta in window.deltas:
        image = read(min(max(number + delta, 0), last))
        crop, zoom, left, top = slow_crop(image, box, model.crop_wh, model.padding)
        crops.append(crop)
    with torch.no_grad():
        if len(window) == 1:
            heatmaps = model.network.backbone(crops[0][None])[0]
        else:
            heatmaps = model.network.aggregate(torch.stack(crops)[None], window)[0]
    return slow_decode(heatmaps, zoom, left, top)


def reader(root, video):
    @lru_cache(maxsize=8)
    def read(number):
        image = cv2.imread(str(root / video.file_name(number)))
        assert image is not None
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    return read


def assert_by_hand(model, predicted, boxes, root, window):
    """All people of ``predicted``, who are those of ``boxes``, in their order."""
    assert len(predicted.people) == len(boxes)
    readers = [reader(root, video) for video in boxes.videos]
    for row in range(len(boxes)):
        last, read = boxes.videos[boxes.video[row]].last_frame, readers[boxes.video[row]]
        joints, heights = slow_pose(model, read, boxes.bbox[row], boxes.number[row], last, window)
        people, found = predicted.people, heights > 0
        np.testing.assert_allclose(people.keypoints[row, found, :2], joints[found], atol=1e-4)
        assert (people.keypoints[row, :, 2] == np.where(found, 2, 0)).all()
        weighted = np.where(found, heights, 0) * boxes.score[row]
        np.testing.assert_allclose(people.joint_scores[row], weighted, rtol=1e-4, atol=1e-6)
