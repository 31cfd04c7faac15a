"""Exported files: run, read and checked, for the tests of the export."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from random_models import CROP_WH, SMALL
from slow_model import filled, random_state

from posewarper.data.crops import normalise
from posewarper.models import PoseModel

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def little_model():
    """For what does not depend on the network: an export takes its time, per layer."""
    config = replace(
        SMALL, modules=(1,), width=4, stem_width=8, head_width=8, head_blocks=1, dilations=(1, 3)
    )
    torch.manual_seed(0)
    return PoseModel(filled(config, random_state(config)), config, crop_wh=CROP_WH)


def images(*leading, seed=0, crop_wh=CROP_WH):
    generator = torch.Generator().manual_seed(seed)
    shape = (*leading, 3, crop_wh[1], crop_wh[0])
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def run(path, **inputs):
    """The outputs by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == list(inputs)
    names = [value.name for value in session.get_outputs()]
    arrays = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
    return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}


def operators(path):
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def described(path):
    (entry,) = onnx.load(path).metadata_props
    assert entry.key == "posewarper"
    return json.loads(entry.value)


def close(a, b, relative=2e-5):
    scale = float(b.abs().max())
    torch.testing.assert_close(a, b, rtol=0, atol=relative * scale)


def inputs_of(mode, batch, crop_wh=CROP_WH, frames=5):
    maps = torch.rand(batch, 17, crop_wh[1] // 4, crop_wh[0] // 4)
    first, second = (images(batch, seed=seed, crop_wh=crop_wh) for seed in (0, 1))
    return {
        "single": {"crops": first},
        "pair": {"key": first, "support": second},
        "propagate": {"key": first, "support": second, "key_heatmaps": maps},
        "aggregate": {"frames": images(batch, frames, crop_wh=crop_wh)},
    }[mode]


@torch.no_grad()
def expected(model, mode, inputs):
    """By the model's own methods, without anything of the package."""
    network = model.network
    tensors = [normalise(x) if x.dtype == torch.uint8 else x for x in inputs.values()]
    if mode == "single":
        return model.backbone(*tensors)
    return {"pair": network, "propagate": network.propagate, "aggregate": network.aggregate}[mode](
        *tensors
    )


def assert_simple(proto):
    """Nothing is left that could have been computed beforehand, and nothing of the source code."""
    graph = proto.graph
    kinds = {node.op_type for node in graph.node}
    assert not kinds & {"BatchNormalization", "Identity", "Constant", "Dropout"}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        assert not node.metadata_props and not node.doc_string
        inputs = [name for name in node.input if name]
        if all(name in tensors for name in inputs):  # weights stored in half of the space
            assert node.op_type == "Cast"
            assert tensors[inputs[0]].data_type == onnx.TensorProto.FLOAT16
        if node.op_type == "Cast" and inputs[0] in makers:
            assert makers[inputs[0]].op_type != "Cast"
    assert len({node.SerializeToString() for node in graph.node}) == len(graph.node)


def assert_cuts(path, model, folder, relative=2e-5):
    """In two at the frames' heatmaps, and the halves compute what the whole does."""
    proto = onnx.load(path)
    assert described(path)["frame_heatmaps"] == "frame_heatmaps"
    names = [value.name for value in proto.graph.output]
    extractor = onnx.utils.Extractor(proto)
    parts = [
        extractor.extract_model(["frames"], ["frame_heatmaps"]),
        extractor.extract_model(["frame_heatmaps"], names),
    ]
    weights = [{tensor.name for tensor in each.graph.initializer} for each in parts]
    assert len(weights[0] | weights[1]) == len(proto.graph.initializer)
    for name, each in zip(("images.onnx", "maps.onnx"), parts, strict=True):
        onnx.save(each, folder / name)
    frames = images(3, 5)
    outputs = run(path, frames=frames)
    maps = run(folder / "images.onnx", frames=frames)["frame_heatmaps"]
    assert maps.shape == (15, 17, 24, 16) and maps.dtype == torch.float32
    close(maps, expected(model, "single", {"crops": frames.flatten(0, 1)}), relative)
    later = run(folder / "maps.onnx", frame_heatmaps=maps)
    for name in names:
        torch.testing.assert_close(later[name], outputs[name], rtol=0, atol=1e-5)


def write_clip(folder):
    """A video of four frames below a folder, and the frames as they are decoded."""
    rng = np.random.default_rng(0)
    video, size_wh = folder / "clip.avi", (120, 90)
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 25, size_wh)
    for _ in range(4):
        writer.write(cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), size_wh))
    writer.release()
    capture, frames = cv2.VideoCapture(str(video)), []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    assert len(frames) == 4
    return video, frames
