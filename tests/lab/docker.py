"""A docker to run the lab in: the one that answers, else one that we start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import IO

from tests.lab import cache as kept
from tests.lab.programs import LabError

HERE = Path(__file__).parent / "node"
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
"""For dockerd: its containerd would not understand a containerd-shim of another version, found in PATH."""
START_WITHIN = 60.0
"""Seconds."""


def docker(
    *arguments: str | Path, stdin: IO[bytes] | int = subprocess.DEVNULL, at: Path | None = None
) -> str:
    """Run the docker client; return what it prints.

    :raises LabError: if it fails.
    """
    done = subprocess.run(
        ["docker", *arguments],
        stdin=stdin,
        capture_output=True,
        cwd=at,
        env=environment(),
        check=False,
    )
    if done.returncode:
        problem = (done.stdout[-1000:] + done.stderr[-3000:]).decode(errors="replace")
        raise LabError(f"docker {' '.join(map(str, arguments[:6]))} failed:\n{problem}")
    return done.stdout.decode().strip()


def environment() -> dict[str, str]:
    """Return the environment for programs that talk to docker, once it is there (ensure)."""
    # The classic builder is in every docker; BuildKit is a plug-in of newer clients.
    return {**os.environ, **_where(), "DOCKER_BUILDKIT": "0"}


def has_image(tag: str) -> bool:
    """Return whether docker holds the image ``tag``."""
    done = subprocess.run(
        ["docker", "image", "inspect", tag], capture_output=True, env=environment(), check=False
    )
    return done.returncode == 0


def ensure() -> None:
    """Make docker answer, starting one of our own if need be (as root; it goes on running).

    :raises LabError: if docker is not installed or does not start.
    """
    _where.cache_clear()
    if _usable(_where()):
        return
    if not shutil.which("docker") or not shutil.which("dockerd", path=SYSTEM_PATH):
        raise LabError("docker is needed for the lab: apt-get install docker.io   (make deps does it)")
    if os.geteuid() != 0:
        raise LabError("No docker answers; start it, or run this as root to have one started")
    with kept.lock("docker"):
        if not _usable(_where()):
            _start(_own())


def stop() -> None:
    """Stop the docker that ensure() started, if it did."""
    pid_file = _own() / "dockerd.pid"
    if pid_file.is_file():
        pid = int(pid_file.read_text())
        if _is_dockerd(pid):
            os.kill(pid, signal.SIGTERM)


def _start(own: Path) -> None:
    kept.say("starting dockerd")
    own.mkdir(exist_ok=True)
    wrapper = own / "runc-wrapper"
    shutil.copy2(HERE / "runc-wrapper", wrapper)
    wrapper.chmod(0o755)
    settings = {
        "storage-driver": "overlay2",
        "data-root": str(own / "data"),
        "exec-root": str(own / "exec"),
        "pidfile": str(own / "dockerd.pid"),
        "runtimes": {"lab": {"path": str(wrapper)}},
        "default-runtime": "lab",
        "hosts": [f"unix://{own / 'docker.sock'}"],
    }
    (own / "dockerd.json").write_text(json.dumps(settings, indent=1))
    dockerd = shutil.which("dockerd", path=SYSTEM_PATH)
    assert dockerd is not None
    with (own / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(
            [dockerd, "--config-file", own / "dockerd.json"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PATH": SYSTEM_PATH},
            start_new_session=True,
        )
    deadline = time.monotonic() + START_WITHIN
    while not _usable(_where()):
        if process.poll() is not None or time.monotonic() > deadline:
            end = (own / "dockerd.log").read_text(errors="replace")[-2000:]
            raise LabError(f"dockerd does not start:\n{end}")
        time.sleep(0.2)


def _usable(extra: dict[str, str]) -> bool:
    if not shutil.which("docker"):
        return False
    done = subprocess.run(["docker", "info"], capture_output=True, env={**os.environ, **extra}, check=False)
    return done.returncode == 0


@cache
def _where() -> dict[str, str]:
    """Return what tells the client which docker: nothing if the one it knows answers, else our own."""
    return {} if _usable({}) else {"DOCKER_HOST": f"unix://{_own() / 'docker.sock'}"}


def _is_dockerd(pid: int) -> bool:
    try:
        return b"dockerd" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _own() -> Path:
    return kept.directory() / "docker"
