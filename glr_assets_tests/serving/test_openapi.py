"""The service against its own description: whatever schemathesis makes of it is answered as it says."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from glr_assets.serving.live import Live
from glr_assets.serving.security import Access
from glr_assets_tests.serving.conftest import MakeService

#: Of schemathesis' checks those that no description of a form can meet: which bytes are a photograph it cannot say, and
#: an array without items, in place of a value, is sent as nothing.
NOT_OF_FORMS = [positive_data_acceptance, negative_data_rejection]
OPERATIONS = (
    ("/recognize", "POST"),
    ("/recognize/batch", "POST"),
    ("/matches", "POST"),
    ("/image/{split}/{image_id}", "GET"),
    ("/health", "GET"),
    ("/ready", "GET"),
    ("/metrics", "GET"),
)


@pytest.fixture(scope="module")
def description(live: Live, make_service: MakeService) -> Any:
    # It names the host as it pleases.
    return schemathesis.openapi.from_asgi("/openapi.json", make_service(live, access=Access(any_host=True)))


def test_these_are_all_operations(description: Any) -> None:
    found = {(of.ok().path, of.ok().method.upper()) for of in description.get_all_operations()}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [(path, method, GenerationMode.POSITIVE) for path, method in OPERATIONS]
    + [("/recognize", "POST", GenerationMode.NEGATIVE)],
)
def test_every_answer_is_as_described(description: Any, path: str, method: str, mode: GenerationMode) -> None:
    operation = description[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=10, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        case.call_and_validate(excluded_checks=NOT_OF_FORMS if method == "POST" else [])

    check()
