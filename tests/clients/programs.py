"""The programs of the clients: each made once from its pinned sources, outside the tree, and kept.

Every program takes the cluster's endpoint and a prefix for its keys, and speaks as `python/telling.py` says.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from memorycluster.valkey.build import cache_directory

HERE = Path(__file__).parent
GO = Path("/usr/local/go/bin/go")
"""Where Go's own packages put it; not always in $PATH."""


class Missing(Exception):
    """A language's tools are not on this machine."""


@dataclass(frozen=True, slots=True)
class Program:
    """How to call a client's program."""

    command: list[str]
    env: dict[str, str] = field(default_factory=dict)


def python(script: str, *arguments: str) -> Program:
    """Return a Python script, with what it was pinned to."""
    pinned = HERE / "python" / "requirements.txt"

    def install(directory: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, "--target", str(directory), "-r", str(pinned)])

    packages = made("python", install, [pinned], also=sys.version)
    command = [sys.executable, str(HERE / "python" / script), *arguments]
    return Program(command, {"PYTHONPATH": str(packages)})


def go(package: str) -> Program:
    """Return a Go program.

    :raises Missing: if there is no Go, or one that is too old.
    """
    program = shutil.which("go") or (str(GO) if GO.exists() else None)
    if not program:
        raise Missing("no Go: apt-get install golang-go")
    needed = re.findall(r"(?m)^go (\d+)\.(\d+)", (HERE / "go" / "go.mod").read_text())[0]
    said = subprocess.run([program, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout
    _at_least("Go", said, tuple(map(int, needed)))

    def build(directory: Path) -> None:
        env = {"GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false -mod=readonly"}
        run([program, "build", "-o", f"{directory}/", "./..."], cwd=HERE / "go", env=env)

    return Program([str(made("go", build) / package)])


def node(library: str) -> Program:
    """Return the JavaScript program, with one of its libraries.

    :raises Missing: if there is no Node.js with npm, or one that is too old.
    """
    program, npm = shutil.which("node"), shutil.which("npm")
    if not program or not npm:
        raise Missing("no Node.js with npm: apt-get install nodejs npm")
    needed = json.loads((HERE / "node" / "package.json").read_text())["engines"]["node"]
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    _at_least("Node.js", said, (int(re.findall(r"\d+", needed)[0]),))

    def install(directory: Path) -> None:
        for source in (HERE / "node").iterdir():
            shutil.copy(source, directory)
        run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=directory)

    return Program([program, str(made("node", install) / "client.js"), library])


def java(main: str) -> Program:
    """Return a Java program.

    :raises Missing: if there is no JDK with Maven.
    """
    compiler, program, maven = (shutil.which(name) for name in ("javac", "java", "mvn"))
    if not compiler or not program or not maven:
        raise Missing("no JDK with Maven: apt-get install openjdk-17-jdk-headless maven")

    def build(directory: Path) -> None:
        libraries, classes = f"{directory}/libraries", f"{directory}/classes"
        copy = ["dependency:copy-dependencies", f"-DoutputDirectory={libraries}"]
        run([maven, "--quiet", "--batch-mode", "--file", str(HERE / "java" / "pom.xml"), *copy])
        sources = [str(source) for source in sorted((HERE / "java").glob("*.java"))]
        run([compiler, "--release", "17", "-cp", f"{libraries}/*", "-d", classes, *sources])

    directory = made("java", build)
    # As little as it needs, as everything here runs on a small machine at once.
    options = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m"]
    return Program([program, *options, "-cp", f"{directory}/classes:{directory}/libraries/*", main])


def _at_least(name: str, said: str, needed: tuple[int, ...]) -> None:
    has = tuple(map(int, re.findall(r"\d+", said)))[: len(needed)]
    if has < needed:
        raise Missing(f"{name} is {said.strip()}; {'.'.join(map(str, needed))} or newer is needed")


def made(
    language: str, make: Callable[[Path], None], sources: Sequence[Path] = (), *, also: str = ""
) -> Path:
    """Return the directory that `make` fills; it is kept for as long as the language's sources stay the same.

    :param sources: if not all files of that language.
    """
    here = HERE / language
    digest = hashlib.sha256(also.encode())
    for path in sources or sorted(path for path in here.rglob("*") if path.is_file()):
        digest.update(f"\0{path.relative_to(here)}\0".encode() + path.read_bytes())
    cache = cache_directory() / "clients"
    directory = cache / f"{language}-{digest.hexdigest()[:16]}"
    with _alone(cache / f"{language}.lock"):
        if not directory.exists():
            unfinished = cache / f"{language}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(directory)
    return directory


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a command, and show what it said if it fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}"
