"""The stages: one file each, and in it the fold, which says what a record does. ``BatchedApp.serve`` hands them batches.

In the order of the data's way:

- ``normalise``  a provider's words -> delivery events
- ``sends``      what the application says it sent -> delivery events
- ``track``      delivery events -> statuses
- ``monitor``    deferrals -> alerts
"""
