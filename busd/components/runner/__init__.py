"""The process that has one component attached to a bus: ``busd component run``."""
