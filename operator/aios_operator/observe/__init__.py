"""Our picture of the cluster, and the ways in which it is kept true.

`feed` brings watch events by kopf, `audit` compares with lists because watches don't tell everything, `foreign` sums what other pods
request; `parse` turns raw objects into views, `store` keeps the views and knows what has to be planned anew.
"""
