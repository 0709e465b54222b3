"""`make gpu-check`: whether the bridge really uses an NVIDIA GPU, and what it costs beside it.

`presence` is the standard library's only: it runs before anything is installed.
"""
