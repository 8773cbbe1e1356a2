"""Deployments: what is wanted, what devices hold, and the actions between."""
