"""One module a schema, each with what changed since the one before."""
