"""The programs of Kubernetes and around it, built from pinned Go modules, and kept."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab import cache, versions


class LabError(RuntimeError):
    """The lab can't do what it was asked for; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class Module:
    """A Go module and those of its programs that we want."""

    path: str
    version: str
    programs: dict[str, str]
    """Of each program's name: its package, relative to the module."""
    variables: dict[str, str]
    """Values that the linker sets."""
    tags: str = ""


KUBERNETES_INFO = "k8s.io/component-base/version"

MODULES = (
    Module(
        "k8s.io/kubernetes",
        f"v{versions.KUBERNETES}",
        {
            name: f"cmd/{name}"
            for name in (
                *("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"),
                *("kubelet", "kubeadm", "kubectl"),
            )
        },
        {
            f"{KUBERNETES_INFO}.gitVersion": f"v{versions.KUBERNETES}",
            f"{KUBERNETES_INFO}.gitMajor": versions.KUBERNETES.split(".")[0],
            f"{KUBERNETES_INFO}.gitMinor": versions.KUBERNETES.split(".")[1],
            f"{KUBERNETES_INFO}.gitTreeState": "clean",
        },
    ),
    Module("go.etcd.io/etcd/server/v3", f"v{versions.ETCD}", {"etcd": ""}, {}),
    Module("sigs.k8s.io/kind", f"v{versions.KIND}", {"kind": ""}, {}),
    Module("helm.sh/helm/v4", f"v{versions.HELM}", {"helm": "cmd/helm"}, {}),
    Module(
        "github.com/containerd/containerd/v2",
        f"v{versions.CONTAINERD}",
        {name: f"cmd/{name}" for name in ("containerd", "ctr", "containerd-shim-runc-v2")},
        {"github.com/containerd/containerd/v2/version.Version": f"v{versions.CONTAINERD}"},
        tags="no_aufs no_zfs no_btrfs no_devmapper",
    ),
    Module(
        "github.com/containernetworking/plugins",
        f"v{versions.CNI_PLUGINS}",
        {
            "host-local": "plugins/ipam/host-local",
            "loopback": "plugins/main/loopback",
            "ptp": "plugins/main/ptp",
            "portmap": "plugins/meta/portmap",
        },
        {},
    ),
    Module(
        "github.com/rancher/local-path-provisioner",
        f"v{versions.LOCAL_PATH_PROVISIONER}",
        {"local-path-provisioner": ""},
        {},
    ),
    Module("github.com/coredns/coredns", f"v{versions.COREDNS}", {"coredns": ""}, {}),
)

CILIUM = Module(
    "github.com/cilium/cilium",
    f"v{versions.CILIUM}",
    {"cilium-agent": "daemon", "cilium-operator": "operator", "cilium-cni": "plugins/cilium-cni"},
    {"github.com/cilium/cilium/pkg/version.ciliumVersion": f"{versions.CILIUM}-lab"},
)
CILIUM_REPLACES = {
    "github.com/osrg/gobgp/v4": "github.com/osrg/gobgp/v4 v4.8.0",
    "sigs.k8s.io/mcs-api/controllers": str(Path(__file__).parent / "cilium/mcs-controllers"),
}
"""What the Go module proxy does not have as Cilium asks for it; it is for BGP and for several clusters."""


def program(name: str) -> Path:
    """Return the path of the program ``name``, built first if need be."""
    module = next(module for module in (*MODULES, CILIUM) if name in module.programs)
    made = cache.made(name, cache.key(repr(module)), lambda work: _build(module, name, work))
    return made / name


def source(path: str, version: str) -> Path:
    """Return the directory of a Go module's files (read-only)."""
    return Path(_download(path, version)["Dir"])


def _download(path: str, version: str) -> dict[str, str]:
    found = go("mod", "download", "-json", f"{path}@{version}", at=Path("/"))
    answer: dict[str, str] = json.loads(found)
    return answer


def _build(module: Module, name: str, work: Path) -> None:
    """Build in a throw-away main module that requires ``module``: replace directives don't reach so far.

    So a module with such directives builds too. Go's checksum database verifies what is downloaded.
    """
    cache.say(f"building {name} {module.version}")
    their = Path(_download(module.path, module.version)["GoMod"]).read_text()
    lines = [
        "module lab",
        next(line for line in their.splitlines() if line.startswith("go ")),
        f"require {module.path} {module.version}",
    ]
    # k8s.io/kubernetes replaces its staging modules by ./staging/...; the same code is published as v0.x.y.
    staging = re.findall(r"^\s+(k8s\.io/\S+) => \./staging", their, re.MULTILINE)
    lines += [f"replace {name} => {name} v0.{module.version.removeprefix('v1.')}" for name in staging]
    if module is CILIUM:
        lines += [f"replace {name} => {other}" for name, other in CILIUM_REPLACES.items()]
    (work / "go.mod").write_text("\n".join(lines) + "\n")
    flags = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in module.variables.items())])
    package = "/".join(filter(None, (module.path, module.programs[name])))
    build = ("build", "-mod=mod", "-trimpath", "-buildvcs=false", "-tags", module.tags, "-ldflags", flags)
    go(*build, "-o", str(work / name), package, at=work)


def go(*arguments: str, at: Path) -> str:
    """Run the go command in ``at``, without cgo; return what it prints. LabError if it fails."""
    program = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if program is None:
        raise LabError(f"Go {'.'.join(map(str, versions.GO))} or newer is needed to build the lab's programs")
    done = subprocess.run(
        ["nice", "-n", "5", program, *arguments],
        cwd=at,
        env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LabError(f"go {arguments[0]} in {at} failed:\n{done.stderr[-4000:]}")
    return done.stdout
