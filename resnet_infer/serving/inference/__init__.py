"""Run the model for many requests at a time: batching, deadlines, and the exchange of the model."""
