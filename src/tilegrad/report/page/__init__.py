"""The report as one page of HTML that needs nothing else: no network, no other file, no script to be read."""

from tilegrad.report.page.content import Subject
from tilegrad.report.page.render import render

__all__ = ["Subject", "render"]
