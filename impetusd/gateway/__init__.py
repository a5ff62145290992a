"""The gateway: the one part of impetusd that speaks HTTP with strangers. An unprivileged pool on our own worker runtime."""
