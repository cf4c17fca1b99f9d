"""The objects of a cluster: what they must be, and what must not change by accident."""

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.unit.operator.world import World, spec_of

from memorycluster.pod.config import ClusterConfig
from memorycluster_operator.identity import Identity
from memorycluster_operator.objects import build_objects, wanted_keys
from memorycluster_operator.objects.credentials import decoded
from memorycluster_operator.objects.images import choose_images
from memorycluster_operator.objects.inputs import Credentials, Inputs
from memorycluster_operator.objects.template import digest, template_hash
from memorycluster_operator.snapshot import Cluster, Component, Key, Manifest, Settings

SETTINGS = Settings("registry.example/engine:1", "registry.example/nats:1")


def inputs(**fields: Any) -> Inputs:
    cluster = Cluster("orders", "shop", "4f0c", 1, "7", spec_of(**fields))
    identity = Identity.draw(UUID(int=1), [UUID(int=shard + 2) for shard in range(cluster.spec.shards)])
    images = choose_images("orders", cluster.spec, SETTINGS, {})
    return Inputs(cluster, SETTINGS, identity, Credentials("lp", "ap", "at"), images)


def objects(**fields: Any) -> dict[Key, Manifest]:
    return build_objects(inputs(**fields))


# ------------------------------------------------------------------ what rolls the fleet


def test_what_makes_a_pod_old_is_pinned() -> None:
    """CNPG#5950, OT#606: an operator upgrade must not roll every pod of every cluster.

    If this fails, either take back what changed the hash, or raise the component's revision in template.py on
    purpose, say so in the release's notes, and pin the new hash here.
    """
    default = inputs()
    assert template_hash(default, Component.ENGINE) == "3c4051ccaf1664c7"
    assert template_hash(default, Component.LOG) == "48bfed5fc1b7c2e1"
    full = inputs(
        engine={
            "image": "engine:2",
            "ioThreads": 4,
            "parameters": {"maxclients": "100"},
            "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
            "agentResources": {"limits": {"memory": "256Mi"}},
        },
        zones=["a", "b", "c"],
        log={"image": "nats:2", "maxBytes": "8Gi", "resources": {"limits": {"memory": "1Gi"}}},
        scheduling={
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "dedicated", "effect": "NoSchedule"}],
            "priorityClassName": "important",
        },
    )
    assert template_hash(full, Component.ENGINE) == "b3c305af772f32fc"
    assert template_hash(full, Component.LOG) == "620fe2b3769c7353"


def test_how_pods_are_written_is_pinned() -> None:
    """A change here is no roll: pods come to the new form when they are next replaced.

    If it fails, think whether pods of the old and of the new form work side by side for a long time. If they
    do, pin the new one; if they don't, see above.
    """
    templates = [
        manifest["spec"]["template"]["spec"]
        for key, manifest in objects().items()
        if key.kind == "StatefulSet"
    ]
    assert [digest(template) for template in templates] == ["3bf489831cda19b2", "5994e5735cdc2920"]


@pytest.mark.parametrize(
    "change",
    [
        {"replicasPerShard": 5},
        {"engine": {"parameters": {"maxclients": "100"}}},
        {"engine": {"imagePullPolicy": "Always"}},
        {"imagePullSecrets": [{"name": "registry"}]},
        {"networkPolicy": {"from": [{"podSelector": {}}]}},
        {"deletionPolicy": "Delete"},
        {"log": {"storage": {"size": "100Gi"}}},
        {"engine": {"resources": {}}, "scheduling": {}, "log": {"resources": {"limits": {}}}},
        {"paused": True},
    ],
)
def test_what_needs_no_new_pod_makes_none_old(change: dict[str, Any]) -> None:
    for component in Component:
        assert template_hash(inputs(**change), component) == template_hash(inputs(), component)


