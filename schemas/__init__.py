"""The contract that both agents speak: plan records, messages, topics, the codec, configuration. Imports nothing of ours."""
