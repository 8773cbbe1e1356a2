"""The coordinator: discovery, planner, deployment, generation, telemetry, trust, API, command."""

import protos  # noqa: F401 (it says to gRPC what goes into the log, before anything loads that)
