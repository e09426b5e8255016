"""A model as a graph of tensors and operators, and what each operator needs, computes and costs.

May import ``schemas``. Law: a graph that is written computes what the graph that was read does.
"""
