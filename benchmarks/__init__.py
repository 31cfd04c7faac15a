"""Speed and memory beside torchvision and onnxruntime; ``python -m benchmarks.run``."""
