"""Mailstreams: provider webhooks in, one truthful status per e-mail out.

Read in the order of the data's way:

1. ``domain``     what an event, a status, a piece of advice is; pure, standard library only
2. ``providers``  each provider's words -> ``domain.events.DeliveryEvent``; pure
3. ``codecs``, ``records``  values <-> bytes on the wire
4. ``settings``, ``topics``, ``policies``  what can be set; which topics there are; whose deferrals alert when
5. ``kafka``      what makes Faust fast and exactly-once: transport, lanes, transactions, restore, store
6. ``agents``     the stages, one file each
7. ``metrics``, ``collectors``, ``observe``  what is counted, and who counts it; whether a worker is live and ready
8. ``app``        the composition root of a worker
9. ``web``        what takes webhooks over HTTP, and answers for health and metrics
10. ``worker``, ``ingress``, ``history``  the processes; the last is a subscriber of the public topics: the pages where
    the sender looks
11. ``cli``       the command line; ``simulate`` plays the providers

Beside the way: ``logs``; ``process``, what the three processes have in common; ``texts``, how what strangers wrote
is shown; ``acls``, who may do what in Kafka; ``brokers``, why none
lets us in.
"""

__version__ = "0.1.0"
