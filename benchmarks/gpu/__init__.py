"""Whether the CUDA kernels are right, and how fast they are, on a machine that has a GPU.

``python -m benchmarks.gpu`` (``make gpu-check``) runs the conformance suite and the sanitizer,
times the ops beside PyTorch, and writes the page; with ``--dry-run`` it builds all of it without a
GPU, and starts nothing.
"""
