"""A training step by compiled C++ kernels between the GEMMs of PyTorch."""
