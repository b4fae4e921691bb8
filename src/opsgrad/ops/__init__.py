"""The ops, one family a file: bodies and rules in array-API code, and nothing else."""
