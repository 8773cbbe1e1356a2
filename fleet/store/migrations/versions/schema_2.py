"""Schema 2, the oldest that is read: it was made before there were migrations, so there is no way to it but to have it."""

from __future__ import annotations

revision = "2"
down_revision = None


def upgrade() -> None:
    """New databases get all tables at once (fleet/store/schema.py)."""
