"""`python -P deploy/grafana/build.py`: write the dashboards' JSON, which Grafana provisions."""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# This folder, and never the project's root with its folder `triton`.
sys.path.insert(0, str(_HERE))

from bridgeboards.boards import as_json  # noqa: E402 - found by the line above


def main() -> None:
    """Write each file anew, and take away those that no code makes."""
    folder = _HERE / "dashboards"
    made = as_json()
    for name, text in made.items():
        (folder / name).write_text(text)
    for file in folder.glob("*.json"):
        if file.name not in made:
            file.unlink()


if __name__ == "__main__":
    main()
