"""Build Valkey with our transaction log, or as it is: fetch, verify, patch, compile, cache.

``python -m memorycluster.valkey.build [--stock]`` prints the directory that holds the programs; with
``--source``, only the path of the source's archive.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import aiohttp
from platformdirs import user_cache_path

Progress = Callable[[str], None]

PROGRAMS = ("valkey-server", "valkey-cli", "valkey-benchmark")
"""What a built directory holds, beside ``source/``: the patched source tree, with Valkey's own tests."""

SOURCE_VARIABLE = "MEMORYCLUSTER_VALKEY_SOURCE"
CACHE_VARIABLE = "MEMORYCLUSTER_CACHE"

MAKE_FLAGS = ("BUILD_TLS=yes", "MALLOC=jemalloc", "USE_SYSTEMD=no")
OBJECTS = 176
"""Lines that say ``CC`` in a whole build; only for the progress shown."""

PRUNE_AFTER = 14 * 24 * 3600
"""Seconds after which a build that nobody asked for any more is removed."""


class Variant(Enum):
    """Which engine to build."""

    DURABLE = "durable"
    """Valkey with the transaction log."""
    STOCK = "stock"
    """Valkey as it is, with the same flags: to compare with."""


class BuildError(Exception):
    """The engine can't be built; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class Source:
    """``source.toml``."""

    version: str
    tree_sha256: str
    mirrors: tuple[str, ...]


def recipe() -> Path:
    """Return the directory of ``hooks.patch``, ``txlog.c`` and ``source.toml``."""
    here = Path(__file__).resolve()
    for place in (here.parent / "source", here.parents[2] / "valkey"):
        if (place / "source.toml").is_file():
            return place
    raise BuildError("The engine's sources (engine/valkey) are not installed with this package")


def cache_directory() -> Path:
    """Return where builds are kept: $MEMORYCLUSTER_CACHE, or the user's cache directory."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else user_cache_path("memorycluster")


def read_source(place: Path) -> Source:
    """Return what ``source.toml`` in ``place`` says."""
    data = tomllib.loads((place / "source.toml").read_text())
    return Source(data["version"], data["tree-sha256"], tuple(data["mirrors"]))


def built_directory(variant: Variant) -> Path:
    """Return where the build of ``variant`` is, or will be; its name tells of all that goes into it."""
    place = recipe()
    source = read_source(place)
    digest = hashlib.sha256()
    for part in (variant.value, source.tree_sha256, platform.machine(), *MAKE_FLAGS):
        digest.update(part.encode() + b"\0")
    if variant is Variant.DURABLE:
        for name in ("hooks.patch", "txlog.c", "txlog.h"):
            digest.update((place / name).read_bytes() + b"\0")
    return cache_directory() / f"valkey-{source.version}-{variant.value}-{digest.hexdigest()[:16]}"


async def build(progress: Progress, *, variant: Variant = Variant.DURABLE) -> Path:
    """Return the directory of the built programs (``PROGRAMS``), building them first if need be.

    :param progress: called with lines for a human.
    :raises BuildError: if something is missing, the source can't be had or verified, or the compiler fails.
    """
    target = built_directory(variant)
    if _complete(target):
        os.utime(target)
        return target
    check_tools()
    target.parent.mkdir(parents=True, exist_ok=True)
    async with _lock(target.with_name(target.name + ".lock"), progress):
        if not _complete(target):
            await _build(target, variant, progress)
            _prune(target, variant)
    return target


async def source_archive(progress: Progress) -> Path:
    """Return the path of the verified archive of Valkey's source, fetched first if need be.

    :raises BuildError: if it can't be had or verified.
    """
    cache_directory().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_directory()) as work:
        return await _unpack(read_source(recipe()), Path(work) / "source", progress)


def check_tools() -> None:
    """Raise BuildError, naming the packages, unless what a build needs is installed."""
    packages = [
        package
        for package, tool in (("gcc", "cc"), ("make", "make"), ("patch", "patch"))
        if not shutil.which(tool)
    ]
    if "gcc" not in packages:
        headers = (("libc6-dev", "stdlib.h"), ("libssl-dev", "openssl/ssl.h"))
        packages += [package for package, header in headers if not _compiles(header)]
    if packages:
        raise BuildError(
            f"Building the engine needs more than is installed: apt-get install {' '.join(packages)}"
        )


