"""The audit log: who came in, who was refused, what was taken back, what was decrypted.

One line each, by the logger ``main_api.audit``, whatever ``LOG_LEVEL`` is. Never a password, a token, a key,
or a value of a parameter.
"""

import logging

from main_api.exchange import Call, Caller

log = logging.getLogger(__name__)


class Audit:
    """Writes the lines."""

    def __init__(self) -> None:
        # Not for whoever wants fewer lines to switch off.
        log.setLevel(logging.INFO)

    def __call__(self, event: str, call: Call, caller: Caller | None, **facts: object) -> None:
        """Write that ``event`` was done, or refused, by ``call``."""
        self.write(
            event,
            subject=caller.subject if caller else None,
            clientAddress=call.caller.address,
            requestId=call.request_id,
            path=call.path,
            **facts,
        )

    def write(self, event: str, **facts: object) -> None:
        """Write what no call did."""
        log.info("audit: %s", event, extra={"fields": {"event": event, **facts}})
