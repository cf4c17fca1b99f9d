"""``python -m memorycluster.snapshot --config FILE``: make one snapshot; see job.py."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from memorycluster.exit import exit_with
from memorycluster.snapshot.job import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="memorycluster.snapshot", description="Makes one snapshot.")
    parser.add_argument("--config", type=Path, required=True, help="YAML file: see job.JobConfig")
    os.umask(0o077)
    path = parser.parse_args().config
    exit_with(lambda: main(path))
