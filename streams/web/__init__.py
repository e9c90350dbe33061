"""HTTP: what the ingress serves and requests, and what each process reports about itself.

``ingress``, ``sends``  the requests of the public port; ``public``, ``limits`` and ``replay`` bound their use
``trial``               what marks a request as a test of ours
``listener``, ``renewal``  how their connections are accepted, and with which certificate
``writer``              requests -> Kafka
``outbound``, ``certificates``  requests to others
``health``              metrics and health, of every process
``connections``, ``keys``, ``proxies``, ``problems``  shared by the ingress and the history
"""
