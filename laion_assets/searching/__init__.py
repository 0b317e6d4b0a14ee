"""Searches the table: statements, conditions, and the proof that an index was used. It builds nothing."""