def test_the_same_amount_otherwise_written_makes_no_pod_old() -> None:
    one = inputs(engine={"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}})
    other = inputs(engine={"resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}}})
    assert template_hash(one, Component.ENGINE) == template_hash(other, Component.ENGINE)


def test_a_newer_operator_with_other_defaults_rolls_nothing() -> None:
    world = World(spec_of(shards=2))
    world.settle()
    world.settings = Settings("engine:newer", "nats:newer")
    for _ in range(10):
        world.tick(3600)
        world.operate()
    assert world.disrupted == 0
    assert {pod.image for pod in world.pods()} == {"engine:1", "nats:1"}
    # A shard's StatefulSet that is made again takes the image that the others have.
    del world.kubernetes.objects[Key("StatefulSet", "orders-1")]
    world.settle()
    assert {pod.image for pod in world.pods(Component.ENGINE)} == {"engine:1"}
    # Named in the spec and taken back again: then it is the default of today.
    world.change(engine={"image": "engine:mine"})
    world.settle()
    world.spec = spec_of(shards=2)
    world.generation += 1
    world.settle()
    assert {pod.image for pod in world.pods(Component.ENGINE)} == {"engine:newer"}


# ------------------------------------------------------------------ what they are


@pytest.mark.parametrize("fields", [{}, {"shards": 3}, {"zones": ["z"]}, {"replicasPerShard": 0}])
def test_every_object_is_announced_owned_and_labelled(fields: dict[str, Any]) -> None:
    built = objects(**fields)
    assert set(built) == wanted_keys("orders", spec_of(**fields))
    for key, manifest in built.items():
        metadata = manifest["metadata"]
        assert (manifest["kind"], metadata["name"], metadata["namespace"]) == (*key, "shop")
        assert metadata["ownerReferences"][0]["uid"] == "4f0c"
        assert metadata["ownerReferences"][0]["controller"] is True
        assert metadata["labels"]["memorycluster.io/cluster"] == "orders"
        assert json.loads(json.dumps(manifest)) == manifest, "plain JSON data"


def test_volume_claims_never_go_with_a_stateful_set() -> None:
    for policy in ("Retain", "Delete"):
        log = objects(deletionPolicy=policy)[Key("StatefulSet", "orders-log")]["spec"]
        assert log["persistentVolumeClaimRetentionPolicy"] == {
            "whenDeleted": "Retain",
            "whenScaled": "Retain",
        }
        (claim,) = log["volumeClaimTemplates"]
        assert "ownerReferences" not in claim["metadata"]
    for shard in objects(shards=2):
        if shard.kind == "StatefulSet" and shard.name != "orders-log":
            assert "volumeClaimTemplates" not in objects(shards=2)[shard]["spec"]


def pods(**fields: Any) -> list[dict[str, Any]]:
    return [m["spec"]["template"]["spec"] for k, m in objects(**fields).items() if k.kind == "StatefulSet"]


def test_pods_satisfy_the_restricted_pod_security_standard() -> None:
    for pod in pods():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all(
            set(volume) - {"name"} <= {"configMap", "secret", "downwardAPI", "emptyDir"}
            for volume in pod["volumes"]
        )
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
            assert not any("hostPort" in port for port in container["ports"])


def test_no_probe_can_end_a_frozen_engine_or_a_log_without_a_majority() -> None:
    log, engine = pods()
    probes = {each["name"]: each.get("livenessProbe") for pod in (log, engine) for each in pod["containers"]}
    assert probes["engine"] is None, "a port whose queue is full answers nobody"
    assert probes["agent"]["httpGet"]["path"] == "/livez"
    assert probes["log"]["httpGet"]["path"] == "/healthz?js-enabled-only=true"
    ready = {each["name"]: each.get("readinessProbe") for pod in (log, engine) for each in pod["containers"]}
    assert ready["engine"] is None
    assert ready["agent"]["httpGet"]["path"] == "/readyz"
    assert ready["log"]["httpGet"]["path"] == "/healthz", "a drain waits until a member has caught up"


def test_zones_are_kept_apart() -> None:
    log, engine = pods(zones=["a", "b", "c"])
    zone, host = engine["topologySpreadConstraints"]
    assert (zone["topologyKey"], zone["maxSkew"], zone["whenUnsatisfiable"]) == (
        "topology.kubernetes.io/zone",
        1,
        "DoNotSchedule",
    )
    assert zone["labelSelector"]["matchLabels"]["memorycluster.io/shard"] == "0"
    assert host["whenUnsatisfiable"] == "ScheduleAnyway"
    (apart,) = log["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["topologyKey"] == "topology.kubernetes.io/zone"
    for pod in (log, engine):
        terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (expression,) = terms["nodeSelectorTerms"][0]["matchExpressions"]
        assert expression["values"] == ["a", "b", "c"]


def test_services_lead_where_their_names_say() -> None:
    one, two = objects(), objects(shards=2)
    selectors = {k.name: m["spec"]["selector"] for k, m in one.items() if k.kind == "Service"}
    assert selectors["orders-primary"]["memorycluster.io/role"] == "primary"
    assert selectors["orders-replicas"]["memorycluster.io/role"] == "replica"
    assert "memorycluster.io/role" not in selectors["orders"]
    assert Key("Service", "orders-primary") not in two, "there is no such thing as the primary of two shards"
    for name in ("orders-nodes", "orders-log"):
        spec = one[Key("Service", name)]["spec"]
        assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)


def reached(policy: Manifest, direction: str) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for rule in policy["spec"]["ingress" if direction == "from" else "egress"]:
        for port in rule["ports"]:
            found.setdefault(port["port"], []).extend(rule.get(direction, ["anywhere"]))
    return found


def test_network_policies_deny_all_that_is_not_needed() -> None:
    built = objects()
    engine, log = (built[Key("NetworkPolicy", f"orders-{each}")] for each in ("engine", "log"))
    for policy in (engine, log):
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert set(policy["spec"]["podSelector"]["matchLabels"]) == {
            "memorycluster.io/cluster",
            "app.kubernetes.io/component",
        }
        assert all(rule.get("from") for rule in policy["spec"]["ingress"]), "an empty list means everybody"
    members, engines = (
        {
            "podSelector": {
                "matchLabels": {"memorycluster.io/cluster": "orders", "app.kubernetes.io/component": each}
            }
        }
        for each in ("log", "engine")
    )
    assert reached(engine, "from")[6379] == [engines], "no clients unless the spec names them"
    assert set(reached(engine, "from")) == {6379, 16379, 8080}
    assert reached(engine, "to")[4222] == [members]
    assert set(reached(engine, "to")) == {6379, 16379, 4222, 53}
    assert set(reached(log, "from")) == {4222, 6222, 8222}
    assert set(reached(log, "to")) == {6222, 8222, 53}
    asking, *operator = reached(log, "from")[8222]
    assert asking == members
    assert operator == reached(engine, "from")[8080]
    assert operator[0]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "memorycluster-system"
    }
    assert operator[0]["podSelector"]["matchLabels"], "not everybody in the operator's namespace"
    clients = objects(networkPolicy={"from": [{"podSelector": {"matchLabels": {"app": "shop"}}}]})
    allowed = reached(clients[Key("NetworkPolicy", "orders-engine")], "from")
    assert {"podSelector": {"matchLabels": {"app": "shop"}}} in allowed[6379]
    assert all(
        {"podSelector": {"matchLabels": {"app": "shop"}}} not in allowed[port] for port in (8080, 16379)
    )


def test_engines_are_told_who_they_are_and_announce_host_names() -> None:
    """valkey#275, #297: ids of the identity, not of an object; names, not addresses."""
    config = ClusterConfig.model_validate_json(
        objects(shards=2, engine={"parameters": {"maxclients": "10"}})[Key("ConfigMap", "orders-config")][
            "data"
        ]["cluster.json"]
    )
    assert config.uid == str(UUID(int=1))
    assert config.hostname("orders-0-0") == "orders-0-0.orders-nodes.shop.svc.cluster.local"
    assert [shard.generation for shard in config.shards] == [UUID(int=2), UUID(int=3)]
    assert config.log.servers[0] == "nats://orders-log-0.orders-log.shop.svc.cluster.local:4222"
    assert config.engine.parameters == {"maxclients": "10"}
    assert config.engine.revision


def test_secrets_hold_what_each_needs_and_pods_see_only_their_own() -> None:
    built = objects()
    internal = decoded(built[Key("Secret", "orders-internal")])
    assert internal == {"log-password": "lp", "agent-password": "ap", "api-token": "at"}
    log, engine = pods()
    (volume,) = log["volumes"]
    assert volume["secret"]["items"] == [{"key": "server.conf", "path": "server.conf"}]
    assert [v["secret"]["secretName"] for v in engine["volumes"] if "secret" in v] == ["orders-internal"]


@pytest.mark.parametrize("zones", [["a"], ["a", "b", "c"]])
def test_the_log_server_accepts_its_configuration(zones: list[str], tmp_path: Path) -> None:
    """The real program, with the environment that the container has."""
    built = objects(zones=zones)
    conf = tmp_path / "server.conf"
    conf.write_text(decoded(built[Key("Secret", "orders-log")])["server.conf"])
    (container,) = pods(zones=zones)[0]["containers"]
    named = {each["name"] for each in container["env"]}
    env = {"POD_NAME": "orders-log-0", "POD_IP": "127.0.0.1", "ZONE_TAG": "az:orders-log-0"}
    assert named == set(env)
    program = Path(sysconfig.get_path("scripts")) / "nats-server"
    done = subprocess.run([program, "-t", "-c", conf], env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sync_interval" in conf.read_text()


def test_a_claim_template_that_cannot_be_changed_stays() -> None:
    before = inputs()
    key = Key("StatefulSet", "orders-log")
    live = build_objects(before)
    grown = inputs(log={"maxBytes": "8Gi"})
    again = build_objects(
        Inputs(grown.cluster, SETTINGS, grown.identity, grown.credentials, grown.images, live=live)
    )
    assert again[key]["spec"]["volumeClaimTemplates"] == live[key]["spec"]["volumeClaimTemplates"]
