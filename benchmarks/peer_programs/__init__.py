"""Programs that `benchmarks.peers` and `benchmarks.serving` start, most of them in environments of their own."""
