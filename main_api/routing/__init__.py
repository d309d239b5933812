"""The way of a request: what a route declares, the pipeline built for it, and Flask at its door."""
