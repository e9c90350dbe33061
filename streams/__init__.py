"""Mailstreams: provider webhooks in, one truthful status per e-mail out.

Read in the order of the data's way:

1. ``domain``     what an event, a status, a piece of advice is; pure, standard library only
2. ``providers``  each provider's words -> ``domain.events.DeliveryEvent``; pure
3. ``codecs``, ``records``  values <-> bytes on the wire
4. ``settings``, ``topics``  what can be set; which topics there are
5. ``kafka``      what makes Faust fast and exactly-once: transport, lanes, transactions, restore, store
6. ``agents``     one stage, one agent, one file: ``normalise``, ``track``
7. ``app``        the composition root; ``web`` health and metrics; ``cli`` the command line
8. ``history``    a subscriber of the public topics: the pages where the sender looks
"""

__version__ = "0.1.0"
