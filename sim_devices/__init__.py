"""What a simulated device has instead of hardware: time and power by a model, and fleets of such devices on one machine."""

import protos  # noqa: F401 (it says to gRPC what goes into the log, before anything loads that)
