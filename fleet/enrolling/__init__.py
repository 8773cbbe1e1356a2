"""Boards that belong to no fleet: heard of, looked at, taken in."""
