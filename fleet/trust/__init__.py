"""The fleet's authority, and keys of the API."""
