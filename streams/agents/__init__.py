"""The stages: one file each, with its fold, which says what a record does. ``BatchedApp.serve`` feeds them batches.

In the order in which the data flows:

- ``normalise``  a provider's words -> delivery events
- ``sends``      what the application says it sent -> delivery events
- ``track``      delivery events -> statuses
- ``monitor``    deferrals -> alerts
"""
