"""A device in Python, through ctypes: the same as gateway.c.

    python3 gateway.py target/release/libpostrider_device.so 127.0.0.1:1883 truck-8 /var/lib/gateway
"""

import ctypes
import sys

TIMEOUT_MS = 20_000


class Library:
    """The functions of postrider_device.h that are used here, with their types."""

    def __init__(self, path):
        lib = ctypes.CDLL(path)
        text, handle, ms = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint32
        size, code = ctypes.c_size_t, ctypes.c_int
        self.types = {
            "pr_last_error": (text, []),
            "pr_options_new": (handle, [text, text]),
            "pr_options_queue": (code, [handle, text, ctypes.c_uint64]),
            "pr_client_start": (handle, [handle]),
            "pr_client_stop": (code, [handle, ms]),
            "pr_subscribe": (code, [handle, text, ctypes.c_uint8, ms]),
            "pr_enqueue": (code, [handle, text, text, size, ms]),
            "pr_queue_drain": (code, [handle, ms]),
            "pr_publish": (
                code,
                [handle, text, text, size, ctypes.c_uint8, ctypes.c_bool, ms, ctypes.POINTER(ctypes.c_uint64)],
            ),
            "pr_next": (handle, [handle, ms]),
            "pr_event_kind": (code, [handle]),
            "pr_event_topic": (text, [handle]),
            "pr_event_payload": (handle, [handle, ctypes.POINTER(size)]),
            "pr_event_free": (None, [handle]),
        }
        for name, (result, arguments) in self.types.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def done(self, code):
        """Raises where a call failed."""
        if code != 0:
            raise RuntimeError(self.pr_last_error().decode())

    def made(self, pointer):
        """Raises where nothing was made."""
        if not pointer:
            raise RuntimeError(self.pr_last_error().decode())
        return pointer


def main(path, address, device, folder):
    lib = Library(path)
    options = lib.made(lib.pr_options_new(address.encode(), device.encode()))
    lib.done(lib.pr_options_queue(options, folder.encode(), 1 << 20))
    client = lib.made(lib.pr_client_start(options))
    lib.done(lib.pr_subscribe(client, f"dev/{device}/cmd".encode(), 1, TIMEOUT_MS))
    for i in range(10):
        fix = f'{{"ts":{i},"lat":60.17,"lon":{24.94 + i * 0.001:.4f}}}'.encode()
        lib.done(lib.pr_enqueue(client, f"dev/{device}/telemetry/gps".encode(), fix, len(fix), TIMEOUT_MS))
    lib.done(lib.pr_queue_drain(client, TIMEOUT_MS))
    print("10 positions are with the broker", flush=True)
    message = 1
    while True:
        event = lib.made(lib.pr_next(client, TIMEOUT_MS))
        is_message = lib.pr_event_kind(event) == message
        if is_message:
            size = ctypes.c_size_t()
            payload = ctypes.string_at(lib.pr_event_payload(event, ctypes.byref(size)), size.value)
            print(f"{lib.pr_event_topic(event).decode()}: {payload.decode()}")
        lib.pr_event_free(event)
        if is_message:
            break
    lib.done(lib.pr_publish(client, f"dev/{device}/event/done".encode(), b"{}", 2, 2, False, TIMEOUT_MS, None))
    lib.done(lib.pr_client_stop(client, TIMEOUT_MS))


if __name__ == "__main__":
    main(*sys.argv[1:])
