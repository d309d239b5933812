"""The links of a pipeline, one room each: settings that check themselves, and one ``__call__``.

No Flask, no requests, no environment: clocks, randomness and stores come by constructor.
"""
