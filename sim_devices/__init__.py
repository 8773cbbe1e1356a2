"""What a simulated device has instead of hardware: time and power by a model, and fleets of such devices on one machine."""
