"""The gateway's routes, declared; what they do is built by :mod:`main_api.routing.pipeline`."""

AUXILIARY = "auxiliary-service"
