"""How commands show things: tables for people, JSON for machines."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console()
errors = Console(stderr=True)

_BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_json(value: Any) -> None:
    """Write one JSON document to standard output, for machines: no colour, no wrapping."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY, default=str)
    print(text.decode())


def say(text: str, where: Console = console, end: str = "\n") -> None:
    """Write text for a person as it is: no markup, no colours of parts of it, no wrapping."""
    where.print(text, end=end, markup=False, highlight=False, soft_wrap=True)


def figure(value: float, digits: int = 4) -> str:
    """A number in so many digits, or as many as it has before its point: no powers of ten."""
    if 10 ** (digits - 1) <= abs(value) < 1e15:  # noqa: PLR2004 - beyond, nobody reads them
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def make_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table for a person."""
    # Text, as a title in a string would be read for markup, and may hold a task's id.
    table = Table(title=Text(title, "bold"), title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return table


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write one table to standard output."""
    console.print(make_table(title, columns, rows), markup=False)


def print_json_line(value: Any) -> None:
    """Write one JSON document in one line, at once: one of many."""
    text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY, default=str)
    print(text.decode(), flush=True)


def sparkline(values: Sequence[float]) -> str:
    """A curve in one line of text, from the lowest to the highest value."""
    least, most = min(values), max(values)
    scale = (len(_BARS) - 1) / (most - least) if most > least else 0.0
    return "".join(_BARS[round((value - least) * scale)] for value in values)
