"""A made-up world of sent invoices, reported in the providers' own forms: for newcomers, for load, for tests.

``story`` makes up what happens to each message and how it ends, a pure function
of a seed and the time; ``shapes`` puts each happening into its provider's
documented form; ``signing`` signs it as the provider would; ``driving`` sends it
when it is due, without waiting for earlier requests.
"""
