"""What devices and requests cost: taken in, stored, summed."""
