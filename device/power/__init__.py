"""What meters a real board: energy counters, power monitors, a command of the owner's."""
