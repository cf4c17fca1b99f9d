"""``python -m tests.lab``: the lab by hand."""

from __future__ import annotations

import sys

import typer
from tests.lab import docker
from tests.lab.cluster import Lab
from tests.lab.images import images as our_images
from tests.lab.node import node_image
from tests.lab.programs import LabError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command()
def up() -> None:
    """Make the kind cluster, and say how to use it."""
    lab = Lab()
    lab.up()
    print(f"export KUBECONFIG={lab.kubeconfig}")


@app.command()
def down(
    *, everything: bool = typer.Option(False, "--docker", help="stop the docker of the lab, too")
) -> None:
    """Remove the kind cluster."""
    Lab().down()
    if everything:
        docker.stop()


@app.command()
def build() -> None:
    """Build the node image, and print its tag."""
    docker.ensure()
    print(node_image())


@app.command()
def images() -> None:
    """Build our images, load them into the cluster if it is there, and print their tags."""
    docker.ensure()
    found = our_images()
    lab = Lab()
    if lab.exists():
        lab.load_image(*found.all)
    for tag in found.all:
        print(tag)


if __name__ == "__main__":
    try:
        app()
    except LabError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
