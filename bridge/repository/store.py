"""Triton's model repository on disk: the one place where model folders are written.

Enters: exported files and a `Signature`. Leaves: a version that appears whole or not at all.
Knows nothing of torch, ONNX or the network; whether a candidate is any good is decided by
whoever asks Triton between `lay_candidate` and `publish`.

Layout (Triton's own):

    <root>/<model>/config.pbtxt            one for all versions; once it is there, the operator's
    <root>/<model>/labels.txt              one class a line, where there are classes
    <root>/<model>/<n>/model.onnx          a version; never changes once it is there
    <root>/<model>/<n>/card.json           what it is, and which task made it
    <root>/<model>/<n>/card.md             the same, for people
    <root>/<model>/<n>/weights.safetensors what its network learned, where a training made it
    <root>/<model>/.withdrawn-<n>/         a version out of service; its number is not given again
    <root>/<model>.candidate-<token>/      a whole model under a name that nobody calls

Only folders are renamed, on one file system, and a rename never replaces a folder that holds
something; that is what makes each step atomic. The lock keeps publishers in line besides.
"""

import fcntl
import json
import re
import reprlib
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.errors import (
    InvalidNameError,
    PublishError,
    RepositoryWriteError,
    UnknownModelError,
)
from bridge.names import CANDIDATE, check_name
from bridge.repository.disk import rename, sync, sync_tree, write
from bridge.repository.readable import render_card
from bridge.repository.signature import (
    CONFIG,
    LABELS,
    Signature,
    check_columns,
    nameless,
    render_config,
)

CARD = "card.json"
READABLE_CARD = "card.md"

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_WITHDRAWN = re.compile(r"\.withdrawn-([1-9][0-9]{0,17})")
_CANDIDATE = re.compile(r"(.+)\.candidate-[0-9a-f]{12}")
_STAGING = re.compile(r"\.staging-[0-9a-f]{12}")
_LOCK = ".publish.lock"
_MAX_MODEL_ID = 100  # leaves room for a candidate's ending


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model laid under a temporary name, for Triton to try before any caller can."""

    model: str
    """The model that it wants to be a version of."""
    name: str
    """The temporary name; also its folder's."""
    signature: Signature


