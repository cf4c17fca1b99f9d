"""The image of a kind node: Debian, systemd, containerd, Kubernetes, and the images of its own pods."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab import cache, versions
from tests.lab.docker import docker, environment, has_image
from tests.lab.programs import CILIUM, MODULES, LabError, go, program, source

HERE = Path(__file__).parent / "node"
CILIUM_HERE = Path(__file__).parent / "cilium"
DEBIAN_IMAGE = f"lab.local/debian:{versions.DEBIAN}"
"""A minimal Debian; what our own images stand on too."""
BUSYBOX_IMAGE = "lab.local/busybox:1"
HOST_USR_IMAGE = "lab.local/host-usr:1"
PROVISIONER_IMAGE = f"lab.local/local-path-provisioner:{versions.LOCAL_PATH_PROVISIONER}"
KUBERNETES_IMAGES = "registry.k8s.io"
"""Under these names kubeadm looks for the control plane's images; nothing is fetched from there."""
RECIPE = f"1, pause {versions.PAUSE}"
"""Raised when this module makes another node image of the same parts."""
CONTAINERD_WITHIN = 30.0
"""Seconds until containerd answers."""


def node_image() -> str:
    """Return the tag of the node image, built first if need be. Needs docker (``ensure``)."""
    tag = f"lab.local/node:v{versions.KUBERNETES}-{cache.key(repr(MODULES), RECIPE, HERE)}"
    with cache.lock("node-image"):
        if not has_image(tag):
            _build(tag)
    return tag


def cilium_node_image() -> str:
    """Return the tag of the node image with Cilium as its CNI, built first if need be."""
    node = node_image()
    tag = f"lab.local/node-cilium:v{versions.KUBERNETES}-{cache.key(node, repr(CILIUM), CILIUM_HERE)}"
    with cache.lock("cilium-node-image"):
        if not has_image(tag):
            _build_cilium(node, tag)
    return tag


def _build_cilium(node: str, tag: str) -> None:
    with tempfile.TemporaryDirectory(dir=cache.directory()) as work:
        context = Path(work)
        for name in CILIUM.programs:
            shutil.copy2(program(name), context / name)
        unused = shutil.ignore_patterns("tests", "complexity-tests", "test-progs")
        bpf = source(CILIUM.path, CILIUM.version) / "bpf"
        shutil.copytree(bpf, context / "bpf", ignore=unused, copy_function=shutil.copyfile)
        for name in ("Dockerfile", "cilium.yaml"):
            shutil.copyfile(CILIUM_HERE / name, context / name)
        cache.say("node image with Cilium")
        docker("build", "-q", "--build-arg", f"NODE={node}", "-t", tag, ".", at=context)


def debian_image() -> str:
    """Return the tag of a minimal Debian, made first if need be."""
    with cache.lock("debian-image"):
        if not has_image(DEBIAN_IMAGE):
            _debootstrap()
    return DEBIAN_IMAGE


def _debootstrap() -> None:
    if not shutil.which("debootstrap"):
        raise LabError("debootstrap is needed for the lab: apt-get install debootstrap   (make deps does it)")
    cache.say(f"Debian {versions.DEBIAN}")
    with tempfile.TemporaryDirectory(dir=cache.directory()) as work:
        root = Path(work) / "root"
        done = subprocess.run(
            ["nice", "-n", "5", "debootstrap", "--variant=minbase", versions.DEBIAN, root],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"debootstrap failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        for emptied in ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man"):
            for entry in (root / emptied).iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
            assert tar.stdout is not None
            docker("import", "-", DEBIAN_IMAGE, stdin=tar.stdout)


def _build(tag: str) -> None:
    base = f"{tag}-base"
    _build_base(base)
    cache.say("images of the cluster's own pods")
    images = [*_program_images(), *_images_from(base)]
    cache.say("node image")
    _with_images(base, images, tag)


def _build_base(tag: str) -> None:
    """Build the image of a node that holds no pods' images yet."""
    kind = source("sigs.k8s.io/kind", f"v{versions.KIND}")
    programs = {
        "usr/local/bin": ("containerd", "ctr", "containerd-shim-runc-v2"),
        "usr/bin": ("kubelet", "kubeadm", "kubectl"),
        "opt/cni/bin": ("host-local", "loopback", "ptp", "portmap"),
    }
    with tempfile.TemporaryDirectory(dir=cache.directory()) as work:
        context = Path(work)
        extra = context / "extra"
        shutil.copytree(kind / "images/base/files", context / "files", copy_function=shutil.copyfile)
        context.joinpath("files").chmod(0o755)
        for place, names in programs.items():
            (extra / place).mkdir(parents=True)
            for name in names:
                shutil.copy2(program(name), extra / place / name)
        for name, place in (("crictl", "crictl"), ("netd.py", "netd")):
            shutil.copyfile(HERE / name, extra / "usr/local/bin" / place)
            (extra / "usr/local/bin" / place).chmod(0o755)
        manifests = extra / "kind/manifests"
        manifests.mkdir(parents=True)
        shutil.copyfile(HERE / "netd.yaml", manifests / "default-cni.yaml")
        (manifests / "default-storage.yaml").write_text(_storage_manifest(kind))
        (extra / "kind/version").write_text(f"v{versions.KUBERNETES}")
        shutil.copyfile(HERE / "Dockerfile", context / "Dockerfile")
        debian = debian_image()
        cache.say("node image: Debian packages")
        docker("build", "-q", "--build-arg", f"BASE={debian}", "-t", tag, ".", at=context)


