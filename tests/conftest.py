"""What holds for all tests; and the lab is up before the first test that runs in it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import settings
from tests.lab import docker
from tests.lab.cluster import Lab
from tests.lab.images import images
from tests.lab.programs import LabError

# Times are no property: these machines are busy.
settings.register_profile("memorycluster", deadline=None)
settings.load_profile("memorycluster")

LAB_FIXTURES = {"lab", "site"}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make what is missing, outside of any test's time; what fails here fails again where it is used."""
    wanted = any(LAB_FIXTURES & set(getattr(item, "fixturenames", ())) for item in session.items)
    lab = Lab()
    if not wanted or session.config.option.collectonly or lab.given:
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled(), contextlib.suppress(LabError):
        docker.ensure()
        lab.up()
        lab.load_image(*images().all)
