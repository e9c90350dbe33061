"""Mailstreams: provider webhooks in, one truthful status per e-mail out.

Read in the order in which the data flows:

1. ``domain``     what an event, a status, a piece of advice is; pure, standard library only
2. ``providers``  each provider's words -> ``domain.events.DeliveryEvent``; pure
3. ``codecs``, ``records``  values <-> bytes on the wire
4. ``settings``, ``topics``, ``policies``  the settings; the topics; when a deferral raises an alert
5. ``kafka``      what makes Faust fast and exactly-once: transport, lanes, transactions, restore, store
6. ``agents``     the stages, one file each
7. ``metrics``, ``collectors``, ``observe``  the metrics, and what collects them; whether a worker is live and ready
8. ``app``        the composition root of a worker
9. ``web``        the HTTP side: takes webhooks, serves health and metrics
10. ``worker``, ``ingress``, ``history``  the processes; ``history`` subscribes to the public topics and serves the
    pages where the sender looks
11. ``cli``       the command line; ``simulate`` plays the providers

Outside this flow: ``logs``; ``process``, what the three processes have in common; ``texts``, how text from outside is
made safe to show; ``acls``, who may do what in Kafka; ``brokers``, why the brokers refuse us.
"""

__version__ = "0.1.0"