def _storage_manifest(kind: Path) -> str:
    """Return kind's own manifest of its default StorageClass, a Go constant, with our images."""
    text = (kind / "pkg/build/nodeimage/const_storage.go").read_text()
    body = text.split("const defaultStorageManifest = `", 1)[1].split("\n`\n", 1)[0]
    return body.replace("` + storageProvisionerImage + `", PROVISIONER_IMAGE).replace(
        "` + storageHelperImage + `", BUSYBOX_IMAGE
    )


def _program_images() -> list[str]:
    """Make the images that hold one static program each; return their names."""
    kubernetes = f"v{versions.KUBERNETES}"
    images = {
        f"{KUBERNETES_IMAGES}/kube-apiserver:{kubernetes}": program("kube-apiserver"),
        f"{KUBERNETES_IMAGES}/kube-controller-manager:{kubernetes}": program("kube-controller-manager"),
        f"{KUBERNETES_IMAGES}/kube-scheduler:{kubernetes}": program("kube-scheduler"),
        f"{KUBERNETES_IMAGES}/etcd:{versions.ETCD}-0": program("etcd"),
        f"{KUBERNETES_IMAGES}/pause:{versions.PAUSE}": _pause(),
        f"{KUBERNETES_IMAGES}/coredns/coredns:v{versions.COREDNS}": program("coredns"),
        PROVISIONER_IMAGE: program("local-path-provisioner"),
    }
    for image, path in images.items():
        _import(image, _one_program(path), f'ENTRYPOINT ["/usr/local/bin/{path.name}"]')
    links = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}

    def host_usr(tar: tarfile.TarFile) -> None:
        """Make the image of pods that mount the node's /usr: just the links into it."""
        for name in ("usr", "tmp"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
        for name, target in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)

    _import(HOST_USR_IMAGE, host_usr, "ENV PATH=/usr/sbin:/usr/bin")
    return [*images, HOST_USR_IMAGE]


def _one_program(path: Path) -> Callable[[tarfile.TarFile], None]:
    return lambda tar: tar.add(path, f"usr/local/bin/{path.name}")


def _import(image: str, fill: Callable[[tarfile.TarFile], None], change: str) -> None:
    with tempfile.TemporaryFile(dir=cache.directory()) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            fill(tar)
        file.seek(0)
        docker("import", "--change", change, "-", image, stdin=file)


def _pause() -> Path:
    """Return the program that holds a pod's namespaces, built first if need be."""
    code = HERE / "pause.go"

    def make(work: Path) -> None:
        go("build", "-trimpath", "-ldflags", "-s -w", "-o", str(work / "pause"), str(code), at=work)

    return cache.made("pause", cache.key(code), make) / "pause"


def _images_from(node: str) -> list[str]:
    """Make the images that hold programs of Debian, taken from the image ``node``; return their names."""
    proxy = f"{KUBERNETES_IMAGES}/kube-proxy:v{versions.KUBERNETES}"
    for image, dockerfile in ((proxy, "kube-proxy.Dockerfile"), (BUSYBOX_IMAGE, "busybox.Dockerfile")):
        with tempfile.TemporaryDirectory(dir=cache.directory()) as work:
            shutil.copyfile(HERE / dockerfile, Path(work) / "Dockerfile")
            shutil.copy2(program("kube-proxy"), work)
            docker("build", "-q", "--build-arg", f"NODE={node}", "-t", image, ".", at=Path(work))
    return [proxy, BUSYBOX_IMAGE]


def _with_images(base: str, images: list[str], tag: str) -> None:
    """Commit ``base`` with ``images`` in its containerd as ``tag``, as kind's build of a node image does."""
    entry = docker("image", "inspect", "-f", "{{json .Config.Entrypoint}}", base)
    name = docker(
        *("run", "-d", "--security-opt", "seccomp=unconfined", "--entrypoint", "sleep", base, "infinity")
    )
    try:
        docker("exec", "-d", name, "sh", "-c", "exec containerd > /tmp/containerd.log 2>&1")
        deadline = time.monotonic() + CONTAINERD_WITHIN
        while not _answers(name):
            if time.monotonic() > deadline:
                raise LabError(
                    "containerd does not start:\n" + docker("exec", name, "cat", "/tmp/containerd.log")
                )
            time.sleep(0.3)
        ctr = ("ctr", "-n", "k8s.io", "images", "import", "--label=io.cri-containerd.pinned=pinned")
        with subprocess.Popen(
            ["docker", "save", *images], stdout=subprocess.PIPE, env=environment()
        ) as saved:
            assert saved.stdout is not None
            docker(
                *("exec", "-i", name, *ctr, "--all-platforms", "--no-unpack", "--digests", "-"),
                stdin=saved.stdout,
            )
        stop = "p=$(pidof containerd); kill $p; while kill -0 $p 2>/dev/null; do sleep 0.1; done"
        docker("exec", name, "sh", "-c", f"{stop}; rm -rf /tmp/* /run/containerd")
        docker("commit", "--change", f"ENTRYPOINT {entry}", name, tag)
    finally:
        docker("rm", "-fv", name)


def _answers(container: str) -> bool:
    try:
        docker("exec", container, "ctr", "version")
    except LabError:
        return False
    return True
