"""The backends: one protocol, several implementations, and the registry that chooses among them."""
