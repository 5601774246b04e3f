"""Our picture of the cluster, and the ways in which it is kept true.

`feed` brings watch events by kopf, `audit` compares with lists because watches don't tell everything, `foreign` sums what other pods
request; `parse` turns raw objects into views, a `table` keeps those of one resource, `store` has all tables and knows what is to be planned
anew.
"""
