"""Declarative documents at the control plane: read, and planned, in processes of their own.

1. `jobs` is what travels between the control plane and such a process.
2. `reading` makes rows of a document; `planning` says what storing them would do.
3. `child` is the process, `process` what starts it and waits for it.
"""
