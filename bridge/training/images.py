"""Folders of images, a folder for each class, as rows: column `image`, column `label`.

Enters: `<folder>/<class>/<file>`, or `<folder>/<split>/<class>/<file>` where there is a `train`.
Leaves: a `Source` for each split, whose images are decoded as its batches are asked for: uint8
[channels, height, width], or [height, width] where all are grey (uint16 where all have 16 bits).
Files are strangers' work: only the formats below are read, and none of more pixels than Pillow
takes for safe.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from bridge.errors import DatasetError
from bridge.tensors import Array
from bridge.training import tables
from bridge.training.layouts import IMAGE_ENDINGS, image_splits, walk
from bridge.training.sources import Source, rows_in_batch

Size = tuple[int, int]
"""Width and height in pixels."""

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_GREY, _COLOUR, _DEEP = "L", "RGB", "I;16"
_GREY_MODES = {"1", "L", "LA", "La"}
_DEEP_MODES = {"I;16", "I;16B", "I;16L", "I;16N", "I"}
_ORIENTATION, _TURNED = 0x0112, {5, 6, 7, 8}  # EXIF: those lie on their side
_SHOWN_SIZES = 3


@dataclass(frozen=True, slots=True)
class _Form:
    """What all images are brought to."""

    mode: str
    size: Size
    resize: bool


def image_sources(folder: Path, root: Path, size: Size | None = None) -> dict[str, Source]:
    """The splits of a folder of images.

    Args:
        folder: see above.
        root: no link is followed that leads out of it.
        size: to which every image is resized; None: all must have one size.

    Raises:
        DatasetError: an image is broken, too large, or unlike the others, or a file is in the
            wrong place. Each names the file and what to do.
    """
    splits = {name: _by_class(place, folder, root) for name, place in image_splits(folder).items()}
    names = sorted({label for files in splits.values() for label in files.values()})
    form = _form_of([path for files in splits.values() for path in files], folder, size)
    return {name: _source(files, names, form, folder) for name, files in splits.items()}


def _by_class(place: Path, folder: Path, root: Path) -> dict[Path, str]:
    """Every image of a split, and its class."""
    found: dict[Path, str] = {}
    for path in walk(place, root):
        parts = path.relative_to(place).parts
        is_image = path.suffix.lower() in IMAGE_ENDINGS
        if len(parts) == 1 and not is_image:
            continue  # a note beside the folders of the classes
        if len(parts) != 2 or not is_image:  # noqa: PLR2004  (class, file)
            raise DatasetError(
                f"{_name(path, folder)!r} is no image in the folder of a class: expected "
                f"{', '.join(IMAGE_ENDINGS)} files as CLASS/FILE; move it or remove it"
            )
        found[path] = parts[0]
    empty = {
        entry.name for entry in place.iterdir() if entry.is_dir() and entry.name[0] != "."
    } - set(found.values())
    if empty:
        raise DatasetError(f"the folder {min(empty)!r} of a class holds no images; remove it")
    return found


def _form_of(files: list[Path], folder: Path, size: Size | None) -> _Form:
    """Looks at the heads of all files; no image is decoded."""
    modes: dict[str, Path] = {}
    sizes: Counter[Size] = Counter()
    examples: dict[Size, Path] = {}
    for path in files:
        mode, found = _head(path, folder)
        modes.setdefault(mode, path)
        sizes[found] += 1
        examples.setdefault(found, path)
    if size is None and len(sizes) > 1:
        raise _ragged(sizes, examples, folder)
    deep = sorted(modes.keys() & _DEEP_MODES)
    if deep and modes.keys() - _DEEP_MODES:
        other = next(path for mode, path in modes.items() if mode not in _DEEP_MODES)
        raise DatasetError(
            f"image {_name(modes[deep[0]], folder)!r} has 16 bits for a pixel and "
            f"{_name(other, folder)!r} has 8; bring all to one depth"
        )
    mode = _DEEP if deep else _GREY if modes.keys() <= _GREY_MODES else _COLOUR
    return _Form(mode, size or next(iter(sizes)), resize=size is not None)


def _ragged(sizes: Counter[Size], examples: Mapping[Size, Path], folder: Path) -> DatasetError:
    shown = [
        f"{width}x{height} ({count} files, such as {_name(examples[width, height], folder)!r})"
        for (width, height), count in sizes.most_common(_SHOWN_SIZES)
    ]
    more = f" and {len(sizes) - len(shown)} more" if len(sizes) > len(shown) else ""
    (width, height), _ = sizes.most_common(1)[0]
    return DatasetError(
        f"the images are ragged, they have {len(sizes)} sizes: {', '.join(shown)}{more}; bring "
        f"all to one size: `mlbridge datasets add NAME FOLDER --size {width}x{height}`"
    )


def _source(files: Mapping[Path, str], names: list[str], form: _Form, folder: Path) -> Source:
    width, height = form.size
    channels = 3 if form.mode == _COLOUR else 1
    pixel = 2 if form.mode == _DEEP else 1
    size = len(files) * width * height * channels * pixel
    shape = (height, width) if channels == 1 else (channels, height, width)
    kind: np.dtype[Any] = np.dtype(np.uint8 if pixel == 1 else np.uint16)
    empty = tables.to_arrow("image", np.empty((0, *shape), kind))
    features = datasets.Features.from_arrow_schema(pa.schema([("image", empty.type)]))
    features["label"] = datasets.ClassLabel(names=names)

    def batches() -> Iterator[pa.Table]:
        step = rows_in_batch(size, len(files))
        paths = list(files)
        for start in range(0, len(paths), step):
            some = paths[start : start + step]
            images = np.stack([_decode(path, form, folder) for path in some])
            labels = np.array([names.index(files[path]) for path in some], np.int64)
            columns = {"image": tables.to_arrow("image", images), "label": pa.array(labels)}
            yield pa.table(columns, features.arrow_schema)

    return Source(features, len(files), size + 8 * len(files), batches)


def _head(path: Path, folder: Path) -> tuple[str, Size]:
    """Mode and size, as the image is to be seen."""
    try:
        with _open(path) as image:
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            return image.mode, image.size[::-1] if turned else image.size
    except Exception as error:
        raise _broken(path, folder, error) from error


def _decode(path: Path, form: _Form, folder: Path) -> Array:
    try:
        with _open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode != form.mode:
                image = image.convert(form.mode)
            if form.resize:
                image = image.resize(form.size, Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except Exception as error:
        raise _broken(path, folder, error) from error
    return np.moveaxis(pixels, 2, 0) if pixels.ndim > 2 else pixels  # noqa: PLR2004


def _open(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path, formats=_FORMATS)


def _broken(path: Path, folder: Path, error: Exception) -> DatasetError:
    name = _name(path, folder)
    if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        most = Image.MAX_IMAGE_PIXELS or 0
        return DatasetError(f"image {name!r} has more than {most:,} pixels; make it smaller")
    reason = str(error).replace(str(path), path.name) or type(error).__name__
    return DatasetError(f"cannot read image {name!r}: {reason}; mend it or remove it")


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
