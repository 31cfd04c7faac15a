"""Losses as sums over samples, and the numbers that they are divided by.

A batch may be spread over processes and over accumulated parts. Each part's sum, divided by what
all parts have together, adds up to the loss of the whole, whatever the parts' sizes are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from posewarper.heatmaps import decode
from posewarper.skeleton import Skeleton
from posewarper.training.config import LossConfig

PCK_SHARE = 0.1  # of the person's size, within which a joint counts as found


class HeatmapLoss:
    """The loss of one run.

    Args:
        config: kind and joint weights.
        skeleton: for the names of joints.

    Raises:
        ValueError: a weight is given for a joint that is not there.
    """

    def __init__(self, config: LossConfig, skeleton: Skeleton):
        self.kind = config.kind
        weights = torch.ones(len(skeleton))
        for joint, weight in config.joint_weights.items():
            if joint not in skeleton.joints:
                raise ValueError(
                    f"loss.joint_weights: {skeleton.name!r} has no joint {joint!r}; it has "
                    f"{', '.join(skeleton.joints)}"
                )
            weights[skeleton.index(joint)] = weight
        self.joint_weights = weights

    def denominator(self, weight: Tensor, target: Tensor) -> float:
        """What the sum over samples with weights ``[B, J]`` is divided by to be a mean.

        With cross entropy joints count that have something painted in ``target`` [B, J, h, w].
        """
        if self.kind == "mse":
            return float(len(weight))
        painted = target.flatten(2).any(-1)
        return float((weight * self.joint_weights * painted).sum(dtype=torch.float64))

    def __call__(self, output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """The sum over samples, a float32 scalar.

        Args:
            output: heatmaps (mse) or logits (cross_entropy), ``[B, J, h, w]``.
            target: ``[B, J, h, w]``.
            weight: ``[B, J]``, 0 for unlabelled joints.
        """
        weight = weight * self.joint_weights.to(weight.device)
        if self.kind == "mse":
            return squared_error(output.float(), target, weight)
        return cross_entropy(output.float(), target, weight)


def squared_error(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over joints of half the mean square of w * output - w * target (behaviour 2.5), summed
    over samples; unlabelled joints count in the mean.
    """
    difference = weight[:, :, None, None] * (output - target)  # [B, J, h, w]
    return 0.5 * difference.square().mean((1, 2, 3)).sum()


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum over samples and joints of -sum_p t(p) log softmax(logits)(p), where the target
    is scaled to a sum of 1.
    """
    share = target.flatten(2)  # [B, J, h * w]
    share = share / share.sum(-1, keepdim=True).clamp_min(1e-12)
    return -(weight * (share * logits.flatten(2).log_softmax(-1)).sum(-1)).sum()


@torch.no_grad()
def joints_found(
    heatmaps: Tensor, joints: Tensor, weight: Tensor, stride: float, size: float
) -> tuple[Tensor, Tensor]:
    """PCK in the crop: how many labelled joints lie within a tenth of the person's size.

    Args:
        heatmaps: ``[B, J, h, w]``.
        joints: ``[B, J, 2]`` (x, y) in crop pixels.
        weight: ``[B, J]``; joints above 0 count.
        stride: crop pixels per heatmap pixel.
        size: of the person in crop pixels.

    Returns:
        The number found and the number of labelled joints, float32 scalars.
    """
    places, _ = decode(heatmaps)  # [B, J, 2]
    labelled = weight > 0
    near = (places * stride - joints).norm(dim=-1) <= PCK_SHARE * size
    return (near & labelled).sum().float(), labelled.sum().float()
