"""Benchmarks: real broker, real worker process, exactly-once on, the full product logic."""
