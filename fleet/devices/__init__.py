"""Finding devices, standing connections to them, and what is known of each."""
