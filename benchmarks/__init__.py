"""How fast the ops are, beside other libraries' best forms of the same thing.

``python -m benchmarks`` (``make bench``) measures everything and writes the page;
``pytest benchmarks`` times single contestants.
"""
