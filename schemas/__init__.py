"""What both agents speak and share: records, messages, topics, the wire, seals, and what a process needs of its host.

Imports nothing of ours.
"""
