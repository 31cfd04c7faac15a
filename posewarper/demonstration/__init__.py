"""The whole method on synthetic videos, measured against their complete truth: ``posewarper demo``.

    videos      made, all joints known                                   videos/
    labels      every 7th frame of the training videos keeps its labels  labels/sparse.json
    train       single-frame network, then the warp head                 runs/pose, runs/warp
    propagate   labels to all other frames, and four baselines           propagated/
    augment     training again, on labels and pseudo-labels              runs/pose-augmented
    aggregate   new videos, from windows of frames and frame by frame    predictions/
    report      what came out                                            report.html, results.json

Each step is left out if its files exist, so that the same command goes on after an interrupt.
"""

from posewarper.demonstration.run import demo

__all__ = ["demo"]
