"""The cluster in Home Assistant, by MQTT discovery: gateway, nodes and sources as devices.

``discovery`` and the three kinds of device are pure builders of documents and states, ``tracker`` tells what came and went,
``mirror`` decides what to say when, ``client`` and ``watcher`` say it. Facts of Home Assistant 2025.4 that all rest on: an
entity needs a ``unique_id``; a template that misses a key logs a warning each time; a component is removed by a document
that has nothing but its platform; birth messages are not retained.
"""
