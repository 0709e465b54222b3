"""Folders that stand for images, and programs that run in them as in a container.

Enters: a folder with a Debian in it, and a command. Leaves: a process whose root is that folder, in
namespaces of its own. Needs root, debootstrap, unshare and chroot; knows no Dockerfile.
"""

import ast
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RELEASE = "bookworm"
_INSTALL = """
set -e
apt-get update -qq
apt-get install -y -qq --no-install-recommends ca-certificates python3.11-venv libpython3.11
apt-get clean
ln -s /usr/bin/python3.11 /usr/local/bin/python
ln -s /usr/bin/python3.11 /usr/local/bin/python3
"""
_MOUNTS = """
set -e
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
"""
_READ_ONLY = """
mount -o remount,bind,ro "$ROOT"
mount -t tmpfs tmpfs "$ROOT/tmp"
"""


class RootError(Exception):
    """A Debian root could not be made."""


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine, seen at a path of the root."""

    source: Path
    target: str
    writable: bool = False


def make_debian(folder: Path) -> None:
    """A fresh Debian with its Python 3.11 in the place of the official image's."""
    draft = folder.with_name(folder.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    _run(["debootstrap", "--variant=minbase", RELEASE, str(draft)])
    variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
    resolver = Mount(Path("/etc/resolv.conf"), "/etc/resolv.conf")
    _run(enter(draft, ["sh", "-c", _INSTALL], environment=variables, mounts=[resolver]))
    draft.rename(folder)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RootError(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-4000:]}")


def copy_root(source: Path, target: Path) -> None:
    """A root of its own, to go on from another's."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)


def size_mb(root: Path) -> int:
    """What its files take, in MB."""
    told = subprocess.run(["du", "-sm", str(root)], check=True, capture_output=True, text=True)
    return int(told.stdout.split()[0])


def enter(  # noqa: PLR0913 - what a container is made of
    root: Path,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: str = "/",
    user: int = 0,
    mounts: Sequence[Mount] = (),
    confined: bool = False,
) -> list[str]:
    """The command line that runs a command in a root, as the first process of its namespace.

    Args:
        root: the folder.
        command: program and arguments.
        environment: all of its variables.
        folder: where it runs.
        user: id of user and group.
        mounts: folders that it shares.
        confined: as `read_only: true`, `cap_drop: [ALL]`, `no-new-privileges` and a /tmp in memory.
    """
    script = f"ROOT={shlex.quote(str(root))}\n{_MOUNTS}{_READ_ONLY if confined else ''}"
    for mount in mounts:
        target = root / mount.target.lstrip("/")
        if mount.source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        source, place = shlex.quote(str(mount.source)), shlex.quote(str(target))
        script += f"mount --bind {source} {place}\n"
        if not mount.writable:
            script += f"mount -o remount,bind,ro {place}\n"
    identity = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    limits = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"] if confined else []
    variables = [f"{name}={value}" for name, value in environment.items()]
    inner = ["env", "-i", f"--chdir={folder}", *variables, *command]
    script += "exec " + shlex.join(["chroot", str(root), "setpriv", *identity, *limits, *inner])
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]


def pip_settings() -> tuple[dict[str, str], list[Mount]]:
    """This machine's pip settings as variables, and what of its files they name.

    A machine may reach its packages in a way of its own; that is no business of the Dockerfile.
    """
    told = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    )
    variables: dict[str, str] = {}
    for line in told.stdout.splitlines():
        name, _, value = line.partition("=")
        key = "PIP_" + name.rpartition(".")[2].upper().replace("-", "_")
        variables.setdefault(key, str(ast.literal_eval(value)))
    mounts = [Mount(Path("/etc/resolv.conf"), "/etc/resolv.conf")]
    for word in " ".join(variables.values()).split():
        path = word.removeprefix("file://")
        if path.startswith("/") and Path(path).exists():
            # The links of an index may lead beside it.
            top = Path(*Path(path).parts[:3])
            if all(mount.source != top for mount in mounts):
                mounts.append(Mount(top, str(top)))
    return variables, mounts


def missing_tools() -> list[str]:
    """What this machine lacks for all this."""
    tools = [name for name in ("debootstrap", "unshare", "chroot") if shutil.which(name) is None]
    return tools if os.getuid() == 0 else [*tools, "root"]
