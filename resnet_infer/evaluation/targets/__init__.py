"""Open the models that are evaluated: in this process, or behind a service."""
