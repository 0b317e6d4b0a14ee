"""All settings of the project: their fields, the checks of their values, and how they are loaded."""

from laion_assets.settings.load import (
    GivenSettings,
    Settings,
    foreign_variables,
    given_settings,
    load_settings,
    settings_from,
    value_of,
    variable,
    variable_of,
)

__all__ = [
    "GivenSettings",
    "Settings",
    "foreign_variables",
    "given_settings",
    "load_settings",
    "settings_from",
    "value_of",
    "variable",
    "variable_of",
]
