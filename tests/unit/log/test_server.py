from __future__ import annotations

import json
from pathlib import Path

import pytest

from memorycluster.log.server import (
    Server,
    ServerUnfit,
    check_version,
    find_server,
    server_conf,
    service_conf,
)

SERVERS = [Server(f"log-{i}", f"zone-{i}", "127.0.0.1", 22000 + i, 22100 + i, 22200 + i) for i in range(3)]


def conf(server: Server, *service: Server) -> dict[str, object]:
    text = server_conf(
        server,
        service,
        cluster="quickstart",
        data_dir=Path("data") / server.name,
        user="log",
        password="p:a/s s@",
        max_file_store=1 << 30,
    )
    result: dict[str, object] = json.loads(text)
    return result


def test_a_single_server_has_no_routes() -> None:
    found = conf(SERVERS[0], SERVERS[0])
    assert "cluster" not in found
    assert found["jetstream"]["sync_interval"] == "always"  # type: ignore[index]
    assert (found["host"], found["port"]) == ("127.0.0.1", 22000)


def test_three_servers_find_each_other_and_keep_their_replicas_apart() -> None:
    found = conf(SERVERS[1], *SERVERS)
    assert found["server_tags"] == ["az:zone-1"]
    assert found["jetstream"]["unique_tag"] == "az:"  # type: ignore[index]
    assert found["jetstream"]["sync_interval"] == "always"  # type: ignore[index]
    assert found["cluster"]["routes"] == [  # type: ignore[index]
        "nats://log:p%3Aa%2Fs%20s%40@127.0.0.1:22100",
        "nats://log:p%3Aa%2Fs%20s%40@127.0.0.1:22102",
    ]


def test_one_text_for_all_servers_leaves_out_what_differs() -> None:
    def text(*service: Server) -> str:
        return service_conf(
            service,
            cluster="c",
            data_dir=Path("/data"),
            user="log",
            password="$POD_NAME",
            max_file_store=1 << 30,
        )

    found = text(*SERVERS)
    assert '"server_name": $POD_NAME,' in found
    assert found.count('"host": $POD_IP,') == 2
    assert found.count(":22100") == 1, "every server is among the routes"
    assert '"password": $POD_NAME' not in found, "what others choose is never a variable"
    assert "cluster" not in text(SERVERS[0])


@pytest.mark.parametrize("version", ["2.15.1", "v2.15.1", "2.15.2-RC.1", "2.16.0", "3.0.0", "v2.100.0"])
def test_new_enough(version: str) -> None:
    check_version(version, "log-0")


@pytest.mark.parametrize("version", ["2.15.0", "v2.14.6", "2.15.1-RC.1", "1.99.99", "", "dev", "2.15"])
def test_too_old_or_unknown(version: str) -> None:
    with pytest.raises(ServerUnfit, match="log-0"):
        check_version(version, "log-0")


async def test_the_program_is_found() -> None:
    assert (await find_server()).is_file()
