"""The contract: plans, messages, topics, results, configuration and errors, as plain records.

Knows no I/O, no keys and no host; imports only itself. Law: a record that exists is valid.
"""
