"""The tests: `pytest --pyargs opsgrad.conformance --backend NAME`."""
