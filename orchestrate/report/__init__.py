"""A plan as a page that people look at."""

from orchestrate.report.inputs import Drawing, Option, Report, ScalingPoint
from orchestrate.report.page import html

__all__ = ["Drawing", "Option", "Report", "ScalingPoint", "html"]
