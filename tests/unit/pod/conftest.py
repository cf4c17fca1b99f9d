from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    for name, text in {"log-password": "l", "agent-password": "a\n", "api-token": "t"}.items():
        (tmp_path / "secrets").mkdir(exist_ok=True)
        (tmp_path / "secrets" / name).write_text(text)
    return tmp_path
