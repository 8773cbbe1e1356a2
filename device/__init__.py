"""The agent on each device: blobs, engine, pipeline, power meters, identity."""
