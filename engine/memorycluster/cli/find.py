"""Which data directory a command is about."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from memorycluster.local.errors import UserError
from memorycluster.local.layout import Layout
from memorycluster.local.state import State, load_state, running_pid


def data_home() -> Path:
    """Return the directory that holds the data directories of clusters for which none is named."""
    return platformdirs.user_data_path("memorycluster")


def find_cluster(data_dir: Path | None) -> tuple[Layout, State]:
    """Return the cluster in ``data_dir``, or else the only one that runs, or else the only one there is.

    :raises UserError: there is none, or more than one.
    """
    if data_dir is not None:
        layout = Layout(data_dir.absolute())
        state = load_state(layout)
        if state is None:
            raise UserError(
                f"{layout.root}: no cluster there; `memorycluster run FILE --data-dir DIR` makes one"
            )
        return layout, state
    home = data_home()
    known = [Layout(each) for each in sorted(home.iterdir())] if home.is_dir() else []
    known = [layout for layout in known if layout.state.exists()]
    running = [layout for layout in known if running_pid(layout)]
    choice = running or known
    if not choice:
        raise UserError(f"no cluster in {home}; name its directory with --data-dir")
    if len(choice) > 1:
        raise UserError(
            f"which cluster? Choose with --data-dir: {', '.join(str(each.root) for each in choice)}"
        )
    state = load_state(choice[0])
    assert state is not None
    return choice[0], state
