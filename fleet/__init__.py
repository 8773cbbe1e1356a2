"""The coordinator: discovery, planner, deployment, generation, telemetry, trust, API, command."""
