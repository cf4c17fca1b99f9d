#!/usr/bin/env python3
"""The lab's CNI daemon, one per node (a DaemonSet on the host's network); the standard library only.

For its own node it does what kindnetd does in an ordinary kind cluster:

1. writes the CNI configuration (ptp, host-local, portmap) once the node has its podCIDR;
2. keeps one route per other node: its podCIDR via its address;
3. masquerades what pods send out of the pod network;
4. enforces NetworkPolicy.

How policy is enforced: ptp routes every packet of a pod, so all of them cross the node's forward hook. The
whole nftables table is rendered from the API's objects and replaced in one transaction. A rule looks at the
*connection* (conntrack's two tuples), not at the packet: client = "ct original ip saddr", server =
"ct reply ip saddr", server's port = "ct reply proto-src". These are the same in both directions and already
past a Service's DNAT. So there is no "established: accept": a policy cuts connections that are open, and lets
through those that remain allowed. The client's egress policies are checked on the client's node, the server's
ingress policies on the server's. Traffic between a node and its own pods is not forwarded, and so always
allowed, as the API says.
"""

import http.client
import ipaddress
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

NODE = os.environ.get("NODE_NAME", "")
POD_SUBNET = os.environ.get("POD_SUBNET", "10.244.0.0/16")
API = os.environ.get("CONTROL_PLANE_ENDPOINT", "kubernetes.default.svc:443")
SA = "/var/run/secrets/kubernetes.io/serviceaccount"
CNI_CONF = Path("/etc/cni/net.d/10-netd.conflist")
ROUTE_PROTO = "77"  # marks the routes that are ours
RESOURCES = {
    "nodes": "/api/v1/nodes",
    "namespaces": "/api/v1/namespaces",
    "pods": "/api/v1/pods",
    "networkpolicies": "/apis/networking.k8s.io/v1/networkpolicies",
}


def log(*words):
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------- API objects
def slim(kind, obj):
    """Only what rendering needs: pods are many, and equal slim objects mean nothing to do."""
    meta = obj["metadata"]
    out = {"name": meta["name"], "ns": meta.get("namespace", ""), "labels": meta.get("labels") or {}}
    if kind == "nodes":
        out["cidr"] = obj["spec"].get("podCIDR")
        out["ip"] = next(
            (a["address"] for a in obj["status"].get("addresses", []) if a["type"] == "InternalIP"), None
        )
    elif kind == "pods":
        spec, status = obj["spec"], obj.get("status", {})
        live = status.get("phase") in ("Pending", "Running") and not spec.get("hostNetwork")
        out["ip"] = status.get("podIP") if live else None
        out["node"] = spec.get("nodeName")
        containers = spec.get("containers", []) + spec.get("initContainers", [])
        out["ports"] = {
            (p["name"], p.get("protocol", "TCP")): p["containerPort"]
            for c in containers
            for p in c.get("ports") or []
            if p.get("name")
        }
    elif kind == "networkpolicies":
        out["spec"] = obj["spec"]
    return out


class Store:
    """List and watch of each resource in a thread; `changed` is set when a slim object differs."""

    def __init__(self):
        self.objects, self.changed = {}, threading.Event()

    def start(self):
        for kind in RESOURCES:
            threading.Thread(target=self.follow, args=(kind,), daemon=True).start()

    def request(self, path, timeout):
        context = ssl.create_default_context(cafile=SA + "/ca.crt")
        conn = http.client.HTTPSConnection(API, context=context, timeout=timeout)
        token = Path(SA, "token").read_text().strip()  # read anew each time: kubelet rotates it
        conn.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        response = conn.getresponse()
        if response.status != 200:
            raise OSError(f"GET {path}: {response.status} {response.read(300)!r}")
        return response

    def follow(self, kind):
        while True:
            try:
                doc = json.loads(self.request(RESOURCES[kind], 30).read())
                version = doc["metadata"]["resourceVersion"]
                self.objects[kind] = {o["metadata"].get("uid"): slim(kind, o) for o in doc["items"]}
                self.changed.set()
                while version:
                    version = self.watch(kind, version)
            except Exception as e:  # the API server is away, or the watch is too old: list again
                log(kind, "watch:", repr(e))
                time.sleep(1)

    def watch(self, kind, version):
        query = f"?watch=1&allowWatchBookmarks=true&timeoutSeconds=50&resourceVersion={version}"
        for line in self.request(RESOURCES[kind] + query, 60):
            event = json.loads(line)
            obj, objects = event["object"], self.objects[kind]
            if event["type"] == "ERROR":
                return None
            version = obj["metadata"]["resourceVersion"]
            if event["type"] == "BOOKMARK":
                continue
            uid, new = obj["metadata"]["uid"], slim(kind, obj) if event["type"] != "DELETED" else None
            if objects.get(uid) != new:
                self.objects[kind] = {k: v for k, v in objects.items() if k != uid} | (
                    {uid: new} if new else {}
                )
                self.changed.set()
        return version


