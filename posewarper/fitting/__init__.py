"""Own video in one command: label a few frames, get a pose in every frame."""

from posewarper.fitting.run import fit

__all__ = ["fit"]
