"""How tests reach an API server: helm, kubectl, a client."""

from __future__ import annotations

import subprocess

from kubernetes import client
from tests.lab.apiserver import ApiServer
from tests.lab.programs import program


def helm(*arguments: str, server: ApiServer | None = None) -> str:
    """Return what helm says. Raises AssertionError with it, if it fails."""
    return _run("helm", arguments, server)


def kubectl(server: ApiServer, *arguments: str, stdin: str = "") -> str:
    """Return what kubectl says. Raises AssertionError with it, if it fails."""
    return _run("kubectl", arguments, server, stdin)


def server_configuration(server: ApiServer) -> client.Configuration:
    """Return how the Kubernetes client reaches the API server, as an administrator."""
    configuration = client.Configuration()
    configuration.host = server.url
    configuration.ssl_ca_cert = str(server.ca)
    configuration.api_key = {"authorization": f"Bearer {server.token}"}
    return configuration


def _run(name: str, arguments: tuple[str, ...], server: ApiServer | None, stdin: str = "") -> str:
    where = ["--kubeconfig", str(server.kubeconfig)] if server else []
    done = subprocess.run(
        [str(program(name)), *arguments, *where], input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
