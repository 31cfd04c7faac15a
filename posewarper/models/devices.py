"""Where a network runs."""

from __future__ import annotations

import torch


def choose_device(name: str = "auto", option: str = "device") -> torch.device:
    """A device by name; "auto" is the GPU if there is one.

    Args:
        name: auto, cpu, cuda, cuda:1, ..
        option: what messages call it.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"{option}: expected 'auto', 'cpu', 'cuda', .., got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{option}: {name!r} was asked for, but PyTorch finds no GPU here")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{option}: {name!r} cannot be used here ({reason})") from None
    return device
