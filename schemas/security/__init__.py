"""Who may say what, and who said it: seals, keys, rights, permissions to join.

May import ``contract``. Law: a right that is not in the table does not exist.
"""
