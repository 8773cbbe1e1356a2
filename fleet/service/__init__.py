"""The coordinator as one object, and the protocol by which the API and the command call it."""
