"""The application of the auxiliary service, put together in one visible place."""

from flask import Flask

from auxiliary_service.aws.buckets import BucketStore
from auxiliary_service.aws.calls import AwsCalls
from auxiliary_service.aws.clients import Clients, connect
from auxiliary_service.aws.parameters import ParameterStore
from auxiliary_service.aws.shared_reads import SharedReads
from auxiliary_service.blueprints import buckets, callers, health, parameters
from auxiliary_service.registration import keepers
from auxiliary_service.schemas.next_token import NextTokens
from auxiliary_service.settings import Settings
from chassis import health as probes
from chassis.client_address import ClientAddress
from chassis.drain import draining
from chassis.install import install as install_chassis


def create_app(settings: Settings, clients: Clients | None = None) -> Flask:
    """Make the application; without ``clients`` it makes its own, so call it after the fork.

    What runs beside its requests is ``app.extensions["background"]``, for the worker to ``start()``.
    """
    app = Flask("auxiliary_service", static_folder=None)

    # What both services do alike. Only the gateway calls: its address is the peer's.
    registry = install_chassis(app, settings, probes=settings.PROBES, client_address=ClientAddress(()))
    probes.install(
        app,
        liveness=settings.PROBES[0],
        alive=health.alive(settings.SERVICE, settings.service_version),
        draining=lambda: draining(settings.drain_path),
    )
    health.show_version(app, settings.service_version)
    callers.install(app, settings.internal_token)

    # The parts.
    if clients is None:
        clients = connect(settings.aws_region, settings.aws_endpoint_url, settings.gunicorn_threads)
    calls = AwsCalls(registry)
    reads = SharedReads(settings.gunicorn_threads)
    tokens = NextTokens(settings.internal_token)
    bucket_store = BucketStore(clients.s3, calls)
    parameter_store = ParameterStore(clients.ssm, calls, settings.project_name)

    # Beside the requests.
    app.extensions["background"] = keepers(settings)

    # The endpoints.
    app.register_blueprint(health.blueprint(settings.SERVICE, settings.service_version))
    app.register_blueprint(buckets.blueprint(bucket_store, reads, tokens, settings.buckets_max_age))
    app.register_blueprint(parameters.blueprint(parameter_store, reads, tokens, settings))
    return app
