"""Low precision.

- ``formats``: number formats simulated bit for bit: FP8, FP6, FP4, MX block formats, NVFP4;
- ``fp8``: linear layers whose three products run in FP8, real or simulated.
"""
