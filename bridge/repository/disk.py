"""The file-system steps that publishing is made of: each happens whole or not at all."""

import os
from pathlib import Path


def rename(source: Path, target: Path) -> bool:
    """Rename a folder; False if `target` holds something."""
    try:
        source.rename(target)
    except OSError as error:
        if target.is_dir() and source.is_dir():
            return False
        raise error from None
    return True


def write(path: Path, text: str) -> None:
    """Write a file, and have the disk keep it."""
    path.write_text(text)
    sync(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the disk keep a file's bytes, or a folder's names, through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync` a folder with everything in it."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)
