"""Looks into the files of a dataset, wherever they are, and writes the TOML file that describes them."""
