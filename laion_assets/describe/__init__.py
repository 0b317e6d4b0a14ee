"""Looks at files that lie somewhere and writes the TOML file that describes them as a dataset."""
