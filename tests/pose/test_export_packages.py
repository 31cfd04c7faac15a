"""Packages of AOTInductor: compiled, loaded elsewhere, compared, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from random_models import CROP_WH, random_model

from posewarper.data.crops import normalise
from posewarper.export import export, packages, to_package
from posewarper.export.graphs import INPUTS, Graph
from posewarper.models import Window, save_model

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]

# What a program without this package does: nothing but PyTorch, and pwkernels where asked for.
SCRIPT = """
import importlib, json, sys
import torch
package, inputs, outputs, *imported = sys.argv[1:]
for name in imported:
    importlib.import_module(name)
run = torch._inductor.aoti_load_package(package)
print(json.dumps(dict(run.loader.get_metadata())))
torch.save([run(*batch) for batch in torch.load(inputs)], outputs)
assert not [name for name in sys.modules if name.partition(".")[0] == "posewarper"]
"""


def run_elsewhere(path, batches, *imported):
    """Metadata and outputs for each batch, from a process of its own."""
    inputs, outputs = path.with_name("inputs.pt"), path.with_name("outputs.pt")
    torch.save(batches, inputs)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, path, inputs, outputs, *imported]
    done = subprocess.run(
        [str(word) for word in command],
        cwd=path.parent, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), torch.load(outputs)


def images(*leading, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (*leading, 3, CROP_WH[1], CROP_WH[0])
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def inputs_of(mode, batch):
    maps = torch.rand(batch, 17, CROP_WH[1] // 4, CROP_WH[0] // 4)
    return {
        "single": (images(batch),),
        "pair": (images(batch), images(batch, seed=1)),
        "propagate": (images(batch), images(batch, seed=1), maps),
        "aggregate": (images(batch, 5),),
    }[mode]


@torch.no_grad()
def expected(model, mode, inputs):
    """By the model's own methods, without anything of the package."""
    network = model.network
    tensors = [normalise(x) if x.dtype == torch.uint8 else x for x in inputs]
    if mode == "single":
        return model.backbone(*tensors)
    return {"pair": network, "propagate": network.propagate, "aggregate": network.aggregate}[mode](
        *tensors
    )


def graph_of(model, mode):
    return Graph(model, mode, window=None, refinement="quarter", bytes_in=True, fold=True).eval()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * float(b.abs().max()))


@pytest.mark.parametrize(
    "mode",
    [
        "aggregate",
        pytest.param("pair", marks=pytest.mark.slow),
        pytest.param("propagate", marks=pytest.mark.slow),
    ],
)
def test_package_with_a_warp(tmp_path, mode):
    model = random_model()
    path = tmp_path / "model.pt2"
    result = to_package(model, path, mode=mode)
    assert list(tmp_path.iterdir()) == [path]
    assert result.joints > 45 and result.joints + result.undecided == 17 * 3
    assert 0 < result.scaled_error < 2e-5 and result.decoding_error < 0.01
    assert model.network.warp.backend == "auto"

    batches = [inputs_of(mode, 1), inputs_of(mode, 3)]
    metadata, outputs = run_elsewhere(path, batches, "pwkernels")
    for inputs, (joints, scores, heatmaps) in zip(batches, outputs, strict=True):
        close(heatmaps, expected(model, mode, inputs))
        assert joints.shape == (len(inputs[0]), 17, 2)
        torch.testing.assert_close(scores, heatmaps.amax((2, 3)), rtol=0, atol=0)
    about = json.loads(metadata["posewarper"])
    assert about["mode"] == mode and about["crop_wh"] == list(CROP_WH)
    assert about["inputs"] == list(INPUTS[mode]) and about["device"] == "cpu"
    assert about["outputs"] == ["joints", "scores", "heatmaps"]
    assert about["torch"] == torch.__version__


