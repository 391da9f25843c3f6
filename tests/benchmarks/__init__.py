"""Measurements beside other caching libraries: ``python -m tests.benchmarks``. Nothing here is a test."""
