"""The chaos package's own folder on sys.path, as `chaos/run.py` puts it there."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "chaos"))
