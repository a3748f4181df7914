"""The message of an error that Dagster has serialized is the one that names the fix."""

from __future__ import annotations

import sys
from collections.abc import Callable

import dagster as dg
import pytest
from dagster._utils.error import SerializableErrorInfo, serializable_error_info_from_exc_info

from glr_assets.defs.error_messages import error_message
from glr_assets.defs.launchpad import launchpad
from glr_assets.errors import RecipeError, StoreError


def own() -> None:
    try:
        raise ValueError("1 validation error for Recipe")
    except ValueError as error:
        raise RecipeError("recipe r.toml: [dedupe] keep = -3:\n expected 1 or more") from error


def wrapped() -> None:
    try:
        own()
    except RecipeError as error:
        raise RuntimeError("Error occurred during the execution of evaluation_fn") from error


def own_of_own() -> None:
    try:
        raise StoreError("no space left")
    except StoreError as error:
        raise RecipeError("the recipe cannot be read: no space left") from error


def failure() -> None:
    raise dg.Failure("2 of 25 shards failed: 003: MD5 is 00")


def foreign() -> None:
    try:
        raise OSError("disk is gone")
    except OSError as error:
        raise RuntimeError("cannot go on") from error


def refused_config() -> None:
    @dg.op(config_schema=launchpad("dedupe", {"dedupe": ["keep"]}))
    def dedupe() -> None:
        pass

    @dg.job
    def job() -> None:
        dedupe()

    dg.validate_run_config(job, {"ops": {"dedupe": {"config": {"dedupe": {"keep": -3}}}}})


@pytest.mark.parametrize(
    ("raising", "message"),
    [
        (own, "recipe r.toml: [dedupe] keep = -3: expected 1 or more"),
        (wrapped, "recipe r.toml: [dedupe] keep = -3: expected 1 or more"),
        (own_of_own, "the recipe cannot be read: no space left"),
        (failure, "2 of 25 shards failed: 003: MD5 is 00"),
        (foreign, "OSError: disk is gone"),
    ],
)
def test_the_message_is_our_error_else_the_innermost_cause(raising: Callable[[], None], message: str) -> None:
    assert error_message(serialized(raising)) == message


def test_what_the_recipe_refuses_of_a_launchpad_is_told_without_its_stack() -> None:
    told = error_message(serialized(refused_config))
    assert told.startswith("recipe overrides of recipe ")
    assert told.endswith(": [dedupe] keep = -3: Input should be greater than or equal to 1")


def test_there_may_be_no_error() -> None:
    assert error_message(None) == ""


def serialized(raising: Callable[[], None]) -> SerializableErrorInfo:
    try:
        raising()
    except Exception:  # noqa: BLE001 - whatever is raised is serialized
        return serializable_error_info_from_exc_info(sys.exc_info())  # type: ignore[arg-type]
    raise AssertionError("nothing was raised")
