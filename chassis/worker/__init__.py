"""gunicorn's worker class, settings and hooks, the same for both services.

gthread gives a thread to whoever connects and lets its owner keep it by doing nothing. Here a thread
is given only to work that can go on, and everything that waits for a client has an end (below). Probes, known
by the first bytes of their head, are served in a few threads of their own, so that they do not queue behind a
crowd that is being refused.

==========================  ======  =================================================================
first byte of a connection  poller  ``FIRST_BYTE_SECONDS``
head (line and fields)      poller  ``READ_SECONDS`` from its first byte, in total
body                        thread  ``READ_SECONDS`` without a byte, ``BODY_SECONDS`` in all
what nobody read of a body  thread  ``UNREAD_SECONDS``
answer                      thread  ``WRITE_IDLE_SECONDS`` without progress, ``WRITE_SECONDS`` in all
the next request            poller  gunicorn's ``keepalive``
the client's close          poller  ``LINGER_SECONDS`` after ours (RFC 9112, 9.6: lingering close)
==========================  ======  =================================================================

The seconds of bodies and answers are those spent waiting for the client, never those of the application.
What gunicorn itself refuses is answered by the loaded application, which finds the
:class:`chassis.errors.ServiceError` in ``environ["chassis.refusal"]``: bodies have one maker.

HTTP/1 without TLS only. No Flask here.
"""

from chassis.worker.configuration import configure, gunicorn_settings
from chassis.worker.process import Worker

__all__ = ["Worker", "configure", "gunicorn_settings"]