# ------------------------------------------------------------------------------------------ NetworkPolicy
def selects(selector, labels):
    """A LabelSelector; empty selects everything."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for e in selector.get("matchExpressions") or []:
        key, op, values = e["key"], e["operator"], e.get("values") or []
        if (
            (op == "In" and labels.get(key) not in values)
            or (op == "NotIn" and labels.get(key) in values)
            or (op == "Exists" and key not in labels)
            or (op == "DoesNotExist" and key in labels)
        ):
            return False
    return True


def members(items):
    return "{ " + ", ".join(sorted(set(items))) + " }"


class Rules:
    """Renders the per-pod chains from one consistent set of objects."""

    def __init__(self, objects):
        self.pods = sorted((p for p in objects["pods"].values() if p["ip"]), key=lambda p: p["ip"])
        self.namespaces = {n["name"]: n["labels"] for n in objects["namespaces"].values()}
        self.policies = sorted(objects["networkpolicies"].values(), key=lambda p: (p["ns"], p["name"]))

    def peer_pods(self, peer, namespace):
        for pod in self.pods:
            if "namespaceSelector" in peer:
                if not selects(peer["namespaceSelector"], self.namespaces.get(pod["ns"], {})):
                    continue
            elif pod["ns"] != namespace:
                continue
            if selects(peer.get("podSelector") or {}, pod["labels"]):
                yield pod

    @staticmethod
    def port_match(port, named):
        """One entry of `ports`, or None if its named port does not exist on the server pod."""
        proto, number = port.get("protocol", "TCP"), port.get("port")
        if isinstance(number, str):
            number = named.get((number, proto))
            if number is None:
                return None
        match = f"meta l4proto {proto.lower()}"
        if number is not None:
            match += f" ct reply proto-src {number}" + (f"-{port['endPort']}" if port.get("endPort") else "")
        return match

    def rule(self, rule, direction, policy, pod):
        """The nft matches of one ingress or egress rule; each lets a connection through."""
        ports = rule.get("ports") or [{}]
        peers = rule.get("from" if direction == "ingress" else "to")
        other = "ct original ip saddr" if direction == "ingress" else "ct reply ip saddr"
        named = direction == "egress" and any(isinstance(p.get("port"), str) for p in ports)
        blocks, pods = [], []
        for peer in peers or []:
            if "ipBlock" in peer:
                if ":" not in peer["ipBlock"]["cidr"]:
                    excepted = [c for c in peer["ipBlock"].get("except") or [] if ":" not in c]
                    blocks.append(
                        f"{other} {peer['ipBlock']['cidr']}"
                        + (f" {other} != {members(excepted)}" if excepted else "")
                    )
            else:
                pods += self.peer_pods(peer, policy["ns"])
        if not peers:  # no `from`/`to` at all: every peer
            blocks, pods = [""], self.pods if named else []
        if named:  # the port's number may differ from one server pod to the next
            sides = [(f"{other} {p['ip']}", p["ports"]) for p in pods]
        else:
            sides = [(f"{other} {members(p['ip'] for p in pods)}", pod["ports"])] if pods else []
        sides += [(block, pod["ports"] if direction == "ingress" else {}) for block in blocks]
        for side, names in sides:
            for port in ports:
                match = self.port_match(port, names) if port else ""
                if match is not None:
                    yield f"{side} {match}".strip()

    def chain(self, pod, direction):
        """The body of a pod's chain, or None when no policy isolates the pod in this direction."""
        isolated, lines = False, []
        for policy in self.policies:
            spec = policy["spec"]
            types = spec.get("policyTypes") or ["Ingress"] + (["Egress"] if "egress" in spec else [])
            if (
                policy["ns"] == pod["ns"]
                and direction.title() in types
                and selects(spec.get("podSelector") or {}, pod["labels"])
            ):
                isolated = True
                for rule in spec.get(direction) or []:
                    lines += [f"{m} return".strip() for m in self.rule(rule, direction, policy, pod)]
        if not isolated:
            return None
        itself = "ct original ip saddr" if direction == "ingress" else "ct reply ip saddr"
        return [f"{itself} {pod['ip']} return", *dict.fromkeys(lines), "counter drop"]