def _compiles(header: str) -> bool:
    command = ["cc", "-E", "-x", "c", "-"]
    result = subprocess.run(
        command, input=f"#include <{header}>\n", text=True, capture_output=True, check=False
    )
    return result.returncode == 0


def _complete(target: Path) -> bool:
    return all((target / name).is_file() for name in PROGRAMS)


@asynccontextmanager
async def _lock(path: Path, progress: Progress) -> AsyncIterator[None]:
    """Hold the lock file ``path``: one build of a kind at a time on a machine."""
    with path.open("w") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    progress("waiting for another build of the engine to end")
                told = True
                await asyncio.sleep(0.2)
        yield


async def _build(target: Path, variant: Variant, progress: Progress) -> None:
    place = recipe()
    source = read_source(place)
    work = target.with_name(target.name + ".building")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tree = work / "source"
    await _unpack(source, tree, progress)
    if variant is Variant.DURABLE:
        progress("adding the transaction log")
        await _run(["patch", "-p1", "-F0", "--no-backup-if-mismatch", "-i", str(place / "hooks.patch")], tree)
        for name in ("txlog.c", "txlog.h"):
            shutil.copyfile(place / name, tree / "src" / name)
    await _make(tree, progress)
    for name in PROGRAMS:
        shutil.copy2(tree / "src" / name, work / name)
    for suffix in (".o", ".a", ".d"):
        for file in (tree / "src").glob(f"*{suffix}"):
            file.unlink()
    shutil.rmtree(target, ignore_errors=True)
    work.rename(target)


async def _make(tree: Path, progress: Progress) -> None:
    jobs = os.environ.get("MEMORYCLUSTER_BUILD_JOBS") or str(len(os.sched_getaffinity(0)))
    command = ["nice", "-n", "5", "make", f"-j{jobs}", *MAKE_FLAGS, *PROGRAMS]
    environment = {**os.environ, "LC_ALL": "C"}
    for name in ("MAKEFLAGS", "CFLAGS", "LDFLAGS"):  # of whoever runs us, perhaps from a Makefile
        environment.pop(name, None)
    compiled = 0

    def line(text: str) -> None:
        nonlocal compiled
        if " CC" in text or "mCC" in text:
            compiled += 1
            progress(f"compiling {min(compiled, OBJECTS)}/{OBJECTS}")
        elif "LINK" in text:
            progress("linking")

    await _run(command, tree / "src", environment, line)


