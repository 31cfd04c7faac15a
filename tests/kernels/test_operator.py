"""The operator within PyTorch: opcheck, compile, export, fakes, autocast, torch.func, modules."""

from __future__ import annotations

import copy
import functools
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import grid
import pytest
import torch
import torchvision.ops
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

import pwkernels
from pwkernels import library
from pwkernels.testing import (
    Case,
    Inputs,
    make_inputs,
    relative_error,
    run,
    with_gradients,
)

EVERYTHING = grid.EVERYTHING
CASES = {
    "everything": EVERYTHING,
    "plain": Case(size=(4, 5)),
    "conv": grid.conv((1, 0), (1, 2), kernel=(2, 3), stride=(2, 1), masks=True),
}
parametrize_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def operator_arguments(case: Case, inputs: Inputs) -> tuple[Any, ...]:
    geometry = case.geometry
    bias = None if inputs.bias is None else inputs.bias[0]
    return (
        inputs.input,
        inputs.offsets,
        inputs.masks,
        inputs.weight,
        bias,
        inputs.frame_weights,
        list(geometry.stride),
        geometry.flat_paddings(),
        geometry.flat_dilations(),
        "cpu",
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@parametrize_cases
def test_opcheck(case: Case, dtype: torch.dtype) -> None:
    weight_dtype = torch.float32 if dtype == torch.bfloat16 else dtype
    case = case.of(dtype=dtype, weight_dtype=weight_dtype)
    torch.library.opcheck(library.deform_warp, operator_arguments(case, make_inputs(case).leaves()))


@pytest.mark.parametrize(
    "needs", [(True,) * 4, (False, True, False, False)], ids=["all", "offsets"]
)
@parametrize_cases
def test_opcheck_backward(case: Case, needs: tuple[bool, ...]) -> None:
    inputs = make_inputs(case)
    input, offsets, masks, weight, _, frame_weights, *sizes, backend = operator_arguments(
        case, inputs
    )
    arguments = (inputs.grad_output, input, offsets, masks, weight, frame_weights, *sizes)
    torch.library.opcheck(library.deform_warp_backward, (*arguments, list(needs), backend))


class Warp(nn.Module):
    """A case as a module of its tensors, for compilers and exporters."""

    def __init__(self, case: Case, backend: str = "auto") -> None:
        super().__init__()
        self.case, self.backend = case, backend

    def forward(
        self,
        input: Tensor,
        offsets: list[Tensor],
        weight: Tensor,
        masks: list[Tensor],
        bias: Tensor | None,
        frame_weights: Tensor | None,
    ) -> Tensor:
        inputs = Inputs(input, offsets, weight, masks, bias, frame_weights)
        return run(self.case, inputs, self.backend) * 2

    def on(self, inputs: Inputs) -> Tensor:
        return self(*positional(inputs))


def positional(inputs: Inputs) -> tuple[Any, ...]:
    return (
        inputs.input,
        inputs.offsets,
        inputs.weight,
        inputs.masks,
        inputs.bias,
        inputs.frame_weights,
    )


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


def assert_same(actual: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert actual.keys() == wanted.keys()
    assert {n: relative_error(actual[n], wanted[n]) for n in wanted} == pytest.approx(
        dict.fromkeys(wanted, 0), abs=1e-6
    )


@pytest.mark.parametrize("autocast", [False, True])
@parametrize_cases
def test_compile(case: Case, autocast: bool) -> None:
    module = Warp(case)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    inputs = make_inputs(case)
    wanted = with_gradients(module.on, inputs)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert_same(with_gradients(lambda t: compiled(*positional(t)), inputs), wanted)


def test_compile_with_the_default_compiler() -> None:
    module = Warp(EVERYTHING)
    compiled = torch.compile(module, fullgraph=True)
    inputs = make_inputs(EVERYTHING)
    assert_same(
        with_gradients(lambda t: compiled(*positional(t)), inputs),
        with_gradients(module.on, inputs),
    )


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_compile_again_for_no_call_and_no_batch(backend: str) -> None:
    """Once for fixed shapes, once more for any batch."""
    import torch._dynamo.testing

    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    module = Warp(EVERYTHING, backend)
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    counts = []
    for seed, frames in enumerate((6, 6, 9, 12, 9)):
        inputs = make_inputs(EVERYTHING.of(frames=frames), seed)
        actual = with_gradients(lambda leaves: compiled(*positional(leaves)), inputs)
        assert_same(actual, with_gradients(module.on, inputs))
        counts.append(counter.frame_count)
    assert counts == [1, 1, 2, 2, 2]


def test_compiled_second_derivative_raises() -> None:
    leaves = make_inputs(EVERYTHING).leaves("input")
    compiled = torch.compile(Warp(EVERYTHING), fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError):
        (gradient,) = torch.autograd.grad(
            compiled(*positional(leaves)).square().sum(), leaves.input, create_graph=True
        )
        gradient.sum().backward()


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_any_batch(strict: bool) -> None:
    case = EVERYTHING.of(window=None)
    module = Warp(case)
    batch = torch.export.Dim("batch", min=1, max=64)

    def dynamic(value: object) -> object:
        if isinstance(value, list):
            return [dynamic(item) for item in value]
        return {0: batch} if isinstance(value, Tensor) and value.dim() == 4 else None

    arguments = positional(make_inputs(case))
    shapes = tuple(dynamic(value) for value in arguments)
    program = torch.export.export(module, arguments, dynamic_shapes=shapes, strict=strict)
    assert (
        sum(node.target is torch.ops.pwkernels.deform_warp.default for node in program.graph.nodes)
        == 1
    )
    stored = io.BytesIO()
    torch.export.save(program, stored)
    stored.seek(0)
    loaded = torch.export.load(stored).module()
    for frames in (1, 5, 6):
        inputs = make_inputs(case.of(frames=frames))
        assert relative_error(loaded(*positional(inputs)), module.on(inputs)) < 1e-6


@parametrize_cases
@pytest.mark.parametrize("backend", ["auto", "cpu", "triton", "reference"])
def test_meta_tensors(case: Case, backend: str) -> None:
    inputs = make_inputs(case)
    wanted = with_gradients(lambda leaves: run(case, leaves), inputs)
    actual = with_gradients(
        lambda leaves: run(case, leaves, backend), inputs.map(lambda _, t: t.to("meta"))
    )
    assert {n: (t.shape, t.dtype) for n, t in actual.items()} == {
        n: (t.shape, t.dtype) for n, t in wanted.items()
    }
    assert all(tensor.is_meta for tensor in actual.values())


def test_fake_tensors() -> None:
    with FakeTensorMode() as mode:
        fake = make_inputs(EVERYTHING).map(lambda _, tensor: mode.from_tensor(tensor))
        output = run(EVERYTHING, fake)
    assert output.shape == (2, 4, 5, 7)


@pytest.mark.parametrize("offset_dtype", [torch.float32, torch.bfloat16], ids=str)
@parametrize_cases
def test_autocast_changes_nothing(case: Case, offset_dtype: torch.dtype, backend: str) -> None:
    """Not even where the backward is under autocast too; fp32 input with bf16 offsets runs."""
    case = case.of(offset_dtype=offset_dtype)
    inputs = make_inputs(case)
    call = functools.partial(run, case, backend=backend)
    wanted = with_gradients(call, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = with_gradients(call, inputs)
    assert {n: t.dtype for n, t in actual.items()} == {n: t.dtype for n, t in wanted.items()}
    bound = 1e-6 if backend == "cpu" else 2e-2  # the backward of plain PyTorch is autocast
    assert all(relative_error(actual[n], wanted[n]) < bound for n in wanted)


def test_autocast_of_a_model() -> None:
    """Offsets from a convolution that autocast runs in bf16."""
    predict, warp = nn.Conv2d(4, 36, 3, padding=1), pwkernels.DeformConv2d(4, 6, 3, padding=1)
    input = torch.randn(2, 4, 7, 8)
    with torch.autocast("cpu", torch.bfloat16):
        offset = predict(input)
        output = warp(input, offset)
    assert offset.dtype == torch.bfloat16 and output.dtype == torch.float32
    output.sum().backward()
    assert predict.weight.grad.abs().sum() > 0 and warp.weight.grad.dtype == torch.float32
    assert relative_error(output, warp(input, offset.float())) < 1e-6


def mapped_cases() -> dict[str, tuple[Case, dict[str, int]]]:
    plain = Case(size=(3, 4), dilations=(1, 2), masks=True, bias=True)
    return {
        "all": (plain, {"input": 0, "offsets": 0, "masks": 0, "weight": 0, "bias": 0}),
        "maps": (plain, {"input": 0, "offsets": 0, "masks": 0}),
        "offsets": (plain, {"offsets": 0}),
        "weight": (plain, {"weight": 0}),
        "input in the middle": (plain, {"input": 2, "masks": 1}),
        "windows": (EVERYTHING.of(size=(3, 4)), {"input": 0, "offsets": 1}),
        "frame weights": (EVERYTHING.of(size=(3, 4)), {"frame_weights": 0}),
    }


@pytest.mark.parametrize("name", mapped_cases())
def test_vmap(name: str) -> None:
    """Of the operation and of its gradients, against a loop."""
    case, mapped = mapped_cases()[name]
    elements = [make_inputs(case, seed) for seed in range(3)]
    names = [n for n in elements[0].named() if n.partition("[")[0] in mapped]
    dims = tuple(mapped[n.partition("[")[0]] for n in names)
    stacked = [
        torch.stack([element.named()[n] for element in elements], dim)
        for n, dim in zip(names, dims, strict=True)
    ]

    def call(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        return run(case, elements[0].map(lambda n, t: given.get(n, t)), "cpu")

    def gradients(*values: Tensor) -> tuple[Tensor, ...]:
        weighted = lambda *v: (call(*v) * elements[0].grad_output).sum()  # noqa: E731
        return grad(weighted, argnums=tuple(range(len(values))))(*values)

    values = [[element.named()[n] for n in names] for element in elements]
    loop = torch.stack([call(*v) for v in values])
    assert relative_error(vmap(call, in_dims=dims)(*stacked), loop) < 1e-6
    actual = vmap(gradients, in_dims=dims)(*stacked)
    wanted = [torch.stack(parts) for parts in zip(*(gradients(*v) for v in values), strict=True)]
    for one, other in zip(actual, wanted, strict=True):
        assert relative_error(one, other) < 1e-6


def smooth_call(backend: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    case = grid.conv(
        (1, 1), channels=2, out_channels=1, size=(2, 3), frames=1, dtype=torch.float64, masks=True
    )
    inputs = make_inputs(case)

    def call(offset: Tensor) -> Tensor:
        return run(case, inputs.map(lambda n, t: offset if n == "offsets[0]" else t), backend)

    return call, inputs.offsets[0]


@pytest.mark.parametrize("transform", ["jacrev", "jacrev in chunks", "vjp", "vectorized jacobian"])
def test_torch_func_reverse(transform: str) -> None:
    outcomes = []
    for backend in ("cpu", "reference"):
        call, offset = smooth_call(backend)
        if transform == "vjp":
            output, pull = vjp(call, offset)
            outcomes.append(pull(torch.ones_like(output))[0])
        elif transform == "vectorized jacobian":
            outcomes.append(torch.autograd.functional.jacobian(call, offset))
        else:
            chunk = 2 if "chunks" in transform else None
            outcomes.append(jacrev(call, chunk_size=chunk)(offset))
    assert relative_error(*outcomes) < 1e-12


def forward_mode(call: Callable[[Tensor], Tensor], offset: Tensor) -> None:
    with torch.autograd.forward_ad.dual_level():
        call(torch.autograd.forward_ad.make_dual(offset, torch.ones_like(offset)))


UNSUPPORTED = {
    "jvp": lambda call, x: jvp(call, (x,), (torch.ones_like(x),)),
    "forward mode": forward_mode,
    "jacfwd": lambda call, x: torch.func.jacfwd(call)(x),
    "grad of grad": lambda call, x: grad(lambda y: grad(lambda z: call(z).square().sum())(y).sum())(
        x
    ),
    "hessian": lambda call, x: torch.func.hessian(lambda y: call(y).square().sum())(x),
    "jacrev of grad": lambda call, x: jacrev(grad(lambda y: call(y).square().sum()))(x),
}


@pytest.mark.parametrize("transform", UNSUPPORTED)
def test_torch_func_that_raises_instead_of_zeros(transform: str) -> None:
    call, offset = smooth_call("cpu")
    with pytest.raises((RuntimeError, NotImplementedError)):
        UNSUPPORTED[transform](call, offset)
    call, offset = smooth_call("reference")
    UNSUPPORTED[transform](call, offset)  # the same transform, where it is supported


def test_gradients_per_sample() -> None:
    """vmap(grad) over samples with shared parameters, as differential privacy needs it."""
    module = pwkernels.DeformConv2d(2, 3, 3, padding=1)
    parameters = dict(module.named_parameters())
    inputs = make_inputs(grid.conv((1, 1), channels=2, frames=4, size=(4, 4)))

    def loss(parameters: dict[str, Tensor], input: Tensor, offset: Tensor) -> Tensor:
        return functional_call(module, parameters, (input[None], offset[None])).square().sum()

    offset = inputs.offsets[0]
    actual = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, inputs.input, offset)
    for index in range(4):
        wanted = grad(loss)(parameters, inputs.input[index], offset[index])
        assert all(relative_error(actual[n][index], wanted[n]) < 1e-5 for n in parameters)


def test_checkpointing() -> None:
    call = functools.partial(run, EVERYTHING, backend="cpu")
    inputs = make_inputs(EVERYTHING)

    def checkpointed(leaves: Inputs) -> Tensor:
        return torch.utils.checkpoint.checkpoint(call, leaves, use_reentrant=False)

    assert_same(with_gradients(checkpointed, inputs), with_gradients(call, inputs))


@pytest.mark.parametrize(
    "case", [Case(), Case(groups=2, masks=True, bias=True)], ids=["plain", "all"]
)
@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "state_dict"])
def test_modules_copy(copied: str, case: Case) -> None:
    inputs = make_inputs(case)
    options = {"dilations": case.dilations, "groups": case.groups, "bias": case.bias}
    module = pwkernels.MultiDilationDeformWarp(4, **options)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    if copied == "deepcopy":
        other = copy.deepcopy(module)
    elif copied == "pickle":
        other = pickle.loads(pickle.dumps(module))
    else:
        other = pwkernels.MultiDilationDeformWarp(4, **options)
        other.load_state_dict(module.state_dict())
    arguments = (inputs.input, inputs.offsets, inputs.masks or None)
    assert torch.equal(module(*arguments), other(*arguments))
    assert repr(other) == repr(module) and f"groups={case.groups}" in repr(module)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_deform_conv2d_module_loads_torchvisions(groups: int, bias: bool) -> None:
    arguments = (4, 6, (3, 2), (1, 2), (2, 1), (2, 1), groups, bias)
    theirs, ours = torchvision.ops.DeformConv2d(*arguments), pwkernels.DeformConv2d(*arguments)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    case = grid.conv((2, 1), (2, 1), kernel=(3, 2), stride=(1, 2), offset_groups=2, masks=True)
    inputs = make_inputs(case)
    arguments = inputs.input, inputs.offsets[0], inputs.masks[0]
    assert relative_error(ours(*arguments), theirs(*arguments)) < 1e-5
    seeded = []
    for module in (theirs, ours):
        torch.manual_seed(0)
        module.reset_parameters()
        seeded.append(module)
    assert torch.equal(seeded[0].weight, seeded[1].weight)


IDENTITIES = {
    "square": (6, 6, 1),
    "groups": (6, 6, 3),
    "more outputs": (4, 6, 1),
    "fewer": (6, 4, 1),
    "groups, more outputs": (4, 8, 2),
    "groups, fewer outputs": (6, 3, 3),
}


@pytest.mark.parametrize("sizes", IDENTITIES.values(), ids=IDENTITIES)
def test_identity_initialisation(sizes: tuple[int, int, int]) -> None:
    """Output o is input o wherever the groups connect the two; else it is 0."""
    channels, out_channels, groups = sizes
    module = pwkernels.MultiDilationDeformWarp(
        channels, out_channels, groups=groups, dilations=(1, 3), bias=True
    )
    input = torch.randn(2, channels, 5, 6)
    output = module(input, [torch.zeros(2, 18, 5, 6)] * 2)
    for o in range(out_channels):
        group = o // (out_channels // groups)
        connected = o < channels and o // (channels // groups) == group
        assert torch.equal(output[:, o], input[:, o] if connected else torch.zeros(2, 5, 6))


def test_module_moves_with_to() -> None:
    module = pwkernels.MultiDilationDeformWarp(4, dilations=(1,), bias=True).double()
    inputs = make_inputs(Case(dtype=torch.float64))
    assert module(inputs.input, inputs.offsets).dtype == torch.float64
    assert module.to("meta")(inputs.input.to("meta"), [inputs.offsets[0].to("meta")]).is_meta


FORKED = """
import os, signal, time, torch
from pwkernels.testing import Case, make_inputs, run
case = Case(size=(20, 20), offset_groups=4)
torch.set_num_threads(2)
inputs = make_inputs(case)
wanted = run(case, inputs, "cpu")
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(run(case, inputs, "cpu"), wanted) else 1)
for _ in range(600):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        raise SystemExit(status != 0)
    time.sleep(0.1)
os.kill(child, signal.SIGKILL)
raise SystemExit("the forked process hangs")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_forked_process() -> None:
    """As a data loader's workers are: the threads of the parent do not exist in the child."""
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=120)


def test_a_network_with_the_warp_goes_into_channels_last() -> None:
    warp = pwkernels.MultiDilationDeformWarp(8, 6, dilations=(1, 2), bias=True)
    torch.nn.init.normal_(warp.weight)
    before = warp.weight.detach().clone()
    net = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(8, 8, 3), "warp": warp})
    net.to(memory_format=torch.channels_last).double()
    assert warp.weight.shape == before.shape and torch.equal(warp.weight, before.double())
    assert net["conv"].weight.is_contiguous(memory_format=torch.channels_last)
    assert warp.weight.is_contiguous() and warp.weight.requires_grad


def test_the_module_takes_a_backend_as_the_function_does() -> None:
    conv = pwkernels.DeformConv2d(2, 3, 3, padding=1, backend="reference")
    input, offset = torch.randn(1, 2, 5, 6), torch.randn(1, 18, 5, 6)
    expected = pwkernels.deform_conv2d(
        input, offset, conv.weight, conv.bias, padding=1, backend="reference"
    )
    assert torch.equal(conv(input, offset), expected)
    with pytest.raises(ValueError, match="backend: expected one of"):
        pwkernels.DeformConv2d(2, 3, 3, padding=1, backend="fast")(input, offset)
