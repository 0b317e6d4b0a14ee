"""The parts of Dagster that have no public name: no other room imports a module whose name begins with `_`.

Each module says what its names are for, and where Dagster's project discusses a public way. `test_dagster_internals.py`
fails if a version of Dagster lacks a name, has changed its meaning, or has given it a public name. The names are split
into modules so that each caller imports only what it needs: `names` imports nothing, and only users of backfills import
`backfills`.
"""
