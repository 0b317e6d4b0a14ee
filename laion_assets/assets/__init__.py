"""The Dagster layer: one file for each asset, with its checks. The work itself is done by the rooms below.

Dagster reads the annotation of `context` as an object, so these modules have no postponed annotations.
"""

import warnings

from dagster import BetaWarning, PreviewWarning

# In Dagster 1.13, which pyproject.toml pins, partitioned checks are in preview; observable source assets and links to
# code are in beta. A warning about that at each import helps nobody.
warnings.filterwarnings("ignore", message="Specifying a partitions_def on an AssetCheckSpec", category=PreviewWarning)
warnings.filterwarnings("ignore", message="Function `observable_source_asset`", category=BetaWarning)
warnings.filterwarnings("ignore", message="Parameter `use_user_code_server`", category=BetaWarning)
warnings.filterwarnings("ignore", message=r"Class `\w*CodeReference", category=BetaWarning)
