"""The command line and its quick recipe, as the integration tests have them."""

from glr_assets_tests.integration.conftest import glr, quick

__all__ = ["glr", "quick"]
