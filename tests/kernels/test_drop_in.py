"""What programs do with torchvision's operation beside calling it: tracing, FX, export."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision.ops
from torch import Tensor, nn
from torch.export import Dim, export
from torchvision.models.feature_extraction import create_feature_extractor

import pwkernels


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Conv2d(3, 18, 3, padding=1)
        self.conv = pwkernels.DeformConv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, self.offset(x)).relu()


class Calls(nn.Module):
    """The functions, not the modules."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Conv2d(3, 36, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(2, 3, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.offset(x).chunk(2, 1)
        y = pwkernels.deform_conv2d(x, first, self.weight[0], padding=1)
        return pwkernels.multi_dilation_deform_warp(
            y, [first, second], self.weight, dilations=(1, 2), reduction="sum"
        )


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(1, 3, 8, 9)


@pytest.mark.parametrize("kind", [Net, Calls])
@torch.no_grad()
def test_a_traced_network_is_saved_and_runs_elsewhere(
    kind: type[nn.Module], x: Tensor, tmp_path: Path
) -> None:
    net = kind().eval()
    torch.jit.save(torch.jit.trace(net, x), tmp_path / "net.pt")
    torch.save((x, net(x)), tmp_path / "expected.pt")
    code = (
        "import sys, torch, pwkernels; net = torch.jit.load(sys.argv[1]); "
        "x, expected = torch.load(sys.argv[2], weights_only=True); "
        "assert torch.equal(net(x), expected)"
    )
    files = [tmp_path / "net.pt", tmp_path / "expected.pt"]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_traced_network_learns(x: Tensor) -> None:
    net = Net()
    traced = torch.jit.load(_saved(torch.jit.trace(net, x)))
    traced(x).square().sum().backward()
    net(x).square().sum().backward()
    for (name, ours), theirs in zip(traced.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def _saved(traced: torch.jit.ScriptModule) -> io.BytesIO:
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    return file


@pytest.mark.parametrize("kind", [Net, Calls])
def test_fx(kind: type[nn.Module], x: Tensor) -> None:
    net = kind().eval()
    traced = torch.fx.symbolic_trace(net)
    assert torch.equal(traced(x), net(x))
    targets = {node.target for node in traced.graph.nodes}
    assert pwkernels.deform_conv2d in targets


def test_a_feature_extractor(x: Tensor) -> None:
    net = Net().eval()
    features = create_feature_extractor(net, ["conv", "relu"])(x)
    assert torch.equal(features["relu"], net(x)) and features["conv"].min() < 0


def test_export_of_any_size_has_no_bound(x: Tensor) -> None:
    sizes = {0: Dim("b"), 2: Dim("h", min=4), 3: Dim("w", min=4)}
    program = export(Net(), (torch.randn(2, 3, 16, 24),), dynamic_shapes=(sizes,))
    for bound in program.range_constraints.values():
        assert bound.upper > 10**9
    larger = torch.randn(3, 3, 31, 18)
    torch.testing.assert_close(program.module()(larger), program.module()(larger.clone()))
    assert program.module()(larger).shape == (3, 4, 31, 18)


def test_the_operator_itself_refuses_what_it_cannot_index() -> None:
    huge = torch.empty(1).expand(1, 1, 1, 2**24)
    sizes = ([1, 1], [0, 0], [1, 1], "cpu")
    offset = torch.empty(1).expand(1, 2, 1, 2**24)
    with pytest.raises(ValueError, match="larger than the kernel's 32-bit indices allow"):
        torch.ops.pwkernels.deform_warp(
            huge, [offset], [], torch.ones(1, 1, 1, 1, 1), None, None, *sizes
        )


def test_the_names_that_are_shared_with_torchvision() -> None:
    ours, theirs = pwkernels.DeformConv2d(4, 6, 3), torchvision.ops.DeformConv2d(4, 6, 3)
    theirs.load_state_dict(ours.state_dict())
