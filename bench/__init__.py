"""Benchmarks: real broker, real processes, equal work, and outputs that are compared before a figure counts.

``python -m bench --help`` names the parts; ``docs/performance.md`` says how to read them.
"""
