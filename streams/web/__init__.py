"""HTTP: what the ingress answers and asks, and what each process tells of itself.

``ingress``, ``sends``  the requests of the public port; ``public``, ``limits`` and ``replay`` bound what they may use
``listener``, ``renewal``  where their connections come in, and with which certificate
``writer``              requests -> Kafka
``outbound``, ``certificates``  what is asked of others
``health``              metrics and health, of every process
``connections``, ``keys``, ``proxies``, ``problems``  what the ingress and the history have in common
"""
