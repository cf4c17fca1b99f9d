"""Commands about MemoryClusters on Kubernetes. They need the extra ``operator``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.markup import escape

from memorycluster.agent.ask import Unable
from memorycluster.cli.recovery import Ask
from memorycluster.local.errors import UserError

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration

    from memorycluster_operator.kube import Kube

MISSING = "this command needs more packages: pip install '.[operator]' in a checkout"


async def plan(name: str, namespace: str | None, kubeconfig: str | None) -> tuple[dict[str, Any], str]:
    """Return what the operator would do next about a MemoryCluster, as JSON data, and its namespace.

    :param namespace: None: that of the kubeconfig's context.
    :raises UserError: packages are missing, the API server does not answer, there is no such MemoryCluster.
    """
    async with _reached(namespace, kubeconfig) as (kube, _, where):
        from memorycluster_operator import explain

        settings = await explain.find_settings(kube)
        return explain.as_data(await explain.plan_of(kube, where, name, settings)), where


async def nodes(
    name: str, namespace: str | None, kubeconfig: str | None, shard: int
) -> tuple[dict[str, Ask], str]:
    """Return how to ask each node of a shard of a MemoryCluster, and its namespace. Raises as ``plan``."""
    async with _reached(namespace, kubeconfig) as (kube, _, where):
        from memorycluster_operator import ask

        found = await ask.nodes_of(kube, where, name, shard)

    def asking(pod: str) -> Ask:
        async def recovery(*, act: bool) -> Mapping[str, Any] | None:
            async with _reached(where, kubeconfig) as (_, configuration, _):
                said = await ask.recovery(configuration, where, pod, act=act)
            if "error" in said:
                raise Unable(str(said["error"]))
            return cast("Mapping[str, Any] | None", said["answer"])

        return recovery

    return {pod: asking(pod) for pod in found}, where


@asynccontextmanager
async def _reached(
    namespace: str | None, kubeconfig: str | None
) -> AsyncIterator[tuple[Kube, Configuration, str]]:
    """Connect to the API server; what goes wrong meanwhile is told as a UserError."""
    try:
        from kubernetes.aio import config

        from memorycluster_operator import explain
        from memorycluster_operator.kube import API_ERRORS, Kube, configuration
        from memorycluster_operator.lease import brief
    except ModuleNotFoundError as error:
        raise UserError(f"{MISSING} ({error})") from error
    try:
        found = await configuration(kubeconfig)
    except config.ConfigException as error:
        raise UserError(
            f"no Kubernetes cluster to ask: {error}; set KUBECONFIG, or use --kubeconfig"
        ) from error
    try:
        async with Kube(found) as kube:
            yield kube, found, namespace or explain.context_namespace(kubeconfig)
    except explain.Unexplained as error:
        raise UserError(str(error)) from error
    except API_ERRORS as error:
        raise UserError(f"{found.host} does not answer as it should: {brief(error)}") from error


def show_plan(out: Console, name: str, namespace: str, plan: dict[str, Any]) -> None:
    """Print a plan for people."""
    status = plan["status"]
    out.print(
        f"[bold]{namespace}/{name}[/bold] {status.get('phase', '')}: {escape(status.get('message', ''))}"
    )
    for number, each in enumerate(plan["actions"], 1):
        later = ", once agents and log say so too" if each["confirmedFirst"] else ""
        out.print(f"{number:3}. {escape(each['what'])}{later}", soft_wrap=True)
        out.print(f"     {escape(each['reason'])}", style="dim", soft_wrap=True)
    for each in plan["waits"]:
        out.print(
            f"  waits: {escape(each['message'])} ({each['reason']}, until {each['until']})", soft_wrap=True
        )
    if not plan["actions"] and not plan["waits"]:
        out.print("nothing to do")
