"""How exact the ops are over the whole floating-point range, beside the libraries' own functions.

``python -m opsgrad.conformance.accuracy`` measures and writes the report.
"""
