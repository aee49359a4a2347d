"""Streamlit's server, with everything off that would ask another machine."""

from __future__ import annotations

from pathlib import Path

from streamlit import net_util
from streamlit.web import bootstrap

PAGE = Path(__file__).with_name("page.py")


def start(model: str, compare: str, host: str, port: int, open_browser: bool) -> None:
    """Serves the page until Ctrl-C. Models must be loaded by `view.load`, so that mistakes come before."""
    options = {
        "server_address": host,
        "server_port": port,
        "server_headless": not open_browser,
        "server_fileWatcherType": "none",
        "browser_gatherUsageStats": False,
        "client_toolbarMode": "minimal",
        "client_showErrorDetails": "none",  # a traceback belongs into the terminal
        "logger_hideWelcomeMessage": True,
        "theme_light_primaryColor": "#1f5a99",
        "theme_dark_primaryColor": "#6cb0e8",
    }
    # Else a page opened under a name that Streamlit does not know makes it ask a public server for its own address
    net_util.get_external_ip = lambda: None
    bootstrap.load_config_options(options)
    bootstrap.run(str(PAGE), False, [model, compare], options)
