"""The network: read a .tflite, divide it, plan, run, verify, and say what its outputs mean. No MQTT, no agent.

``bundle``, ``trial``, ``verify`` and ``fixing`` put the rooms together; no room imports them.
"""
