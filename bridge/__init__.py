"""Queue-driven inference: taskiq workers in front of Triton, torch workers behind it.

Importing this package loads none of its rooms; import the one you need.
"""

__version__ = "0.1.0"