class ModelRepository:
    """Reads and writes one repository folder. Cheap to make; holds no state but the path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # ---- reading --------------------------------------------------------------------------

    def models(self) -> list[str]:
        """Names of the models that have at least one version, sorted; candidates left out."""
        if not self.root.is_dir():
            return []
        return sorted(entry.name for entry in self.root.iterdir() if self._is_model(entry.name))

    def versions(self, model: str) -> list[int]:
        """Version numbers of a model, rising; empty if there is no such model."""
        return sorted(int(name) for name in self._entries(model) if _VERSION.fullmatch(name))

    def next_version(self, model: str) -> int:
        """One above every number that the model has or had."""
        return max([0, *self.withdrawn(model), *self.versions(model)]) + 1

    def withdrawn(self, model: str) -> list[int]:
        """Numbers of the versions that are out of service, rising; see `withdrawn.py`."""
        found = (_WITHDRAWN.fullmatch(name) for name in self._entries(model))
        return sorted(int(match[1]) for match in found if match)

    def card(self, model: str, version: int) -> dict[str, Any] | None:
        """A version's card, or None if it has none (it was put there by hand).

        Raises:
            UnknownModelError: there is no such version.
        """
        folder = self.root / check_name("model_id", model) / str(version)
        if not folder.is_dir():
            raise UnknownModelError(f"model {model!r} has no version {version} in {self.root}")
        return self.read_card(folder)

    @staticmethod
    def read_card(folder: Path) -> dict[str, Any] | None:
        """The card in a version's folder, if it has one."""
        try:
            card = json.loads((folder / CARD).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return card if isinstance(card, dict) else None

    def find_version_by_task(self, model: str, task_id: str) -> int | None:
        """The version that this task published, or None if it did not publish one."""
        for version in reversed(self.versions(model)):
            card = self.card(model, version)
            if card is not None and card.get("task_id") == task_id:
                return version
        return None

    def check_signature(
        self, model: str, signature: Signature, made_of: Mapping[str, Any] | None = None
    ) -> None:
        """Make sure that a version with this signature may join the model.

        Args:
            model: its name.
            signature: of the version that would join it.
            made_of: that version's card, or `columns` and `target` of it; None: not known yet.

        Raises:
            PublishError: the model's versions have another signature or other columns, or it is
                not known which, as its newest version was not published by this class.
        """
        versions = self.versions(model)
        if not versions:
            return
        card = self.card(model, versions[-1]) or {}
        try:
            present = Signature.from_json(card["signature"])
        except (KeyError, TypeError):
            raise PublishError(
                f"model {model!r} was put into the repository by hand (its version "
                f"{versions[-1]} has no {CARD}), so it is not known what its callers rely on; "
                f"choose another model_id"
            ) from None
        if present != signature:
            raise PublishError(
                f"model {model!r} takes and gives {present}; the new version would take and give "
                f"{signature}; callers of {model!r} rely on the former, so choose another model_id"
            )
        check_columns(model, card, made_of or {})

    # ---- publishing -----------------------------------------------------------------------

    def check_writable(self) -> None:
        """See that a folder can be made.

        Raises:
            RepositoryWriteError: it cannot.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".staging-{uuid.uuid4().hex[:12]}"
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise self._unwritable(error) from error

    def lay_candidate(self, model: str, files: Path, signature: Signature) -> Candidate:
        """Copy exported files into the repository as a whole model under a temporary name.

        Args:
            model: the name that it shall be published under.
            files: folder whose files make up a version (`model.onnx` and what belongs to it).
            signature: becomes `config.pbtxt`, unless the model has one: what stands there, as the
                operator may have edited it, is what the candidate is tried with.

        Raises:
            PublishError: another signature than the model's.
            RepositoryWriteError: the files cannot be written.
        """
        check_model_id(model)
        self.check_signature(model, signature)
        token = uuid.uuid4().hex[:12]
        candidate = Candidate(model, f"{model}{CANDIDATE}{token}", signature)
        staging = self.root / f".staging-{token}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            staging.mkdir()
            shutil.copytree(files, staging / "1")
            (staging / CONFIG).write_text(self._config(model) or render_config(signature))
            if signature.labels:
                (staging / LABELS).write_text("".join(f"{x}\n" for x in signature.labels))
            sync_tree(staging)
            staging.rename(self.root / candidate.name)
            sync(self.root)
        except OSError as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise self._unwritable(error) from error
        return candidate

    def publish(self, candidate: Candidate, card: Mapping[str, Any]) -> int:
        """Make a candidate the model's next version, and return its number.

        Triton serves it once it is asked to load the model. The candidate's folder is gone
        afterwards, or what is left of it is for `remove_candidate`. If another delivery of
        `card["task_id"]` was faster, its version's number is returned and nothing is published.

        Raises:
            PublishError: the model has got another signature meanwhile.
            RepositoryWriteError: it cannot be written, or the candidate is gone.
        """
        laid, home = self.root / candidate.name, self.root / candidate.model
        try:
            with self._lock():
                self.check_signature(candidate.model, candidate.signature, card)
                faster = self.find_version_by_task(candidate.model, card["task_id"])
                if faster is not None:
                    return faster
                content = {**card, "signature": candidate.signature.to_json()}
                write(laid / "1" / CARD, json.dumps(content, indent=2, allow_nan=False))
                write(laid / "1" / READABLE_CARD, render_card(candidate.model, content))
                if not home.exists() and rename(laid, home):
                    sync(self.root)
                    return 1
                # Where the lock does not reach (some network file systems), the model may have
                # come into being just now.
                self.check_signature(candidate.model, candidate.signature, card)
                if candidate.signature.labels:
                    (laid / LABELS).replace(home / LABELS)
                if self._config(candidate.model) is None:
                    (laid / CONFIG).replace(home / CONFIG)
                version = self.next_version(candidate.model)
                while not rename(laid / "1", home / str(version)):
                    version += 1
                sync(home)
                return version
        except OSError as error:
            raise RepositoryWriteError(f"cannot publish {candidate.name!r}: {error}") from error

    def remove_candidate(self, candidate: Candidate) -> None:
        """Delete what is left of a candidate; nothing happens if nothing is left."""
        self._discard(candidate.name)

    def clean_candidates(self, older_than_s: float) -> list[str]:
        """Delete candidates that crashed publishers left, and return their names.

        Args:
            older_than_s: spare what was touched within so many seconds, as it may be in use.
        """
        if not self.root.is_dir():
            return []
        before, found = time.time() - older_than_s, list[str]()
        for entry in list(self.root.iterdir()):
            if not (_CANDIDATE.fullmatch(entry.name) or _STAGING.fullmatch(entry.name)):
                continue
            try:
                old = entry.stat().st_mtime <= before
            except FileNotFoundError:  # its publisher was alive, and has finished
                continue
            if old:
                self._discard(entry.name)
                found.append(entry.name)
        return sorted(name for name in found if not name.startswith("."))

    def _unwritable(self, error: OSError) -> RepositoryWriteError:
        # Of several files that were copied there is a list: one of them tells it.
        why = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        return RepositoryWriteError(f"cannot write to the model repository {self.root}: {why}")

    def _discard(self, name: str) -> None:
        # Out of Triton's sight in one step: it must not meet a half-deleted model.
        gone = self.root / f".staging-{uuid.uuid4().hex[:12]}"
        try:
            (self.root / name).rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)

    def _config(self, model: str) -> str | None:
        """The config that the model's versions are served with, for any name.

        None where there is no version: what lies there was for another signature.
        """
        if not self.versions(model):
            return None
        try:
            return nameless((self.root / model / CONFIG).read_text())
        except FileNotFoundError:
            return None

    def _is_model(self, name: str) -> bool:
        try:
            return not _CANDIDATE.fullmatch(name) and bool(self.versions(name))
        except InvalidNameError:
            return False  # hidden, or something else's, as a mount's lost+found

    def _entries(self, model: str) -> list[str]:
        try:
            return [entry.name for entry in (self.root / check_name("model_id", model)).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.root / _LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the kernel lets go when the process dies
            yield


def check_model_id(value: Any) -> str:
    """Return `value` if a model can be published under it.

    Raises:
        InvalidNameError: not a name, or one that is taken up by a candidate's.
    """
    name = check_name("model_id", value)
    if len(name) > _MAX_MODEL_ID or _CANDIDATE.fullmatch(name):
        raise InvalidNameError(
            f"model_id must be at most {_MAX_MODEL_ID} characters and not end like a candidate's "
            f"name; got {reprlib.repr(name)}"
        )
    return name
