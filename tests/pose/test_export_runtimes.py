"""Exported files in other hands: quantisers, old versions of onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_files import inputs_of, run
from onnxruntime.quantization.shape_inference import quant_pre_process
from random_models import random_model

from posewarper.export import to_onnx
from posewarper.inference import load_predictor

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("deform_op", ["DeformConv", "GridSample"])
def test_files_tell_the_sizes_of_their_inner_tensors(tmp_path, deform_op, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the preparation leaves files there
    path, ready = tmp_path / "a.onnx", tmp_path / "ready.onnx"
    to_onnx(random_model(), path, mode="aggregate", deform_op=deform_op, compare_results=False)
    graph = onnx.load(path).graph
    told = {value.name for value in (*graph.value_info, *graph.output)}
    assert [name for node in graph.node for name in node.output if name not in told] == []
    assert all(value.type.tensor_type.HasField("shape") for value in graph.value_info)
    quant_pre_process(path, ready, auto_merge=True)
    inputs = inputs_of("aggregate", 2)
    want, got = run(path, **inputs), run(ready, **inputs)
    np.testing.assert_allclose(got["heatmaps"], want["heatmaps"], rtol=0, atol=1e-5)


def test_an_old_onnxruntime_is_named_with_the_option(tmp_path, monkeypatch):
    path = tmp_path / "a.onnx"
    monkeypatch.setattr(onnxruntime, "__version__", "1.24.4")

    def refuse(*arguments, **options):
        raise RuntimeError("[ONNXRuntimeError] : 9 :\nCould not find ... DeformConv(19) node")

    to_onnx(random_model(), path, mode="aggregate", compare_results=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    message = r"onnxruntime 1\.24\.4 does not load it: .*from 1\.25 on .*--deform_op GridSample$"
    with pytest.raises(ValueError, match=message) as error:
        load_predictor(path, device="cpu")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="what was exported: " + message):
        to_onnx(random_model(), tmp_path / "b.onnx", mode="aggregate")
    assert not (tmp_path / "b.onnx").exists()
