"""Triton kernels of the warp: ``launch`` runs them, ``configs`` chooses their block sizes.

Importing this package imports no Triton; ``pwkernels.gpu.launch`` does.
"""
