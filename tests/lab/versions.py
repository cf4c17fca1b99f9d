"""What the lab is made of, pinned. All of it is Go modules and Debian packages."""

KUBERNETES = "1.36.3"
ETCD = "3.6.8"
"""This and COREDNS: what ``kubeadm config images list`` of KUBERNETES asks for."""
COREDNS = "1.14.2"
PAUSE = "3.10"
"""The tag that kind's containerd configuration asks for."""
KIND = "0.33.0"
CONTAINERD = "2.3.4"
CNI_PLUGINS = "1.9.1"
LOCAL_PATH_PROVISIONER = "0.0.30"
HELM = "4.3.1"
CILIUM = "1.20.2"

DEBIAN = "trixie"
"""Of the nodes and of our images; newer ones have no cgroup v1, which some hosts still are."""
GO = (1, 26)
"""The oldest Go that builds these."""
