"""Text to token ids and back, the same on a coordinator and on a device."""
