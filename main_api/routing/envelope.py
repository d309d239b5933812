"""The envelope around a service's body, made by joining bytes: the body is never parsed."""

import json
from collections.abc import Mapping

from chassis import timestamp


def wrap(body: bytes, versions: Mapping[str, str]) -> bytes:
    """Place ``body``, one complete JSON object, into the gateway's success body."""
    tail = f',"versions":{json.dumps(dict(versions), separators=(",", ":"))},"timestamp":"{timestamp()}"}}\n'
    return b'{"success":true,"data":' + body + tail.encode()
