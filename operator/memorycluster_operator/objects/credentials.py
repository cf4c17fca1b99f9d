"""The passwords between the parts: found, else drawn, but never drawn while something runs with lost ones."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping

from memorycluster.pod.config import AGENT_PASSWORD, API_TOKEN, LOG_PASSWORD
from memorycluster_operator.objects import names
from memorycluster_operator.objects.inputs import Credentials, Inputs
from memorycluster_operator.objects.names import make
from memorycluster_operator.objects.template import digest
from memorycluster_operator.snapshot import Key, Manifest, Snapshot

KEYS = (LOG_PASSWORD, AGENT_PASSWORD, API_TOKEN)


def find_credentials(snapshot: Snapshot) -> Credentials | None:
    """Return the credentials of a cluster, or None if some are lost and pods that know them still run.

    They are in both Secrets, so each heals the other. One that somebody has changed, as its annotation tells,
    counts less than one that is as it was made: running servers don't notice a change, and those that restart
    would be alone with it. Where neither is left, what this operator has seen counts; and where it has seen
    nothing, and no pod runs that could know better, new ones are drawn.
    """
    cluster = snapshot.cluster.name
    secrets = [names.internal_secret(cluster), names.log_secret(cluster)]
    live = [snapshot.objects[key] for key in secrets if key in snapshot.objects]
    sources: list[Mapping[str, str]] = [decoded(each) for each in sorted(live, key=_changed)]
    sources += [snapshot.secrets_seen.get(key.name, {}) for key in secrets]
    found = {key: next((each[key] for each in sources if each.get(key)), None) for key in KEYS}
    if not all(found.values()) and any(pod.running for pod in snapshot.pods):
        return None
    values = {key: value or draw(snapshot.entropy, key) for key, value in found.items()}
    return Credentials(values[LOG_PASSWORD], values[AGENT_PASSWORD], values[API_TOKEN])


def _changed(secret: Manifest) -> bool:
    """Whether somebody has changed the passwords in a Secret since it was made."""
    values = {key: value for key, value in decoded(secret).items() if key in KEYS}
    annotations = secret["metadata"].get("annotations") or {}
    return bool(annotations.get(names.CREDENTIALS_ANNOTATION) != digest(values))


def make_secret(inputs: Inputs, key: Key, credentials: Credentials, **more: str) -> Manifest:
    """Return a Secret with the credentials, and a mark by which a change of them is noticed.

    What is drawn is so random that its hash tells nothing.
    """
    values = as_data(credentials)
    secret = dict(make(inputs.cluster, key, type="Opaque", data=encoded({**values, **more})))
    mark = {names.CREDENTIALS_ANNOTATION: digest(values)}
    return {**secret, "metadata": {**secret["metadata"], "annotations": mark}}


def internal_secret(inputs: Inputs, credentials: Credentials) -> tuple[Key, Manifest]:
    """Return the Secret that engine pods mount."""
    key = names.internal_secret(inputs.name)
    return key, make_secret(inputs, key, credentials)


def as_data(credentials: Credentials) -> dict[str, str]:
    """Return credentials as a Secret names them."""
    return {
        LOG_PASSWORD: credentials.log_password,
        AGENT_PASSWORD: credentials.agent_password,
        API_TOKEN: credentials.api_token,
    }


def draw(entropy: bytes, purpose: str) -> str:
    """Return 43 characters that nobody can guess who does not know ``entropy``."""
    drawn = hashlib.blake2b(purpose.encode(), key=entropy, digest_size=32).digest()
    return base64.urlsafe_b64encode(drawn).decode().rstrip("=")


def encoded(data: Mapping[str, str]) -> dict[str, str]:
    """Return the ``data`` of a Secret."""
    return {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}


def decoded(secret: Manifest) -> dict[str, str]:
    """Return what a Secret holds; what is not text is left out."""
    values = {}
    for key, value in (secret.get("data") or {}).items():
        try:
            values[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue
    return values
