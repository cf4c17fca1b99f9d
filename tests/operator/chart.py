"""The operator's Helm chart, rendered.

``python -m tests.operator.chart FILE`` writes the manifest for those without Helm.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from tests.operator.tools import helm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "memorycluster-operator"
DEPLOY = ROOT / "deploy" / "memorycluster-operator.yaml"
RELEASE, NAMESPACE = "memorycluster", "memorycluster-system"

HEADER = f"""\
# The operator, for those without Helm:
#
#   kubectl apply -f crds/ -f deploy/
#
# Made by `make manifests` from charts/memorycluster-operator; a change here is lost.
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""
OF_HELM = ("# Source:", "helm.sh/chart:", "app.kubernetes.io/managed-by: Helm")


@cache
def template(*values: str) -> str:
    """Return the chart's manifest with ``values``, as arguments for helm."""
    return helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *values)


def deploy_manifest() -> str:
    """Return the manifest for those without Helm, which has nothing of Helm in it."""
    lines = template("--set", "crds.install=false").splitlines(keepends=True)
    kept = [line for line in lines if not any(each in line for each in OF_HELM)]
    return HEADER + "".join(kept)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(deploy_manifest(), encoding="utf-8")
