"""What a lease costs: this package against Django's stock engine, Django's pool and two other pools.

`python -m benchmarks --help`; the figures of the last full run are in docs/benchmarks.md.
"""
