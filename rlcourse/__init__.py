"""Reinforcement learning from research to production."""
