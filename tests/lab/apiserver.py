"""A real etcd and kube-apiserver as processes on loopback: Kubernetes' API without nodes.

It does what any cluster's API server does: validation, CEL, server-side apply, watches, RBAC. No pod runs:
with ``controllers`` the real kube-controller-manager makes the pods of StatefulSets, collects garbage, and
so on; the rest, pods' status above all, is the test's to write.
"""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.lab.programs import LabError, program

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")

READY_WITHIN = 90.0
"""Seconds; the API server alone takes about 5 on a quiet machine."""


class ApiServer:
    """The API server and its etcd, from entering to leaving the context."""

    kubeconfig: Path
    """Of an administrator (group system:masters)."""
    url: str
    token: str
    """The administrator's bearer token."""
    ca: Path
    """Certificate to verify the server with."""

    def __init__(self, *, controllers: tuple[str, ...] = ()) -> None:
        """Prepare to run.

        :param controllers: controllers of kube-controller-manager to run, "*" for its default ones;
            with none it is not started, and pods need no service account.
        """
        self.controllers = controllers
        self._root: Path | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> ApiServer:
        self._root = Path(tempfile.mkdtemp(prefix="memorycluster-apiserver-"))
        try:
            self._start(self._root)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def restart(self) -> None:
        """Stop the API server and start it again, on the same port and with the same data."""
        assert self._root is not None
        self._end("kube-apiserver")
        self._start_apiserver(self._root)

    def _start(self, root: Path) -> None:
        self._etcd, etcd_peer, self._port = _free_ports(3)
        self.url = f"https://127.0.0.1:{self._port}"
        self.token = secrets.token_hex(16)
        (root / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')
        key = root / "service-accounts.key"
        subprocess.run(
            ["openssl", "genpkey", "-quiet", "-algorithm", "RSA", "-out", key],
            check=True,
            capture_output=True,
        )
        self._run(
            root,
            "etcd",
            f"--data-dir={root / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{self._etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{self._etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{etcd_peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{etcd_peer}",
            f"--initial-cluster=default=http://127.0.0.1:{etcd_peer}",
            "--unsafe-no-fsync",
        )
        self.ca = root / "certificates" / "apiserver.crt"
        self.kubeconfig = root / "kubeconfig"
        self._start_apiserver(root)
        if self.controllers:
            self._run(
                root,
                "kube-controller-manager",
                f"--kubeconfig={self.kubeconfig}",
                f"--authentication-kubeconfig={self.kubeconfig}",
                f"--authorization-kubeconfig={self.kubeconfig}",
                f"--controllers={','.join(self.controllers)}",
                f"--service-account-private-key-file={key}",
                f"--root-ca-file={self.ca}",
                "--bind-address=127.0.0.1",
                f"--secure-port={_free_ports(1)[0]}",
                f"--cert-dir={root / 'controllers'}",
                "--leader-elect=false",
                "--kube-api-qps=500",  # of all controllers together; the default 20 makes tests wait
                "--kube-api-burst=500",
                "--concurrent-statefulset-syncs=20",
            )

    def _start_apiserver(self, root: Path) -> None:
        key = root / "service-accounts.key"
        self._run(
            root,
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={self.ca.parent}",  # where it makes its own certificate
            f"--token-auth-file={root / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.0.0.0/16",
            *(() if self.controllers else ("--disable-admission-plugins=ServiceAccount",)),
        )
        self._await_ready(root)

    def _await_ready(self, root: Path) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while not self._ready():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise LabError(f"{name} ended:\n{_end_of(root / f'{name}.log')}")
            if time.monotonic() > deadline:
                raise LabError(f"the API server is not ready:\n{_end_of(root / 'kube-apiserver.log')}")
            time.sleep(0.1)
        self.kubeconfig.write_text(json.dumps(self._config(), indent=1))

    def _ready(self) -> bool:
        if not self.ca.is_file():
            return False
        try:
            request = urllib.request.Request(
                f"{self.url}/readyz", headers={"Authorization": f"Bearer {self.token}"}
            )
            context = ssl.create_default_context(cafile=str(self.ca))
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _config(self) -> dict[str, object]:
        cluster = {"server": self.url, "certificate-authority": str(self.ca)}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin"}}],
            "current-context": "lab",
        }

    def _run(self, root: Path, name: str, *arguments: str) -> None:
        with (root / f"{name}.log").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [program(name), *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=root
            )

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _stop(self) -> None:
        for name in reversed(list(self._processes)):
            self._end(name)
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    """Return ports of loopback on which nobody listens."""
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [listener.getsockname()[1] for listener in with_ports]
    for listener in with_ports:
        listener.close()
    return ports


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:] if log.is_file() else ""
