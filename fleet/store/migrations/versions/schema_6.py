"""Schema 6: how long requests waited in the queue, and sketches of how the figures of many were distributed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "6"
down_revision = "5"


def upgrade() -> None:
    op.add_column("requests", sa.Column("queue_seconds", sa.Float()))
    op.create_table(
        "request_sketches",
        sa.Column("window_seconds", sa.Float(), primary_key=True),
        sa.Column("begins_at", sa.Float(), primary_key=True),
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("deployment", sa.String(128), primary_key=True),
        sa.Column("figure", sa.String(32), primary_key=True),
        sa.Column("source", sa.String(16), primary_key=True),
        sa.Column("sketch", sa.LargeBinary(), nullable=False),
    )
