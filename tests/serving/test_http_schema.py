"""Le document OpenAPI dit vrai : schemathesis en tire des requêtes, justes et fausses."""

import pytest
import schemathesis
from http_helpers import make_context, running_engine
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gpt_architecture.serving.app import create_app

POSITIVE = schemathesis.GenerationMode.POSITIVE
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def document():
    """Le schéma de l'application du petit modèle."""
    with running_engine() as engine:
        app = create_app(make_context(engine, chat=True))
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.slow
def test_every_route_keeps_its_word(document):
    """Ni 500, ni code, type ou forme qui ne soit annoncé."""
    operations = [result.ok() for result in document.get_all_operations()]
    assert len(operations) > 7
    for operation in operations:
        check(operation)


def check(operation):
    """Éprouve une route avec des requêtes justes, puis fausses."""
    modes = list(schemathesis.GenerationMode) if operation.body else [POSITIVE]
    for mode in modes:  # sans corps ni paramètre, rien ne peut être faux

        @settings(
            max_examples=8,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def keeps_its_word(case):
            case.call_and_validate(checks=CHECKS)

        keeps_its_word()
