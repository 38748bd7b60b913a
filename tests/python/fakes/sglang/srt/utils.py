"""See `sglang`."""


def get_ip():
    return "192.0.2.7"
