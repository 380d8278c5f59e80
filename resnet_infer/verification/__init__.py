"""Check that a model still answers as it should: parity, cost of a lower precision, comparison, layers."""
