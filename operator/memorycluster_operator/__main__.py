"""``memorycluster-operator``, or ``python -m memorycluster_operator``: the operator's process."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from enum import StrEnum
from typing import Annotated, Any
from uuid import uuid4

import kopf
import typer

from memorycluster_operator import health
from memorycluster_operator.agents import Agents
from memorycluster_operator.apply import Applier
from memorycluster_operator.audit import Audit
from memorycluster_operator.cache import Cache, ClusterKey
from memorycluster_operator.jobs import Jobs
from memorycluster_operator.kube import API_ERRORS, Kube, configuration
from memorycluster_operator.lease import Lease, LeaseLost, brief
from memorycluster_operator.logs import Logs
from memorycluster_operator.observe import Observer
from memorycluster_operator.reconcile import Reconcilers
from memorycluster_operator.settings import ENGINE_IMAGE, LOG_IMAGE, LeaseSettings, Settings, parse_labels
from memorycluster_operator.watches import KINDS, make_registry, make_settings

logger = logging.getLogger(__name__)


class LogFormat(StrEnum):
    """How to write log lines."""

    PLAIN = "plain"
    JSON = "json"


class LogLevel(StrEnum):
    """From which severity on."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"


async def run(settings: Settings) -> int:
    """Run the operator until SIGTERM or SIGINT, and return the exit status."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()

    def take_signals() -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, ending.set)

    take_signals()
    loop.set_exception_handler(_on_loop_error)
    operator = _Operator(settings)
    async with AsyncExitStack() as stack:
        runner = await health.serve(
            settings.health_host, settings.health_port, dead=operator.dead, ready=operator.unready
        )
        stack.push_async_callback(runner.cleanup)
        work = asyncio.create_task(operator.run(take_signals), name="operator")
        stopping = asyncio.create_task(ending.wait(), name="signals")
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not work.done():
            logger.info("ending")
            work.cancel()
        try:
            await work
        except asyncio.CancelledError:
            return 0
        except LeaseLost as error:
            logger.error("%s: this process ends, so that another one works alone", error)
        except Exception:
            logger.exception("the operator failed")
        else:
            logger.error("the watches have ended")
    return 1


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody caught. Of Kopf's watches, some are left for the loop to close at its end: no error."""
    if "asyncgen" in context:
        logger.debug("%s: %r", context["message"], context.get("exception"))
    else:
        loop.default_exception_handler(context)


class _Operator:
    """What runs while this process is, or wants to be, the active one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # A pod is one process at a time: started again in its pod, it goes on with its own lease.
        self._identity = os.environ.get("POD_NAME") or f"{os.uname().nodename}_{uuid4().hex[:8]}"
        self._reconcilers: Reconcilers | None = None
        self._audit: Audit | None = None
        self._standing_by = True

    def dead(self) -> str:
        """Return why this process had better be started again; empty: there is no reason."""
        if self._audit is not None and self._audit.blind:
            return self._audit.blind
        if self._reconcilers is not None and (stuck := self._reconcilers.stuck):
            return f"stuck: {stuck}"
        return ""

    def unready(self) -> str:
        """Return why this process does not work; empty: it does, or it stands by."""
        return "" if self._standing_by or self._reconcilers is not None else "starting"

    async def run(self, take_signals: Callable[[], None]) -> None:
        """Work, once the lease is held. Returns, or raises, if it can't go on."""
        settings = self._settings
        async with (
            Kube(await configuration(settings.kubeconfig)) as kube,
            # Its own, so that it is renewed however much there is to do.
            Kube(await configuration(settings.kubeconfig)) as kube_of_lease,
        ):
            await _served(kube)  # before the lease, which nobody would renew meanwhile
            lease = Lease(kube_of_lease, settings.lease, self._identity)
            if settings.elect:
                await lease.acquire()
            self._standing_by = False
            try:
                async with asyncio.TaskGroup() as tasks:
                    if settings.elect:
                        tasks.create_task(lease.keep(), name="lease")
                    tasks.create_task(self._work(kube, lease, take_signals), name="work")
            except* LeaseLost as group:
                raise group.exceptions[0] from None
            finally:
                self._reconcilers = None
                await lease.give_back()

    async def _work(self, kube: Kube, lease: Lease, take_signals: Callable[[], None]) -> None:
        settings = self._settings
        kinds = (*KINDS, "Node") if settings.watch_nodes else KINDS
        cache = Cache()
        reconcilers = Reconcilers(cache)
        audit = Audit(kube, cache, reconcilers.wake, kinds=kinds, namespaces=settings.namespaces)

        def wake(key: ClusterKey | None) -> None:
            if key is None:
                reconcilers.wake_all()
            else:
                reconcilers.wake(key)

        registry = make_registry(
            cache, kinds=kinds, kubeconfig=settings.kubeconfig, wake=wake, listed=audit.soon
        )
        stop = asyncio.Event()
        async with AsyncExitStack() as stack:
            agents = await stack.enter_async_context(Agents(reconcilers.wake))
            logs = await stack.enter_async_context(Logs(reconcilers.wake))
            jobs = await stack.enter_async_context(Jobs(reconcilers.wake))
            observer = Observer(kube, cache, agents, logs, jobs, settings)
            reconcilers.start(observer, Applier(kube, cache, agents, logs))
            self._reconcilers, self._audit = reconcilers, audit
            before = asyncio.all_tasks()
            watching = asyncio.create_task(
                _watch(registry, make_settings(kinds), settings, stop, before, take_signals)
            )
            auditing = asyncio.create_task(audit.run(), name="audit")
            try:
                await asyncio.wait({watching, auditing}, return_when=asyncio.FIRST_COMPLETED)
                for task in (watching, auditing):
                    if task.done():
                        task.result()
                raise RuntimeError("the watches have ended")
            finally:
                auditing.cancel()
                await reconcilers.stop()
                await lease.give_back()  # from here on, nothing is done any more
                await stack.aclose()
                stop.set()
                with suppress(Exception):
                    await watching


