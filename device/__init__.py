"""The agent on each device: blobs, engine, pipeline, power meters, identity."""

import protos  # noqa: F401 (it says to gRPC what goes into the log, before anything loads that)
