"""How well the index finds: query sets, exact neighbours, evaluation, tuning, plot. It holds no SQL and no dagster."""
