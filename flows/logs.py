"""Logs: quiet on the terminal, whole in Prefect's API, where the UI shows them."""

import logging


def silence_console() -> None:
    """Takes Prefect's console handlers off every logger of this process; its API handlers stay."""
    from prefect.logging.handlers import PrefectConsoleHandler

    for name in (None, *logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, PrefectConsoleHandler)]
