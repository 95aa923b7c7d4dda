"""Contrastive fine-tuning of an OpenCLIP encoder on a user's own environment."""
