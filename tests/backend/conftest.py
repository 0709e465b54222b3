"""The backend's own folder on sys.path, as Triton puts it there."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "triton" / "backends" / "onnxruntime"))
