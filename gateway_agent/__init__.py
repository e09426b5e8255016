"""Broker, victims, assembly, tail: the node that coordinates and finishes."""
