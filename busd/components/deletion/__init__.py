"""Deletion: removes large trees below roots that the operator allows, without harm to whoever shares the disk."""
