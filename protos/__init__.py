"""The contract: all that two programs, or two machines, must agree on."""
