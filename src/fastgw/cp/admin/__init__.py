"""The Admin API: Kong's paths, bodies and errors, derived from the entity table."""
