"""What every test needs before the first import of the services."""

import os
import shutil
import tempfile

# prometheus_client decides at its import whether it is in multiprocess mode, as it always is here.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = METRICS = tempfile.mkdtemp(prefix="metrics-")
# Whatever a test forgets to stub must not find an account.
os.environ.update(
    AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_EC2_METADATA_DISABLED="true"
)
os.environ.pop("AWS_PROFILE", None)


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    shutil.rmtree(METRICS, ignore_errors=True)
