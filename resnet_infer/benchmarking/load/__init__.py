"""Put a model in this process, or a service, under load, and keep the latency of every query."""
