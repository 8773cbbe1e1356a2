"""The agent: identity, announcement, the host of stages, telemetry and the gRPC services."""
