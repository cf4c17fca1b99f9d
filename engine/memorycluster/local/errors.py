"""What a user did or has, and can put right."""

from __future__ import annotations


class UserError(Exception):
    """Can't go on, for a reason that its user can remove. The text is one clear line that says how."""
