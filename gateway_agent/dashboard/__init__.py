"""The dashboard: a page, its JSON, metrics and a health check, served by the gateway process from a thread of its own.

The gateway's thread makes a snapshot at most twice a second and lays it down (``hub``); the server's thread gives whoever
asks the newest one. Nothing that a browser does, or fails to do, is waited for. Needs the extra ``dashboard``.
"""
