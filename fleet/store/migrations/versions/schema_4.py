"""Schema 4: samples hold what all stages of the device together have computed, beside the joules that it took."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "4"
down_revision = "3"


def upgrade() -> None:
    for name in ("prefill_tokens", "decode_tokens", "answer_tokens"):
        op.add_column("samples", sa.Column(name, sa.BigInteger()))
    for name in ("work_seconds", "modelled_work_seconds", "work_joules"):
        op.add_column("samples", sa.Column(name, sa.Float()))
