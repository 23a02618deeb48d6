"""How a mask gets its class."""