def ruleset(objects, cidr):
    rules, chains, maps, policed = Rules(objects), [], {"egress": [], "ingress": []}, []
    for pod in rules.pods:
        if pod["node"] != NODE:
            continue
        for direction, entries in maps.items():
            body = rules.chain(pod, direction)
            if body is not None:
                name = f"{direction}_{pod['ip'].replace('.', '_')}"
                entries.append(f"{pod['ip']} : jump {name}")
                policed.append(pod["ip"])
                chains += (
                    [f"  chain {name} {{  # {pod['ns']}/{pod['name']}"] + [f"    {b}" for b in body] + ["  }"]
                )
    forward = []
    if policed:
        forward = [
            f"    ct state invalid ip saddr {members(policed)} drop",
            f"    ct state invalid ip daddr {members(policed)} drop",
            "    ct state related accept",
        ]
    if maps["egress"]:
        forward.append(f"    ct original ip saddr vmap {members(maps['egress'])}")
    if maps["ingress"]:
        forward.append(f"    ct reply ip saddr vmap {members(maps['ingress'])}")
    return "\n".join(
        [
            "table ip netd {}",
            "delete table ip netd",
            "table ip netd {",
            *chains,
            "  chain forward {",
            "    type filter hook forward priority 10; policy accept;",
            *forward,
            "  }",
            "  chain postrouting {",
            "    type nat hook postrouting priority srcnat; policy accept;",
            f"    ip saddr {cidr} ip daddr != {POD_SUBNET} masquerade",
            "  }",
            "}",
            "",
        ]
    )


# ------------------------------------------------------------------------------------------------- this node
def run(*command, stdin=None):
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()[:2000]}")
    return done.stdout


def write_cni(cidr):
    conf = {
        "cniVersion": "0.3.1",
        "name": "netd",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni-ipam-state",
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "ranges": [[{"subnet": cidr}]],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    text = json.dumps(conf, indent=1)
    if not CNI_CONF.exists() or CNI_CONF.read_text() != text:
        new = CNI_CONF.with_suffix(".tmp")
        new.write_text(text)
        new.rename(CNI_CONF)
        log("wrote", CNI_CONF, cidr)


def sync_routes(nodes):
    want = {n["cidr"]: n["ip"] for n in nodes if n["name"] != NODE and n["cidr"] and n["ip"]}
    have = {
        r["dst"]: r.get("gateway")
        for r in json.loads(run("ip", "-j", "-4", "route", "show", "proto", ROUTE_PROTO) or "[]")
    }
    for dst in have.keys() - want.keys():
        run("ip", "-4", "route", "del", dst, "proto", ROUTE_PROTO)
    for dst, via in want.items():
        if have.get(dst) != via:
            run("ip", "-4", "route", "replace", dst, "via", via, "proto", ROUTE_PROTO)
            log("route", dst, "via", via)


def main():
    store, applied = Store(), None
    store.start()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    while True:
        store.changed.wait(30)  # at least every 30 s, in case someone else changed routes or tables
        time.sleep(0.05)  # gather a burst of events into one update
        store.changed.clear()
        objects = dict(store.objects)
        me = next((n for n in objects.get("nodes", {}).values() if n["name"] == NODE), None)
        if len(objects) < len(RESOURCES) or not me or not me["cidr"]:
            continue
        try:
            sync_routes(objects["nodes"].values())
            text = ruleset(objects, str(ipaddress.ip_network(me["cidr"])))
            if text != applied:
                run("nft", "-f", "-", stdin=text)
                applied = text
                log("ruleset applied:", text.count(": jump "), "isolated pod directions")
            write_cni(me["cidr"])  # last: pods start only once the network works
        except OSError as e:
            log(e)
            time.sleep(1)
            store.changed.set()


if __name__ == "__main__":
    main()
