"""The stages: one file each, and in it the fold, which says what a record does. The agent of each is ``BatchedApp.serve``."""