async def _run(
    command: list[str],
    directory: Path,
    environment: dict[str, str] | None = None,
    line: Progress | None = None,
) -> None:
    """Run ``command``, giving its output to ``line``; BuildError with the output's end if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=1 << 20,
        start_new_session=True,
    )
    assert process.stdout is not None
    output: list[str] = []
    try:
        async for raw in process.stdout:
            output.append(raw.decode(errors="replace").rstrip())
            if line is not None:
                line(output[-1])
        code = await process.wait()
    except BaseException:
        if process.returncode is None:
            os.killpg(process.pid, 15)
            await process.wait()
        raise
    if code != 0:
        end = "\n".join(output[-30:])
        raise BuildError(f"'{' '.join(command[:6])} ...' failed with status {code}:\n{end}")


async def _unpack(source: Source, tree: Path, progress: Progress) -> Path:
    """Make ``tree`` the verified source tree, from the first place that has it; return its archive."""
    problems: list[str] = []
    archive = cache_directory() / f"valkey-{source.version}.tar.gz"
    if archive.is_file() and await asyncio.to_thread(_extract, archive, tree, source, problems):
        return archive
    given = os.environ.get(SOURCE_VARIABLE)
    if given:
        if await asyncio.to_thread(_extract, Path(given), tree, source, problems):
            return Path(given)
        raise BuildError(f"${SOURCE_VARIABLE} is not the source of Valkey {source.version}: {problems[-1]}")
    for url in await _urls(source):
        partial = archive.with_suffix(f".{os.getpid()}.partial")
        try:
            await _download(url, partial, progress)
            if await asyncio.to_thread(_extract, partial, tree, source, problems):
                partial.rename(archive)
                return archive
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            problems.append(f"{url}: {error or type(error).__name__}")
        finally:
            partial.unlink(missing_ok=True)
    raise BuildError(
        f"The source of Valkey {source.version} can't be had; "
        f"set {SOURCE_VARIABLE} to the path of its archive. Tried: " + "; ".join(problems or ["nothing"])
    )


async def _urls(source: Source) -> list[str]:
    """Return the places to fetch from, those of apt's own mirrors included."""
    sites: list[str] = []
    if shutil.which("apt-get"):
        process = await asyncio.create_subprocess_exec(
            *("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await process.communicate()
        found = dict.fromkeys(output.decode().split())
        sites = [site.rstrip("/") for site in found if site.startswith("http") and "security" not in site]
    urls: list[str] = []
    for mirror in source.mirrors:
        if "{debian-mirror}" in mirror:
            urls += [mirror.replace("{debian-mirror}", site) for site in sites]
        else:
            urls.append(mirror)
    return urls


async def _download(url: str, path: Path, progress: Progress) -> None:
    progress("fetching the source of Valkey")
    timeout = aiohttp.ClientTimeout(total=600, connect=10, sock_read=30)
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
        session.get(url) as response,
    ):
        response.raise_for_status()
        with path.open("wb") as file:
            async for chunk in response.content.iter_chunked(1 << 18):
                file.write(chunk)


def _extract(archive: Path, tree: Path, source: Source, problems: list[str]) -> bool:
    """Unpack ``archive`` as ``tree`` if it is the pinned source; otherwise add the reason to ``problems``."""
    unpacked = tree.with_name("unpacked")
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            # What extraction filters are for; Debian 12's Python 3.11.2 has none.
            for member in tar:
                inside = not Path(member.name).is_absolute() and ".." not in Path(member.name).parts
                if not inside or not (member.isfile() or member.isdir()):
                    raise tarfile.TarError(f"unexpected member {member.name}")
            tar.extractall(unpacked)
    except (OSError, tarfile.TarError) as error:
        problems.append(f"{archive}: {error}")
        return False
    tops = list(unpacked.iterdir())
    if len(tops) == 1 and tree_digest(tops[0]) == source.tree_sha256:
        tops[0].rename(tree)
        unpacked.rmdir()
        return True
    shutil.rmtree(unpacked)
    problems.append(f"{archive.name}: other files than the pinned ones")
    return False


def tree_digest(tree: Path) -> str:
    """Return a SHA-256 over the names and contents of all files in ``tree``, however they were packed."""
    digest = hashlib.sha256()
    for path in sorted(tree.rglob("*"), key=lambda path: path.relative_to(tree).as_posix()):
        name = path.relative_to(tree).as_posix().encode()
        if path.is_symlink():
            digest.update(b"link %s %s\n" % (name, str(path.readlink()).encode()))
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest().encode()
            digest.update(b"file %s %d %s\n" % (name, bool(path.stat().st_mode & 0o100), content))
    return digest.hexdigest()


def _prune(kept: Path, variant: Variant) -> None:
    for other in kept.parent.glob(f"valkey-*-{variant.value}-*"):
        if other != kept and other.is_dir() and time.time() - other.stat().st_mtime > PRUNE_AFTER:
            shutil.rmtree(other, ignore_errors=True)


def main() -> int:
    """Build from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m memorycluster.valkey.build", description=__doc__)
    parser.add_argument("--stock", action="store_true", help="Valkey as it is, without the transaction log")
    parser.add_argument("--source", action="store_true", help="only fetch the source; print its archive")
    options = parser.parse_args()
    variant = Variant.STOCK if options.stock else Variant.DURABLE
    last = ""

    def progress(text: str) -> None:
        nonlocal last
        step, _, count = text.partition(" ")
        if text != last and (step != "compiling" or sys.stderr.isatty() or count.split("/")[0].endswith("0")):
            print(text, file=sys.stderr)
        last = text

    try:
        wanted = source_archive(progress) if options.source else build(progress, variant=variant)
        print(asyncio.run(wanted))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
