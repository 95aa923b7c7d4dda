"""Hydra configuration groups: one yaml per task, encoder, reward and agent."""
