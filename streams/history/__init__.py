"""Sending History: what became of every invoice, for the person who sent it.

A subscriber like any other: it reads the public topics ``mail.status-changed``,
``mail.status``, ``mail.events`` and ``mail.deferral-alerts``, and nothing else of
ours. Read in the order in which the data flows:

1. ``schema``, ``migrations``, ``database``  the tables, and how they are reached
2. ``projection``   records -> rows, with the offsets, in one transaction
3. ``subscriber``   topics -> projection, from the offsets that the database holds
4. ``access``       who may see which accounts
5. ``queries``, ``timeline``  rows -> what a page or an answer shows; ``words`` its texts
6. ``live``, ``sse``  notify open pages of changes
7. ``pages``, ``api``, ``export``  HTML, JSON and CSV; ``searches`` what people look for; ``edge`` what all have in
   common: limits, headers, errors
8. ``service``      all of it as a process
"""
