"""Schema 3: the tables of schema 2, marked so that releases which read only the first stored form of deployments refuse it.

They would take newer forms for damaged ones, and unload their stages.
"""

from __future__ import annotations

from alembic import op

revision = "3"
down_revision = "2"


def upgrade() -> None:
    op.execute("UPDATE schema_info SET version = 3")
