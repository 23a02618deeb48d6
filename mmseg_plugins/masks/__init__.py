"""Where mask proposals come from."""