def test_command_and_plain_heatmaps(tmp_path, capsys):
    """Mode "single" needs PyTorch alone, and any number of threads may run it."""
    model = random_model(head=False)
    save_model(model, tmp_path / "best.pt")
    path = tmp_path / "best-single.pt2"
    path.write_text("older")
    result = export(tmp_path / "best.pt", format="aoti", decode=False, normalise=False)
    assert f"-> {path}" in capsys.readouterr().out
    assert result.decoding_error is None and result.joints > 45
    inputs = (normalise(images(3)),)
    metadata, (heatmaps,) = run_elsewhere(path, [inputs])
    close(heatmaps, expected(model, "single", inputs))
    about = json.loads(metadata["posewarper"])
    assert about["input"] == "float32" and about["outputs"] == ["heatmaps"]
    with zipfile.ZipFile(path) as package:
        (kernel,) = [name for name in package.namelist() if name.endswith(".kernel.cpp")]
        code = package.read(kernel).decode()
    assert "#pragma omp parallel" in code and "parallel num_threads" not in code


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "warp"}, "mode: expected one of"),
        ({"refinement": "half"}, "refinement: expected one of"),
        ({"mode": "pair", "window": Window.equal(0, 1)}, "window: only mode 'aggregate' has one"),
        ({"device": "tpu-1x"}, "device: expected"),
        ({"device": "meta"}, "device: packages run on 'cpu' and 'cuda', got 'meta'"),
        ({"images": "clip.mp4", "compare_results": False}, "images: they are for the comparison"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        to_package(random_model(), tmp_path / "model.pt2", **{"mode": "aggregate", **options})
    assert not list(tmp_path.iterdir())


def test_bad_places(tmp_path):
    model = random_model()
    with pytest.raises(ValueError, match=r"model\.onnx: packages have the suffix \.pt2"):
        to_package(model, tmp_path / "model.onnx", mode="single")
    with pytest.raises(FileNotFoundError, match="expected a file in a folder that exists"):
        to_package(model, tmp_path / "none" / "model.pt2", mode="single")
    with pytest.raises(ValueError, match="needs a model with a warp head"):
        to_package(random_model(head=False), tmp_path / "model.pt2", mode="pair")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "aoti", "deform_op": "GridSample"}, "deform_op: only format 'onnx' has it"),
        ({"format": "aoti", "opset": 19}, "opset: only format 'onnx' has it"),
        ({"format": "aoti", "precision": "fp16"}, "precision: only format 'onnx' has it"),
        ({"format": "aoti", "dynamic_size": True}, "dynamic_size: only format 'onnx' has it"),
        ({"format": "onnx", "device": "cuda"}, "device: only format 'aoti' has one"),
    ],
)
def test_options_of_the_other_format(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export(tmp_path / "model.pt", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(tmp_path):
    with pytest.raises(ValueError, match="device: 'cuda' was asked for, but PyTorch finds no GPU"):
        to_package(random_model(), tmp_path / "model.pt2", mode="single", device="cuda")
    assert not list(tmp_path.iterdir())


def test_no_compiler(tmp_path):
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(ValueError, match=r"format: 'aoti' .* C\+\+ compiler: g\+\+, .* CXX"),
    ):
        to_package(random_model(), tmp_path / "model.pt2", mode="single")
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("no space left\nand 300 lines of a graph")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    path = tmp_path / "model.pt2"
    path.write_text("older")
    with pytest.raises(
        ValueError, match=r"model\.pt2: AOTInductor cannot compile it: no space left$"
    ):
        to_package(random_model(), path, mode="single")
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


def test_a_package_that_differs_is_not_written(tmp_path, monkeypatch):
    """The compiler is left out: what it made is run as the graph that it got, with a fault."""
    programs, fault = [], 1.001

    def compiled(program, folder, name, metadata):
        programs.append(program.module())
        path = folder / name
        path.write_text("package")
        return path

    def load(path):
        return lambda *inputs: [x * fault for x in programs[-1](*inputs)]

    monkeypatch.setattr(packages, "_compiled", compiled)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", load)
    path, model = tmp_path / "model.pt2", random_model(head=False)
    with pytest.raises(ValueError, match=r"not written, as it differs .*heatmaps: expected"):
        to_package(model, path, mode="single")
    fault = float("nan")
    with pytest.raises(ValueError, match=r"at most 0\.0001, got nan"):
        to_package(model, path, mode="single")
    assert not list(tmp_path.iterdir())
    assert to_package(model, path, mode="single", compare_results=False) is None
    assert path.read_text() == "package"


def test_empty_lists_that_loaders_would_lose(monkeypatch):
    """In graphs of older versions of PyTorch the warp has masks, which change nothing."""
    monkeypatch.setattr(packages, "_LOSES_EMPTY_LISTS", True)
    model, inputs = random_model(), inputs_of("pair", 3)
    graph = graph_of(model, "pair")
    program = packages._captured(graph, inputs_of("pair", 2), "pair")
    warps = [n for n in program.graph.nodes if "deform_warp" in str(n.target)]
    assert warps
    for node in warps:
        offsets, masks = node.args[1:3]
        assert len(masks) == len(offsets) == 3
        assert [mask.meta["val"].shape[1] for mask in masks] == [17 * 9] * 3
    with torch.no_grad():
        _, _, heatmaps = program.module()(*inputs)
    close(heatmaps, expected(model, "pair", inputs))


def test_a_batch_that_cannot_be_dynamic_is_refused(tmp_path, monkeypatch):
    from posewarper.export import graphs

    monkeypatch.setattr(graphs, "normalise", lambda x: normalise(x) * float(x.shape[0]))
    with pytest.raises(ValueError, match="mode: 'single' could not be captured"):
        to_package(random_model(head=False), tmp_path / "model.pt2", mode="single")
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["single", "aggregate"])
def test_package_for_a_gpu(tmp_path, mode):
    path = tmp_path / "model.pt2"
    result = to_package(random_model(), path, mode=mode, device="cuda")
    assert result.joints > 45
    batches = [tuple(x.cuda() for x in inputs_of(mode, 3))]
    metadata, ((joints, _, _),) = run_elsewhere(path, batches, "pwkernels")
    assert joints.is_cuda and json.loads(metadata["posewarper"])["device"] == "cuda"
