"""Simulated chips that run compiled programs."""
