"""Readers of checkpoint files, as others write them."""
