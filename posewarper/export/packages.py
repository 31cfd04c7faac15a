"""Packages of AOTInductor: graphs compiled for one kind of machine, which PyTorch runs.

A package needs PyTorch and, for all modes but "single", ``import pwkernels``, which brings the
warp; nothing of this package::

    import json, pwkernels, torch

    run = torch._inductor.aoti_load_package("model.pt2")
    about = json.loads(run.loader.get_metadata()["posewarper"])
    joints, scores, heatmaps = run(frames)
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posewarper.export.comparison import Comparison, Run, compare
from posewarper.export.graphs import INPUTS, Graph, Mode
from posewarper.export.inputs import random_inputs, real_inputs
from posewarper.export.writing import PROPERTY, check_use, describe
from posewarper.files import whole_file
from posewarper.models import PoseModel, Window, channels_last
from posewarper.models.devices import choose_device

#: Loaders of packages up to 2.13, perhaps 2.14, hand over an empty list of tensors as None.
_LOSES_EMPTY_LISTS = torch.__version__ < "2.15"  # as versions, not as strings


def to_package(
    model: PoseModel,
    path: str | Path,
    *,
    mode: Mode,
    decode: bool = True,
    refinement: str | None = None,
    normalise: bool = True,
    fold: bool = True,
    window: Window | None = None,
    device: str = "cpu",
    compare_results: bool = True,
    images: str | Path | None = None,
) -> Comparison | None:
    """Compile one use of a model ahead of time, and compare it with PyTorch.

    The batch is dynamic; crops have the model's size. Inputs and outputs are those of ``to_onnx``,
    by position: joints, scores, heatmaps. The package's metadata have under the key "posewarper"
    as JSON what ``describe`` returns, and besides inputs and outputs (their names in order), device
    and torch (the version that compiled it).

    The code is for processors with the instruction set of the one that compiles it, or for the
    GPU at hand. The number of threads is that of the process that runs it.

    Args:
        model: the model, on any device; it is not changed.
        path: the file, ``.pt2``; it appears whole and compared, or not at all.
        mode, decode, refinement, normalise, fold, window: see ``to_onnx``.
        device: "cpu", "cuda", "cuda:1"; "auto" is the GPU if there is one: where it runs.
        compare_results: whether the package is loaded and compared with PyTorch.
        images: see ``to_onnx``.

    Returns:
        The comparison, within the tolerances of float32; None if there was none.

    Raises:
        ValueError: options that are unknown or do not go together, no C++ compiler, no such device,
            or a package that cannot be compiled or differs. There is no new file then.
        OSError: the file cannot be written, or there are no such images.
    """
    path = Path(path)
    check_use(model, path, mode, refinement, window)
    if path.suffix != ".pt2":
        raise ValueError(f"{path}: packages have the suffix .pt2")
    if images is not None and not compare_results:
        raise ValueError("images: they are for the comparison, which compare = false leaves out")
    target = choose_device(device)
    if target.type not in ("cpu", "cuda"):
        raise ValueError(f"device: packages run on 'cpu' and 'cuda', got {device!r}")
    _check_compiler()
    refinement = model.refinement if refinement is None else refinement
    if mode == "aggregate":
        window = model.config.window if window is None else window
    real = [] if images is None else real_inputs(Path(images), model, mode, window, normalise)
    outputs = ["joints", "scores", "heatmaps"] if decode else ["heatmaps"]
    graph = Graph(
        model,
        mode,
        window=window,
        refinement=refinement if decode else None,
        bytes_in=normalise,
        fold=fold,
    )
    channels_last(graph.network)  # or every call would change the layout of all weights
    about = describe(
        model, mode, window=window, refinement=refinement, decode=decode, normalise=normalise
    )
    about |= {
        "inputs": INPUTS[mode],
        "outputs": outputs,
        "device": target.type,
        "torch": torch.__version__,
    }
    example = random_inputs(model, mode, window, normalise, batch=2, seed=0)
    program = _captured(graph.eval().to(target), tuple(x.to(target) for x in example), mode)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        package = _compiled(program, Path(folder), path.name, {PROPERTY: json.dumps(about)})
        with whole_file(path) as partial:
            with open(package, "rb") as source, open(partial, "wb") as file:
                shutil.copyfileobj(source, file)
                file.flush()
                os.fsync(file.fileno())
            if not compare_results:
                return None
            comparison = compare(
                package_runner(package, outputs, target),
                model,
                mode,
                window=window,
                refinement=refinement,
                decoded=decode,
                bytes_in=normalise,
                real=real,
            )
            comparison.insist(path)
    return comparison


def package_runner(path: Path, outputs: list[str], device: torch.device) -> Run:
    """Runs a package; tensors on the CPU in and out, convolutions on a GPU in full float32.

    Args:
        path: the package.
        outputs: names of its outputs.
        device: that it was compiled for.

    Raises:
        ValueError: PyTorch cannot load it, or not run it when it is to run.
    """
    try:
        package = torch._inductor.aoti_load_package(str(path))
    except RuntimeError as error:
        raise ValueError(f"PyTorch does not load what was compiled: {error}") from error

    def run(inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        exact: Any = contextlib.nullcontext()
        if device.type == "cuda":
            exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        try:
            with exact, torch.no_grad():
                results = package(*(x.to(device) for x in inputs))
        except RuntimeError as error:
            raise ValueError(f"PyTorch does not run what was compiled: {error}") from error
        values = [results] if isinstance(results, Tensor) else results
        return {name: x.cpu() for name, x in zip(outputs, values, strict=True)}

    return run


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ValueError(
            "format: 'aoti' compiles, which needs a C++ compiler: g++, or what the variable CXX "
            f"names ({str(error).strip().splitlines()[0]})"
        ) from None


def _captured(graph: Graph, inputs: tuple[Tensor, ...], mode: Mode) -> torch.export.ExportedProgram:
    """The graph for batches of any size.

    Raises:
        ValueError: it depends on the batch.
    """
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        try:
            program = torch.export.export(
                graph, inputs, dynamic_shapes=(tuple({0: batch} for _ in inputs),)
            )
        except torch._dynamo.exc.UserError as error:
            raise ValueError(
                f"mode: {mode!r} could not be captured for batches of any size: {error}"
            ) from error
    if _LOSES_EMPTY_LISTS:
        _with_masks(program.graph_module)
    return program


def _with_masks(module: torch.fx.GraphModule) -> None:
    """Masks of ones where the warp has an empty list of masks."""
    for node in module.graph.nodes:
        if node.target is not torch.ops.pwkernels.deform_warp.default or node.args[2]:
            continue
        masks = []
        for offsets in node.args[1]:  # y and x of each sample; a mask has one value
            value = offsets.meta["val"]
            samples = value.shape[1] // 2
            with module.graph.inserting_before(node):
                half = module.graph.call_function(
                    torch.ops.aten.slice.Tensor, (offsets, 1, 0, samples)
                )
                ones = module.graph.call_function(torch.ops.aten.ones_like.default, (half,))
            half.meta["val"] = value[:, :samples]
            ones.meta["val"] = torch.ones_like(half.meta["val"])
            masks.append(ones)
        node.update_arg(2, masks)
    module.recompile()


def _compiled(
    program: torch.export.ExportedProgram, folder: Path, name: str, metadata: dict[str, str]
) -> Path:
    """The package, in ``folder``, which gets everything that is made on the way, too.

    Raises:
        ValueError: it cannot be compiled.
    """
    from torch._inductor.utils import fresh_cache

    options = {"aot_inductor.metadata": metadata, "cpp.dynamic_threads": True}
    with warnings.catch_warnings(), fresh_cache(dir=str(folder), delete=False):
        warnings.simplefilter("ignore")  # of the compiler, about itself
        try:
            written = torch._inductor.aoti_compile_and_package(
                program, package_path=str(folder / name), inductor_configs=options
            )
        except RuntimeError as error:  # of the C++ compiler and of all steps before it
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]  # of hundreds
            raise ValueError(f"{name}: AOTInductor cannot compile it: {reason}") from error
    return Path(written)
