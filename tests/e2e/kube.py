"""A Kubernetes cluster by kubectl: what its users have, and nothing between the tests and what they see."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tests.lab.programs import program

T = TypeVar("T")
Object = dict[str, Any]


class Failed(AssertionError):
    """A command ended with an error, or a condition did not come true in time."""


class Kube:
    """One cluster."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.kubectl = [str(program("kubectl"))]

    @property
    def env(self) -> dict[str, str]:
        """The environment of programs that talk to this cluster."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def __call__(
        self, *arguments: str, stdin: str | None = None, seconds: float = 60, check: bool = True
    ) -> str:
        """Run kubectl and return what it prints.

        :raises Failed: if it fails, unless `check` is False: then what it printed is returned all the same.
        """
        return self.command(*self.kubectl, *arguments, stdin=stdin, seconds=seconds, check=check)

    def command(
        self, *command: str, stdin: str | None = None, seconds: float = 60, check: bool = True
    ) -> str:
        """Run any program on this cluster, as `__call__` does kubectl."""
        shown = " ".join([Path(command[0]).name, *command[1:]])
        try:
            done = subprocess.run(
                command,
                input=stdin if stdin is not None else "",
                env=self.env,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{shown}: no end within {seconds:g} s") from error
        if done.returncode and check:
            raise Failed(f"{shown}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout if check else done.stdout + done.stderr

    # ---- objects

    def apply(self, *objects: Mapping[str, Any], namespace: str = "default") -> None:
        """Apply objects, those without a namespace of their own in `namespace`."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self("apply", "-n", namespace, "-f", "-", stdin=json.dumps(listed))

    def find(self, kind: str, name: str, namespace: str = "default") -> Object | None:
        """Return one object, if there is one."""
        said = self("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        found: Object | None = json.loads(said) if said.strip() else None
        return found

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        """Return one object, which must exist."""
        found = self.find(kind, name, namespace)
        if found is None:
            raise Failed(f"no {kind} {name} in namespace {namespace}")
        return found

    def select(self, kind: str, namespace: str = "default", selector: str = "") -> list[Object]:
        """Return all objects of a kind, or those that a selector matches."""
        said = self("get", kind, "-n", namespace, "-l", selector, "-o", "json")
        found: list[Object] = json.loads(said)["items"]
        return found

    def delete(self, kind: str, *names: str, namespace: str = "default", force: bool = False) -> None:
        """Delete objects, without waiting until they are gone."""
        how = ("--force", "--grace-period=0") if force else ()
        self("delete", kind, *names, "-n", namespace, "--ignore-not-found", "--wait=false", *how)

    def patch(self, kind: str, name: str, patch: Mapping[str, Any], namespace: str = "default") -> None:
        """Merge `patch` into an object."""
        self("patch", kind, name, "-n", namespace, "--type=merge", "-p", json.dumps(patch))

    def execute(
        self, pod: str, *command: str, namespace: str = "default", container: str = "", seconds: float = 60
    ) -> str:
        """Run a command in a pod and return what it prints."""
        where = ("-c", container) if container else ()
        return self("exec", pod, "-n", namespace, *where, "--", *command, seconds=seconds)

    # ---- waiting

    def until(self, get: Callable[[], T | None], what: str, *, seconds: float = 120, every: float = 0.5) -> T:
        """Return what `get` returns, once that is true. A `Failed` that it raises counts as not yet.

        :raises Failed: if that takes longer than `seconds`; says what was seen last.
        """
        deadline = time.monotonic() + seconds
        while True:
            seen: object
            try:
                if found := get():
                    return found
                seen = found
            except Failed as error:
                seen = error
            if time.monotonic() > deadline:
                raise Failed(f"not within {seconds:g} s: {what}; last seen: {seen}")
            time.sleep(every)

    def until_holds(
        self, problem: Callable[[], str], what: str, *, seconds: float = 120, every: float = 0.5
    ) -> None:
        """Wait until `problem` has none to tell of.

        :raises Failed: if that takes longer than `seconds`; says which problem was last.
        """

        def holds() -> bool:
            if found := problem():
                raise Failed(found)
            return True

        self.until(holds, what, seconds=seconds, every=every)

    def gone(self, kind: str, *names: str, namespace: str = "default", seconds: float = 90) -> None:
        """Wait until there is none of these objects."""

        def left() -> str:
            here = self("get", kind, *names, "-n", namespace, "-o", "name", "--ignore-not-found").split()
            return f"still there: {', '.join(here)}" if here else ""

        self.until_holds(left, f"{kind} {' '.join(names)} gone", seconds=seconds)

    # ---- for whoever has to find out why

    def explain(self, namespaces: Iterable[str], system: str) -> str:
        """Return what a human would look at first: resources, pods, events, the operator's log."""
        parts = [self("get", "nodes", "-o", "wide", check=False)]
        for namespace in namespaces:
            parts += [
                self("get", "memoryclusters,pods,pvc", "-n", namespace, "-o", "wide", check=False),
                self("describe", "memoryclusters", "-n", namespace, check=False),
                _tail(self("events", "-n", namespace, check=False), 40),
            ]
        parts += [
            self("get", "pods", "-n", system, "-o", "wide", check=False),
            self("logs", "-n", system, "-l", OPERATOR, "--tail=60", "--prefix", check=False),
        ]
        return "\n".join(parts)


OPERATOR = "app.kubernetes.io/name=memorycluster-operator"
"""Selects the operator's pods."""


def _tail(text: str, lines: int) -> str:
    return "\n".join(text.splitlines()[-lines:])


def condition(resource: Mapping[str, Any], kind: str) -> Object:
    """Return a condition of an object's status; an empty one if it has none of that type."""
    conditions = resource.get("status", {}).get("conditions", [])
    return next((dict(each) for each in conditions if each["type"] == kind), {})
