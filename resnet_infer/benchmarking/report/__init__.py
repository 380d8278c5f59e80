"""Write results of benchmarks to files, and make a page of them."""
