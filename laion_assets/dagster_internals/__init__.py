"""The parts of Dagster that have no public name: no other room imports a module whose name begins with `_`.

Each module says what its names are for, and where Dagster's project discusses a public way. `test_dagster_internals.py`
fails where a version of Dagster lacks a name, has another meaning for it, or has given it a public name. Modules are
imported where they were needed before: `names` imports nothing, `backfills` is read by those who need backfills.
"""
