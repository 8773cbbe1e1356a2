"""From a stage of an artifact to a program of a chip: lower, legalise, tile, allocate, schedule."""
