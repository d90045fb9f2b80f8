"""All cases, by theme."""

from . import (
    configuration,
    exports,
    geometries,
    headers,
    imports,
    models,
    paths,
    products,
    raw_files,
    tables,
    unusual,
)
from .cases import Case, Fine

THEMES = {
    "Raw files": raw_files.CASES,
    "Headers of raw files": headers.CASES,
    "Tables": tables.CASES,
    "Configuration": configuration.CASES,
    "Paths and permissions": paths.CASES,
    "Calibrations and masks": geometries.CASES,
    "Orientations": models.CASES,
    "Imports": imports.CASES,
    "Products and commands": products.CASES,
    "Exports": exports.CASES,
}
CASES: list[Case] = [case for cases in THEMES.values() for case in cases]
FINE: list[Fine] = unusual.FINE
