"""Alembic's environment: how an older database becomes one of this version (fleet/store/schema.py)."""
