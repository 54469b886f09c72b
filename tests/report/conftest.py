"""Fixtures of the report's tests."""

import dataclasses

import pytest
from report_examples import full_contents

from birdjepa.report.contents import Absent, ReportContents


@pytest.fixture(scope="session")
def contents() -> ReportContents:
    """Every part filled, with names that try to break the page."""
    return full_contents()


@pytest.fixture(scope="session")
def bare(contents: ReportContents) -> ReportContents:
    """The same run before anything happened."""
    nothing = Absent("the recordings are not at hand")
    return dataclasses.replace(
        contents, metrics=(), probes=(), scale=None, seen=nothing, map=nothing, queries=nothing, heard=(), sources=(),
        failures=(), provenance={},
    )  # fmt: skip
