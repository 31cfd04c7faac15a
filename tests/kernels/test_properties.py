"""Random configurations against torchvision in float64, with memory that starts as NaN."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pwkernels.testing import (
    Case,
    assert_all_close,
    cpu_instruction_sets,
    expected,
    instruction_set,
    make_inputs,
    poisoned_empty,
    run,
    with_gradients,
)

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
every_example_counts = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def divisors(number: int) -> list[int]:
    return [i for i in range(1, number + 1) if number % i == 0]


@st.composite
def cases(draw: st.DrawFn, *, conv: bool) -> Case:
    """A call of the warp or of ``deform_conv2d`` that torchvision accepts too."""
    sides = st.integers(1, 12)
    steps = st.integers(1, 4)
    channels = draw(st.integers(1, 8))
    groups = draw(st.sampled_from(divisors(channels)))
    window = None if conv else draw(st.sampled_from([None, None, 1, 2, 3]))
    dtype = draw(st.sampled_from([torch.float64, *FLOATS, torch.float32]))
    others = st.just(dtype) if dtype == torch.float64 else st.sampled_from(FLOATS)
    fields = {
        "frames": draw(st.integers(0, 3)) * (window or 1),
        "channels": channels,
        "out_channels": groups * draw(st.integers(1, 4)),
        "groups": groups,
        "offset_groups": draw(st.sampled_from(divisors(channels))),
        "masks": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "window": window,
        "reduction": "mean" if conv else draw(st.sampled_from(["mean", "sum"])),
        "dtype": dtype,
        "offset_dtype": draw(others),
        "mask_dtype": draw(others),
        "weight_dtype": draw(others),
        "offsets": draw(st.sampled_from(["random", "random", "integer", "zero"])),
        "offset_scale": draw(st.sampled_from([0.1, 1.0, 3.0, 20.0])),
    }
    if not conv:
        odd = st.sampled_from([1, 3, 3, 5])
        return Case(
            **fields,
            size=draw(st.tuples(sides, sides)),
            kernel=draw(st.tuples(odd, odd)),
            dilations=tuple(
                draw(st.lists(steps | st.tuples(steps, steps), min_size=1, max_size=5))
            ),
        )
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilation = draw(st.tuples(steps, steps))
    padding = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    least = [
        max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)
    ]
    return Case(
        **fields,
        size=(least[0] + draw(st.integers(0, 9)), least[1] + draw(st.integers(0, 9))),
        kernel=kernel,
        stride=draw(st.tuples(steps, steps)),
        dilations=(dilation,),
        paddings=(padding,),
    )


def check(case: Case, seed: int, backend: str) -> None:
    inputs = make_inputs(case, seed)
    with poisoned_empty():
        actual = with_gradients(lambda leaves: run(case, leaves, backend), inputs)
    assert actual["output"].dtype == case.dtype
    assert_all_close(actual, expected(case, inputs))


seeds = st.integers(0, 2**31)
variants = st.sampled_from(cpu_instruction_sets())


@settings(every_example_counts, max_examples=300)
@given(case=cases(conv=False), seed=seeds, variant=variants)
def test_warp_on_cpu(case: Case, seed: int, variant: str) -> None:
    with instruction_set(variant):
        check(case, seed, "cpu")


@settings(every_example_counts, max_examples=300)
@given(case=cases(conv=True), seed=seeds, variant=variants)
def test_deform_conv2d_on_cpu(case: Case, seed: int, variant: str) -> None:
    with instruction_set(variant):
        check(case, seed, "cpu")


@settings(every_example_counts, max_examples=60)
@given(case=cases(conv=False) | cases(conv=True), seed=seeds)
def test_reference(case: Case, seed: int) -> None:
    check(case, seed, "reference")


@settings(every_example_counts, max_examples=40)
@given(case=cases(conv=False) | cases(conv=True), seed=seeds)
def test_torchvision_backend(case: Case, seed: int) -> None:
    check(case, seed, "torchvision")
