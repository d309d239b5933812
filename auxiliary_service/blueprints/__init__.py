"""Blueprints: the endpoints. A view loads its query, asks a store, dumps what it gave."""
