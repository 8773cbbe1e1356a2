"""Hollow devices: the agent of a real board with no mathematics behind it, thousands in one process. For the control plane only."""
