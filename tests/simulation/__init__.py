"""The engine under schedules that a seed picks, in virtual time.

``scheduler`` runs coroutines in any order it is told; ``redis_model`` is a server, and ``wires`` a bad network before
it, with what each process has at its end; ``channel`` is how processes with two tiers hear of changes; ``plan`` draws
what happens, ``world`` lets it happen to the real engine; ``history`` writes it down and ``laws`` says what was wrong
with it. ``explore`` does that for many seeds and reduces what fails.
"""
