"""Whether a store holds what its receipts say: `glr verify`, and its repairs."""

from glr_assets.integrity.report import Problem, Progress, Report
from glr_assets.integrity.scrub import verify

__all__ = ["Problem", "Progress", "Report", "verify"]
