"""Logs: none on the terminal, all of them in Prefect's API, where the UI shows them."""

import logging
from typing import Any


def silence_console() -> None:
    """Takes Prefect's terminal handlers off every logger of this process; its API handlers stay.

    Messages about a lost connection to the server are dropped, too: the run itself fails, with one line.
    """
    logging.lastResort, logging.raiseExceptions = None, False
    for name in (None, *logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.handlers = [handler for handler in logger.handlers if not _is_terminal(handler)]


def _is_terminal(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and type(handler).__module__ == "prefect.logging.handlers"


def run_logger() -> Any:
    """The logger of the flow or task run this is called in, or a plain one where no Prefect run is going on."""
    from prefect.exceptions import MissingContextError
    from prefect.logging import get_run_logger

    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("talkset")
