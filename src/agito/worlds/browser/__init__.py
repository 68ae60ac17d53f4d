"""Browsers: real Chromium in a sandbox, one context per episode, the accessibility tree as text. See
docs/browser.md.
"""

from __future__ import annotations

from agito.worlds.browser.component import MORE_TOOLS, TOOLS, Browser, Served, Tab, Tabs
from agito.worlds.browser.markup import Unsupported
from agito.worlds.browser.page import Page, Site, Unusable
from agito.worlds.browser.shared_chromium import Farm, NoBrowser, probe, program
from agito.worlds.browser.text import TextTabs
from agito.worlds.browser.tree import Element, View

__all__ = [
    "MORE_TOOLS",
    "TOOLS",
    "Browser",
    "Element",
    "Farm",
    "NoBrowser",
    "Page",
    "Served",
    "Site",
    "Tab",
    "Tabs",
    "TextTabs",
    "Unsupported",
    "Unusable",
    "View",
    "probe",
    "program",
]
