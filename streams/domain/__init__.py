"""The rules of e-mail delivery status: pure values and functions, standard library only.

Nothing here knows Kafka, Faust, a clock or a file.
"""
