"""Stories that are told with each boot loader, by hand (`make nodes`)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.images import LOADERS


def with_each_loader(tell: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("told", indirect=True, argvalues=[
        pytest.param(loader, marks=[pytest.mark.story(tell=tell, loader=loader), pytest.mark.long])
        for loader in LOADERS])
