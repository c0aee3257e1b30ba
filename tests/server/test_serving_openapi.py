"""The OpenAPI document is true: schemathesis makes requests of it, good and bad, and judges every answer."""

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving_toys import client, served

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def document():
    with served(max_steps=3, max_sessions=200, max_jobs=50) as (address, _):
        yield openapi.from_url(f"http://{address}/v1/openapi.json")


@pytest.mark.slow
def test_every_answer_is_as_the_document_says(document):
    operations = [result.ok() for result in document.get_all_operations()]
    assert len(operations) >= 15
    statuses: set[int] = set()
    for operation in operations:
        judge(operation, statuses)
    assert {200, 201, 400, 404} <= statuses


def judge(operation, statuses):
    @settings(max_examples=10, suppress_health_check=list(HealthCheck), derandomize=True, deadline=None, database=None)
    @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def every_answer(case):
        statuses.add(case.call_and_validate(checks=CHECKS).status_code)

    with suppress(Unsatisfiable):  # nothing bad can be sent where nothing is taken
        every_answer()


def test_the_document_holds_every_route_and_its_bodies():
    with client() as web:
        found = web.get("/v1/openapi.json").json()
    assert "WebSocket" in found["info"]["description"] and "iddleware" not in found["info"]["description"]
    paths = set(found["paths"])
    assert {"/score", "/new_job", "/get_job_results", "/cancel_job", "/", "/metrics", "/v1/dream"} <= paths
    schemas = found["components"]["schemas"]
    assert {"ScoreRequest", "ScoreEntry", "DreamRequest", "NewJob", "ErrorResponse"} <= set(schemas)
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            assert operation.get("description"), f"{method} {path} says nothing about itself"
            assert "422" not in operation["responses"]
            assert operation["responses"]["400"]["content"]["application/json"]["schema"]["$ref"].endswith(
                "ErrorResponse"
            )
    for name in ("ScoreEntry", "ScoreInput", "DreamRequest", "NewJob"):
        silent = [field for field, about in schemas[name]["properties"].items() if "description" not in about]
        assert not silent, f"{name}: {silent}"
