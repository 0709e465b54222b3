"""`python -P deploy/grafana/render.py URL FOLDER`: draw the dashboards' data, as pictures.

A stand-in where no Grafana can be had: the same panels, queries and places, asked of a real
Prometheus at URL, drawn by matplotlib. Grafana itself looks different.
"""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

_HERE = Path(__file__).resolve().parent
# This folder, and never the project's root with its folder `triton`.
sys.path.insert(0, str(_HERE))

from bridgeboards.pictures import draw  # noqa: E402 - found by the line above
from bridgeboards.prometheus import Prometheus  # noqa: E402


def main(
    url: Annotated[str, typer.Argument(help="Prometheus: http://localhost:9090")],
    folder: Annotated[Path, typer.Argument(help="Where the pictures go.")],
    model: Annotated[str, typer.Option(help="The model of the dashboard One model.")] = "digits",
    minutes: Annotated[float, typer.Option(help="How far back.")] = 60,
    rate_interval: Annotated[str, typer.Option(help="Four scrapes or more.")] = "1m",
) -> None:
    """Draw each dashboard that has data."""
    folder.mkdir(parents=True, exist_ok=True)
    prometheus = Prometheus(url)
    end = time.time()
    values = {"model": model, "__rate_interval": rate_interval}
    for file in sorted((_HERE / "dashboards").glob("*.json")):
        if file.stem == "runbook":  # nothing but text
            continue
        board = json.loads(file.read_text())
        picture = folder / f"{file.stem}.png"
        draw(board, prometheus, values, (end - 60 * minutes, end), picture)
        print(picture)
    prometheus.close()


if __name__ == "__main__":
    typer.run(main)
