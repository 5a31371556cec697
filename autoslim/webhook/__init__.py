"""Webhooks: signed notifications of a job, kept on the disk until they are delivered (https://www.standardwebhooks.com).

message.py    what is sent, and its signature
secret.py     the key of the signature
addresses.py  where a service may connect
post.py       one delivery
outbox.py     what waits for delivery, and the thread that delivers it
"""
