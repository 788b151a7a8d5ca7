"""The engine on PyTorch, for CPUs and CUDA: arrays flow in and come out, and are tensors in between."""
