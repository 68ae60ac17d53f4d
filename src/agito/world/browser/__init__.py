"""Browsers: real Chromium in a sandbox, a context an episode, the accessibility tree as text. See docs/browser.md."""

from __future__ import annotations

from agito.world.browser.component import MORE_TOOLS, TOOLS, Browser, Served, Tab, Tabs
from agito.world.browser.farm import Farm, NoBrowser, probe, program
from agito.world.browser.markup import Unsupported
from agito.world.browser.page import Page, Site, Unusable
from agito.world.browser.text import TextTabs
from agito.world.browser.tree import Element, View

__all__ = [
    "MORE_TOOLS", "TOOLS", "Browser", "Element", "Farm", "NoBrowser", "Page", "Served", "Site", "Tab", "Tabs", "TextTabs", "Unsupported",
    "Unusable", "View", "probe",
    "program",
]  # fmt: skip
