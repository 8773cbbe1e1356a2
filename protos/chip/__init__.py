"""Chips that run compiled programs: their instructions, programs and times."""
