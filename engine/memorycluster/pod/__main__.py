"""``python -m memorycluster.pod engine|agent``: the two containers of an engine pod; ``heal``: see there.

In a pod that shares its process namespace (it must: the agent holds on to the engine's process) its pause
container is process 1 and reaps orphans.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
from pathlib import Path

from memorycluster.log.server import NAME_VARIABLE, Server
from memorycluster.log.service import LogService
from memorycluster.pod import agent, engine
from memorycluster.pod.config import CONFIG_DIR, POD_IP, RUN_DIR
from memorycluster.pod.heal import heal
from memorycluster.pod.peers import hosts_file, name_service


def main() -> int:
    """Run the container named by the command line until SIGTERM; return its exit status."""
    parser = argparse.ArgumentParser(prog="memorycluster.pod", description="One container of a pod.")
    parser.add_argument("container", choices=["engine", "agent", "heal"])
    parser.add_argument("--config-dir", type=Path, default=CONFIG_DIR, help="where the pod's volumes are")
    parser.add_argument("--run-dir", type=Path, default=RUN_DIR, help="what both containers share")
    parser.add_argument(
        "--hosts", type=Path, help="addresses in the form of /etc/hosts, in place of the name service"
    )
    heals = parser.add_argument_group("heal")
    heals.add_argument("--member", help="whose copy of the log is rotten; on others nothing is done")
    heals.add_argument("--order", help="done once")
    heals.add_argument("--until", default="", help="when the order ends")
    heals.add_argument("--others", default="", help="the other members: NAME=HOST,...")
    heals.add_argument("--monitor-port", type=int, default=8222, help="of each")
    heals.add_argument("--logs", default="", help="what the others must have, and up to where: NAME:LAST,...")
    heals.add_argument("--data", type=Path, default=Path("/data"), help="the member's volume")
    arguments = parser.parse_args()
    os.umask(0o077)
    try:
        if arguments.container == "engine":
            program = shutil.which("valkey-server")
            if program is None:
                raise ValueError("there is no program valkey-server in PATH")
            asyncio.run(engine.run(arguments.config_dir, arguments.run_dir, program))
        elif arguments.container == "heal":
            try:
                asyncio.run(_heal(arguments))
            except Exception as error:  # the server must start, with what it has; it may be ordered anew
                print(f"healing failed: {error!r}; the server starts with what is there", file=sys.stderr)
        else:
            # An engine listens at its pod's one address, also where the Service has two families.
            service = name_service(os.environ.get(POD_IP, ""))
            resolve = hosts_file(arguments.hosts) if arguments.hosts else service
            asyncio.run(agent.run(arguments.config_dir, arguments.run_dir, resolve))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


async def _heal(arguments: argparse.Namespace) -> None:
    """Give up this member's copy of the log, if it is the one; whatever is said, the server starts."""
    if os.environ.get(NAME_VARIABLE) != arguments.member:
        return
    pairs = [each.split("=", 1) for each in arguments.others.split(",") if each]
    servers = [Server(name, "", host, 0, 0, arguments.monitor_port) for name, host in pairs]
    ends = [each.rpartition(":") for each in arguments.logs.split(",") if each]
    logs = {name: int(last) for name, _, last in ends}
    async with LogService(servers, user="", password="") as service:
        names = [server.name for server in servers]
        refused = await heal(
            arguments.data, arguments.member, arguments.order, service, names, logs, until=arguments.until
        )
    what = f"is kept as it is: {refused}" if refused else "was given up; it is copied anew from the others"
    print(f"the copy of {arguments.member} {what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
