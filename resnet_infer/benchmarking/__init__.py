"""Time models side by side, put systems under load, and report what was measured."""
