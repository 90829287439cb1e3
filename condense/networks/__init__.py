"""Networks by name, and what makes them fast."""
