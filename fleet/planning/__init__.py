"""Which device holds which layers, and what a plan would give: pure functions."""
