"""From a checkpoint to an artifact: calibration, folding, rotation."""
