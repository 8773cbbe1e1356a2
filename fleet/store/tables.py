"""The tables of the coordinator's database, as the newest schema has them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

metadata = MetaData()

# Of migrations/versions, the one that the tables are at; its name and form are Alembic's.
alembic_version = Table(
    "alembic_version",
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

# Releases up to schema 2 look at this alone, and refuse any number but their own: it stays at 3, whatever comes after.
schema_info = Table("schema_info", metadata, Column("version", Integer, nullable=False))

# A removed deployment keeps its row, with no `desired`: devices refuse generations they have already seen.
deployments = Table(
    "deployments",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("desired", Text),
)

devices = Table(
    "devices",
    metadata,
    Column("device_id", String(64), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("hollow", Boolean, nullable=False),  # it computes nothing
)

# Counters since the boot, as the device told them; thinned with age (fleet/telemetry/records.py).
samples = Table(
    "samples",
    metadata,
    Column("device_id", String(64), primary_key=True),
    Column("boot_id", String(64), primary_key=True),
    Column("sample_index", BigInteger, primary_key=True, autoincrement=False),
    Column("received_at", Float, nullable=False),  # unix seconds by the coordinator's clock
    Column("uptime_seconds", Float, nullable=False),
    Column("source", String(16), nullable=False),
    Column("busy_joules", Float),
    Column("idle_joules", Float),
    Column("power_watts", Float),
    Column("temperature_celsius", Float),
    Column("memory_used_bytes", BigInteger, nullable=False),
    Column("process_rss_bytes", BigInteger, nullable=False),
    Column("process_cpu_seconds", Float, nullable=False),
    # The device's WorkCounter (telemetry.proto). NULL: its agent, or whoever stored it, did not know of one.
    Column("prefill_tokens", BigInteger),
    Column("decode_tokens", BigInteger),
    Column("answer_tokens", BigInteger),
    Column("work_seconds", Float),
    Column("modelled_work_seconds", Float),
    Column("work_joules", Float),  # NULL also where nothing is metered
    Index("samples_by_time", "received_at"),
)

pipeline_samples = Table(
    "pipeline_samples",
    metadata,
    Column("device_id", String(64), primary_key=True),
    Column("boot_id", String(64), primary_key=True),
    Column("sample_index", BigInteger, primary_key=True, autoincrement=False),
    Column("pipeline_id", String(128), primary_key=True),
    Column("manifest_digest", String(64), nullable=False),
    Column("prefill_tokens", BigInteger, nullable=False),
    Column("decode_tokens", BigInteger, nullable=False),
    Column("steps", BigInteger, nullable=False),
    Column("busy_seconds", Float, nullable=False),
    Column("modelled_busy_seconds", Float, nullable=False),
    Column("busy_joules", Float),
    Column("sent_bytes", BigInteger, nullable=False),
    Column("open_sequences", BigInteger, nullable=False),
    ForeignKeyConstraint(
        ["device_id", "boot_id", "sample_index"],
        ["samples.device_id", "samples.boot_id", "samples.sample_index"],
        ondelete="CASCADE",
    ),
)

requests = Table(
    "requests",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("finished_at", Float, nullable=False),  # unix seconds by the coordinator's clock
    Column("model", String(128), nullable=False),
    Column("deployment", String(128), nullable=False),
    Column("finish_reason", String(16), nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("ttft_seconds", Float, nullable=False),
    Column("tpot_seconds", Float),
    Column("modelled_ttft_seconds", Float),
    Column("modelled_tpot_seconds", Float),
    Column("total_seconds", Float, nullable=False),
    Column("queue_seconds", Float),
    Index("requests_by_time", "finished_at"),
)

# Of the requests that ended in a window, how one figure was distributed (fleet/telemetry/distributions.py).
request_sketches = Table(
    "request_sketches",
    metadata,
    Column("window_seconds", Float, primary_key=True),
    Column("begins_at", Float, primary_key=True),  # unix seconds
    Column("model", String(128), primary_key=True),
    Column("deployment", String(128), primary_key=True),
    Column("figure", String(32), primary_key=True),
    Column("source", String(16), primary_key=True),
    Column("sketch", LargeBinary, nullable=False),
)

request_costs = Table(
    "request_costs",
    metadata,
    Column("request_id", String(64), ForeignKey("requests.request_id", ondelete="CASCADE"), primary_key=True),
    Column("device_id", String(64), primary_key=True),
    Column("source", String(16), primary_key=True),
    Column("busy_seconds", Float, nullable=False),
    Column("modelled_busy_seconds", Float),
    Column("joules", Float),
)

# The last line of each audit log, kept apart from its files (fleet/trust/audit.py).
audit_heads = Table(
    "audit_heads",
    metadata,
    Column("log", String(64), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("line", Text, nullable=False),
)
