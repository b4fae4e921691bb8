"""What the documentation makes of the library itself: pages, tables and pictures."""
