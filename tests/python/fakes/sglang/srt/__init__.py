"""See `sglang`."""
