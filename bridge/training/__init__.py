"""The only room that may load torch, and only inside the process that `run` spawns.

`request`, `run` and `datasets` are free of torch; `architectures`, `fit` and `export` need it
and are imported by `child` alone. Importing this package loads none of them.

Torch takes any importable `triton` for OpenAI's compiler. This project has a folder of that name,
which Python finds as a namespace package wherever the project's root is on the path; torch would
then fail in `torch.onnx.export` (docs/decisions/0003). So such a `triton`, having no origin, is
hidden here, before torch can look for it.
"""

import sys
from importlib.util import find_spec

if "triton" not in sys.modules:
    _found = find_spec("triton")
    if _found is not None and _found.origin is None:
        sys.modules["triton"] = None  # type: ignore[assignment]  # Python's way to say: not there
