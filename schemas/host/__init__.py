"""What a process needs of its machine: files, state, settings, services, control groups, discovery.

May import ``contract``. Law: a file is whole or not there.
"""
