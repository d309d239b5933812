"""The one place that speaks to services: requests comes in here and goes no further."""