async def _watch(
    registry: kopf.OperatorRegistry,
    kopf_settings: kopf.OperatorSettings,
    settings: Settings,
    stop: asyncio.Event,
    ours: set[asyncio.Task[object]],
    take_signals: Callable[[], None],
) -> None:
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=kopf_settings,
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        stop_flag=stop,
    )
    take_signals()  # Kopf has taken them, and would end before our loops have
    me = asyncio.current_task()
    await kopf.run_tasks(tasks, ignored=ours | ({me} if me else set()))


async def _served(kube: Kube) -> None:
    """Return once the API server knows MemoryClusters and MemorySnapshots."""
    told = False
    while True:
        try:
            if await kube.served("MemoryCluster") and await kube.served("MemorySnapshot"):
                return
            if not told:
                logger.warning("waiting for the CustomResourceDefinitions to be installed (crds/)")
            told = True
        except API_ERRORS as error:
            logger.warning("the API server does not answer: %s", brief(error))
        await asyncio.sleep(2)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@app.command()
def operate(
    namespaces: Annotated[
        str,
        typer.Option(
            envvar="MEMORYCLUSTER_NAMESPACES",
            help="Look after the MemoryClusters of these namespaces (a,b,c). Left out: of all.",
        ),
    ] = "",
    watch_nodes: Annotated[
        bool,
        typer.Option(
            envvar="MEMORYCLUSTER_WATCH_NODES",
            help="Read Nodes: they tell zones, and which machines are gone.",
        ),
    ] = True,
    kubeconfig: Annotated[
        str | None,
        typer.Option(help="Left out: the pod's service account, else what kubectl would use."),
    ] = None,
    elect: Annotated[
        bool, typer.Option(envvar="MEMORYCLUSTER_ELECT", help="Work only while the lease is held.")
    ] = True,
    lease_name: Annotated[
        str, typer.Option(envvar="MEMORYCLUSTER_LEASE_NAME", help="Its name.")
    ] = LeaseSettings().name,
    namespace: Annotated[
        str,
        typer.Option(
            envvar="POD_NAMESPACE", help="The operator's own: of the lease, and named in network policies."
        ),
    ] = Settings().operator_namespace,
    pod_labels: Annotated[
        str,
        typer.Option(
            envvar="MEMORYCLUSTER_POD_LABELS",
            help="Labels of the operator's pods (a=b,c=d), by which network policies let them in.",
        ),
    ] = ",".join(f"{key}={value}" for key, value in Settings().operator_labels.items()),
    engine_image: Annotated[
        str, typer.Option(envvar="MEMORYCLUSTER_ENGINE_IMAGE", help="Where a spec names none.")
    ] = ENGINE_IMAGE,
    log_image: Annotated[
        str, typer.Option(envvar="MEMORYCLUSTER_LOG_IMAGE", help="Where a spec names none.")
    ] = LOG_IMAGE,
    cluster_domain: Annotated[
        str, typer.Option(envvar="MEMORYCLUSTER_CLUSTER_DOMAIN", help="Of the Kubernetes cluster's DNS.")
    ] = Settings().cluster_domain,
    health_port: Annotated[
        int, typer.Option(envvar="MEMORYCLUSTER_HEALTH_PORT", help="Of /livez, /readyz and /metrics.")
    ] = Settings().health_port,
    health_host: Annotated[
        str | None,
        typer.Option(envvar="MEMORYCLUSTER_HEALTH_HOST", help="Address to listen at. Left out: all."),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(envvar="MEMORYCLUSTER_LOG_LEVEL")] = LogLevel.INFO,
    log_format: Annotated[LogFormat, typer.Option(envvar="MEMORYCLUSTER_LOG_FORMAT")] = LogFormat.PLAIN,
) -> None:
    """Look after MemoryClusters."""
    _set_up_logging(log_level, log_format)
    settings = Settings(
        namespaces=_names(namespaces),
        watch_nodes=watch_nodes,
        kubeconfig=kubeconfig,
        elect=elect,
        lease=LeaseSettings(name=lease_name, namespace=namespace),
        health_host=health_host,
        health_port=health_port,
        engine_image=engine_image,
        log_image=log_image,
        cluster_domain=cluster_domain,
        operator_namespace=namespace,
        operator_labels=parse_labels(pod_labels),
    )
    raise typer.Exit(asyncio.run(run(settings)))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _set_up_logging(level: LogLevel, format: LogFormat) -> None:
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    handler.setFormatter(_JsonFormatter() if format is LogFormat.JSON else plain)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for noisy in ("kopf", "nats", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.DEBUG if level is LogLevel.DEBUG else logging.WARNING)


def main() -> None:
    """Run the command."""
    app()


if __name__ == "__main__":
    main()
