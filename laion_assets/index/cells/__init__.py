"""Cells: rows of one vector column ordered by cluster, with codes of a few bits, in tables derived from the main
one."""
