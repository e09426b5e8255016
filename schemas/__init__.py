"""The contract that both agents speak: plan records, messages, topics, codec. Imports nothing of ours."""
