"""Runs a Dockerfile's steps by hand: one folder for each stage.

Enters: stages, and the folder that `docker build` would be given. Leaves: roots, and images to run
in them. A stage whose steps and files are the same as the last time is not run again.
"""

import fnmatch
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from dockerfile import DockerfileError, Image, Stage, Step
from roots import Mount, copy_root, enter, make_debian, pip_settings

_FILES = {"RUN", "COPY"}


class Builder:
    """Builds stages, each after those that it needs.

    Args:
        stages: of the Dockerfile.
        context: what COPY copies from, less what `.dockerignore` says.
        store: where the roots go.
        reuse: take what is there as it is, whatever has changed since.
    """

    def __init__(
        self, stages: Mapping[str, Stage], context: Path, store: Path, *, reuse: bool = False
    ) -> None:
        self._stages, self._context, self._store = stages, context, store
        self._ignored = _read_ignored(context / ".dockerignore")
        self._variables, self._mounts = pip_settings()
        self._reuse = reuse
        self._images: dict[str, Image] = {}
        self._keys: dict[str, str] = {}

    def root(self, stage: str) -> Path:
        """Where a stage's files are."""
        return self._store / stage

    def build(self, name: str) -> Image:
        """Run a stage's steps; those that it needs must have been built.

        Raises:
            DockerfileError: a step failed, or cannot be followed.
        """
        stage = self._stages[name]
        if stage.parent not in self._stages:
            self._make_ground(stage.parent)
        root = self.root(name)
        key = self._key(stage)
        stamp = root.with_suffix(".key")
        fresh = not (stamp.exists() and (self._reuse or stamp.read_text() == key))
        if fresh:
            stamp.unlink(missing_ok=True)
            copy_root(self.root(_plain(stage.parent)), root)
        image = self._images.get(stage.parent, Image())
        for step in stage.steps:
            if step.instruction in _FILES and fresh:
                _say(f"{name}, line {step.line}: {step.instruction} {step.value[:70]}")
                self._change_files(step, root, image)
            elif step.instruction not in _FILES:
                image = image.after(step)
                if step.instruction == "WORKDIR":
                    _in(root, image.folder).mkdir(parents=True, exist_ok=True)
        if fresh:
            stamp.write_text(key)
        self._images[name], self._keys[name] = image, key
        return image

    def _make_ground(self, image: str) -> None:
        ground = self.root(_plain(image))
        if not ground.exists():
            _say(f"debootstrap, in the place of {image}")
            self._store.mkdir(parents=True, exist_ok=True)
            make_debian(ground)
        self._keys[image] = image

    def _key(self, stage: Stage) -> str:
        told = hashlib.sha256(self._keys[stage.parent].encode())
        for step in stage.steps:
            told.update(f"{step.instruction} {step.value}\n".encode())
            flags, rest = step.split_flags()
            for flag in flags:
                for source in re.findall(r"\bfrom=([\w-]+)", flag):
                    told.update(self._keys[source].encode())
            if step.instruction == "COPY":
                for path in self._copied(rest.split()[:-1]):
                    told.update(str(path).encode())
                    told.update(b"" if path.is_dir() else path.read_bytes())
        return told.hexdigest()

    def _change_files(self, step: Step, root: Path, image: Image) -> None:
        flags, rest = step.split_flags()
        if step.instruction == "COPY":
            if flags:
                raise DockerfileError(f"line {step.line}: COPY with {flags} is not known")
            *names, target = image.expand(rest).split()
            self._copy(names, root, image.folder, target)
            return
        variables = {**image.arguments, **image.environment, **self._variables}
        mounts = [*self._mounts, *map(self._mount, flags)]
        command = ["/bin/sh", "-c", rest]
        done = subprocess.run(
            enter(root, command, environment=variables, folder=image.folder, mounts=mounts),
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for mount in mounts:  # the mounts are gone; so shall be the folders that they stood on
            with_nothing = _in(root, mount.target)
            if with_nothing.is_dir() and not any(with_nothing.iterdir()):
                with_nothing.rmdir()
        if done.returncode:
            raise DockerfileError(f"line {step.line} failed ({done.returncode}):\n{done.stdout}")

    def _mount(self, flag: str) -> Mount:
        options = dict(part.split("=", 1) for part in flag.removeprefix("--mount=").split(","))
        if set(options) != {"type", "from", "source", "target"} or options["type"] != "bind":
            raise DockerfileError(f"{flag} is not known to this trial")
        return Mount(_in(self.root(options["from"]), options["source"]), options["target"])

    def _copy(self, names: list[str], root: Path, folder: str, target: str) -> None:
        place = _in(root, str(PurePosixPath(folder, target)))
        into = target.endswith("/") or target in {".", "./"} or len(names) > 1
        for name in names:
            source = self._context / name
            for path in self._copied([name]):
                tail = path.relative_to(source) if source.is_dir() else Path()
                at = place / (source.name if into and not source.is_dir() else "") / tail
                if path.is_dir() and not path.is_symlink():
                    at.mkdir(parents=True, exist_ok=True)
                else:
                    at.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, at, follow_symlinks=False)
                    os.lchown(at, 0, 0)

    def _copied(self, names: list[str]) -> Iterator[Path]:
        for name in names:
            source = self._context / name
            if not source.exists() or self._is_ignored(Path(name)):
                raise DockerfileError(f"COPY {name}: there is no such file, or it is ignored")
            for path in sorted([source, *source.rglob("*")] if source.is_dir() else [source]):
                if not self._is_ignored(path.relative_to(self._context)):
                    yield path

    def _is_ignored(self, path: Path) -> bool:
        verdict = False
        for pattern, ignored in self._ignored:
            if pattern.startswith("**/"):
                hit = any(fnmatch.fnmatch(part, pattern[3:]) for part in path.parts)
            else:
                hit = fnmatch.fnmatch(path.parts[0], pattern)
            verdict = ignored if hit else verdict
        return verdict


def _read_ignored(path: Path) -> list[tuple[str, bool]]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#")]
    for pattern in patterns:
        if "/" in pattern.removeprefix("!").removeprefix("**/"):
            raise DockerfileError(f".dockerignore: {pattern} is not known to this trial")
    return [(pattern.removeprefix("!"), not pattern.startswith("!")) for pattern in patterns]


def _plain(image: str) -> str:
    return re.sub(r"[^\w.-]", "_", image)


def _in(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
