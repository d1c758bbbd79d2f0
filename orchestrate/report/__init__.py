"""A plan as a page that people look at."""

from orchestrate.report.inputs import Drawing, Option, Report, ScalingPoint
from orchestrate.report.page import html
from orchestrate.report.simulated import drawing

__all__ = ["Drawing", "Option", "Report", "ScalingPoint", "drawing", "html"]
