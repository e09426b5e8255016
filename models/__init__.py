"""The network: read a .tflite, partition, rewrite, verify, run. No MQTT, no clock, no agent."""
