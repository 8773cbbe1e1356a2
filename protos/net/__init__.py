"""Dialling and serving: transport, roles, errors on the wire."""
